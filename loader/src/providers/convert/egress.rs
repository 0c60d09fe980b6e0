//! `causeway.io/v1alpha1 Egress` -> who leaves under which address, and which
//! nodes may hold it. What is refused in part has no effect at all: nobody
//! should leave under an address that was meant for others.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Converted, Names, Refusal, address, key, policy,
    policy::wire::{Policy, Subject},
    quoted, subdomain,
};
use crate::event::{Kind, Object, egress::EgressObject};

/// Nodes that may hold an address.
const NODES: usize = 16;

#[derive(Debug, Deserialize)]
pub struct EgressSpec {
    subject: Option<Subject>,
    addresses: Option<Vec<String>>,
    nodes: Option<Vec<String>>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

pub fn egress(wire: Policy<EgressSpec>, names: &mut Names) -> Converted {
    let key = match key(Kind::Egress, &wire.metadata, names) {
        Ok(key) => key,
        Err(refusal) => return Converted::refused(vec![refusal]),
    };
    let Some(spec) = wire.spec else {
        return Converted::refused(vec![Refusal::new("spec", "missing: say who leaves under which address")]);
    };
    let mut refusals = policy::unknown(&spec.unknown, names);
    let subject = policy::subject(spec.subject, Kind::Egress, names);
    let addresses = addresses(&spec.addresses.unwrap_or_default());
    let nodes = nodes(&spec.nodes.unwrap_or_default(), names);
    match (subject, addresses, nodes) {
        (Ok(subject), Ok(addresses), Ok(nodes)) if refusals.is_empty() => {
            let object = EgressObject { subject, addresses, nodes };
            Converted { objects: vec![(key, Object::Egress(Arc::new(object)))], refusals }
        }
        (subject, addresses, nodes) => {
            refusals.extend(subject.err().into_iter().chain(addresses.err()).chain(nodes.err()));
            Converted::refused(refusals)
        }
    }
}

fn addresses(wire: &[String]) -> Result<Vec<IpAddr>, Refusal> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, text) in wire.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        let address = address::unicast(text, &field)?;
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            let message = "is the second of its family: give others an Egress of their own";
            return Err(Refusal::new(field, format!("{address} {message}")));
        }
        addresses.push(address);
    }
    addresses.sort_unstable();
    match addresses.is_empty() {
        false => Ok(addresses),
        true => Err(Refusal::new("spec.addresses", "missing: write an IPv4 address, an IPv6 one, or both")),
    }
}

fn nodes(wire: &[String], names: &mut Names) -> Result<Vec<Arc<str>>, Refusal> {
    let mut nodes: Vec<Arc<str>> = Vec::new();
    for (index, name) in wire.iter().enumerate() {
        let field = format!("spec.nodes[{index}]");
        subdomain(name, &field)?;
        let node = names.get(name);
        if nodes.contains(&node) {
            return Err(Refusal::new(
                field,
                format!("{} is there already: name each node once", quoted(name)),
            ));
        }
        nodes.push(node);
    }
    match nodes.len() {
        0 => Err(Refusal::new("spec.nodes", "missing: name at least one node, the preferred one first")),
        1..=NODES => Ok(nodes),
        _ => Err(Refusal::new("spec.nodes", format!("are more than {NODES}: leave some out"))),
    }
}
