//! How do the words of several objects, and of several sources, become one
//! service or one node?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::ServiceName;
use super::desired::{Backend, Frontend, Node, Service, ServiceId};
use crate::event::{Object, ObjectKey, Origin};

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

/// The nodes of all sources, and the pods that live outside their node's pod
/// networks. A source that comes first wins where two have the same node.
pub fn nodes<'a>(slots: impl Iterator<Item = &'a BTreeMap<ObjectKey, Said>>) -> BTreeMap<Arc<str>, Node> {
    let mut nodes: BTreeMap<Arc<str>, Node> = BTreeMap::new();
    let mut pods: BTreeMap<Arc<str>, BTreeSet<IpAddr>> = BTreeMap::new();
    for (key, (object, _)) in slots.flatten() {
        match &**object {
            Object::Node(node) => {
                nodes.entry(key.name.clone()).or_insert_with(|| Node {
                    addresses: node.addresses.clone(),
                    pod_cidrs: node.pod_cidrs.clone(),
                    stray_pods: Vec::new(),
                });
            }
            Object::Pod(pod) => {
                if let Some(node) = &pod.node {
                    pods.entry(node.clone()).or_default().extend(&pod.addresses);
                }
            }
            Object::Service(_) | Object::Slice(_) => {}
        }
    }
    for (name, addresses) in pods {
        if let Some(node) = nodes.get_mut(&name) {
            let inside = |address: &IpAddr| node.pod_cidrs.iter().any(|cidr| cidr.contains(address));
            node.stray_pods = addresses.into_iter().filter(|address| !inside(address)).collect();
        }
    }
    nodes
}
