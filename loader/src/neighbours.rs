//! Is the host next to us still where we send to? The kernel asks again after
//! half a minute or so; a stream should not be interrupted for longer than a
//! second. So neighbours that something is sent to are asked a few times a
//! second, each at the hardware address that is known. Of one that stays silent
//! everybody is asked; until somebody answers, what is known stays as it is.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::netlink::Neighbour;

/// Between two rounds. A TCP sender tries again 0.2, 0.6 and 1.4 seconds after
/// a loss: a neighbour that moves must be found before the second time.
pub const ROUND: Duration = Duration::from_millis(200);
/// An answer that came so shortly before the question may be to this one: the
/// kernel's clock is that coarse.
const COARSE: Duration = Duration::from_millis(20);
/// After this time a neighbour has to show that it is still in use.
const REST: Duration = Duration::from_secs(15);
/// In one round; with more neighbours in use each has its turn less often.
const AT_ONCE: usize = 128;
/// Everybody is asked so many rounds in a row, and then in each fifth.
const EAGER: u32 = 5;

/// What to do about the neighbours now.
#[derive(Debug, Default, PartialEq)]
pub struct Round {
    /// At the known hardware address, or everybody.
    pub ask: Vec<(IpAddr, Option<[u8; 6]>)>,
    /// Not known to be in use any more.
    pub rest: Vec<Neighbour>,
    /// Before and after.
    pub moved: Vec<(IpAddr, [u8; 6], [u8; 6])>,
}

pub struct Watch {
    /// Packets pass that the kernel does not take for a use of the neighbour.
    unseen: bool,
    peers: BTreeMap<IpAddr, Peer>,
    /// Whose turn comes after this one's.
    last: Option<IpAddr>,
}

struct Peer {
    mac: [u8; 6],
    asked: Option<Instant>,
    /// Questions in a row.
    unanswered: u32,
}

impl Watch {
    /// `unseen`: programs send to neighbours beside the kernel's back, so all
    /// of them count as used.
    pub fn new(unseen: bool) -> Self {
        Self { unseen, peers: BTreeMap::new(), last: None }
    }

    /// `table` as it is at `now`.
    pub fn round(&mut self, now: Instant, table: &[Neighbour]) -> Round {
        let mut round = Round::default();
        let mut used: BTreeMap<IpAddr, &Neighbour> = BTreeMap::new();
        for neighbour in table.iter().filter(|neighbour| self.unseen || !neighbour.stale) {
            // Our questions keep it from going stale, and from showing its use.
            if !self.unseen && neighbour.used > REST {
                round.rest.push(neighbour.clone());
            } else {
                used.insert(neighbour.address, neighbour);
            }
        }
        self.peers.retain(|address, _| used.contains_key(address));
        for (&address, neighbour) in &used {
            let fresh = Peer { mac: neighbour.mac, asked: None, unanswered: 0 };
            let peer = self.peers.entry(address).or_insert(fresh);
            if peer.mac != neighbour.mac {
                round.moved.push((address, peer.mac, neighbour.mac));
                *peer = Peer { mac: neighbour.mac, asked: None, unanswered: 0 };
            }
        }
        for address in self.turns() {
            let (Some(peer), Some(neighbour)) = (self.peers.get_mut(&address), used.get(&address)) else {
                continue;
            };
            let answered =
                peer.asked.is_none_or(|asked| neighbour.confirmed <= now.duration_since(asked) + COARSE);
            peer.unanswered = if answered { 0 } else { peer.unanswered.saturating_add(1) };
            peer.asked = Some(now);
            match peer.unanswered {
                0 => round.ask.push((address, Some(peer.mac))),
                count if count <= EAGER || count % EAGER == 0 => round.ask.push((address, None)),
                _ => {}
            }
        }
        round
    }

    /// Whether a neighbour that says it is at `mac` is to be believed over what
    /// is known: when nobody answers there.
    pub fn believes(&self, address: IpAddr, mac: [u8; 6]) -> bool {
        self.peers.get(&address).is_some_and(|peer| peer.unanswered > 0 && peer.mac != mac)
    }

    fn turns(&mut self) -> Vec<IpAddr> {
        let all: Vec<IpAddr> = self.peers.keys().copied().collect();
        let first = self.last.map_or(0, |last| all.partition_point(|address| *address <= last));
        let turns: Vec<IpAddr> =
            all.iter().cycle().skip(first).take(all.len().min(AT_ONCE)).copied().collect();
        self.last = turns.last().copied();
        turns
    }
}

#[cfg(test)]
#[path = "neighbours_tests.rs"]
mod tests;
