//! What does the agent tell the programs about the node, and what do they
//! tell back when asked for a trace?

use bytemuck::{Pod, Zeroable};

use crate::{Network, V4, V6, egress::NETWORKS, nat::Ports};

/// The single row of the node's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NodeConfig {
    /// While a trace runs, the mark of its packet: such a packet is judged as
    /// any other but leaves no flow entry and moves no counter. 0: no trace.
    /// Drawn at random for each trace, so no other packet carries it.
    pub trace_mark: u32,
    /// Schema version of the maps: [`SCHEMA_VERSION`].
    pub version: u32,
    /// The node's own addresses: where node ports are served, and whom a
    /// backend on another node answers. Unspecified: none.
    pub node_v4: V4,
    pub node_v6: V6,
    /// Source ports for flows that go by the node's address: none that the
    /// host gives its own sockets.
    pub ports: Ports,
    /// Of [`flags`].
    pub flags: u32,
    /// Cookie of the network namespace whose sockets are the host's, low word
    /// first. 0: none.
    pub netns: [u32; 2],
    /// Networks where containers' own addresses are known.
    pub native_v4: [Network<V4>; NETWORKS],
    pub native_v6: [Network<V6>; NETWORKS],
}

/// Bits of [`NodeConfig::flags`].
pub mod flags {
    /// Containers go by the node's address to all but the native networks.
    pub const MASQUERADE: u32 = 1;
}

impl NodeConfig {
    /// A node that has told nothing of itself.
    pub fn new() -> Self {
        Self {
            version: SCHEMA_VERSION,
            ports: Ports::ALL,
            native_v4: [Network::NONE; NETWORKS],
            native_v6: [Network::NONE; NETWORKS],
            ..Zeroable::zeroed()
        }
    }
}

/// The programs for sockets of the host, in the order of the hooks'
/// attachment: what undoes comes before what does.
pub const SOCKETS: [&str; 8] = [
    "sock_getpeername4",
    "sock_getpeername6",
    "sock_recvmsg4",
    "sock_recvmsg6",
    "sock_sendmsg4",
    "sock_sendmsg6",
    "sock_connect4",
    "sock_connect6",
];

/// The program that lists what those keep of each socket, and what the kernel calls
/// such lists (`bpf_iter_` before it).
pub const SOCK_LIST: &str = "sock_list";
pub const SOCK_LISTED: &str = "bpf_sk_storage_map";

impl Default for NodeConfig {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = assert!(size_of::<NodeConfig>() == 44 + NETWORKS * (8 + 32));

/// Raised with every change of a shared layout; a new agent that finds
/// another number under its pins must not adopt those maps.
pub const SCHEMA_VERSION: u32 = 8;

/// What a traced packet's way through the program was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TraceRecord {
    /// A [`Verdict`](crate::Verdict) as number.
    pub verdict: u32,
    /// Service id, or [`TraceRecord::NONE`].
    pub service: u32,
    /// Backend id, or [`TraceRecord::NONE`].
    pub backend: u32,
    /// Interface the packet leaves through, 0 when none.
    pub ifindex: u32,
    /// Number of the policy rule that was asked last, or
    /// [`NO_RULE`](crate::policy::NO_RULE). Left as it was where none is asked.
    pub rule: u32,
}

impl TraceRecord {
    pub const NONE: u32 = u32::MAX;
}

/// Keys in one run of the `sweep` program: as many as keep it well under the
/// verifier's budget.
pub const SWEEP_KEYS: usize = 4;

/// The programs that the fast ones jump to: on the side of `from_container`, and
/// on that of `from_uplink`.
const TARGETS: [[&str; 2]; 27] = [
    ["container_v6", "uplink_v6"],
    ["slow_container_v4", "slow_uplink_v4"],
    ["slow_container_v6", "slow_uplink_v6"],
    ["release_v4", "release_v4"],
    ["release_v6", "release_v6"],
    ["icmp_container_v4", "icmp_uplink_v4"],
    ["icmp_container_v6", "icmp_uplink_v6"],
    ["refuse_v4", "refuse_v4"],
    ["refuse_v6", "refuse_v6"],
    ["carry_container_v4", "carry_uplink_v4"],
    ["carry_container_v6", "carry_uplink_v6"],
    ["begin_v4", "begin_v4"],
    ["begin_v6", "begin_v6"],
    ["affinity_v4", "affinity_v4"],
    ["affinity_v6", "affinity_v6"],
    ["port_range_v4", "port_range_v4"],
    ["port_range_v6", "port_range_v6"],
    ["policy_v4", "policy_v4"],
    ["policy_v6", "policy_v6"],
    ["encap_v4", "encap_v4"],
    ["encap_v6", "encap_v6"],
    ["decap_v4", "decap_v4"],
    ["decap_v6", "decap_v6"],
    ["egress_v4", "egress_v4"],
    ["egress_v6", "egress_v6"],
    ["proxy_v4", "proxy_v4"],
    ["proxy_v6", "proxy_v6"],
];

/// The same by slot: first those of `from_container`, then those of `from_uplink`.
pub const JUMPS: [&str; 2 * TARGETS.len()] = {
    let mut slots = [""; 2 * TARGETS.len()];
    let mut target = 0;
    while target < TARGETS.len() {
        [slots[target], slots[target + TARGETS.len()]] = TARGETS[target];
        target += 1;
    }
    slots
};
