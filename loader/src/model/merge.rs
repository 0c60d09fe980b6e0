//! How do the words of several objects, and of several sources, become one
//! service or one node?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::ServiceName;
use super::desired::{Backend, Frontend, Node, Service, ServiceId};
use crate::event::{NodeObject, Object, ObjectKey, Origin, PodObject};

type Said = (Arc<Object>, Arc<Origin>);

/// The services (one for each port) of a service object and the slices that
/// name it. Ports are matched by name and protocol, as the API has it.
pub fn service(
    (namespace, name): &ServiceName,
    object: Option<&Said>,
    slices: &[&Said],
) -> BTreeMap<ServiceId, Service> {
    let mut merged = BTreeMap::new();
    let Some((object, origin)) = object else { return merged };
    let Object::Service(object) = &**object else { return merged };
    if object.addresses.is_empty() {
        return merged;
    }
    for port in &object.ports {
        let id = ServiceId { namespace: namespace.clone(), name: name.clone(), port: port.name.clone() };
        let mut frontends: Vec<Frontend> = object
            .addresses
            .iter()
            .map(|&address| Frontend { address, port: port.port, protocol: port.protocol })
            .collect();
        frontends.sort_unstable();

        let mut backends: Vec<Backend> = Vec::new();
        for (slice, origin) in slices {
            let Object::Slice(slice) = &**slice else { continue };
            let same = |other: &&crate::event::SlicePort| {
                (&other.name, other.protocol) == (&port.name, port.protocol)
            };
            let Some(target) = slice.ports.iter().find(same).filter(|_| slice.weight > 0) else { continue };
            backends.extend(slice.endpoints.iter().filter(|endpoint| endpoint.ready).map(|endpoint| {
                Backend {
                    address: endpoint.address,
                    port: target.port,
                    weight: slice.weight,
                    node: endpoint.node.clone(),
                    origin: origin.clone(),
                }
            }));
        }
        // One backend named twice counts once, with its larger weight; the
        // order of the slices decides nothing.
        let rank = |backend: &Backend| {
            (backend.address, backend.port, std::cmp::Reverse(backend.weight), backend.origin.clone())
        };
        backends.sort_by_cached_key(rank);
        backends.dedup_by_key(|backend| (backend.address, backend.port));
        backends.shrink_to_fit();
        merged.insert(id, Service { frontends, backends, origin: origin.clone() });
    }
    merged
}

/// A node, and those of its pods that live outside its pod networks.
pub fn node<'a>(object: &Object, pods: impl Iterator<Item = (&'a ObjectKey, &'a PodObject)>) -> Option<Node> {
    let Object::Node(NodeObject { addresses, pod_cidrs }) = object else { return None };
    let stray = |address: &IpAddr| !pod_cidrs.iter().any(|cidr| cidr.contains(address));
    let pods: BTreeSet<IpAddr> = pods.flat_map(|(_, pod)| pod.addresses.iter().copied()).collect();
    Some(Node {
        addresses: addresses.clone(),
        pod_cidrs: pod_cidrs.clone(),
        stray_pods: pods.into_iter().filter(stray).collect(),
    })
}
