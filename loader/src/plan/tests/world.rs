//! Desired states as values, and a node that applies plans step by step and
//! checks after each what a client would see.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use causeway_schema::{Frontend as FrontendRow, FrontendKey, Port, V4, choice, hash};
use proptest::prelude::*;

use crate::event::{Dsr, Origin, Protocol, ServiceOptions, SourceRanges, Table, Traffic};
use crate::kernel::Tables;
use crate::kernel::memory::{Contents, MemoryTables};
use crate::model::desired::{Backend, Clients, Frontend, Scope, Service, ServiceId};
use crate::plan::{Capacity, GRACE, Planner, Step, audit, confirm};

pub type Services = BTreeMap<ServiceId, Service>;

pub fn id(name: &str) -> ServiceId {
    ServiceId::new("default".into(), name.into(), "".into(), Scope::Cluster)
}

/// A service from `(VIP's last byte, port)` and `(backend's number, port, weight)`.
pub fn service(frontends: &[(u8, u16)], backends: &[(u16, u16, u32)]) -> Service {
    let origin = Arc::new(Origin { source: "test".into(), place: "a.yaml#1".into() });
    let mut service = Service {
        frontends: Vec::new(),
        backends: Vec::new(),
        options: Default::default(),
        silent: false,
        terminating: [0; 2],
        origin: origin.clone(),
    };
    for &(vip, port) in frontends {
        let address = IpAddr::V4(Ipv4Addr::new(10, 96, 0, vip));
        service.frontends.push(Frontend::at(address, port, Protocol::Tcp));
    }
    for &(number, port, weight) in backends {
        let [high, low] = number.to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(10, 244, high, low));
        service.backends.push(Backend { address, port, weight, node: None, origin: origin.clone() });
    }
    service.frontends.sort();
    service.frontends.dedup();
    service.backends.sort_by_key(|backend| (backend.address, backend.port));
    service.backends.dedup_by_key(|backend| (backend.address, backend.port));
    service
}

/// A service that has ports from `first` to `last` of VIPs too.
pub fn ranged(mut service: Service, vips: &[u8], (first, last): (u16, u16)) -> Service {
    for &vip in vips {
        let address = IpAddr::V4(Ipv4Addr::new(10, 96, 0, vip));
        service.frontends.push(Frontend { end_port: last, ..Frontend::at(address, first, Protocol::Tcp) });
    }
    service.frontends.sort();
    service.frontends.dedup();
    service
}

/// With VIPs from the second on for these clients alone.
pub fn clients(mut service: Service, clients: Clients) -> Service {
    let first = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
    let others = service.frontends.iter_mut().filter(|frontend| frontend.address != first);
    others.for_each(|frontend| frontend.clients = clients);
    service
}

/// Affinity for so many seconds (0: none), and networks of clients that alone
/// may come to VIPs 1 and 2.
pub fn options(affinity: u32, clients: &[&str]) -> ServiceOptions {
    let addresses = [1, 2].map(|vip| IpAddr::V4(Ipv4Addr::new(10, 96, 0, vip))).to_vec();
    let clients: Vec<_> = clients.iter().map(|net| net.parse().unwrap()).collect();
    ServiceOptions {
        idle_timeout: None,
        dsr: None,
        proxy: false,
        affinity: Some(affinity).filter(|&seconds| seconds > 0),
        table: Table::default(),
        traffic: Traffic::default(),
        source_ranges: (!clients.is_empty()).then_some(SourceRanges { addresses, clients }),
    }
}

pub fn key(vip: u8, port: u16) -> FrontendKey<V4> {
    FrontendKey::new(V4([10, 96, 0, vip]), Port::new(port), 6)
}

pub fn small() -> Capacity {
    Capacity {
        frontends: 200,
        services: 64,
        backends: 512,
        arena: 16_384,
        endpoints: 16,
        flows: 1,
        embryonic: 1,
        affinity: 1,
        members: 1024,
        source_ranges: 256,
        port_ranges: 16,
        policy_sets: 64,
        policy_steps: 64,
        peers: 64,
        rules: 64,
    }
}

/// One service becomes another, or goes.
pub type Change = (ServiceId, Option<Service>);

/// Few names, addresses and ports, so that services collide and sets repeat.
pub fn change() -> impl Strategy<Value = Change> {
    let name = (0..8u8).prop_map(|number| id(&format!("s{number}")));
    let frontends = proptest::collection::vec((1..5u8, 80..82u16), 0..4);
    let weight = prop_oneof![3 => Just(1u32), 1 => 1..5u32];
    let few = proptest::collection::vec(
        (0..8u16, prop_oneof![4 => Just(8080u16), 1 => 8080..8082u16], weight),
        0..6,
    );
    let many = (0..3u16).prop_map(|more| (0..70 + more).map(|number| (number, 8080, 1)).collect());
    let backends = prop_oneof![20 => few, 1 => many];
    let networks = proptest::sample::subsequence(vec!["10.0.0.0/8", "10.0.0.0/16", "fd00::/8"], 0..3);
    let dsr = prop_oneof![4 => Just(None), 1 => Just(Some(Dsr::Ipip)), 1 => Just(Some(Dsr::L2))];
    let proxy = prop_oneof![4 => Just(false), 1 => Just(true)];
    let maglev = Table { maglev: true, slots: None };
    let table = prop_oneof![20 => Just(Table::default()), 1 => Just(maglev)];
    let options = (prop_oneof![2 => Just(0), 1 => 1..3u32], networks, dsr, proxy, table);
    let options = options.prop_map(|(affinity, clients, dsr, proxy, table)| ServiceOptions {
        dsr,
        proxy,
        table,
        ..self::options(affinity, &clients)
    });
    let spans = vec![(70, 90), (80, 81), (81, 99), (91, 99), (1, 65_535)];
    let vips = proptest::sample::subsequence(vec![1, 2, 3, 4], 1..3);
    let ranges = prop_oneof![1 => Just(None), 1 => (vips, proptest::sample::select(spans)).prop_map(Some)];
    let whom = proptest::sample::select(vec![Clients::All, Clients::All, Clients::Inside, Clients::Outside]);
    let silent = prop_oneof![4 => Just(false), 1 => Just(true)];
    let set = (frontends, backends, options, ranges, whom, silent).prop_map(
        |(frontends, mut backends, options, ranges, whom, silent)| {
            if let Some((_, (first, 65_535))) = ranges {
                backends.iter_mut().for_each(|(_, port, _)| *port = first + *port % 2);
            }
            let plain = Service { options, silent, ..service(&frontends, &backends) };
            let plain = match ranges {
                Some((vips, span)) => ranged(plain, &vips, span),
                None => plain,
            };
            Some(clients(plain, whom))
        },
    );
    (name, prop_oneof![4 => set, 1 => Just(None)])
}

pub fn batches() -> impl Strategy<Value = Vec<Vec<Change>>> {
    proptest::collection::vec(proptest::collection::vec(change(), 1..5), 1..12)
}

pub const HASHES: u64 = 12;

/// The address and port that each of some flows reaches at a frontend.
pub type Answers = Vec<Option<(V4, u16)>>;

/// What clients of a frontend get, `None` where there is no such frontend.
pub fn answers(contents: &Contents<V4>, key: &FrontendKey<V4>) -> Option<Answers> {
    Some(row_answers(contents, lead(contents, key)?))
}

/// Where a frontend leads: to which service, and how far its port lies into a
/// range of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    pub service: u32,
    pub flags: u32,
    pub offset: u16,
}

pub fn lead(contents: &Contents<V4>, key: &FrontendKey<V4>) -> Option<Lead> {
    if let Some(row) = contents.frontends.get(key) {
        return Some(Lead { service: row.service, flags: row.flags, offset: 0 });
    }
    let range = contents.port_ranges.get(&key.addr)?.find(key.port, key.protocol)?;
    Some(Lead { service: range.service, flags: u32::from(range.flags), offset: range.offset(key.port) })
}

/// What clients get of a service at a port.
fn row_answers(contents: &Contents<V4>, lead: Lead) -> Answers {
    let target = contents.services[lead.service as usize].target;
    let answer = |flow| {
        if target.is_empty() {
            return None;
        }
        let backend = choice::choose(&contents.arena[..], target, hash::mix(flow)).expect("a whole table");
        let row = contents.backends[backend as usize];
        assert_ne!(row.addr, V4([0; 4]), "a table names a backend that is not there");
        assert_ne!((row.port == Port::NONE), (target.port() == Port::NONE), "one port, in target or row");
        let port = if row.port == Port::NONE { target.port() } else { row.port };
        Some((row.addr, port.get() + lead.offset))
    };
    (0..HASHES).map(answer).collect()
}

pub fn all_answers(contents: &Contents<V4>) -> BTreeMap<FrontendKey<V4>, Answers> {
    let rows = contents.frontends.iter().filter(|(_, row)| row.service != FrontendRow::WHOLE_ADDRESS);
    let keys = rows.map(|(key, _)| *key).chain(probes(contents.port_ranges.keys().copied()));
    keys.filter_map(|key| Some((key, answers(contents, &key)?))).collect()
}

/// Ports of addresses that one range or another begins or ends at, or has.
pub fn probes(addresses: impl Iterator<Item = V4>) -> impl Iterator<Item = FrontendKey<V4>> {
    const PORTS: [u16; 10] = [1, 69, 70, 80, 81, 82, 90, 91, 99, 100];
    addresses.flat_map(|addr| PORTS.map(|port| FrontendKey::new(addr, Port::new(port), 6)))
}

pub struct Node {
    pub planner: Planner<V4>,
    pub tables: MemoryTables<V4>,
    pub desired: Services,
    pub now: Duration,
}

impl Node {
    pub fn new(capacity: Capacity) -> Self {
        let (planner, tables) = (Planner::new(capacity), MemoryTables::new(capacity));
        Self { planner, tables, desired: Services::new(), now: Duration::ZERO }
    }

    pub fn update(&mut self, changes: &[Change]) -> Vec<Step<V4>> {
        let changes: BTreeMap<&ServiceId, Option<&Service>> =
            changes.iter().map(|(name, service)| (name, service.as_ref())).collect();
        for (&name, &service) in &changes {
            match service {
                Some(service) => self.desired.insert(name.clone(), service.clone()),
                None => self.desired.remove(name),
            };
        }
        self.planner.update(changes)
    }

    /// Applies a plan whole.
    pub fn apply(&mut self, steps: &[Step<V4>]) {
        let errors = self.tables.apply(steps);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(confirm(steps, &self.tables).unwrap(), Vec::<usize>::new());
    }

    /// Applies a plan step by step. After each, a frontend that was there and
    /// will be leads to the service it had (as that was, or as it will be if
    /// anyone still uses it) or, whole, to the service it gets.
    pub fn apply_carefully(&mut self, steps: &[Step<V4>]) {
        assert!(steps.is_sorted_by_key(Step::phase));
        let before = self.tables.contents().clone();
        let mut whole = self.tables.clone();
        whole.apply(steps);
        let after = whole.contents();
        let ranged = after.port_ranges.values().flat_map(|row| row.iter().map(|range| range.service));
        let in_use: BTreeSet<u32> = after.frontends.values().map(|row| row.service).chain(ranged).collect();
        let served = all_answers(&before);
        for step in steps {
            self.apply(std::slice::from_ref(step));
            let now = self.tables.contents();
            super::options::check_prefix(&before, now, after);
            let markers = before.frontends.keys().filter(|key| key.port == Port::NONE);
            for key in markers.chain(served.keys()) {
                let stays = lead(now, key).is_some() || lead(after, key).is_none();
                assert!(stays, "{key:?} vanished at {step:?}");
            }
            for (key, seen) in all_answers(now) {
                let there = lead(now, &key).unwrap();
                let old = lead(&before, &key).is_some_and(|lead| lead.service == there.service);
                let new = lead(after, &key).is_some_and(|lead| lead.service == there.service);
                let as_it_was = old && seen == row_answers(&before, there);
                let as_it_will_be =
                    (new || old && in_use.contains(&there.service)) && seen == row_answers(after, there);
                assert!(as_it_was || as_it_will_be, "{key:?} leads to {seen:?} at {step:?}");
            }
        }
    }

    pub fn change(&mut self, changes: &[Change]) {
        let steps = self.update(changes);
        self.apply_carefully(&steps);
        self.settled();
    }

    /// Time passes; what was freed comes free, and what waited gets its turn.
    pub fn rest(&mut self) {
        for _ in 0..2 {
            self.now += GRACE;
            let steps = self.planner.release(self.now);
            self.apply_carefully(&steps);
        }
        self.settled();
    }

    /// The maps hold the image, and nothing else.
    pub fn settled(&self) {
        assert_eq!(audit(self.planner.image(), &self.tables).unwrap(), []);
    }
}

/// The backends whose ports go as far as the service's ranges.
pub fn fitting(service: &Service) -> impl Iterator<Item = &Backend> {
    let span = service.frontends.iter().map(|frontend| frontend.end_port - frontend.port).max().unwrap_or(0);
    service.backends.iter().filter(move |backend| backend.port.checked_add(span).is_some())
}

/// The frontends that are rows of their own.
pub fn keys(service: &Service) -> BTreeSet<FrontendKey<V4>> {
    let key = |frontend: &Frontend| {
        let IpAddr::V4(address) = frontend.address else { return None };
        let key = FrontendKey::new(address.into(), Port::new(frontend.port), 6);
        match frontend.clients {
            // A range as well: it is found by the row for all others.
            Clients::Outside => Some(key.for_outside(Port::new(frontend.end_port))),
            _ => (!frontend.is_range()).then_some(key),
        }
    };
    service.frontends.iter().filter_map(key).collect()
}

/// Each frontend's answers are of the service that it belongs to.
pub fn check_against_desired(node: &Node) {
    let mut owners: BTreeMap<FrontendKey<V4>, &Service> = BTreeMap::new();
    for service in node.desired.values() {
        for key in keys(service) {
            owners.entry(key).or_insert(service);
        }
    }
    super::port_ranges::add_owners(&node.desired, &mut owners);
    let answers = all_answers(node.tables.contents());
    assert_eq!(answers.keys().collect::<Vec<_>>(), owners.keys().collect::<Vec<_>>());
    for (key, answers) in answers {
        let offset = lead(node.tables.contents(), &key).unwrap().offset;
        let allowed: Vec<(IpAddr, u16)> =
            fitting(owners[&key]).map(|backend| (backend.address, backend.port + offset)).collect();
        for answer in answers {
            match answer {
                Some((addr, port)) => assert!(allowed.contains(&(IpAddr::V4(addr.into()), port))),
                None => assert_eq!(allowed, []),
            }
        }
        super::options::check(node, &key, owners[&key]);
        let marker = FrontendKey::whole_address(key.addr);
        assert!(node.tables.contents().frontends.contains_key(&marker));
    }
}
