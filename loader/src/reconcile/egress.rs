//! Egress addresses: who holds them is decided, and what follows is written: rows
//! of the maps, addresses of the uplink, and which flows begin anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use causeway_schema::{Flow, FlowKey, flow::flags, protocol};
use tokio::{sync::watch, time::timeout};

use super::{
    agent::Agent,
    heartbeat::{Healths, Heartbeat, Orders},
};
use crate::{
    egress::{self, Decision, Endpoint, Facts, Health, Leaves},
    kernel::bpf::{Dataplane, EgressTables},
    model::desired::Egress,
    plan::Family,
};

/// Looks at the flows after a change: a program that has read the row from
/// before may remember one a moment later.
const LOOKS: u8 = 2;
/// How long the others may take to be told that this node leaves.
const FAREWELL: Duration = Duration::from_millis(200);
/// What the status calls trouble with them.
const EGRESS: &str = "keep egress addresses";

pub(super) struct EgressState {
    tables: EgressTables,
    pub decision: Decision,
    /// Addresses that flows here may leave under, and must not unless they are held.
    known: BTreeSet<IpAddr>,
    looks: u8,
    /// Nothing is there, and nothing is wanted.
    idle: bool,
    orders: watch::Sender<Orders>,
    healths: watch::Sender<Healths>,
}

impl EgressState {
    /// # Errors
    /// When the maps cannot be opened.
    pub fn open(dataplane: &Dataplane) -> anyhow::Result<Self> {
        Ok(Self {
            tables: dataplane.egress()?,
            decision: Decision::default(),
            known: BTreeSet::new(),
            looks: 0,
            idle: false,
            orders: watch::channel(Orders::default()).0,
            healths: watch::channel(Healths::default()).0,
        })
    }

    /// Changes when a node has died, or come back.
    pub fn healths(&self) -> watch::Receiver<Healths> {
        self.healths.subscribe()
    }
}

impl Agent {
    /// Begins to ask other nodes, when there is a reason to.
    pub fn watch_nodes(&self) {
        let (orders, healths) = (self.egress.orders.subscribe(), self.egress.healths.clone());
        let heartbeat = Heartbeat::new(self.uplink.clone(), self.netlink.clone(), orders, healths);
        drop(tokio::spawn(heartbeat.run()));
    }

    /// Brings everything in line with what is wanted, and with who is alive.
    pub async fn settle_egress(&mut self) {
        // Until the sources have spoken, all stays as an earlier agent left it.
        if !self.model.synced() || self.dataplane.is_none() {
            return;
        }
        let egresses: BTreeMap<Arc<str>, Egress> =
            self.model.egresses().map(|(name, egress)| (name.clone(), egress)).collect();
        if egresses.is_empty() && self.egress.idle {
            return;
        }
        let decision = self.decide_egress(&egresses);
        let kept = self.keep_egress(decision).await;
        if self.note(EGRESS, kept).is_some() {
            self.egress.idle = egresses.is_empty() && self.egress.looks == 0;
        }
    }

    fn decide_egress(&self, egresses: &BTreeMap<Arc<str>, Egress>) -> Decision {
        let endpoints = self.store.iter().map(|(name, stored)| {
            let (namespace, labels) = self.model.endpoint_labels(name, &stored.request.labels);
            let namespace_labels = self.model.namespace_labels(&namespace);
            Endpoint { name, namespace, namespace_labels, labels, addresses: &stored.endpoint.addresses }
        });
        let facts = Facts {
            node: &self.config.node,
            nodes: self.model.nodes(),
            egresses,
            endpoints: endpoints.collect(),
            masquerade: self.config.masquerade,
        };
        let healths = self.egress.healths.borrow();
        egress::decide(&facts, |node| healths.get(&node).copied().unwrap_or(Health::Unknown))
    }

    async fn keep_egress(&mut self, decision: Decision) -> io::Result<()> {
        let link = self.uplink.ifindex;
        let (rows, there) = (self.egress.tables.rows()?, self.netlink.held_addresses(link).await?);
        let stays = there.iter().filter(|address| decision.undecided.contains(address));
        let held: BTreeSet<IpAddr> = decision.held.iter().chain(stays).copied().collect();
        let wanted = wanted(&decision, &held, &rows);
        self.egress.known.extend(decision.addresses.iter().chain(&there));
        let changed = decision != self.egress.decision;
        if changed {
            for address in decision.held.symmetric_difference(&self.egress.decision.held) {
                tracing::info!(%address, here = decision.held.contains(address), "egress address");
            }
            self.egress.looks = LOOKS;
        }
        let orders = Orders {
            concerned: decision.concerned,
            ask: decision.asked.clone(),
            held: held.clone(),
            leaves: false,
        };
        self.egress.decision = decision;

        // What others are to find is there before they are told of it, and before
        // packets leave under it; nobody is sent here any more before it goes.
        let altered = |(key, row): &(&IpAddr, &Leaves)| rows.get(key) != Some(row);
        let (own, others): (Vec<_>, Vec<_>) =
            wanted.iter().filter(altered).partition(|(key, _)| held.contains(key));
        self.put_rows(&own, changed)?;
        let marked = (self.v4.hold(held.iter().copied()), self.v6.hold(held.iter().copied()));
        self.note_written(marked);
        for address in held.iter().filter(|address| !there.contains(address)) {
            self.netlink.hold_address(link, *address).await?;
            self.mended(changed, || format!("egress address {address}: missing, added again"));
        }
        self.put_rows(&others, changed)?;
        self.egress.orders.send_if_modified(|before| {
            let news = *before != orders;
            *before = orders;
            news
        });
        for key in rows.keys().filter(|key| !wanted.contains_key(key)) {
            self.egress.tables.delete(*key)?;
        }
        for address in there.iter().filter(|address| !held.contains(address)) {
            self.netlink.release_address(link, *address).await?;
        }
        if self.egress.looks > 0 {
            self.egress.looks -= 1;
            self.forget_flows(&wanted, &held)?;
            self.audit_soon();
        }
        Ok(())
    }

    fn put_rows(&mut self, rows: &[(&IpAddr, &Leaves)], expected: bool) -> io::Result<()> {
        for &(key, row) in rows {
            self.egress.tables.put(*key, *row)?;
            self.mended(expected, || format!("egress row of {key}: altered, set again"));
        }
        Ok(())
    }

    fn mended(&mut self, expected: bool, what: impl FnOnce() -> String) {
        if !expected {
            self.remember_repair(what());
        }
    }

    /// Flows that would leave otherwise now begin anew with their next packet;
    /// they get the ports that they had, where these are free.
    fn forget_flows(&mut self, rows: &BTreeMap<IpAddr, Leaves>, held: &BTreeSet<IpAddr>) -> io::Result<()> {
        let nodes: BTreeSet<IpAddr> = self.uplink.addresses.iter().map(|network| network.addr()).collect();
        let stale = Stale { rows, held, known: &self.egress.known, nodes: &nodes };
        self.v4.forget(|key, flow| stale.is(key, flow))?;
        self.v6.forget(|key, flow| stale.is(key, flow))
    }

    /// Takes the addresses off the uplink again, and leaves them to others.
    ///
    /// # Errors
    /// When they cannot be listed or removed.
    pub async fn release_egress(&mut self) -> io::Result<()> {
        for address in self.netlink.held_addresses(self.uplink.ifindex).await? {
            self.netlink.release_address(self.uplink.ifindex, address).await?;
        }
        self.egress.orders.send_replace(Orders { leaves: true, ..Orders::default() });
        // The process may end as soon as this returns.
        let _ = timeout(FAREWELL, self.egress.orders.closed()).await;
        Ok(())
    }
}

/// The rows of the maps: of containers, and of addresses held here. Where the
/// holder is not known yet, what is there stays.
fn wanted(
    decision: &Decision,
    held: &BTreeSet<IpAddr>,
    rows: &BTreeMap<IpAddr, Leaves>,
) -> BTreeMap<IpAddr, Leaves> {
    let mut wanted = decision.leaves.clone();
    for (key, row) in &mut wanted {
        let there = rows.get(key).filter(|there| there.address == row.address);
        if let Some(there) = there.filter(|_| decision.undecided.contains(&row.address)) {
            *row = *there;
        }
    }
    wanted.extend(held.iter().map(|&address| (address, Leaves { address, node: Some(address) })));
    wanted
}

/// Which flows are not as they would begin now?
struct Stale<'a> {
    rows: &'a BTreeMap<IpAddr, Leaves>,
    held: &'a BTreeSet<IpAddr>,
    known: &'a BTreeSet<IpAddr>,
    /// This node's own addresses.
    nodes: &'a BTreeSet<IpAddr>,
}

impl Stale<'_> {
    fn is<A: Family>(&self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let (row, source) = (self.rows.get(&key.src.to_ip()), flow.src.to_ip());
        if flow.flags & flags::EGRESS != 0 {
            // Translated here by now, or not selected any more.
            return row.is_none_or(|row| row.node == Some(row.address));
        }
        if self.known.contains(&source) {
            return !self.held.contains(&source);
        }
        // An open connection keeps the node's address.
        row.is_some() && self.nodes.contains(&source) && key.protocol != protocol::TCP
    }
}
