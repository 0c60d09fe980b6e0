//! Which maps are there? Names and sizes here are the contract with the agent;
//! it overrides the sizes with its configured capacity when it creates them.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use causeway_schema::{
    Backend, Cell, Endpoint, EndpointKey, Flow, FlowKey, Frontend, FrontendKey, Hop, NodeConfig, Service,
    TraceRecord, V4, verdict,
};

use crate::cache::{self, Line};

#[map]
pub static FRONTENDS_V4: HashMap<FrontendKey<V4>, Frontend> =
    HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

#[map]
pub static SERVICES_V4: Array<Service> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

#[map]
pub static BACKENDS_V4: Array<Backend<V4>> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

#[map]
pub static ARENA_V4: Array<Cell> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

#[map]
pub static EP_KEYS_V4: HashMap<EndpointKey<V4>, Hop> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

#[map]
pub static ENDPOINTS_V4: Array<Endpoint> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

/// Established flows: never evicted by newcomers. The agent sweeps idle ones;
/// when it is full, new flows stay in the embryonic table.
#[map]
pub static FLOWS_V4: HashMap<FlowKey<V4>, Flow<V4>> = HashMap::with_max_entries(1024, 0);

/// Flows that have not yet seen an answer and a second packet of the client:
/// a flood evicts only its like.
#[map]
pub static EMBRYONIC_V4: LruHashMap<FlowKey<V4>, Flow<V4>> = LruHashMap::with_max_entries(1024, 0);

/// The newest established flows of each CPU, in front of the table.
#[map]
pub static CACHE_V4: PerCpuArray<Line<V4>> = PerCpuArray::with_max_entries(cache::LINES, 0);

/// Raised when an entry leaves the table of established flows: what the caches
/// hold of earlier times is void.
#[map]
pub static FLOW_EPOCH: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(verdict::COUNTERS, 0);

#[map]
pub static CONFIG: Array<NodeConfig> = Array::with_max_entries(1, 0);

#[map]
pub static TRACE: Array<TraceRecord> = Array::with_max_entries(1, 0);

/// Kernel ticks (jiffies) per second, set by the agent at load.
#[unsafe(no_mangle)]
pub static TICKS_PER_SECOND: Global<u32> = Global::new(250);
