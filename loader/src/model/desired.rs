//! What should be, all sources merged: services with their frontends and
//! backends, the endpoints of this node, the other nodes, and what policies
//! are about and say.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::event::{
    ObjectKey, Origin, PodObject, Protocol, ServiceOptions,
    egress::EgressObject,
    policy::{Labels, PolicyObject},
};

/// One port of a service object: the unit that has a set of backends. Shared,
/// because many lists name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServiceId(Arc<ServicePort>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServicePort {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// The port's name, or empty.
    pub port: Arc<str>,
    pub scope: Scope,
}

/// Whose endpoints serve: a service whose [traffic
/// policies](crate::event::Traffic) differ has a set of backends for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Scope {
    Cluster,
    /// Those of the node itself.
    Local,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Cluster => "cluster",
            Scope::Local => "local",
        })
    }
}

impl ServiceId {
    pub fn new(namespace: Arc<str>, name: Arc<str>, port: Arc<str>, scope: Scope) -> Self {
        Self(Arc::new(ServicePort { namespace, name, port, scope }))
    }
}

impl std::ops::Deref for ServiceId {
    type Target = ServicePort;

    fn deref(&self) -> &ServicePort {
        &self.0
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        if self.scope == Scope::Local { f.write_str("@local") } else { Ok(()) }
    }
}

/// Address, ports and protocol that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Frontend {
    pub address: IpAddr,
    pub port: u16,
    /// The last of a range that begins with `port`, or `port` itself.
    pub end_port: u16,
    pub protocol: Protocol,
    #[serde(default, skip_serializing_if = "Clients::is_all")]
    pub clients: Clients,
}

/// Who is served by a frontend's service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Clients {
    #[default]
    All,
    /// Containers and the node; whoever comes from outside has the same frontend
    /// at another service.
    Inside,
    /// Those.
    Outside,
}

impl Clients {
    fn is_all(&self) -> bool {
        *self == Clients::All
    }
}

impl Frontend {
    /// At one port, for all.
    pub fn at(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self { address, port, end_port: port, protocol, clients: Clients::All }
    }

    pub fn is_range(&self) -> bool {
        self.end_port != self.port
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.address, self.port))?;
        if self.is_range() {
            write!(f, "-{}", self.end_port)?;
        }
        write!(f, "/{}", self.protocol)?;
        match self.clients {
            Clients::All => Ok(()),
            Clients::Inside => f.write_str(" (from inside)"),
            Clients::Outside => f.write_str(" (from outside)"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub address: IpAddr,
    /// Of a range, that for the first of its ports.
    pub port: u16,
    /// 1 to 1000; backends of weight 0 and unready ones are not listed.
    pub weight: u32,
    pub node: Option<Arc<str>>,
    pub origin: Arc<Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Sorted, without duplicates.
    pub frontends: Vec<Frontend>,
    /// Sorted by (address, port), without duplicates.
    pub backends: Vec<Backend>,
    pub options: ServiceOptions,
    /// It has no backend, but would have some if its policy allowed those of other
    /// nodes.
    pub silent: bool,
    /// How many of its endpoints, IPv4 and IPv6, terminate, and serve because nobody is
    /// ready.
    pub terminating: [usize; 2],
    pub origin: Arc<Origin>,
}

impl Service {
    /// Whether the two mean the same to a packet, whoever said so.
    pub fn serves_alike(&self, other: &Self) -> bool {
        fn facts(backend: &Backend) -> impl PartialEq + '_ {
            (backend.address, backend.port, backend.weight, backend.node.as_deref())
        }
        // That matters to who asks for their number alone.
        let told =
            |service: &Self| (service.options.traffic.health_check != 0).then_some(service.terminating);
        self.frontends == other.frontends
            && self.options == other.options
            && self.silent == other.silent
            && told(self) == told(other)
            && self.backends.iter().map(facts).eq(other.backends.iter().map(facts))
    }
}

/// Another host, or this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of pods on this node that lie outside its `pod_cidrs`.
    pub stray_pods: Vec<IpAddr>,
    pub zone: Option<Arc<str>>,
    /// It will be gone soon.
    pub leaving: bool,
}

/// A workload attached to this node: what `causeway endpoint attach` wired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    /// The host side of the pair.
    pub interface: String,
    pub ifindex: u32,
    /// Hardware address of the container's side.
    pub mac: [u8; 6],
    /// Its index in the table of policies; `None`: as it stands.
    #[serde(skip)]
    pub policy: Option<u16>,
}

/// Namespace and name of a pod.
pub type PodName = (Arc<str>, Arc<str>);

/// Of a kind that [is a policy](crate::event::Kind::is_policy); the namespace
/// is empty where the kind has none.
pub type PolicyId = ObjectKey;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub object: Arc<PolicyObject>,
    pub origin: Arc<Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    pub object: Arc<EgressObject>,
    pub origin: Arc<Origin>,
}

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredState {
    /// Raised by each batch that changed something; starts at 0, empty.
    pub revision: u64,
    pub services: BTreeMap<ServiceId, Service>,
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// Labels of those that there are objects for; any other has the label of
    /// its name alone.
    pub namespaces: BTreeMap<Arc<str>, Labels>,
    pub pods: BTreeMap<PodName, Arc<PodObject>>,
    pub policies: BTreeMap<PolicyId, Policy>,
    /// By name.
    pub egresses: BTreeMap<Arc<str>, Egress>,
}
