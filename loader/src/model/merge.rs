//! How do the words of several objects, and of several sources, become one
//! service or one node?

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::desired::{Backend, Clients, Frontend, Node, Scope, Service, ServiceId};
use super::selection::{Choice, Fate, Here};
use super::{Said, ServiceName};
use crate::event::{
    Distribution, NodeObject, Object, ObjectKey, Origin, PodObject, ServiceObject, ServicePort,
    SliceEndpoint, TrafficPolicy,
};

/// The services of a service object: one for each port and scope.
pub fn ids((namespace, name): &ServiceName, object: Option<&Said>) -> Vec<ServiceId> {
    let Some(object) = object.and_then(served) else { return Vec::new() };
    let scopes =
        |port| [Scope::Cluster, Scope::Local].into_iter().filter(move |&scope| has(object, port, scope));
    let named =
        |port: &ServicePort, scope| ServiceId::new(namespace.clone(), name.clone(), port.name.clone(), scope);
    object.ports.iter().flat_map(|port| scopes(port).map(move |scope| named(port, scope))).collect()
}

/// The policies for what comes by a service's own addresses, and for what comes
/// from outside by others.
fn policies(object: &ServiceObject) -> [TrafficPolicy; 2] {
    let traffic = object.options.as_ref().map(|options| options.traffic).unwrap_or_default();
    [traffic.internal, traffic.external]
}

/// Whether a port has a frontend in a scope.
fn has(object: &ServiceObject, port: &ServicePort, scope: Scope) -> bool {
    let [internal, external] = policies(object);
    let beyond = object.addresses.len() > object.cluster || port.node_port != 0;
    match scope {
        // Containers come by external addresses to all endpoints, whatever the policy.
        Scope::Cluster => internal == TrafficPolicy::Cluster || beyond,
        Scope::Local => internal == TrafficPolicy::Local || external == TrafficPolicy::Local && beyond,
    }
}

fn frontends(object: &ServiceObject, port: &ServicePort, scope: Scope) -> Vec<Frontend> {
    let [internal, external] = policies(object);
    let (cluster, beyond) = object.addresses.split_at(object.cluster.min(object.addresses.len()));
    let mut frontends = Vec::new();
    let range = |&address: &IpAddr| Frontend {
        end_port: port.end_port,
        ..Frontend::at(address, port.port, port.protocol)
    };
    if (internal == TrafficPolicy::Local) == (scope == Scope::Local) {
        frontends.extend(cluster.iter().map(range));
    }
    let clients = match (scope, external) {
        (Scope::Cluster, TrafficPolicy::Cluster) => Some(Clients::All),
        (Scope::Cluster, TrafficPolicy::Local) => Some(Clients::Inside),
        (Scope::Local, TrafficPolicy::Local) => Some(Clients::Outside),
        (Scope::Local, TrafficPolicy::Cluster) => None,
    };
    if let Some(clients) = clients {
        frontends.extend(beyond.iter().map(|address| Frontend { clients, ..range(address) }));
        if port.node_port != 0 {
            // At every node's own address, of the service's families.
            let families = object.addresses.iter().map(|address| match address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            });
            let at = |address| Frontend { clients, ..Frontend::at(address, port.node_port, port.protocol) };
            frontends.extend(families.map(at));
        }
    }
    frontends.sort_unstable();
    frontends.dedup();
    frontends
}

/// One port of a service object in a scope, and what becomes of each endpoint of the
/// slices that name it.
#[derive(Clone, Debug)]
pub struct Selected {
    pub id: ServiceId,
    pub frontends: Vec<Frontend>,
    /// Each with its zone.
    pub endpoints: Vec<(Backend, Option<Arc<str>>, Fate)>,
}

/// An endpoint of a slice, at the port that a service's has there.
struct Candidate<'a> {
    endpoint: &'a SliceEndpoint,
    port: u16,
    weight: u32,
    origin: &'a Arc<Origin>,
}

impl Candidate<'_> {
    fn backend(&self) -> Backend {
        Backend {
            address: self.endpoint.address,
            port: self.port,
            weight: self.weight,
            node: self.endpoint.node.clone(),
            origin: self.origin.clone(),
        }
    }
}

/// Ports are matched by name and protocol, as the API has it; one that slices
/// cannot name has all their endpoints. Slices of weight 0 have none.
fn candidates<'a>(port: &ServicePort, slices: &[&'a Said]) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for (slice, origin) in slices {
        let Object::Slice(slice) = &**slice else { continue };
        let same =
            |other: &&crate::event::SlicePort| (&other.name, other.protocol) == (&port.name, port.protocol);
        let target =
            if port.unlisted { Some(port.port) } else { slice.ports.iter().find(same).map(|port| port.port) };
        let Some(target) = target.filter(|_| slice.weight > 0) else { continue };
        let candidate = |endpoint| Candidate { endpoint, port: target, weight: slice.weight, origin };
        candidates.extend(slice.endpoints.iter().map(candidate));
    }
    candidates
}

/// Each candidate with its fate, each family by itself.
fn fates<'a>(
    candidates: &'a [Candidate<'a>],
    scope: Scope,
    distribution: Option<Distribution>,
    here: Here<'a>,
) -> impl Iterator<Item = (&'a Candidate<'a>, Fate)> {
    let [four, six] = [false, true].map(|six| {
        let endpoints = candidates.iter().map(|candidate| candidate.endpoint);
        let family = endpoints.filter(move |endpoint| endpoint.address.is_ipv6() == six);
        Choice::of(family, scope, distribution, here)
    });
    candidates.iter().map(move |candidate| {
        let choice = if candidate.endpoint.address.is_ipv6() { &six } else { &four };
        (candidate, choice.fate(candidate.endpoint))
    })
}

/// The port of a service, if it has a frontend in its scope.
fn port<'a>(id: &ServiceId, said: &'a Said) -> Option<(&'a ServiceObject, &'a ServicePort)> {
    let object = served(said)?;
    let port = object.ports.iter().find(|port| port.name == id.port)?;
    has(object, port, id.scope).then_some((object, port))
}

pub fn selected(id: ServiceId, said: &Said, slices: &[&Said], here: Here<'_>) -> Option<Selected> {
    let (object, port) = port(&id, said)?;
    let distribution = object.options.as_ref().and_then(|options| options.traffic.distribution);
    let candidates = candidates(port, slices);
    let zone = |candidate: &Candidate<'_>| candidate.endpoint.place.as_ref()?.zone.clone();
    let fates = fates(&candidates, id.scope, distribution, here);
    let endpoints = fates.map(|(candidate, fate)| (candidate.backend(), zone(candidate), fate)).collect();
    Some(Selected { frontends: frontends(object, port, id.scope), endpoints, id })
}

/// One port of a service object and of the slices that name it, in a scope.
pub fn service(id: &ServiceId, said: &Said, slices: &[&Said], here: Here<'_>) -> Option<Service> {
    let (object, port) = port(id, said)?;
    let options = object.options.as_deref().cloned().unwrap_or_default();
    let candidates = candidates(port, slices);
    let mut backends: Vec<Backend> = Vec::with_capacity(candidates.len());
    let (mut elsewhere, mut terminating) = (false, [0; 2]);
    for (candidate, fate) in fates(&candidates, id.scope, options.traffic.distribution, here) {
        elsewhere |= fate == Fate::OtherNode;
        terminating[usize::from(candidate.endpoint.address.is_ipv6())] +=
            usize::from(fate == Fate::ServesTerminating);
        if fate.serves() {
            backends.push(candidate.backend());
        }
    }
    let silent = elsewhere && backends.is_empty();
    // One backend named twice counts once, with its larger weight; the order
    // of the slices decides nothing.
    fn rank(backend: &Backend) -> impl Ord + '_ {
        (backend.address, backend.port, Reverse(backend.weight), &backend.origin)
    }
    backends.sort_by(|one, other| rank(one).cmp(&rank(other)));
    backends.dedup_by_key(|backend| (backend.address, backend.port));
    let frontends = frontends(object, port, id.scope);
    Some(Service { frontends, backends, options, silent, terminating, origin: said.1.clone() })
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
    let Object::Node(NodeObject { addresses, pod_cidrs, zone, leaving }) = object else { return None };
    let stray = |address: &IpAddr| !pod_cidrs.iter().any(|cidr| cidr.contains(address));
    let pods: BTreeSet<IpAddr> = pods.flat_map(|(_, pod)| pod.addresses.iter().copied()).collect();
    Some(Node {
        addresses: addresses.clone(),
        pod_cidrs: pod_cidrs.clone(),
        stray_pods: pods.into_iter().filter(stray).collect(),
        zone: zone.clone(),
        leaving: *leaving,
    })
}
