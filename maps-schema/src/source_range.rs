//! Who may come to a service's load-balancer addresses? Clients within its
//! source ranges: rows of a longest-prefix trie, apart for each service.

use core::cmp::Ordering;

use bytemuck::{Pod, Zeroable};

use crate::{Addr, V4, V6};

/// In a service's place: the nodes, at whose addresses node ports are served and
/// who may send the packets of services with direct return.
pub const NODES: u32 = u32::MAX;

/// A range of clients of a service. The trie compares the bits after `prefix`,
/// in memory's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SourceRangeKey<A> {
    /// How many bits count: all of `service`, then as many of `addr`.
    pub prefix: u32,
    pub service: u32,
    /// Bits beyond the prefix are zero in rows.
    pub addr: A,
}

impl<A: Addr> SourceRangeKey<A> {
    /// The range `addr/bits`.
    #[inline(always)]
    pub fn new(service: u32, addr: A, bits: u8) -> Self {
        Self { prefix: u32::BITS + bits as u32, service, addr }
    }

    /// What a client's address is looked up by.
    #[inline(always)]
    pub fn client(service: u32, addr: A) -> Self {
        Self::new(service, addr, (A::BYTES * 8) as u8)
    }
}

/// By service first, so that those of one stand together.
impl<A: Addr> Ord for SourceRangeKey<A> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.service, self.addr, self.prefix).cmp(&(other.service, other.addr, other.prefix))
    }
}

impl<A: Addr> PartialOrd for SourceRangeKey<A> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A range's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SourceRange {
    /// That of the key: a look-up finds the longest range that holds the one
    /// asked for, and this says which it was.
    pub prefix: u32,
}

// SAFETY: `repr(C)`, every field is Pod, sizes below leave no padding.
unsafe impl<A: Addr> Zeroable for SourceRangeKey<A> {}
unsafe impl<A: Addr> Pod for SourceRangeKey<A> {}

const _: () = {
    assert!(size_of::<SourceRangeKey<V4>>() == 12 && size_of::<SourceRangeKey<V6>>() == 24);
};
