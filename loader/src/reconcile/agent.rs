//! What does the loop keep between two rounds?

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use causeway_schema::{V4, V6};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::{
    audit::Audits,
    cluster::Published,
    egress::EgressState,
    events::Owners,
    guard::Guarded,
    health_checks::HealthChecks,
    host_ports,
    neighbours::Neighbours,
    plane::Plane,
    policies::Policies,
    sources::{Fences, Sources},
    status::WRITE,
    wiring::Wiring,
};
use crate::{
    attach::{self, EndpointStore, Uplink},
    config::AgentConfig,
    event::Problem,
    guard::{Guard, Memory},
    ipam::Ipam,
    kernel::{
        bpf::{Dataplane, Node, Options},
        routes::RouteTable,
    },
    model::{Model, desired::DesiredState},
    netlink::Netlink,
    plan::Digest,
    programming::Programming,
    providers::docker,
    snapshot::{Command, Handle, Snapshot},
};

/// Repairs that the status still names.
const REMEMBERED: usize = 20;

pub(super) struct Agent {
    pub config: AgentConfig,
    pub model: Model,
    pub v4: Plane<V4>,
    pub v6: Plane<V6>,
    pub policies: Policies,
    pub egress: EgressState,
    pub health_checks: HealthChecks,
    /// `None` only after it was uninstalled.
    pub dataplane: Option<Dataplane>,
    pub netlink: Netlink,
    pub routes: RouteTable,
    pub store: EndpointStore,
    pub ipam: Ipam,
    pub wiring: Wiring,
    pub uplink: Uplink,
    pub sources: Sources,
    pub guarded: Guarded,
    pub published: Published,
    pub owners: Owners,

    pub started: Instant,
    /// What an earlier agent left and nobody wanted has been removed: from the
    /// maps, and from the hooks.
    pub pruned: bool,
    pub settled: bool,
    pub audits: Audits,

    pub applied_revision: u64,
    pub start_micros: u64,
    pub last_apply: Duration,
    /// Writes and reads that failed and have not succeeded since, by what they
    /// were for.
    pub failures: BTreeMap<&'static str, String>,
    pub route_problems: Vec<Problem>,
    /// What is wrong with the agent's own state, from its start.
    pub warnings: Vec<String>,
    pub repaired: u64,
    /// Of the node's own, whose backend had gone.
    pub sockets_ended: u64,
    pub repairs: VecDeque<String>,

    pub programming: Programming,
    /// Since when services' rows are not as wanted.
    pub behind: Option<Timestamp>,
    /// This node will be gone soon, by the last word of its object.
    pub leaving: bool,

    pub fences: Fences,
    /// What readers hold of it, if any does: it is large.
    pub desired: Weak<DesiredState>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
}

impl Agent {
    /// Opens everything, takes over what an earlier agent left, and attaches.
    pub async fn start(config: AgentConfig, sources: Sources, started: Instant) -> anyhow::Result<Self> {
        let netlink = Netlink::open().context("open a netlink socket")?;
        let uplink = attach::uplink(&netlink, config.uplink.as_deref()).await?;
        let (store, warning) = EndpointStore::open(&config.state_dir)
            .with_context(|| format!("use the state directory {}", config.state_dir.display()))?;
        let options =
            Options { recreate: config.recreate_maps, force_clsact: config.force_clsact, xdp: config.xdp };
        let dataplane = Dataplane::open(&config.bpffs, config.capacity, options)?;
        let masquerade = config.masquerade.then_some(config.native.as_slice());
        dataplane.describe(&Node { addresses: &uplink.addresses, masquerade })?;
        let mut v4 = Plane::adopt(&dataplane, config.capacity, &uplink.addresses)?;
        let mut v6 = Plane::adopt(&dataplane, config.capacity, &uplink.addresses)?;
        v4.planner.uplink_forwards(uplink.forwards(true));
        v6.planner.uplink_forwards(uplink.forwards(false));
        let indexes = store.iter().map(|(name, stored)| {
            let indexes = [v4.policy_of(&stored.endpoint), v6.policy_of(&stored.endpoint)];
            (name.as_str().into(), indexes.into_iter().max().unwrap_or(0))
        });
        let policies = Policies::adopt(&dataplane, config.capacity, indexes.collect())?;
        let egress = EgressState::open(&dataplane)?;
        let memory = Memory::open(&config.state_dir);
        // Maps that hold nothing have nothing to lose.
        let counts =
            if v4.is_empty() && v6.is_empty() { Default::default() } else { memory.counts().clone() };
        // What an engine says of its own containers is so, however many have gone.
        let mut doubted = sources.names();
        doubted.retain(|name| &**name != docker::SOURCE);
        let guard = Guard::new(config.shrink_guard, &doubted, counts);
        let slots: Vec<Arc<str>> = sources.names().into_iter().chain([host_ports::SOURCE.into()]).collect();
        let (published, owners) = (Published::new(&sources, &config), Owners::new(&sources, &config));
        let mut agent = Self {
            model: Model::new(&slots, &config.node),
            v4,
            v6,
            policies,
            egress,
            health_checks: HealthChecks::default(),
            dataplane: Some(dataplane),
            netlink,
            routes: RouteTable::default(),
            store,
            ipam: Ipam::new(Timestamp::now().as_microsecond().unsigned_abs()),
            wiring: Wiring::default(),
            uplink,
            sources,
            guarded: Guarded::new(guard, memory),
            published,
            owners,
            started,
            pruned: false,
            settled: false,
            audits: Audits::new(),
            applied_revision: 0,
            start_micros: 0,
            last_apply: Duration::ZERO,
            failures: BTreeMap::new(),
            route_problems: Vec::new(),
            warnings: warning.into_iter().collect(),
            repaired: 0,
            sockets_ended: 0,
            repairs: VecDeque::new(),
            programming: Programming::new(Timestamp::now()),
            behind: None,
            leaving: false,
            fences: Fences::default(),
            desired: Weak::new(),
            snapshot: Arc::default(),
            changed: watch::channel(0).0,
            config,
        };
        agent.adopt_endpoints().await;
        agent.attach_all();
        agent.tell_all_host_ports().await;
        if agent.config.xdp {
            agent.attach_xdp();
        }
        if agent.config.watch_neighbours {
            agent.watch_neighbours();
        }
        agent.publish();
        Ok(agent)
    }

    /// The digest of both families' maps, as wanted.
    pub fn digest(&self) -> Digest {
        self.v4.digest.with(self.v6.digest)
    }

    /// The same as read back; `None` while that is not known.
    pub fn kernel_digest(&self) -> Option<Digest> {
        Some(self.v4.kernel_digest?.with(self.v6.kernel_digest?))
    }

    pub fn handle(&self, commands: mpsc::Sender<Command>) -> Handle {
        let (snapshot, latency) = (self.snapshot.clone(), self.programming.latency.clone());
        Handle { snapshot, changed: self.changed.subscribe(), commands, latency }
    }

    /// Tells the edges how things stand.
    pub fn publish(&mut self) {
        // What was written was read back at once.
        if !self.failures.contains_key(WRITE) {
            self.programming.stands(Timestamp::now());
        }
        self.behind = if self.is_behind() { self.behind.or_else(|| Some(Timestamp::now())) } else { None };
        if let Some(node) = self.model.nodes().get(self.config.node.as_str()) {
            self.leaving = node.leaving;
        }
        let problems: Vec<Problem> = self.every_problem().collect();
        let endpoints = self.store.iter().map(|(name, stored)| (name.clone(), self.attached(stored)));
        let snapshot = Snapshot {
            endpoints: Arc::new(endpoints.collect()),
            egress: Arc::new(self.egress.decision.standing.clone()),
            status: self.status(&problems),
            behind: self.behind,
            leaving: self.leaving,
        };
        self.snapshot.store(Arc::new(snapshot));
        self.tell_owners(problems);
        self.changed.send_modify(|version| *version += 1);
    }

    pub fn remember_repair(&mut self, repair: String) {
        tracing::warn!(%repair, "drift");
        self.repaired += 1;
        if self.repairs.len() == REMEMBERED {
            self.repairs.pop_front();
        }
        self.repairs.push_back(repair);
    }

    /// Notes that something failed, or that it works again.
    pub fn note<T, E: std::fmt::Display>(&mut self, what: &'static str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => {
                if self.failures.remove(what).is_some() {
                    tracing::info!(what, "works again");
                }
                Some(value)
            }
            Err(error) => {
                let error = error.to_string();
                if self.failures.get(what) != Some(&error) {
                    tracing::error!(what, %error, "failed");
                    self.failures.insert(what, error);
                }
                None
            }
        }
    }

    /// What is left to do once the first image stands: programs that no packet
    /// waits for, and links of an earlier agent in place of which there are none.
    pub fn settle(&mut self) {
        if self.config.host_services {
            self.attach_sockets();
        }
        if let Some(dataplane) = &mut self.dataplane {
            let pruned = dataplane.prune_links();
            self.note("remove an earlier agent's links", pruned);
        }
        // An upgrade brings another one.
        self.install_plugin();
        self.settled = true;
    }

    /// Without it the kernel notices a neighbour that has moved, later.
    fn watch_neighbours(&mut self) {
        // XDP sends to neighbours that the kernel thinks idle.
        let unseen = self.config.xdp && self.dataplane.as_ref().is_some_and(Dataplane::has_xdp);
        match Neighbours::open(self.uplink.clone(), unseen) {
            Ok(neighbours) => drop(tokio::spawn(neighbours.run())),
            Err(error) => self.warnings.push(format!("cannot watch the neighbours: {error}")),
        }
    }
}
