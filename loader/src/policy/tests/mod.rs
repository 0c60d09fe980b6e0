//! Policies, pods and flows in few words.

mod cases;
mod conflicts;
mod denials;
mod explain;
mod generator;
mod peers;
mod random;
mod reference;
mod rehearse;
mod rows;
mod scale;
mod transitions;

use std::{net::IpAddr, sync::Arc};

use causeway_schema::policy::Outcome;

use super::{Compiler, Direction, Flow, Name, Pod, PolicyId, RuleName, Subject, Told as Cluster};
use crate::event::policy::{
    Action, Labels, NamedPort, Namespaces, Operator, Peer, PodSelector, PolicyObject, PortMatch, Ports,
    Requirement, Rule, Selector, Tier, Transport,
};

impl Cluster {
    /// What compiler and reference decide, which must be the same.
    fn decide(&self, endpoint: &str, flow: Flow) -> (Outcome, Option<String>) {
        let compiled = decision(&self.compile(), endpoint, flow);
        assert_eq!(compiled, reference::decide(self, endpoint, flow), "{endpoint}, {flow:?}");
        (compiled.0, compiled.1.map(|name| name.to_string()))
    }

    fn outcome(&self, endpoint: &str, flow: Flow) -> Outcome {
        self.decide(endpoint, flow).0
    }

    /// A pod with one address; on this node where the name says so.
    fn pod(mut self, name: &str, labels_: &str, address: &str, ports: &[NamedPort]) -> Self {
        let (namespace, name_) = name.split_once('/').unwrap();
        let pod = Pod { labels: labels(labels_), addresses: vec![ip(address)], ports: ports.into() };
        self.pods.insert((namespace.into(), name_.into()), pod);
        self
    }

    fn endpoint(mut self, name: &str, labels_: &str, ports: &[NamedPort]) -> Self {
        let (namespace, _) = name.split_once('/').unwrap();
        let subject = Subject { namespace: namespace.into(), labels: labels(labels_), ports: ports.into() };
        self.endpoints.insert(name.into(), subject);
        self
    }

    fn namespace(mut self, name: &str, labels_: &str) -> Self {
        self.namespaces.insert(name.into(), labels(labels_));
        self
    }

    fn policy(mut self, name: &str, policy: PolicyObject) -> Self {
        self.policies.insert(id(name, &policy), Arc::new(policy));
        self
    }
}

/// Commits until nothing is left of what was: what was committed stands.
fn settle(compiler: &mut Compiler) {
    while compiler.release(u64::MAX) {
        compiler.commit();
    }
}

fn decision(compiler: &Compiler, endpoint: &str, flow: Flow) -> (Outcome, Option<RuleName>) {
    let step = compiler.decide(endpoint, flow);
    let rule = step.and_then(|step| compiler.image().rules.rows().get(&step.rule()));
    (step.map_or(Outcome::Allow, |step| step.outcome()), rule.map(|name| (**name).clone()))
}

fn id(name: &str, policy: &PolicyObject) -> PolicyId {
    let kind = match policy.tier {
        Tier::Network => "VirtualNetwork",
        Tier::Admin { .. } => "AdminNetworkPolicy",
        Tier::Namespaced => "NetworkPolicy",
        Tier::Baseline { .. } => "BaselineAdminNetworkPolicy",
    };
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    PolicyId { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `app=web,tier=x`
fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    Arc::new(pairs.map(|(key, value)| (key.into(), value.into())).collect())
}

/// Like [`labels`]: all of these.
fn selector(text: &str) -> Selector {
    let requirement = |(key, value): (&Arc<str>, &Arc<str>)| Requirement {
        key: key.clone(),
        operator: Operator::In(vec![value.clone()]),
    };
    Selector(labels(text).iter().map(requirement).collect())
}

/// Pods of a namespace.
fn of(namespace: &str, pods: &str) -> PodSelector {
    PodSelector { namespaces: Namespaces::Named(namespace.into()), pods: selector(pods) }
}

/// Pods of namespaces with labels.
fn among(namespaces: &str, pods: &str) -> PodSelector {
    PodSelector { namespaces: Namespaces::Matching(selector(namespaces)), pods: selector(pods) }
}

fn block(network: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|part| part.parse().unwrap()).collect();
    Peer::Block { network: network.parse().unwrap(), except }
}

/// A policy without rules, which says nothing about either direction.
fn policy(tier: Tier, subject: PodSelector) -> PolicyObject {
    PolicyObject { tier, subject, ingress: None, egress: None, audit: false, reject: false, faulty: false }
}

fn rule(action: Action) -> Rule {
    Rule { name: "".into(), action, peers: None, ports: None }
}

fn from(action: Action, peers: impl IntoIterator<Item = Peer>) -> Rule {
    Rule { peers: Some(peers.into_iter().collect()), ..rule(action) }
}

fn at(rule: Rule, protocol: Transport, ports: Ports) -> Rule {
    let mut all = rule.ports.clone().unwrap_or_default();
    all.push(PortMatch { protocol, ports });
    Rule { ports: Some(all), ..rule }
}

fn named(name: &str, port: u16) -> NamedPort {
    NamedPort { name: name.into(), protocol: Transport::Tcp, port }
}

fn comes(peer: &str, port: u16) -> Flow {
    Flow { direction: Direction::Ingress, peer: ip(peer), protocol: 6, port }
}

fn goes(peer: &str, port: u16) -> Flow {
    Flow { direction: Direction::Egress, ..comes(peer, port) }
}
