//! Is a node alive that may hold an egress address? It is asked several times a
//! second. The kernel answers without its agent, and the dataplane goes on
//! without it too: so a node counts as alive for as long as anything answers
//! there. But only its agent can take an address back after a boot: a node that
//! was dead is alive again when its agent has answered some times in a row.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// Between two questions.
pub const ROUND: Duration = Duration::from_millis(150);
/// Questions without an answer after which a node is dead: three quarters of a
/// second, counted in rounds, so that an agent that was held up itself calls
/// nobody dead for it.
const SILENT: u32 = 5;
/// Answers of its agent in a row after which it is alive again.
const STEADY: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It has just begun to be asked.
    Unknown,
    Alive,
    Dead,
}

/// What has come from a node; the last counts most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// It asks whether we are alive, which tells nothing of what it holds.
    Question,
    /// Its kernel, which we have asked.
    Kernel,
    /// Its agent.
    Agent,
    /// Its agent has given up what it held, and leaves.
    Farewell,
}

/// The nodes that are asked.
#[derive(Debug, Default)]
pub struct Watch {
    peers: BTreeMap<IpAddr, Peer>,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    health: Health,
    /// Before that, silence means nothing.
    asked: bool,
    /// Rounds in a row without an answer.
    silent: u32,
    /// Rounds in a row with one: of the agent where the node is dead, of the
    /// kernel alone where it is not known yet.
    answered: u32,
}

impl Watch {
    /// Makes these the nodes that are asked.
    pub fn set(&mut self, peers: &BTreeSet<IpAddr>) {
        self.peers.retain(|address, _| peers.contains(address));
        for &address in peers {
            let fresh = Peer { health: Health::Unknown, asked: false, silent: 0, answered: 0 };
            self.peers.entry(address).or_insert(fresh);
        }
    }

    /// What has been heard since the last questions; all are asked now. True when
    /// a node has come back.
    pub fn round(&mut self, heard: &BTreeMap<IpAddr, Heard>) -> bool {
        let mut returned = false;
        for (address, peer) in &mut self.peers {
            let before = peer.health;
            peer.hear(heard.get(address).copied());
            returned |= before == Health::Dead && peer.health == Health::Alive;
        }
        returned
    }

    pub fn health(&self) -> BTreeMap<IpAddr, Health> {
        self.peers.iter().map(|(address, peer)| (*address, peer.health)).collect()
    }
}

impl Peer {
    fn hear(&mut self, heard: Option<Heard>) {
        if heard == Some(Heard::Farewell) {
            *self = Self { health: Health::Dead, asked: true, silent: 0, answered: 0 };
            return;
        }
        if !std::mem::replace(&mut self.asked, true) {
            return;
        }
        self.silent = if heard.is_some() { 0 } else { self.silent + 1 };
        let counts = match (self.health, heard) {
            (Health::Unknown, Some(Heard::Agent)) => {
                self.health = Health::Alive;
                false
            }
            (Health::Unknown, Some(Heard::Kernel)) | (Health::Dead, Some(Heard::Agent)) => true,
            _ => false,
        };
        self.answered = if counts { self.answered + 1 } else { 0 };
        // Whose agent stays silent while the node answers has been there before.
        let enough = if self.health == Health::Dead { STEADY } else { SILENT };
        if self.answered >= enough {
            (self.health, self.answered) = (Health::Alive, 0);
        }
        if self.silent >= SILENT {
            (self.health, self.silent) = (Health::Dead, SILENT);
        }
    }
}
