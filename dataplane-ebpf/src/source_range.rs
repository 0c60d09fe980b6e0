//! May this client come to this frontend? Asked once per new flow, of
//! frontends that are not for all.

use causeway_schema::{Frontend, SourceRangeKey, source_range::NODES};

use crate::family::Family;

/// What the trie compares: a [`SourceRangeKey`] without its prefix.
#[repr(C)]
pub struct Sourced<A> {
    pub service: u32,
    pub addr: A,
}

#[inline(always)]
pub fn is_open_to<A: Family>(frontend: &Frontend, client: A) -> bool {
    frontend.flags & Frontend::SOURCE_RANGES == 0
        || A::has_source_range(&SourceRangeKey::client(frontend.service, client))
}

/// Whether an address is a node's own.
#[inline(always)]
pub fn is_node<A: Family>(address: A) -> bool {
    A::has_source_range(&SourceRangeKey::client(NODES, address))
}
