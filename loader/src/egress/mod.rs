//! Which node holds an egress address, and who here leaves under it? Every agent
//! decides for itself: the first node of the list that is alive. Pure.

mod liveness;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

pub use liveness::{Health, Heard, ROUND, Watch};

use crate::{
    event::{Problem, policy::Labels},
    model::desired::{Egress, Node},
    policy::Namespace,
};

/// What is known when it is decided.
pub struct Facts<'a> {
    /// This node's name.
    pub node: &'a str,
    pub nodes: &'a BTreeMap<Arc<str>, Node>,
    pub egresses: &'a BTreeMap<Arc<str>, Egress>,
    /// Of this node, in order of their names.
    pub endpoints: Vec<Endpoint<'a>>,
    /// Containers here leave under another address at all.
    pub masquerade: bool,
}

/// A container of this node, as selectors see it.
pub struct Endpoint<'a> {
    pub name: &'a str,
    pub namespace: Arc<str>,
    pub namespace_labels: Labels,
    pub labels: Labels,
    pub addresses: &'a [IpAddr],
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// By the container's own address.
    pub leaves: BTreeMap<IpAddr, Leaves>,
    /// Egress addresses that this node is to hold.
    pub held: BTreeSet<IpAddr>,
    /// Those of which it is not known yet who holds them: they stay where they are.
    pub undecided: BTreeSet<IpAddr>,
    /// All that there are.
    pub addresses: BTreeSet<IpAddr>,
    /// Nodes to be asked whether they are alive.
    pub asked: BTreeSet<IpAddr>,
    /// Some object names this node, or an endpoint of it.
    pub concerned: bool,
    /// By the object's name.
    pub standing: BTreeMap<Arc<str>, Standing>,
    pub problems: Vec<Problem>,
}

/// How a container leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// What the world sees.
    pub address: IpAddr,
    /// Of the node that holds it; `address` itself for this node, `None` for none.
    pub node: Option<IpAddr>,
}

/// An object as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `None`: no node, or it is none of this node's business.
    pub holder: Option<Arc<str>>,
    /// Those of this node that leave under it.
    pub endpoints: Vec<String>,
}

enum Holder<'a> {
    Here,
    Other(&'a Arc<str>, &'a Node),
    Nobody,
    Unknown,
}

/// `health`: of a node, by the address that it is asked at.
pub fn decide(facts: &Facts<'_>, health: impl Fn(IpAddr) -> Health) -> Decision {
    let mut decision = Decision::default();
    for (name, egress) in facts.egresses {
        let refuse = |field: &str, message: String| Problem {
            origin: Some((*egress.origin).clone()),
            object: format!("Egress {name}"),
            field: field.to_owned(),
            message,
        };
        let addresses = addresses(facts, egress, &mut decision, refuse);
        let candidates = candidates(facts, egress, &mut decision, refuse);
        let endpoints = endpoints(facts, egress, &addresses, &mut decision, refuse);
        let named = candidates.iter().any(|(name, _)| ***name == *facts.node);
        let mut standing = Standing::default();
        if named || !endpoints.is_empty() {
            decision.concerned = true;
            let others = candidates.iter().filter(|(name, _)| ***name != *facts.node);
            decision.asked.extend(others.filter_map(|(_, node)| node.addresses.first()));
            let holder = holder(facts.node, &candidates, &health);
            match &holder {
                Holder::Here => decision.held.extend(&addresses),
                Holder::Unknown => decision.undecided.extend(&addresses),
                Holder::Other(..) | Holder::Nobody => {}
            }
            for (own, address) in endpoints.iter().flat_map(|(_, pairs)| pairs) {
                let node = match &holder {
                    Holder::Here => Some(*address),
                    Holder::Other(_, node) => of_family(node, *address),
                    Holder::Nobody | Holder::Unknown => None,
                };
                decision.leaves.insert(*own, Leaves { address: *address, node });
            }
            standing.holder = match holder {
                Holder::Here => Some(facts.node.into()),
                Holder::Other(name, _) => Some(name.clone()),
                Holder::Nobody | Holder::Unknown => None,
            };
            standing.endpoints = endpoints.into_iter().map(|(name, _)| name.to_owned()).collect();
        }
        decision.addresses.extend(addresses);
        decision.standing.insert(name.clone(), standing);
    }
    decision
}

/// Those of its addresses that it has to itself.
fn addresses(
    facts: &Facts<'_>,
    egress: &Egress,
    decision: &mut Decision,
    refuse: impl Fn(&str, String) -> Problem,
) -> Vec<IpAddr> {
    let mut own = Vec::new();
    for &address in &egress.object.addresses {
        let node = facts.nodes.iter().find(|(_, node)| node.addresses.contains(&address));
        if let Some((node, _)) = node {
            let message = format!("{address} is node {node}'s own: take one that nobody has");
            decision.problems.push(refuse("spec.addresses", message));
        } else if decision.addresses.contains(&address) {
            let message = format!("{address} belongs to another Egress: take one that nobody has");
            decision.problems.push(refuse("spec.addresses", message));
        } else {
            own.push(address);
        }
    }
    own
}

/// The nodes that can hold it, in order.
fn candidates<'a>(
    facts: &Facts<'a>,
    egress: &'a Egress,
    decision: &mut Decision,
    refuse: impl Fn(&str, String) -> Problem,
) -> Vec<(&'a Arc<str>, &'a Node)> {
    let mut candidates = Vec::new();
    for (index, name) in egress.object.nodes.iter().enumerate() {
        let field = format!("spec.nodes[{index}]");
        let Some(node) = facts.nodes.get(name) else {
            decision.problems.push(refuse(&field, format!("there is no node {name}: correct or remove it")));
            continue;
        };
        match egress.object.addresses.iter().find(|&&address| of_family(node, address).is_none()) {
            None => candidates.push((name, node)),
            Some(address) => {
                let message = format!(
                    "node {name} has no InternalIP of the family of {address}: give it one, or remove it"
                );
                decision.problems.push(refuse(&field, message));
            }
        }
    }
    candidates
}

/// The containers here that leave under it: each with its own addresses, and
/// those that they become.
fn endpoints<'a>(
    facts: &Facts<'a>,
    egress: &Egress,
    addresses: &[IpAddr],
    decision: &mut Decision,
    refuse: impl Fn(&str, String) -> Problem,
) -> Vec<(&'a str, Vec<(IpAddr, IpAddr)>)> {
    let mut selected = Vec::new();
    for endpoint in &facts.endpoints {
        let namespace = Namespace { name: &endpoint.namespace, labels: Some(&endpoint.namespace_labels) };
        if !egress.object.subject.matches(namespace, &endpoint.labels) {
            continue;
        }
        let alike = |own: &IpAddr| addresses.iter().find(|address| address.is_ipv4() == own.is_ipv4());
        let pairs = endpoint.addresses.iter().filter_map(|own| Some((*own, *alike(own)?)));
        let (free, taken): (Vec<_>, Vec<_>) = pairs.partition(|(own, _)| !decision.leaves.contains_key(own));
        if !taken.is_empty() {
            let message =
                format!("endpoint {} leaves under another Egress already: select it once", endpoint.name);
            decision.problems.push(refuse("spec.subject", message));
        }
        if !free.is_empty() {
            selected.push((endpoint.name, free));
        }
    }
    if !facts.masquerade && !selected.is_empty() {
        let message = format!("node {} does not masquerade: start its agent with --masquerade", facts.node);
        decision.problems.push(refuse("", message));
        selected.clear();
    }
    selected
}

fn holder<'a>(
    this: &str,
    candidates: &[(&'a Arc<str>, &'a Node)],
    health: impl Fn(IpAddr) -> Health,
) -> Holder<'a> {
    for &(name, node) in candidates {
        if **name == *this {
            return Holder::Here;
        }
        match node.addresses.first().map_or(Health::Dead, |&address| health(address)) {
            Health::Alive => return Holder::Other(name, node),
            Health::Unknown => return Holder::Unknown,
            Health::Dead => {}
        }
    }
    Holder::Nobody
}

fn of_family(node: &Node, address: IpAddr) -> Option<IpAddr> {
    node.addresses.iter().find(|own| own.is_ipv4() == address.is_ipv4()).copied()
}
