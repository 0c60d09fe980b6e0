//! Egress addresses: who holds them is decided, and what follows is written: rows
//! of the maps, addresses of the uplink, and which flows begin anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use causeway_schema::{Flow, FlowKey, flow::flags, protocol};
use tokio::{sync::watch, time::timeout};

use super::{
    agent::Agent,
    heartbeat::{Heartbeat, Orders, Report},
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
const HEARTBEAT: &str = "ask the nodes that may hold egress addresses";

pub(super) struct EgressState {
    tables: EgressTables,
    pub decision: Decision,
    /// Addresses that flows here may leave under, and must not unless they are held.
    known: BTreeSet<IpAddr>,
    /// Containers' addresses whose rows could not be written, and why.
    unwritten: BTreeMap<IpAddr, String>,
    looks: u8,
    /// Nothing is there, and nothing is wanted.
    idle: bool,
    orders: watch::Sender<Orders>,
    report: watch::Sender<Report>,
}

impl EgressState {
    /// # Errors
    /// When the maps cannot be opened.
    pub fn open(dataplane: &Dataplane) -> anyhow::Result<Self> {
        Ok(Self {
            tables: dataplane.egress()?,
            decision: Decision::default(),
            known: BTreeSet::new(),
            unwritten: BTreeMap::new(),
            looks: 0,
            idle: false,
            orders: watch::channel(Orders::default()).0,
            report: watch::channel(Report::default()).0,
        })
    }

    /// Changes when a node has died, or come back, or cannot be asked.
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// Keeps a container that comes before the sources have spoken from leaving
    /// at all, if an earlier agent has left rows: it may be one that must leave
    /// under an egress address. The first decision puts it right.
    ///
    /// # Errors
    /// When a map cannot be read or is full.
    pub fn hold_back(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let rows = self.tables.rows()?;
        let without = |address: &&IpAddr| !rows.is_empty() && !rows.contains_key(address);
        addresses.iter().filter(without).try_for_each(|&address| self.tables.put(address, nowhere(address)))
    }
}

/// The row of a container that leaves under no address; in its place, one that
/// nobody can have.
fn nowhere(own: IpAddr) -> Leaves {
    let address = if own.is_ipv4() { Ipv4Addr::BROADCAST.into() } else { Ipv6Addr::from([0xff; 16]).into() };
    Leaves { address, node: None }
}

/// The first error of several steps, each of which is tried whatever became of
/// those before it.
#[derive(Default)]
struct First(Option<io::Error>);

impl First {
    fn note<T>(&mut self, step: impl FnOnce() -> String, result: io::Result<T>) -> Option<T> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", step()));
        result.map_err(|error| self.0.get_or_insert_with(|| named(error))).ok()
    }

    fn end(self) -> io::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

impl Agent {
    /// Begins to ask other nodes, when there is a reason to.
    pub fn watch_nodes(&self) {
        let (orders, report) = (self.egress.orders.subscribe(), self.egress.report.clone());
        let heartbeat = Heartbeat::new(self.uplink.clone(), self.netlink.clone(), orders, report);
        drop(tokio::spawn(heartbeat.run()));
    }

    /// Brings everything in line with what is wanted, and with who is alive.
    pub async fn settle_egress(&mut self) {
        let trouble = self.egress.report.borrow().trouble.clone();
        self.note(HEARTBEAT, trouble.map_or(Ok(()), Err));
        // Until the sources have spoken, all stays as an earlier agent left it.
        if !self.model.containers_known() || self.dataplane.is_none() {
            return;
        }
        let egresses: BTreeMap<Arc<str>, Egress> =
            self.model.egresses().map(|(name, egress)| (name.clone(), egress)).collect();
        if egresses.is_empty() && self.egress.idle {
            return;
        }
        let decision = self.decide_egress(&egresses);
        let kept = self.keep_egress(decision).await;
        let kept = self.note(EGRESS, kept).is_some();
        self.egress.idle = kept && egresses.is_empty() && self.egress.looks == 0;
    }

    /// Keeps a container that is being attached from leaving under its node's
    /// address though it must not.
    ///
    /// # Errors
    /// As text for the one who attaches it: that cannot be kept.
    pub fn check_egress(&self, name: &str, addresses: &[IpAddr], known: bool) -> Result<(), String> {
        let refuse = |why: &str| Err(format!("endpoint {name}: its egress address cannot be kept: {why}"));
        if let Some(why) = addresses.iter().find_map(|address| self.egress.unwritten.get(address)) {
            return refuse(why);
        }
        if known || self.model.containers_known() {
            return Ok(());
        }
        self.egress.hold_back(addresses).or_else(|error| refuse(&error.to_string()))
    }

    fn decide_egress(&self, egresses: &BTreeMap<Arc<str>, Egress>) -> Decision {
        let endpoints = self.store.iter().map(|(name, stored)| {
            let (namespace, labels) = self.model.endpoint_labels(name, &stored.request.labels);
            let labels = self.admitted(&namespace, labels);
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
        let report = self.egress.report.borrow();
        egress::decide(&facts, |node| report.healths.get(&node).copied().unwrap_or(Health::Unknown))
    }

    /// Whatever fails, all the rest is done: the first error is returned.
    async fn keep_egress(&mut self, decision: Decision) -> io::Result<()> {
        let link = self.uplink.ifindex;
        let mut failed = First::default();
        let rows = failed.note(|| "read the rows".into(), self.egress.tables.rows());
        let there = self.netlink.held_addresses(link).await.map(BTreeSet::from_iter);
        let there: BTreeSet<IpAddr> = failed
            .note(|| "list the uplink's addresses".into(), there)
            .unwrap_or_else(|| self.egress.orders.borrow().held.clone());
        let stays = there.iter().filter(|address| decision.undecided.contains(address));
        let held: BTreeSet<IpAddr> = decision.held.iter().chain(stays).copied().collect();
        let wanted = wanted(&decision, &held, rows.as_ref());
        let (readable, rows) = (rows.is_some(), rows.unwrap_or_default());
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
            nodes: self.model.nodes().values().flat_map(|node| node.addresses.iter().copied()).collect(),
            held: held.clone(),
            leaves: false,
        };
        self.egress.decision = decision;

        // What others are to find is there before they are told of it, and before
        // packets leave under it; nobody is sent here any more before it goes.
        let altered = |(key, row): &(&IpAddr, &Leaves)| rows.get(key) != Some(row);
        let (here, others): (Vec<_>, Vec<_>) = wanted
            .iter()
            .filter(altered)
            .partition(|(key, row)| !held.contains(key) && row.node == Some(row.address));
        self.egress.unwritten.clear();
        if !readable {
            // What stands there is not known: it stays, and nobody else gets in.
            let unknown = self.egress.decision.leaves.keys().filter(|key| !wanted.contains_key(key));
            self.egress.unwritten.extend(unknown.map(|key| (*key, "its row cannot be read".to_owned())));
        }
        self.put_rows(&others, changed, &mut failed);
        self.mark(&held | &there);
        for address in held.difference(&there) {
            let added = self.netlink.hold_address(link, *address).await;
            if failed.note(|| format!("hold {address}"), added).is_some() {
                self.mended(changed, || format!("egress address {address}: missing, added again"));
            }
        }
        self.put_rows(&here, changed, &mut failed);
        self.egress.orders.send_if_modified(|before| {
            let news = *before != orders;
            *before = orders;
            news
        });
        // An address that is not closed any more would be the host's.
        let mut closed = held.clone();
        for address in there.difference(&held) {
            let released = self.netlink.release_address(link, *address).await;
            if failed.note(|| format!("release {address}"), released).is_none() {
                closed.insert(*address);
            }
        }
        if !there.is_subset(&closed) {
            self.mark(closed.clone());
        }
        for key in rows.keys().filter(|key| !wanted.contains_key(key) && !closed.contains(key)) {
            failed.note(|| format!("delete the row of {key}"), self.egress.tables.delete(*key));
        }
        if self.egress.looks > 0 && readable {
            let looked = self.forget_flows(&wanted, &held);
            if failed.note(|| "look at the flows".into(), looked).is_some() {
                self.egress.looks -= 1;
            }
            if self.egress.looks == 0 {
                // No flow leaves under another any more.
                self.egress.known = &self.egress.decision.addresses | &closed;
            }
            self.audit_soon();
        }
        failed.end()
    }

    /// What knocks at these is for nobody.
    fn mark(&mut self, addresses: BTreeSet<IpAddr>) {
        let marked = (self.v4.hold(addresses.iter().copied()), self.v6.hold(addresses.iter().copied()));
        self.note_written(marked);
    }

    fn put_rows(&mut self, rows: &[(&IpAddr, &Leaves)], expected: bool, failed: &mut First) {
        for &(key, row) in rows {
            let step = || format!("write the row of {key}");
            let put = self.egress.tables.put(*key, *row);
            if let Err(error) = &put {
                self.egress.unwritten.insert(*key, format!("{}: {error}", step()));
            }
            if failed.note(step, put).is_some() {
                self.mended(expected, || format!("egress row of {key}: altered, set again"));
            }
        }
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
        let v4 = self.v4.forget(|key, flow| stale.is(key, flow));
        v4.and(self.v6.forget(|key, flow| stale.is(key, flow)))
    }

    /// Takes the addresses off the uplink again, and leaves them to others.
    ///
    /// # Errors
    /// When they cannot be listed or removed.
    pub async fn release_egress(&mut self) -> io::Result<()> {
        let (link, mut failed) = (self.uplink.ifindex, First::default());
        let there = self.netlink.held_addresses(link).await;
        for address in failed.note(|| "list them".into(), there).unwrap_or_default() {
            let released = self.netlink.release_address(link, address).await;
            failed.note(|| address.to_string(), released);
        }
        self.egress.orders.send_replace(Orders { leaves: true, ..Orders::default() });
        // The process may end as soon as this returns.
        let _ = timeout(FAREWELL, self.egress.orders.closed()).await;
        failed.end()
    }
}

/// The rows of the maps: of containers, and of addresses held here. Where the
/// holder is not known yet, what is there stays, whatever that may be where it
/// could not be read.
fn wanted(
    decision: &Decision,
    held: &BTreeSet<IpAddr>,
    rows: Option<&BTreeMap<IpAddr, Leaves>>,
) -> BTreeMap<IpAddr, Leaves> {
    let mut wanted = decision.leaves.clone();
    wanted.retain(|key, row| {
        let stays = decision.undecided.contains(&row.address);
        let there = rows.and_then(|rows| rows.get(key)).filter(|there| there.address == row.address);
        if let Some(there) = there.filter(|_| stays) {
            *row = *there;
        }
        !stays || rows.is_some()
    });
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
