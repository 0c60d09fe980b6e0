//! Clusters by chance, over so few labels, addresses and ports that rules meet.

use std::sync::Arc;

use ipnet::IpNet;

use super::super::{Direction, Flow, Name, Pod, PolicyId, Subject};
use super::{Cluster, id, ip};
use crate::event::policy::{
    Action, Labels, NamedPort, Namespaces, Operator, Peer, PodSelector, PolicyObject, PortMatch, Ports,
    Requirement, Rule, Selector, Tier, Transport,
};

/// SplitMix64: a seed gives the same cluster on every machine.
#[derive(Clone)]
pub struct Chance(pub u64);

/// One thing that changes; `None` takes it away.
#[derive(Clone, Debug)]
pub enum Change {
    Namespace(Arc<str>, Option<Labels>),
    Pod(Name, Option<Pod>),
    Service(Name, Vec<std::net::IpAddr>),
    Policy(PolicyId, Option<Arc<PolicyObject>>),
    Endpoint(Arc<str>, Option<Subject>),
}

const NAMESPACES: [&str; 3] = ["a", "aa", "b"];
const KEYS: [&str; 3] = ["app", "tier", "kubernetes.io/metadata.name"];
const VALUES: [&str; 4] = ["x", "y", "a", "b"];
const NETWORKS: [&str; 16] = [
    "0.0.0.0/0",
    "10.0.0.0/24",
    "10.0.0.0/30",
    "10.0.0.5/30",
    "10.0.0.6/31",
    "10.0.0.2/32",
    "10.0.0.3/32",
    "10.0.1.0/24",
    "10.0.0.0/23",
    "::/0",
    "fd00::/64",
    "fd00::/126",
    "fd00::2/127",
    "fd00::1/128",
    "0.0.0.0/1",
    "fd00::7/125",
];
const ADDRESSES: [&str; 14] = [
    "10.0.0.0",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.4",
    "10.0.0.7",
    "10.0.1.1",
    "10.0.2.1",
    "192.0.2.1",
    "fd00::1",
    "fd00::2",
    "fd00::3",
    "fd00::6",
    "2001:db8::1",
];
const PORTS: [u16; 6] = [0, 53, 80, 81, 8080, 65535];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
const TRANSPORTS: [Transport; 4] = [Transport::Tcp, Transport::Udp, Transport::Sctp, Transport::Icmp];

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn labels(&mut self) -> Labels {
        let pairs = self.some(2, |chance| (chance.of(&KEYS[..2]).into(), chance.of(&VALUES).into()));
        Arc::new(pairs.into_iter().collect())
    }

    fn selector(&mut self, keys: &[&str]) -> Selector {
        Selector(self.some(2, |chance| {
            let values = |chance: &mut Self| chance.some(2, |chance| chance.of(&VALUES).into());
            let operator = match chance.below(6) {
                0 => Operator::NotIn(values(chance)),
                1 => Operator::Exists,
                2 => Operator::DoesNotExist,
                3 => Operator::In(values(chance)),
                _ => Operator::In(vec![chance.of(&VALUES).into()]),
            };
            Requirement { key: chance.of(keys).into(), operator }
        }))
    }

    fn pods(&mut self) -> PodSelector {
        let namespaces = match self.below(2) {
            0 => Namespaces::Named(self.of(&NAMESPACES).into()),
            _ => Namespaces::Matching(self.selector(&KEYS)),
        };
        PodSelector { namespaces, pods: self.selector(&KEYS[..2]) }
    }

    /// Of many endpoints, mostly.
    fn subject(&mut self) -> PodSelector {
        match self.below(3) {
            0 => PodSelector { namespaces: Namespaces::Matching(Selector::default()), ..self.pods() },
            1 => PodSelector { pods: Selector::default(), ..self.pods() },
            _ => self.pods(),
        }
    }

    fn network(&mut self) -> IpNet {
        self.of(&NETWORKS).parse().unwrap()
    }

    fn service(&mut self) -> Name {
        (self.of(&NAMESPACES[..2]).into(), "s".into())
    }

    fn peer(&mut self) -> Peer {
        match self.below(5) {
            0 | 1 => Peer::Block { network: self.network(), except: self.some(2, Self::network) },
            2 => {
                let (namespace, name) = self.service();
                Peer::Service { namespace, name }
            }
            _ => Peer::Pods(self.pods()),
        }
    }

    fn port(&mut self) -> PortMatch {
        let ports = match self.below(4) {
            0 => Ports::All,
            1 => Ports::Named(self.of(&PORT_NAMES).into()),
            2 => Ports::Range(self.of(&PORTS), self.of(&PORTS)),
            _ => {
                let port = self.of(&PORTS);
                Ports::Range(port, port)
            }
        };
        let protocol = if self.once_in(2) { Transport::Tcp } else { self.of(&TRANSPORTS) };
        PortMatch { protocol, ports }
    }

    fn rule(&mut self) -> Rule {
        Rule {
            name: self.of(&["", "r"]).into(),
            action: self.of(&[Action::Allow, Action::Allow, Action::Deny, Action::Reject, Action::Pass]),
            peers: (!self.once_in(4)).then(|| self.some(3, Self::peer)),
            ports: (!self.once_in(3)).then(|| self.some(3, Self::port)),
        }
    }

    fn policy(&mut self) -> PolicyObject {
        let tier = match self.below(5) {
            0 | 1 => Tier::Admin { priority: self.below(3) as u16 },
            2 => Tier::Baseline { priority: self.below(2) as u16 },
            3 => Tier::Network,
            _ => Tier::Namespaced,
        };
        PolicyObject {
            tier,
            subject: self.subject(),
            ingress: (!self.once_in(3)).then(|| self.some(3, Self::rule)),
            egress: (!self.once_in(3)).then(|| self.some(3, Self::rule)),
            audit: self.once_in(4),
            reject: self.once_in(4),
            faulty: false,
        }
    }

    fn ports(&mut self) -> Arc<[NamedPort]> {
        let port = |chance: &mut Self| NamedPort {
            name: chance.of(&PORT_NAMES).into(),
            protocol: if chance.once_in(3) { chance.of(&TRANSPORTS) } else { Transport::Tcp },
            port: chance.of(&PORTS),
        };
        self.some(2, port).into()
    }

    /// Of something that may be there already, or not.
    pub fn change(&mut self) -> Change {
        let stays = !self.once_in(4);
        match self.below(12) {
            0 => Change::Namespace(self.of(&NAMESPACES).into(), stays.then(|| self.labels())),
            1..=4 => {
                let name = (self.of(&NAMESPACES).into(), self.of(&["p", "q", "r"]).into());
                let address = |chance: &mut Self| ip(chance.of(&ADDRESSES[..12]));
                let pod = |chance: &mut Self| Pod {
                    labels: chance.labels(),
                    addresses: chance.some(2, address),
                    ports: chance.ports(),
                };
                Change::Pod(name, stays.then(|| pod(self)))
            }
            5 => Change::Service(self.service(), self.some(3, |chance| ip(chance.of(&ADDRESSES)))),
            6..=9 => {
                let mut policy = self.policy();
                let mut id = id(self.of(&["1", "2", "3"]), &policy);
                if policy.tier == Tier::Namespaced {
                    id.namespace = self.of(&NAMESPACES).into();
                    if self.once_in(2) {
                        policy.subject.namespaces = Namespaces::Named(id.namespace.clone());
                    }
                }
                Change::Policy(id, stays.then(|| Arc::new(policy)))
            }
            _ => {
                let subject = Subject {
                    namespace: self.of(&NAMESPACES).into(),
                    labels: self.labels(),
                    ports: self.ports(),
                };
                Change::Endpoint(self.of(&["e1", "e2", "e3"]).into(), stays.then_some(subject))
            }
        }
    }

    pub fn flow(&mut self) -> Flow {
        Flow {
            direction: self.of(&[Direction::Ingress, Direction::Egress]),
            peer: ip(self.of(&ADDRESSES)),
            protocol: self.of(&[6, 6, 6, 17, 132, 1, 58, 47, 0, 255]),
            port: if self.once_in(4) { self.below(65536) as u16 } else { self.of(&PORTS) },
        }
    }
}

impl Cluster {
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Namespace(name, labels) => put(&mut self.namespaces, name, labels),
            Change::Pod(name, pod) => put(&mut self.pods, name, pod),
            Change::Service(name, addresses) => put(&mut self.services, name, Some(addresses)),
            Change::Policy(id, policy) => put(&mut self.policies, id, policy),
            Change::Endpoint(name, subject) => put(&mut self.endpoints, name, subject),
        }
    }
}

fn put<K: Ord, V>(map: &mut std::collections::BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
