//! What do the policies say, read as they are written? Slow, and with nothing in
//! common with the compiler but the types of its input.

use std::net::IpAddr;

use causeway_schema::policy::Outcome;

use super::super::{Direction, Flow, Name, Pod, PolicyId, RuleName, Subject};
use super::Cluster;
use crate::event::policy::{
    Action, Labels, Namespaces, Operator, Peer, PodSelector, PolicyObject, PortMatch, Ports, Rule, Selector,
    Tier, Transport,
};

/// And by which rule; `None`: nobody has anything against it.
pub fn decide(cluster: &Cluster, endpoint: &str, flow: Flow) -> (Outcome, Option<RuleName>) {
    let Some(subject) = cluster.endpoints.get(endpoint) else { return (Outcome::Allow, None) };
    let mut policies: Vec<(&PolicyId, &PolicyObject)> = Vec::new();
    for (id, policy) in &cluster.policies {
        if selects(cluster, &policy.subject, &subject.namespace, &subject.labels)
            && said(policy, flow).is_some()
        {
            policies.push((id, policy));
        }
    }
    let mut watched = None;
    let allowed = |watched: Option<RuleName>, rule| match watched {
        Some(watched) => (Outcome::Audit, Some(watched)),
        None => (Outcome::Allow, rule),
    };

    let mut admin: Vec<_> = policies
        .iter()
        .filter(|(_, policy)| matches!(policy.tier, Tier::Network | Tier::Admin { .. }))
        .collect();
    admin.sort_by_key(|(id, policy)| match policy.tier {
        Tier::Network => (None, id.name.clone()),
        Tier::Admin { priority } => (Some(priority), id.name.clone()),
        _ => unreachable!(),
    });
    'admin: for (id, policy) in admin {
        for (index, rule) in said(policy, flow).unwrap().iter().enumerate() {
            if !holds(cluster, subject, flow, rule) {
                continue;
            }
            let name = named(id, flow, index, rule);
            match rule.action {
                Action::Allow => return allowed(watched, Some(name)),
                Action::Pass => break 'admin,
                Action::Deny | Action::Reject if policy.audit => watched = watched.or(Some(name)),
                Action::Deny => return (Outcome::Deny, Some(name)),
                Action::Reject => return (Outcome::Reject, Some(name)),
            }
        }
    }

    let namespaced = || policies.iter().filter(|(_, policy)| policy.tier == Tier::Namespaced);
    for (id, policy) in namespaced() {
        for (index, rule) in said(policy, flow).unwrap().iter().enumerate() {
            if rule.action == Action::Allow && holds(cluster, subject, flow, rule) {
                return allowed(watched, Some(named(id, flow, index, rule)));
            }
        }
    }
    let denial = |audit: bool| {
        let of = namespaced().filter(|(_, policy)| policy.audit == audit);
        let policies: Vec<PolicyId> = of.map(|(id, _)| (*id).clone()).collect();
        let direction = flow.direction;
        (!policies.is_empty()).then_some(RuleName::DefaultDeny { direction, policies })
    };
    if let Some(name) = denial(false) {
        let reject = namespaced().any(|(_, policy)| !policy.audit && policy.reject);
        return (if reject { Outcome::Reject } else { Outcome::Deny }, Some(name));
    }
    watched = watched.or(denial(true));

    let mut baseline: Vec<_> =
        policies.iter().filter(|(_, policy)| matches!(policy.tier, Tier::Baseline { .. })).collect();
    baseline.sort_by_key(|(id, policy)| match policy.tier {
        Tier::Baseline { priority } => (priority, id.name.clone()),
        _ => unreachable!(),
    });
    for (id, policy) in baseline {
        for (index, rule) in said(policy, flow).unwrap().iter().enumerate() {
            if !holds(cluster, subject, flow, rule) {
                continue;
            }
            let name = named(id, flow, index, rule);
            match rule.action {
                Action::Allow => return allowed(watched, Some(name)),
                Action::Pass => {}
                Action::Deny | Action::Reject if policy.audit => watched = watched.or(Some(name)),
                Action::Deny => return (Outcome::Deny, Some(name)),
                Action::Reject => return (Outcome::Reject, Some(name)),
            }
        }
    }
    allowed(watched, None)
}

fn said(policy: &PolicyObject, flow: Flow) -> Option<&Vec<Rule>> {
    match flow.direction {
        Direction::Ingress => policy.ingress.as_ref(),
        Direction::Egress => policy.egress.as_ref(),
    }
}

fn named(id: &PolicyId, flow: Flow, index: usize, rule: &Rule) -> RuleName {
    RuleName::Rule { policy: id.clone(), direction: flow.direction, index, name: rule.name.clone() }
}

fn holds(cluster: &Cluster, subject: &Subject, flow: Flow, rule: &Rule) -> bool {
    // A named port of a peer, and the peer, must be of one and the same pod.
    let somebody = |port: Option<&PortMatch>| match &rule.peers {
        None => is_peer(cluster, None, flow.peer, port, flow),
        Some(peers) => peers.iter().any(|peer| is_peer(cluster, Some(peer), flow.peer, port, flow)),
    };
    let Some(ports) = &rule.ports else { return somebody(None) };
    ports.iter().any(|port| {
        let numbers: &[u8] = match port.protocol {
            Transport::Tcp => &[6],
            Transport::Udp => &[17],
            Transport::Sctp => &[132],
            Transport::Icmp => &[1, 58],
        };
        if !numbers.contains(&flow.protocol) {
            return false;
        }
        match &port.ports {
            Ports::All => somebody(None),
            Ports::Range(first, last) => *first <= flow.port && flow.port <= *last && somebody(None),
            Ports::Named(_) if flow.direction == Direction::Egress => somebody(Some(port)),
            Ports::Named(name) => {
                let own = subject.ports.iter();
                let mut own = own.filter(|own| own.name == *name && own.protocol == port.protocol);
                own.any(|own| own.port == flow.port) && somebody(None)
            }
        }
    })
}

/// With a port: is one of the pods at the address, which it selects and which
/// gives this name to the flow's port?
fn is_peer(
    cluster: &Cluster,
    peer: Option<&Peer>,
    address: IpAddr,
    port: Option<&PortMatch>,
    flow: Flow,
) -> bool {
    let has = |pod: &Pod| match port {
        Some(PortMatch { protocol, ports: Ports::Named(name) }) => pod
            .ports
            .iter()
            .any(|port| port.name == *name && port.protocol == *protocol && port.port == flow.port),
        _ => true,
    };
    let pods: Vec<(&Name, &Pod)> =
        cluster.pods.iter().filter(|(_, pod)| pod.addresses.contains(&address) && has(pod)).collect();
    let anybody = port.is_none() || !pods.is_empty();
    match peer {
        None => anybody,
        Some(Peer::Pods(selector)) => {
            pods.iter().any(|((namespace, _), pod)| selects(cluster, selector, namespace, &pod.labels))
        }
        Some(Peer::Block { network, except }) => {
            anybody && network.contains(&address) && !except.iter().any(|part| part.contains(&address))
        }
        Some(Peer::Service { namespace, name }) => {
            let addresses = cluster.services.get(&(namespace.clone(), name.clone()));
            anybody && addresses.is_some_and(|addresses| addresses.contains(&address))
        }
    }
}

fn selects(cluster: &Cluster, selector: &PodSelector, namespace: &str, labels: &Labels) -> bool {
    let in_namespace = match &selector.namespaces {
        Namespaces::Named(name) => **name == *namespace,
        Namespaces::Matching(selector) => {
            let mut all =
                cluster.namespaces.get(namespace).map(|labels| (**labels).clone()).unwrap_or_default();
            all.entry("kubernetes.io/metadata.name".into()).or_insert(namespace.into());
            matches(selector, &std::sync::Arc::new(all))
        }
    };
    in_namespace && matches(&selector.pods, labels)
}

fn matches(selector: &Selector, labels: &Labels) -> bool {
    selector.0.iter().all(|requirement| {
        let value = labels.get(&requirement.key);
        match &requirement.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    })
}
