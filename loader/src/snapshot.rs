//! What do the edges (API, CLI, metrics) read, and what may they ask for?
//!
//! The reconcile loop publishes a [`Snapshot`] after each round; readers load
//! it without waiting. Requests go to the loop as [`Command`]s.

mod attachment;
mod cluster;
mod held;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

pub use attachment::{Attachment, HostPort, JoinRefused, JoinRequest, JoinView, KeepRequest, RuntimeCommand};
pub use cluster::{ClusterView, Laggard};
pub use held::HeldView;

use crate::{
    egress::Standing,
    event::{Origin, Problem, Protocol, policy::Labels},
    model::{
        Selected, ServiceName,
        desired::{DesiredState, Endpoint},
    },
    policy::Talk,
    programming::Latency,
};

/// Handed to every edge.
#[derive(Clone)]
pub struct Handle {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Raised with every new snapshot, so that a waiter sleeps in between.
    pub changed: watch::Receiver<u64>,
    pub commands: mpsc::Sender<Command>,
    pub latency: Latency,
}

/// The state of the node after a round of the loop. The desired state itself,
/// which may be large, is handed out on [demand](Command::Desired).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub status: Status,
    /// By name.
    pub endpoints: Arc<BTreeMap<String, Attached>>,
    /// By name of the object.
    pub egress: Arc<BTreeMap<Arc<str>, Standing>>,
    /// Since when services' rows in the kernel are not as wanted; `None`: they are,
    /// or what an earlier agent left serves.
    pub behind: Option<Timestamp>,
    /// This node will be gone soon.
    pub leaving: bool,
}

/// An endpoint, and what policies know it by.
#[derive(Clone, Debug, PartialEq)]
pub struct Attached {
    pub endpoint: Endpoint,
    /// Those given at its attach, and its pod's.
    pub labels: Labels,
    /// Of its network namespace, as given at its attach.
    pub netns: PathBuf,
}

/// What `causeway status -o json` prints, field by field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    pub version: String,
    /// Revision of the desired state.
    pub revision: u64,
    /// Newest revision whose image was read back from the kernel, whole.
    pub applied_revision: u64,
    /// Digest of the services wanted (hex); the same on every node that wants
    /// the same, whatever order it learned it in.
    pub digest: String,
    /// Digest of what the kernel's maps say, from the last read-back.
    pub kernel_digest: String,
    /// `revision == applied_revision`, digests equal, nothing failing.
    pub converged: bool,
    /// Why not, one line each; empty when converged.
    pub reasons: Vec<String>,
    pub sources: Vec<SourceStatus>,
    pub problems: Vec<ProblemView>,
    pub maps: Vec<MapUse>,
    /// What an operator must look at: full maps, failed writes.
    pub alarms: Vec<String>,
    pub drift: Drift,
    /// Of the node's own, closed because their backend or service had gone.
    #[serde(default)]
    pub sockets_ended: u64,
    pub uplink: Option<String>,
    /// `tcx` or `clsact`; with `+xdp` where the uplink's driver has a program.
    pub hook: String,
    pub services: usize,
    pub endpoints: usize,
    pub nodes: usize,
    #[serde(default)]
    pub policies: usize,
    /// Microseconds from the last batch of events to its image read back.
    pub last_apply_micros: u64,
    /// Microseconds from the agent's start to the first image read back.
    pub start_micros: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    pub name: String,
    pub synced: bool,
    /// With those that are held.
    pub objects: usize,
    pub problems: usize,
    /// What it does not name any more, and is not believed about yet; one a kind.
    #[serde(default)]
    pub held: Vec<HeldView>,
}

/// A [`Problem`] with its origin as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemView {
    pub origin: String,
    pub object: String,
    pub field: String,
    pub message: String,
}

impl fmt::Display for ProblemView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.origin, &self.object, &self.field, &self.message];
        let parts: Vec<&str> =
            parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join(": "))
    }
}

impl From<&Problem> for ProblemView {
    fn from(problem: &Problem) -> Self {
        Self {
            origin: problem.origin.as_ref().map(ToString::to_string).unwrap_or_default(),
            object: problem.object.clone(),
            field: problem.field.clone(),
            message: problem.message.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MapUse {
    pub map: String,
    pub used: u64,
    pub capacity: u64,
}

/// A map this full is worth a look.
pub const ALARM_PERCENT: u64 = 90;

/// Rows, links and routes that someone else changed, and that were put right.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    pub repaired: u64,
    /// The last few, newest last.
    pub last: Vec<String>,
}

/// Before a policy rule's name, in the name of its counter, which counts flows.
pub const RULE: &str = "rule ";

/// A counter of the dataplane, summed over CPUs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    pub name: String,
    pub drop: bool,
    pub packets: u64,
}

/// A flow entry, for `causeway show flows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowView {
    pub protocol: String,
    pub source: String,
    pub destination: String,
    /// The address and port put in place of the destination (or, in a reply
    /// entry, of the source).
    pub rewrite: String,
    /// `request` or `reply`.
    pub direction: String,
    /// `established`, `embryonic`, or what else docs/json.md names.
    pub state: String,
    pub service: Option<String>,
    pub idle_seconds: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Unique on this node, e.g. `namespace/pod`.
    pub name: String,
    /// Path of the network namespace (`/run/netns/x`, `/proc/PID/ns/net`).
    pub netns: PathBuf,
    pub addresses: Vec<IpAddr>,
    /// The interface's name inside, `eth0` unless given.
    pub interface: Option<String>,
    /// The uplink's MTU unless given.
    pub mtu: Option<u32>,
    /// By which policies select it, before those of the pod it is named after.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The container's hardware address, `02:00:00:00:00:01`; made of the name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Set for endpoints that a container runtime has asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// Of the node, at which it is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<HostPort>,
    /// See [`JoinRequest`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handover: bool,
}

/// Two who may want to talk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// An endpoint or pod (`namespace/name`), or an address.
    pub from: String,
    pub to: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// What `causeway explain -o json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainReply {
    pub from: IpAddr,
    /// Who would serve.
    pub to: SocketAddr,
    /// No rule is against it, and the program does not drop it for another reason.
    pub allowed: bool,
    /// What the rules of the one who begins say, if it is of this node and
    /// something is asked.
    pub egress: Option<ExplanationView>,
    pub ingress: Option<ExplanationView>,
    /// What the loaded program does with the packet that would begin it; none
    /// runs over what the node itself sends.
    pub program: Option<TraceReply>,
    /// Whether that is what the rules say: dropped by a policy only if one is
    /// against it, and dropped, by whatever comes first, if one is.
    pub agrees: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplanationView {
    /// `allow`, `deny`, `reject`, or `audit`: would be denied, if the policy
    /// did more than look.
    pub outcome: String,
    /// Which decides; none: no policy says anything.
    pub rule: Option<String>,
    /// Of a denial: the rule that would allow it, but for the least.
    pub nearest: Option<String>,
    /// All of it in a sentence.
    pub text: String,
}

/// Which endpoints of a service serve?
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SelectionRequest {
    /// `namespace/name`.
    pub service: String,
    /// At this node, unless another is named.
    pub node: Option<String>,
}

/// The answer to it.
#[derive(Clone, Debug)]
pub struct Selection {
    pub service: ServiceName,
    pub node: Arc<str>,
    pub zone: Option<Arc<str>>,
    /// Of the service object.
    pub origin: Arc<Origin>,
    /// Each with what it lacks in the maps of this node, if it is for that.
    pub ports: Vec<(Selected, Vec<String>)>,
}

/// What policies are compiled from on this node. The rest of it is the edges'
/// work: it may be large.
#[derive(Clone, Debug, Default)]
pub struct PolicyGround {
    pub desired: Arc<DesiredState>,
    pub endpoints: Vec<EndpointGround>,
    /// The node's own addresses, about which nothing is asked.
    pub own: Vec<IpAddr>,
}

/// Flows of the tables that are one to policies: for `causeway policy rehearse`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedFlows {
    #[serde(flatten)]
    pub talk: Talk,
    /// How many.
    pub flows: usize,
}

/// An endpoint as its attach made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointGround {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// Its labels but for those of its pod.
    pub given: BTreeMap<String, String>,
}

/// A packet to judge, and where it would arrive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TraceRequest {
    /// Name of the interface (host side of an endpoint, or the uplink), or of
    /// an endpoint.
    pub interface: String,
    /// The frame, from the Ethernet header on.
    pub packet: Vec<u8>,
}

/// What `causeway trace -o json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceReply {
    /// `pass`, `redirect` or `drop`.
    pub verdict: String,
    /// Name of the [`Verdict`](causeway_schema::Verdict).
    pub reason: String,
    pub service: Option<String>,
    pub backend: Option<String>,
    /// The policy rule that was asked last, if any was.
    pub rule: Option<String>,
    /// Interface the packet leaves through.
    pub interface: Option<String>,
    /// The packet that leaves, as hex.
    pub packet_out: String,
}

/// An error that an edge hands to its user as it is.
pub type Reply<T> = oneshot::Sender<Result<T, String>>;

/// What an edge may ask of the loop.
pub enum Command {
    /// Make every source look again now; the answer is the revision that
    /// holds all they had to say.
    Fence(Reply<u64>),
    /// Ask the cluster's API server what there is, and all nodes whether they have
    /// read it back, until they have or for so long.
    Cluster(Duration, Reply<ClusterView>),
    /// Carry out what is held of a source; how many objects that was.
    Release(String, Reply<usize>),
    /// The desired state as it is now.
    Desired(Reply<Arc<DesiredState>>),
    Attach(AttachRequest, Reply<Attached>),
    /// Detaching what is not there succeeds with `false`.
    Detach(String, Reply<bool>),
    /// What a container runtime asks.
    Runtime(RuntimeCommand),
    Trace(TraceRequest, Reply<TraceReply>),
    Explain(ExplainRequest, Reply<ExplainReply>),
    Selection(SelectionRequest, Reply<Selection>),
    /// For `causeway policy rehearse`.
    PolicyGround(Reply<PolicyGround>),
    Flows {
        limit: usize,
        reply: Reply<Vec<FlowView>>,
    },
    /// Those with an endpoint of this node, by who serves them.
    RecordedFlows(Reply<Vec<RecordedFlows>>),
    Counters(Reply<Vec<Counter>>),
    /// Unload everything: links, maps, pins, routes, endpoints' interfaces.
    /// The agent ends after it.
    Uninstall(Reply<()>),
}

/// How long an edge waits for the loop before it says that the agent is busy.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
