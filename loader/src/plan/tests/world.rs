//! Desired states as values, and a node that applies plans step by step and
//! checks after each what a client would see.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use causeway_schema::{Frontend as FrontendRow, FrontendKey, Port, V4, choice, hash};
use proptest::prelude::*;

use crate::event::{Origin, Protocol, ServiceOptions, SourceRanges};
use crate::kernel::Tables;
use crate::kernel::memory::{Contents, MemoryTables};
use crate::model::desired::{Backend, Frontend, Service, ServiceId};
use crate::plan::{Capacity, GRACE, Planner, Step, audit, confirm};

pub type Services = BTreeMap<ServiceId, Service>;

pub fn id(name: &str) -> ServiceId {
    ServiceId::new("default".into(), name.into(), "".into())
}

/// A service from `(VIP's last byte, port)` and `(backend's number, port, weight)`.
pub fn service(frontends: &[(u8, u16)], backends: &[(u16, u16, u32)]) -> Service {
    let origin = Arc::new(Origin { source: "test".into(), place: "a.yaml#1".into() });
    let mut service = Service {
        frontends: Vec::new(),
        backends: Vec::new(),
        options: Default::default(),
        origin: origin.clone(),
    };
    for &(vip, port) in frontends {
        let address = IpAddr::V4(Ipv4Addr::new(10, 96, 0, vip));
        service.frontends.push(Frontend { address, port, protocol: Protocol::Tcp });
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

/// Affinity for so many seconds (0: none), and networks of clients that alone
/// may come to VIPs 1 and 2.
pub fn options(affinity: u32, clients: &[&str]) -> ServiceOptions {
    let addresses = [1, 2].map(|vip| IpAddr::V4(Ipv4Addr::new(10, 96, 0, vip))).to_vec();
    let clients: Vec<_> = clients.iter().map(|net| net.parse().unwrap()).collect();
    ServiceOptions {
        idle_timeout: None,
        affinity: Some(affinity).filter(|&seconds| seconds > 0),
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
    let many = (0..3u16).prop_map(|more| (0..40 + more).map(|number| (number, 8080, 1)).collect());
    let backends = prop_oneof![20 => few, 1 => many];
    let networks = proptest::sample::subsequence(vec!["10.0.0.0/8", "10.0.0.0/16", "fd00::/8"], 0..3);
    let options = (prop_oneof![2 => Just(0), 1 => 1..3u32], networks);
    let options = options.prop_map(|(affinity, clients)| self::options(affinity, &clients));
    let set = (frontends, backends, options).prop_map(|(frontends, backends, options)| {
        Some(Service { options, ..service(&frontends, &backends) })
    });
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
    Some(row_answers(contents, contents.frontends.get(key)?.service))
}

/// What clients get of the service with this id.
fn row_answers(contents: &Contents<V4>, id: u32) -> Answers {
    let target = contents.services[id as usize].target;
    let answer = |flow| {
        if target.is_empty() {
            return None;
        }
        let backend = choice::choose(&contents.arena[..], target, hash::mix(flow)).expect("a whole table");
        let row = contents.backends[backend as usize];
        assert_ne!(row.addr, V4([0; 4]), "a table names a backend that is not there");
        assert_ne!((row.port == Port::NONE), (target.port() == Port::NONE), "one port, in target or row");
        let port = if row.port == Port::NONE { target.port() } else { row.port };
        Some((row.addr, port.get()))
    };
    (0..HASHES).map(answer).collect()
}

pub fn all_answers(contents: &Contents<V4>) -> BTreeMap<FrontendKey<V4>, Answers> {
    let keys = contents.frontends.iter().filter(|(_, row)| row.service != FrontendRow::WHOLE_ADDRESS);
    keys.map(|(key, _)| (*key, answers(contents, key).unwrap())).collect()
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
        let in_use: BTreeSet<u32> = after.frontends.values().map(|row| row.service).collect();
        for step in steps {
            self.apply(std::slice::from_ref(step));
            let now = self.tables.contents();
            super::options::check_prefix(&before, now, after);
            for (key, row) in &before.frontends {
                let stays = now.frontends.contains_key(key) || !after.frontends.contains_key(key);
                assert!(stays, "{key:?}, which pointed to {row:?}, vanished at {step:?}");
            }
            for (key, seen) in all_answers(now) {
                let id = now.frontends[&key].service;
                let old = before.frontends.get(&key).is_some_and(|row| row.service == id);
                let new = after.frontends.get(&key).is_some_and(|row| row.service == id);
                let as_it_was = old && seen == row_answers(&before, id);
                let as_it_will_be = (new || old && in_use.contains(&id)) && seen == row_answers(after, id);
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

/// Each frontend's answers are of the service that it belongs to.
pub fn check_against_desired(node: &Node) {
    let mut owners: BTreeMap<FrontendKey<V4>, &Service> = BTreeMap::new();
    for service in node.desired.values() {
        for frontend in &service.frontends {
            let IpAddr::V4(address) = frontend.address else { continue };
            owners.entry(FrontendKey::new(address.into(), Port::new(frontend.port), 6)).or_insert(service);
        }
    }
    let answers = all_answers(node.tables.contents());
    assert_eq!(answers.keys().collect::<Vec<_>>(), owners.keys().collect::<Vec<_>>());
    for (key, answers) in answers {
        let allowed: Vec<(IpAddr, u16)> =
            owners[&key].backends.iter().map(|backend| (backend.address, backend.port)).collect();
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
