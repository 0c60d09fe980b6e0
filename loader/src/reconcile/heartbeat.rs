//! Who asks the nodes that may hold egress addresses, answers them, and tells the
//! link who holds one now? A task of its own, so that a busy loop calls nobody
//! dead. On a node that has nothing to do with such addresses it sleeps.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    io,
    net::IpAddr,
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    attach::Uplink,
    egress::{Health, Heard, ROUND, Watch},
    frame,
    kernel::{
        echo::{Echo, Message, Token},
        solicit::Sender,
    },
    netlink::Netlink,
};

/// How often the link is told, round after round: of what one hears, another may
/// be lost, or come while the earlier holder still says so too.
const TELLINGS: u32 = 12;
/// Rounds for which it is remembered who has asked, and how often those are told
/// that this node leaves.
const REMEMBERED: u32 = 8;
const FAREWELLS: usize = 3;

/// What the loop wants of the task.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Orders {
    /// This node may be asked, or asks.
    pub concerned: bool,
    pub ask: BTreeSet<IpAddr>,
    /// Who gets an answer.
    pub nodes: BTreeSet<IpAddr>,
    /// Addresses that this node holds.
    pub held: BTreeSet<IpAddr>,
    /// It holds none any more, and never will: who asks is to know at once.
    pub leaves: bool,
}

/// What the loop learns from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// Of the nodes that are asked, by address.
    pub healths: BTreeMap<IpAddr, Health>,
    /// Why they cannot be asked, or the link cannot be told.
    pub trouble: Option<String>,
}

pub(super) struct Heartbeat {
    uplink: Uplink,
    netlink: Netlink,
    orders: watch::Receiver<Orders>,
    report: watch::Sender<Report>,
    watch: Watch,
    sockets: Option<(Echo, Sender)>,
    /// As of the last orders.
    held: BTreeSet<IpAddr>,
    nodes: BTreeSet<IpAddr>,
    tellings: u32,
    /// Who has asked, with what, and for how many rounds more that counts.
    questions: BTreeMap<IpAddr, (Token, u32)>,
}

impl Heartbeat {
    pub fn new(
        uplink: Uplink,
        netlink: Netlink,
        orders: watch::Receiver<Orders>,
        report: watch::Sender<Report>,
    ) -> Self {
        let (held, nodes) = Default::default();
        let (watch, questions) = Default::default();
        Self { uplink, netlink, orders, report, watch, sockets: None, held, nodes, tellings: 0, questions }
    }

    /// Asks until the loop ends, or this node has said that it leaves.
    pub async fn run(mut self) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let concerned = self.orders.borrow().concerned;
            let changed = tokio::select! {
                changed = self.orders.changed() => Some(changed),
                _ = rounds.tick(), if concerned => None,
            };
            let done = match changed {
                Some(Ok(())) => self.obey().await,
                Some(Err(_)) => return,
                None => self.round().await,
            };
            self.publish(done);
            if self.orders.borrow().leaves {
                return;
            }
        }
    }

    async fn obey(&mut self) -> io::Result<()> {
        let orders = self.orders.borrow_and_update().clone();
        self.watch.set(&orders.ask);
        if let Some((echo, _)) = self.sockets.as_ref().filter(|_| orders.leaves) {
            let asked = self.questions.iter().cycle().take(self.questions.len() * FAREWELLS);
            asked.for_each(|(&node, &(token, _))| drop(echo.leave(node, token)));
        }
        if !orders.concerned {
            self.sockets = None;
        } else if self.sockets.is_none() {
            let token = (RandomState::new().build_hasher().finish() as u16).to_be_bytes();
            self.sockets = Some((Echo::open(token)?, Sender::open(self.uplink.ifindex)?));
        }
        self.nodes = orders.nodes;
        let new: Vec<IpAddr> = orders.held.difference(&self.held).copied().collect();
        self.held = orders.held;
        if !new.is_empty() {
            self.tellings = TELLINGS;
            self.tell(&new).await?;
        }
        Ok(())
    }

    async fn round(&mut self) -> io::Result<()> {
        let Some((echo, _)) = &self.sockets else { return self.obey().await };
        let mut heard: BTreeMap<IpAddr, Heard> = BTreeMap::new();
        self.questions.retain(|_, (_, rounds)| {
            *rounds -= 1;
            *rounds > 0
        });
        for Message { from, heard: by, token } in echo.heard() {
            if by == Heard::Question {
                if self.nodes.contains(&from) {
                    // Without a way there is no answer either.
                    drop(echo.answer(from, token));
                    self.questions.insert(from, (token, REMEMBERED));
                }
                continue;
            }
            let known = heard.entry(from).or_insert(by);
            *known = by.max(*known);
        }
        if self.watch.round(&heard) {
            // Its agent may have taken this node for dead, and its address.
            self.tellings = TELLINGS;
        }
        self.watch.health().into_keys().for_each(|node| drop(echo.ask(node)));
        if self.tellings > 0 && !self.held.is_empty() {
            let held: Vec<IpAddr> = self.held.iter().copied().collect();
            self.tell(&held).await?;
            self.tellings -= 1;
        }
        Ok(())
    }

    fn publish(&self, done: io::Result<()>) {
        let now = Report { healths: self.watch.health(), trouble: done.err().map(|error| error.to_string()) };
        self.report.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    async fn tell(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let link = self.netlink.link(&self.uplink.name).await?;
        let mac = link.and_then(|link| link.mac.try_into().ok()).unwrap_or(self.uplink.mac);
        let Some((_, sender)) = &self.sockets else { return Ok(()) };
        let told = addresses.iter().map(|&address| sender.send(&frame::announcement(mac, address)));
        // One that fails leaves the others told.
        told.fold(Ok(()), Result::and)
    }
}
