//! What does a provider say? Validated objects, in batches, with the place
//! each came from. Past this type nothing is "maybe valid".

pub mod container;
pub mod egress;
pub mod label;
pub mod marks;
pub mod party;
pub mod policy;
mod service;
mod words;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use egress::EgressObject;
use marks::Marks;
use policy::{Labels, NamedPort, NamespaceObject, PolicyObject};

pub use party::pod_name;
pub use service::{
    Distribution, Dsr, ServiceObject, ServiceOptions, ServicePort, SourceRanges, Table, Traffic,
    TrafficPolicy,
};

/// Where a statement came from: the source's name, and the place within it
/// (`web.yaml#2`: the second document of that file).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Origin {
    pub source: Arc<str>,
    pub place: Arc<str>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.place)
    }
}

/// Something that could not be served, said so that the operator can mend it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Source and place, e.g. `manifests:web.yaml#2`; for problems that appear
    /// only when objects are put together, the origin of the loser.
    pub origin: Option<Origin>,
    /// `Kind namespace/name`, or empty when the document did not get that far.
    pub object: String,
    /// Path of the field, e.g. `spec.ports[0].port`; empty when it is the whole.
    pub field: String,
    /// What is wrong and what to do, one sentence.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.origin.as_ref().map(ToString::to_string);
        let parts = [origin.as_deref().unwrap_or(""), &self.object, &self.field, &self.message];
        let mut first = true;
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{}{part}", if first { "" } else { ": " })?;
            first = false;
        }
        Ok(())
    }
}

/// The name of an object, unique within a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    pub kind: Kind,
    /// Empty for kinds without a namespace.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Node,
    Namespace,
    NetworkPolicy,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    ClusterNetworkPolicy,
    /// Our own, as those below.
    Policy,
    VirtualNetwork,
    Egress,
}

impl Kind {
    /// Whether it decides who may talk to whom, and under which address.
    pub fn is_about_containers(self) -> bool {
        !matches!(self, Kind::Service | Kind::EndpointSlice | Kind::Endpoints)
    }

    pub fn is_policy(self) -> bool {
        use Kind::*;
        matches!(
            self,
            NetworkPolicy
                | AdminNetworkPolicy
                | BaselineAdminNetworkPolicy
                | ClusterNetworkPolicy
                | Policy
                | VirtualNetwork
        )
    }

    /// Objects of it live in a namespace.
    pub fn is_namespaced(self) -> bool {
        use Kind::*;
        matches!(self, Service | EndpointSlice | Endpoints | Pod | NetworkPolicy)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// TCP or UDP; others are refused by the converter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The IANA number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => causeway_schema::protocol::TCP,
            Protocol::Udp => causeway_schema::protocol::UDP,
        }
    }

    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            causeway_schema::protocol::TCP => Some(Protocol::Tcp),
            causeway_schema::protocol::UDP => Some(Protocol::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Service(ServiceObject),
    /// From an EndpointSlice, or one subset of an Endpoints object.
    Slice(SliceObject),
    Node(NodeObject),
    /// Shared with whoever compiles policies.
    Pod(Arc<PodObject>),
    Namespace(NamespaceObject),
    /// Of any kind that [is one](Kind::is_policy).
    Policy(Arc<PolicyObject>),
    Egress(Arc<EgressObject>),
}

impl Object {
    /// A policy of which parts were refused.
    pub fn is_faulty(&self) -> bool {
        matches!(self, Object::Policy(policy) if policy.faulty)
    }
}

/// Some of the backends of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceObject {
    /// The service's namespace is the slice's own.
    pub service: Arc<str>,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
    /// From the annotation `causeway.io/weight`, 1 unless given; 0 drains.
    pub weight: u32,
    /// From `endpoints.kubernetes.io/last-change-trigger-time`: when what made
    /// the cluster say this happened.
    pub changed: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SlicePort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// 1 to 65535.
    pub port: u16,
}

/// May an endpoint take new flows?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// `conditions.ready`, true unless said otherwise.
    Ready,
    /// `terminating` and still `serving`: only while no other endpoint is ready.
    Draining,
    NotReady,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    pub address: IpAddr,
    pub state: EndpointState,
    pub node: Option<Arc<str>>,
    /// Equal ones are shared.
    pub place: Option<Arc<Place>>,
}

/// Where an endpoint is, and whom it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    pub zone: Option<Arc<str>>,
    /// `hints.forZones` and `hints.forNodes`; sorted, empty without hints.
    pub for_zones: Box<[Arc<str>]>,
    pub for_nodes: Box<[Arc<str>]>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NodeObject {
    /// `status.addresses` of type InternalIP, in the object's order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, or `spec.podCIDR`.
    pub pod_cidrs: Vec<IpNet>,
    /// Of the label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// It is being deleted, or the cluster's autoscaler is about to.
    pub leaving: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodObject {
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `status.podIPs`, or `status.podIP`; empty for host-network and finished pods.
    pub addresses: Vec<IpAddr>,
    /// Equal ones are shared.
    pub labels: Labels,
    /// Those with a name; sorted. Shared likewise.
    pub ports: Arc<[NamedPort]>,
}

/// One object as it is now, or gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub key: ObjectKey,
    /// `None`: the source no longer has it. Shared with the provider, which
    /// keeps it to tell what the next look changes.
    pub object: Option<(Arc<Object>, Arc<Origin>)>,
}

/// What a source says at once: applied as a whole, one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The source's name, e.g. `manifests`.
    pub source: Arc<str>,
    /// An object once.
    pub events: Vec<Event>,
    /// Everything that is wrong in this source now; replaces what it said before.
    pub problems: Vec<Problem>,
    /// The newest [fence](crate::snapshot::Command::Fence) asked for before the
    /// source began this look; 0 when none was.
    pub fence: u64,
    /// Kinds that were listed anew, from their beginning, since the source was
    /// asked for a second look of this number: it ends with this batch.
    pub looked: BTreeMap<Kind, u64>,
    /// The source has said everything it knows. Until each source has synced
    /// once, nothing that an earlier agent left in the maps is deleted.
    pub synced: bool,
    /// The source has said all that decides who may talk to whom and under which
    /// address, or all of it that it may ever read. Until each source has, no policy
    /// and no egress address changes, and new endpoints are sealed.
    pub containers: bool,
    /// How far the source has been read with this batch, where that can be told.
    pub marks: Option<Arc<Marks>>,
}
