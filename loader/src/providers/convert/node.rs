//! Node -> its addresses and the pod networks behind it.

use super::{Converted, Names, Refusal, address, key, wire::Node};
use crate::event::{Kind, NodeObject, Object};

/// Names the zone that a node is in.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Of nodes that the cluster's autoscaler is about to remove.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

pub fn node(node: Node, names: &mut Names) -> Converted {
    let key = match key(Kind::Node, &node.metadata, names) {
        Ok(key) => key,
        Err(refusal) => return Converted::refused(vec![refusal]),
    };
    let mut refusals = Vec::new();
    let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
    let zone = zone.filter(|zone| !zone.is_empty()).map(|zone| names.get(zone));
    let spec = node.spec.unwrap_or_default();
    let is_tainted = spec.taints.iter().flatten().any(|taint| taint.key == LEAVING_TAINT);
    let leaving = is_tainted || node.metadata.deletion_timestamp.is_some();
    let mut object = NodeObject { addresses: Vec::new(), pod_cidrs: Vec::new(), zone, leaving };
    let wire = node.status.unwrap_or_default().addresses.unwrap_or_default();
    for (index, wire) in wire.into_iter().enumerate().filter(|(_, wire)| wire.type_ == "InternalIP") {
        match address::unicast(&wire.address, &format!("status.addresses[{index}].address")) {
            Ok(address) if object.addresses.contains(&address) => {}
            Ok(address) => object.addresses.push(address),
            Err(refusal) => refusals.push(refusal),
        }
    }

    let several = spec.pod_cidrs.unwrap_or_default().into_iter().enumerate();
    let several = several.map(|(index, text)| (format!("spec.podCIDRs[{index}]"), text)).collect();
    match address::pair(spec.pod_cidr, several, "spec.podCIDR") {
        Err(refusal) => refusals.push(refusal),
        Ok(cidrs) => {
            for (field, text) in cidrs {
                let nested = |cidr: &ipnet::IpNet| {
                    object
                        .pod_cidrs
                        .iter()
                        .find(|other| other.contains(cidr) || cidr.contains(*other))
                        .copied()
                };
                match address::network(&text, &field).map(|cidr| (cidr, nested(&cidr))) {
                    Ok((cidr, None)) => object.pod_cidrs.push(cidr),
                    Ok((_, Some(other))) => {
                        let message =
                            format!("{text} overlaps {other} of the same node: name each part once");
                        refusals.push(Refusal::new(field, message));
                    }
                    Err(refusal) => refusals.push(refusal),
                }
            }
        }
    }
    Converted { objects: vec![(key, Object::Node(object))], refusals }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> (Option<NodeObject>, Vec<Refusal>) {
        let converted = node(serde_saphyr::from_str(yaml).unwrap(), &mut Names::default());
        let object = converted.objects.into_iter().next().map(|(_, object)| match object {
            Object::Node(node) => node,
            other => panic!("{other:?}"),
        });
        (object, converted.refusals)
    }

    #[test]
    fn internal_addresses_and_pod_networks_count() {
        let (node, refusals) = check(
            "{metadata: {name: n}, spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00:1::/64']},
              status: {addresses: [{type: Hostname, address: n}, {type: InternalIP, address: 192.168.0.1}]}}",
        );
        let node = node.unwrap();
        assert_eq!(node.addresses, ["192.168.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(node.pod_cidrs.len(), 2);
        assert!(refusals.is_empty());
    }

    #[test]
    fn a_node_leaves_by_its_deletion_or_by_the_autoscaler() {
        let leaving = |yaml| check(yaml).0.unwrap().leaving;
        assert!(!leaving("{metadata: {name: n}, spec: {taints: [{key: node.kubernetes.io/not-ready}]}}"));
        assert!(leaving(
            "{metadata: {name: n}, spec: {taints: [{key: a}, {key: ToBeDeletedByClusterAutoscaler}]}}"
        ));
        assert!(leaving("{metadata: {name: n, deletionTimestamp: '2026-11-22T12:00:00Z'}}"));
    }

    #[test]
    fn networks_that_cannot_be_are_refused_by_field() {
        for (cidrs, field, fragment) in [
            ("{podCIDR: 10.1.0.5/24}", "spec.podCIDR", "write 10.1.0.0/24"),
            ("{podCIDR: ten}", "spec.podCIDR", "no CIDR"),
            ("{podCIDR: 10.1.0.0}", "spec.podCIDR", "no CIDR"),
            ("{podCIDR: 0.0.0.0/0}", "spec.podCIDR", "every address"),
            ("{podCIDR: 224.0.0.0/8}", "spec.podCIDR", "multicast"),
            ("{podCIDR: 10.1.0.0/24, podCIDRs: [10.2.0.0/24]}", "spec.podCIDRs[0]", "same in both"),
            ("{podCIDRs: [10.1.0.0/16, 10.1.4.0/24]}", "spec.podCIDRs[1]", "overlaps"),
        ] {
            let (_, refusals) = check(&format!("{{metadata: {{name: n}}, spec: {cidrs}}}"));
            assert_eq!(refusals.len(), 1, "{cidrs}: {refusals:?}");
            assert_eq!(refusals[0].field, field, "{cidrs}");
            assert!(refusals[0].message.contains(fragment), "{cidrs}: {}", refusals[0].message);
        }
    }
}
