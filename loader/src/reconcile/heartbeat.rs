//! Who asks the nodes that may hold egress addresses, answers them, and tells the
//! link who holds one now? A task of its own, so that a busy loop calls nobody
//! dead. On a node that has nothing to do with such addresses it sleeps.

use std::{
    collections::{BTreeMap, BTreeSet},
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
        echo::{Echo, Said},
        solicit::Sender,
    },
    netlink::Netlink,
};

/// How often the link is told, round after round: of what one hears, another may
/// be lost, or come while the earlier holder still says so too.
const TELLINGS: u32 = 12;
/// Questions of other nodes that are answered in a round.
const ANSWERS: usize = 128;
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
    /// Addresses that this node holds.
    pub held: BTreeSet<IpAddr>,
    /// It holds none any more, and never will: who asks is to know at once.
    pub leaves: bool,
}

/// The health of the nodes that are asked, by address.
pub(super) type Healths = BTreeMap<IpAddr, Health>;

pub(super) struct Heartbeat {
    uplink: Uplink,
    netlink: Netlink,
    orders: watch::Receiver<Orders>,
    healths: watch::Sender<Healths>,
    watch: Watch,
    sockets: Option<(Echo, Sender)>,
    /// As of the last orders.
    held: BTreeSet<IpAddr>,
    tellings: u32,
    /// Who has asked, and for how many rounds more that counts.
    questions: BTreeMap<IpAddr, u32>,
}

impl Heartbeat {
    pub fn new(
        uplink: Uplink,
        netlink: Netlink,
        orders: watch::Receiver<Orders>,
        healths: watch::Sender<Healths>,
    ) -> Self {
        let (watch, held) = (Watch::default(), BTreeSet::new());
        let questions = BTreeMap::new();
        Self { uplink, netlink, orders, healths, watch, sockets: None, held, tellings: 0, questions }
    }

    /// Asks until the loop ends, or this node has said that it leaves.
    pub async fn run(mut self) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
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
            if let Err(error) = &done
                && !failing
            {
                tracing::warn!(%error, "cannot ask the nodes that may hold egress addresses");
            }
            failing = done.is_err();
            if self.orders.borrow().leaves {
                return;
            }
        }
    }

    async fn obey(&mut self) -> io::Result<()> {
        let orders = self.orders.borrow_and_update().clone();
        self.watch.set(&orders.ask);
        if let Some((echo, _)) = self.sockets.as_ref().filter(|_| orders.leaves) {
            let asked = self.questions.keys().cycle().take(self.questions.len() * FAREWELLS);
            asked.for_each(|&node| drop(echo.leave(node)));
        }
        if !orders.concerned {
            self.sockets = None;
        } else if self.sockets.is_none() {
            self.sockets = Some((Echo::open()?, Sender::open(self.uplink.ifindex)?));
        }
        let new: Vec<IpAddr> = orders.held.difference(&self.held).copied().collect();
        self.held = orders.held;
        if !new.is_empty() {
            self.tellings = TELLINGS;
            self.tell(&new).await?;
        }
        self.publish();
        Ok(())
    }

    async fn round(&mut self) -> io::Result<()> {
        let Some((echo, _)) = &self.sockets else { return self.obey().await };
        let mut heard: BTreeMap<IpAddr, Heard> = BTreeMap::new();
        let mut note = |node, by| {
            let known = heard.entry(node).or_insert(by);
            *known = by.max(*known);
        };
        let mut questions = BTreeSet::new();
        for (node, said) in echo.heard() {
            match said {
                Said::Kernel => note(node, Heard::Kernel),
                Said::Agent => note(node, Heard::Agent),
                Said::Farewell => note(node, Heard::Farewell),
                Said::Question => drop(questions.insert(node)),
            }
        }
        // Without a way there is no answer either.
        questions.iter().take(ANSWERS).for_each(|&node| drop(echo.answer(node)));
        self.questions.retain(|_, rounds| {
            *rounds -= 1;
            *rounds > 0
        });
        self.questions.extend(questions.into_iter().take(ANSWERS).map(|node| (node, REMEMBERED)));
        if self.watch.round(&heard) {
            // Its agent may have taken this node for dead, and its address.
            self.tellings = TELLINGS;
        }
        self.watch.health().into_keys().for_each(|node| drop(echo.ask(node)));
        self.publish();
        if self.tellings > 0 && !self.held.is_empty() {
            self.tellings -= 1;
            let held: Vec<IpAddr> = self.held.iter().copied().collect();
            self.tell(&held).await?;
        }
        Ok(())
    }

    fn publish(&self) {
        let now = self.watch.health();
        self.healths.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    async fn tell(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let link = self.netlink.link(&self.uplink.name).await?;
        let mac = link.and_then(|link| link.mac.try_into().ok()).unwrap_or(self.uplink.mac);
        let Some((_, sender)) = &self.sockets else { return Ok(()) };
        addresses.iter().try_for_each(|&address| sender.send(&frame::announcement(mac, address)))
    }
}
