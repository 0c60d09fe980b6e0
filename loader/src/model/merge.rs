//! How do the words of several objects, and of several sources, become one
//! service or one node?

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::desired::{Backend, Frontend, Node, Service, ServiceId};
use super::{Said, ServiceName};
use crate::event::{EndpointState, NodeObject, Object, ObjectKey, PodObject, ServiceObject};

/// The services of a service object: one for each port.
pub fn ids((namespace, name): &ServiceName, object: Option<&Said>) -> Vec<ServiceId> {
    let ports = object.and_then(served).map_or(&[][..], |object| &object.ports);
    ports.iter().map(|port| ServiceId::new(namespace.clone(), name.clone(), port.name.clone())).collect()
}

/// One port of a service object and of the slices that name it. Ports are
/// matched by name and protocol, as the API has it; one that slices cannot name
/// has all their endpoints.
pub fn service(id: &ServiceId, said: &Said, slices: &[&Said]) -> Option<Service> {
    let object = served(said)?;
    let port = object.ports.iter().find(|port| port.name == id.port)?;
    let mut frontends: Vec<Frontend> = object
        .addresses
        .iter()
        .map(|&address| Frontend {
            end_port: port.end_port,
            ..Frontend::at(address, port.port, port.protocol)
        })
        .collect();
    if port.node_port != 0 {
        // At every node's own address, of the service's families.
        let families = object.addresses.iter().map(|address| match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        });
        frontends.extend(families.map(|address| Frontend::at(address, port.node_port, port.protocol)));
    }
    frontends.sort_unstable();
    frontends.dedup();

    let mut backends: Vec<Backend> = Vec::new();
    // Those that drain serve while nobody else does.
    let mut draining: Vec<Backend> = Vec::new();
    for (slice, origin) in slices {
        let Object::Slice(slice) = &**slice else { continue };
        let same =
            |other: &&crate::event::SlicePort| (&other.name, other.protocol) == (&port.name, port.protocol);
        let target =
            if port.unlisted { Some(port.port) } else { slice.ports.iter().find(same).map(|port| port.port) };
        let Some(target) = target.filter(|_| slice.weight > 0) else { continue };
        for endpoint in &slice.endpoints {
            let list = match endpoint.state {
                EndpointState::Ready => &mut backends,
                EndpointState::Draining => &mut draining,
                EndpointState::NotReady => continue,
            };
            list.push(Backend {
                address: endpoint.address,
                port: target,
                weight: slice.weight,
                node: endpoint.node.clone(),
                origin: origin.clone(),
            });
        }
    }
    if backends.is_empty() {
        backends = draining;
    }
    // One backend named twice counts once, with its larger weight; the order
    // of the slices decides nothing.
    let rank = |backend: &Backend| {
        (backend.address, backend.port, std::cmp::Reverse(backend.weight), backend.origin.clone())
    };
    backends.sort_by_cached_key(rank);
    backends.dedup_by_key(|backend| (backend.address, backend.port));
    let options = object.options.as_deref().cloned().unwrap_or_default();
    Some(Service { frontends, backends, options, origin: said.1.clone() })
}

/// A headless service is none that we serve.
fn served((object, _): &Said) -> Option<&ServiceObject> {
    match &**object {
        Object::Service(object) if !object.addresses.is_empty() => Some(object),
        _ => None,
    }
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
