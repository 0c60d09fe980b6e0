//! Node -> its addresses and the pod networks behind it.

use super::{Converted, Refusal, address, key, wire::Node};
use crate::event::{Kind, NodeObject, Object};

pub fn node(node: Node) -> Converted {
    let mut refusals = Vec::new();
    let Some(key) = key(Kind::Node, &node.metadata, false, &mut refusals) else {
        return Converted { objects: Vec::new(), refusals };
    };
    let mut object = NodeObject { addresses: Vec::new(), pod_cidrs: Vec::new() };
    let wire = node.status.unwrap_or_default().addresses.unwrap_or_default();
    for (index, wire) in wire.into_iter().enumerate().filter(|(_, wire)| wire.type_ == "InternalIP") {
        match address::unicast(&wire.address, &format!("status.addresses[{index}].address")) {
            Ok(address) => object.addresses.push(address),
            Err(refusal) => refusals.push(refusal),
        }
    }
    let spec = node.spec.unwrap_or_default();
    let single = spec.pod_cidr.into_iter().map(|text| ("spec.podCIDR".to_owned(), text));
    let several = (0..)
        .zip(spec.pod_cidrs.unwrap_or_default())
        .map(|(index, text)| (format!("spec.podCIDRs[{index}]"), text));
    for (field, text) in single.chain(several) {
        match text.parse::<ipnet::IpNet>() {
            Ok(cidr) if cidr.trunc() != cidr => {
                let message = format!("{text} has bits beyond its prefix: write {}", cidr.trunc());
                refusals.push(Refusal::new(field, message));
            }
            Ok(cidr) if cidr.prefix_len() == 0 => {
                refusals
                    .push(Refusal::new(field, format!("{text} is every address: name the pods' network")));
            }
            Ok(cidr) if object.pod_cidrs.contains(&cidr) => {}
            Ok(cidr) => object.pod_cidrs.push(cidr),
            Err(_) => refusals.push(Refusal::new(field, format!("{text:?} is no CIDR, e.g. 10.244.1.0/24"))),
        }
    }
    Converted { objects: vec![(key, Object::Node(object))], refusals }
}
