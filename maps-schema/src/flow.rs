//! What does the dataplane remember of a flow? One entry per direction, with
//! all that a packet of that direction needs, so that an established packet
//! costs one hash lookup.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, Hop, Port, V4, V6};

/// A direction of a flow, as its packets arrive at the hook.
///
/// Forward: client -> frontend. Reply: backend -> client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKey<A> {
    pub src: A,
    pub dst: A,
    pub src_port: Port,
    pub dst_port: Port,
    pub protocol: u8,
    pub pad: [u8; 3],
}

/// What to do with a packet of this direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow<A> {
    /// Forward: the backend's address, put in place of the destination.
    /// Reply: the frontend's address, put in place of the source.
    pub addr: A,
    /// The port that goes with `addr`.
    pub port: Port,
    /// `flags::*`.
    pub flags: u16,
    /// The service's id, index of its [`Service`](crate::Service) row.
    pub service: u32,
    /// The service's generation when the backend was chosen. A datagram whose
    /// service has moved on is treated as the first of a new flow.
    pub generation: u32,
    /// The backend's id, for operators: the rewrite does not need it.
    pub backend: u32,
    /// Where the packet goes after the rewrite; checked against the endpoint's
    /// row at every use, so a stale one costs a lookup and never a wrong delivery.
    pub hop: Hop,
    /// Kernel ticks (low 32 bits of jiffies) when a packet last passed,
    /// written at most once a second.
    pub last_seen: u32,
    /// Difference that the address rewrite makes to the L4 checksum, as
    /// `bpf_l4_csum_replace(from = 0, to = diff)` takes it: computed once per flow.
    pub addr_delta: u32,
}

/// Bits of [`Flow::flags`].
pub mod flags {
    /// The entry translates replies (source rewritten), not requests.
    pub const REPLY: u16 = 1;
    /// The backend has answered; set on the forward entry.
    pub const REPLIED: u16 = 2;
    /// A FIN or RST has passed: the entry may go soon.
    pub const CLOSING: u16 = 4;
    /// The entry stands in the table of established flows.
    pub const ESTABLISHED: u16 = 8;
}

// SAFETY: `repr(C)`, every field is Pod, and the sizes asserted below equal the
// sum of the fields, so there is no padding for either family.
unsafe impl<A: Addr> Zeroable for FlowKey<A> {}
unsafe impl<A: Addr> Pod for FlowKey<A> {}
unsafe impl<A: Addr> Zeroable for Flow<A> {}
unsafe impl<A: Addr> Pod for Flow<A> {}

const _: () = {
    assert!(size_of::<FlowKey<V4>>() == 16 && align_of::<FlowKey<V4>>() == 4);
    assert!(size_of::<FlowKey<V6>>() == 40 && align_of::<FlowKey<V6>>() == 4);
    assert!(size_of::<Flow<V4>>() == 32 && align_of::<Flow<V4>>() == 4);
    assert!(size_of::<Flow<V6>>() == 44 && align_of::<Flow<V6>>() == 4);
    assert!(core::mem::offset_of!(Flow<V4>, last_seen) == 24);
};
