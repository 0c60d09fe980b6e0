//! Which maps are there? Names and sizes here are the contract with the agent;
//! it overrides the sizes with its configured capacity when it creates them.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_redir_neigh},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray},
};
use causeway_schema::{
    Backend, Cell, Client, ClientKey, Egress, Endpoint, EndpointKey, Flow, FlowKey, Frontend, FrontendKey,
    Hop, Member, MemberKey, NodeConfig, PortRanges, Service, SourceRange, TraceRecord, V4, V6,
    policy::{EndpointPolicy, PolicyStep, SetKey, Standing, Steps},
    socket::Peers,
    verdict,
};

use crate::{
    cache::{self, Line},
    fragment::{self, Datagram, Held, Queue, Routed},
    jump,
    loose::Loose,
    new_flow::Pair,
    source_range::Sourced,
};

/// The tables of one address family:
///
/// - frontends, services, backends, arena: what `causeway_schema::service` draws;
/// - affinity and members: what `causeway_schema::affinity` draws;
/// - source ranges: the clients of load-balancer addresses that are not for all;
/// - port ranges: the frontends that span many ports, by address;
/// - endpoint keys and endpoints: the containers of this node;
/// - egress: those with an egress address, and the egress addresses held here;
/// - classes: the peers that `causeway_schema::policy` draws;
/// - flows: established ones, never evicted by newcomers. The agent sweeps idle
///   ones; when it is full, new flows stay in the embryonic table;
/// - embryonic: flows that have not yet seen an answer and a second packet of
///   the client: a flood evicts only its like;
/// - cache: the newest established flows of each CPU, in front of the table;
/// - fragments: where first fragments went; queues: what waits for one;
/// - pair and loose: what does not fit on the stack.
macro_rules! tables {
    ($family:ty, $frontends:ident, $services:ident, $backends:ident, $arena:ident, $affinity:ident,
     $members:ident, $source_ranges:ident, $port_ranges:ident, $endpoint_keys:ident, $endpoints:ident, $classes:ident, $flows:ident, $embryonic:ident, $cache:ident, $pair:ident, $loose:ident, $fragments:ident, $queues:ident, $egress:ident) => {
        #[map]
        pub static $frontends: HashMap<FrontendKey<$family>, Frontend> =
            HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
        #[map]
        pub static $services: Array<Service> = Array::with_max_entries(1024, BPF_F_MMAPABLE);
        #[map]
        pub static $backends: Array<Backend<$family>> = Array::with_max_entries(1024, BPF_F_MMAPABLE);
        #[map]
        pub static $arena: Array<Cell> = Array::with_max_entries(1024, BPF_F_MMAPABLE);
        #[map]
        pub static $affinity: LruHashMap<ClientKey<$family>, Client<$family>> =
            LruHashMap::with_max_entries(1024, 0);
        #[map]
        pub static $members: HashMap<MemberKey<$family>, Member> =
            HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
        #[map]
        pub static $source_ranges: LpmTrie<Sourced<$family>, SourceRange> =
            LpmTrie::with_max_entries(1024, 0);
        #[map]
        pub static $port_ranges: HashMap<$family, PortRanges> =
            HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
        #[map]
        pub static $endpoint_keys: HashMap<EndpointKey<$family>, Hop> =
            HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
        #[map]
        pub static $endpoints: Array<Endpoint> = Array::with_max_entries(1024, BPF_F_MMAPABLE);
        #[map]
        pub static $classes: LpmTrie<(u32, $family), u32> = LpmTrie::with_max_entries(1024, 0);
        #[map]
        pub static $flows: HashMap<FlowKey<$family>, Flow<$family>> = HashMap::with_max_entries(1024, 0);
        #[map]
        pub static $embryonic: LruHashMap<FlowKey<$family>, Flow<$family>> =
            LruHashMap::with_max_entries(1024, 0);
        #[map]
        pub static $cache: PerCpuArray<Line<$family>> = PerCpuArray::with_max_entries(cache::LINES, 0);
        #[map]
        pub static $pair: PerCpuArray<Pair<$family>> = PerCpuArray::with_max_entries(1, 0);
        #[map]
        pub static $loose: PerCpuArray<Loose<$family>> = PerCpuArray::with_max_entries(2, 0);
        #[map]
        pub static $fragments: Array<Routed<$family>> = Array::with_max_entries(fragment::DATAGRAMS, 0);
        #[map]
        pub static $queues: LruHashMap<Datagram<$family>, Queue> =
            LruHashMap::with_max_entries(fragment::QUEUES, 0);
        #[map]
        pub static $egress: HashMap<$family, Egress<$family>> =
            HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
    };
}

tables!(
    V4,
    FRONTENDS_V4,
    SERVICES_V4,
    BACKENDS_V4,
    ARENA_V4,
    AFFINITY_V4,
    MEMBERS_V4,
    SRC_RANGES_V4,
    PORT_RANGES_V4,
    EP_KEYS_V4,
    ENDPOINTS_V4,
    CLASSES_V4,
    FLOWS_V4,
    EMBRYONIC_V4,
    CACHE_V4,
    PAIR_V4,
    LOOSE_V4,
    FRAGMENTS_V4,
    QUEUES_V4,
    EGRESS_V4
);
tables!(
    V6,
    FRONTENDS_V6,
    SERVICES_V6,
    BACKENDS_V6,
    ARENA_V6,
    AFFINITY_V6,
    MEMBERS_V6,
    SRC_RANGES_V6,
    PORT_RANGES_V6,
    EP_KEYS_V6,
    ENDPOINTS_V6,
    CLASSES_V6,
    FLOWS_V6,
    EMBRYONIC_V6,
    CACHE_V6,
    PAIR_V6,
    LOOSE_V6,
    FRAGMENTS_V6,
    QUEUES_V6,
    EGRESS_V6
);

/// Frames of fragments that wait, and the slot that is next.
#[map]
pub static HELD: Array<Held> = Array::with_max_entries(fragment::WAITING, 0);
#[map]
pub static HELD_NEXT: Array<u64> = Array::with_max_entries(1, 0);

/// The neighbour that the packet at hand goes to.
#[map]
pub static NEXT_HOP: PerCpuArray<bpf_redir_neigh> = PerCpuArray::with_max_entries(1, 0);

/// Raised when an entry leaves a table of established flows: what the caches
/// hold of earlier times is void.
#[map]
pub static FLOW_EPOCH: Array<u64> = Array::with_max_entries(1, 0);

/// Raised when a flow is in the table of established ones and about to leave
/// that of embryonic ones: who has looked for it in one and then in the other,
/// and found it in neither, looks again. Apart from the epoch, whose memory
/// every packet reads.
#[map]
pub static PROMOTIONS: Array<u64> = Array::with_max_entries(1, 0);

/// Which of the two rows of an endpoint in the table of policies counts, and
/// which classes: all change over at once.
#[map]
pub static POLICY: Array<Standing> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static POLICIES: Array<EndpointPolicy> = Array::with_max_entries(2048, BPF_F_MMAPABLE);
#[map]
pub static SETS: HashMap<SetKey, Steps> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
#[map]
pub static STEPS: Array<PolicyStep> = Array::with_max_entries(1024, BPF_F_MMAPABLE);
/// How often each rule has decided.
#[map]
pub static RULES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1024, 0);

/// Whom a socket of the host talks to under which name.
#[btf_map]
pub static PEERS: SkStorage<Peers> = SkStorage::new();

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(verdict::COUNTERS, 0);

#[map]
pub static CONFIG: Array<NodeConfig> = Array::with_max_entries(1, 0);

#[map]
pub static TRACE: Array<TraceRecord> = Array::with_max_entries(1, 0);

/// Where the fast programs jump to; see `jump`.
#[map]
pub static JUMPS: ProgramArray = ProgramArray::with_max_entries(jump::TARGETS, 0);

/// Kernel ticks (jiffies) per second, set by the agent at load.
#[unsafe(no_mangle)]
pub static TICKS_PER_SECOND: Global<u32> = Global::new(250);
