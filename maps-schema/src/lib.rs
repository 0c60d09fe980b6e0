//! What do kernel and userspace agree on? The bytes in the maps, and the pure
//! functions (flow hash, backend choice, checksum) that both must compute alike.
//!
//! Rules: every shared type is `#[repr(C)]`, [`bytemuck::Pod`], free of implicit
//! padding (asserted here, at compile time) and generic over the address family;
//! addresses and ports are network-order bytes, everything else is host order.
#![no_std]

pub mod addr;
pub mod affinity;
pub mod arena;
pub mod checksum;
pub mod choice;
pub mod config;
pub mod egress;
pub mod endpoint;
pub mod flow;
pub mod front;
pub mod hash;
pub mod nat;
pub mod policy;
pub mod port_range;
pub mod service;
pub mod socket;
pub mod source_range;
pub mod verdict;

pub use addr::{Addr, Port, V4, V6, protocol};
pub use affinity::{Client, ClientKey, Group, Member, MemberKey};
pub use arena::{Arena, CELL_BYTES, Cell};
pub use config::{
    JUMPS, NodeConfig, SCHEMA_VERSION, SOCK_LIST, SOCK_LISTED, SOCKETS, SWEEP_KEYS, TraceRecord,
};
pub use egress::{Egress, Network};
pub use endpoint::{Endpoint, EndpointKey, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, HAIRPIN_V4, HAIRPIN_V6, Hop};
pub use flow::{Flow, FlowKey};
pub use port_range::{PORT_RANGES, PortRange, PortRanges};
pub use service::{Algorithm, Backend, Frontend, FrontendKey, Service, Target};
pub use source_range::{SourceRange, SourceRangeKey};
pub use verdict::{Event, Verdict};
