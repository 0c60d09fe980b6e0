//! Where do fast programs hand over what they do not do themselves? To slow
//! programs of the same hook, by tail calls: a jump costs next to nothing, and
//! each program has a stack and a verifier's budget of its own.

use aya_ebpf::programs::TcContext;

use crate::{maps, pipeline::Side};

/// Number of slots; the agent fills them by [`causeway_schema::JUMPS`].
pub const TARGETS: u32 = causeway_schema::JUMPS.len() as u32;

/// Slots, in the order of [`causeway_schema::JUMPS`].
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Target {
    /// Plain IPv6 packets.
    FastV6 = 0,
    /// Everything else of IPv4, and of IPv6.
    SlowV4 = 1,
    SlowV6 = 2,
    /// First fragments that others wait for.
    ReleaseV4 = 3,
    ReleaseV6 = 4,
    /// ICMP.
    IcmpV4 = 5,
    IcmpV6 = 6,
    /// Senders that have to be told of a drop.
    RefuseV4 = 7,
    RefuseV6 = 8,
    /// Packets whose way is decided.
    CarryV4 = 9,
    CarryV6 = 10,
    /// Flows that are to begin.
    BeginV4 = 11,
    BeginV6 = 12,
    /// New flows to services with affinity.
    AffinityV4 = 13,
    AffinityV6 = 14,
    /// Packets to a service's address, at ports that have no frontend of their own.
    PortRangeV4 = 15,
    PortRangeV6 = 16,
    /// Flows that a policy is to be asked about.
    PolicyV4 = 17,
    PolicyV6 = 18,
    /// Packets that go to their backend in an outer header, and those that came so.
    EncapV4 = 19,
    EncapV6 = 20,
    DecapV4 = 21,
    DecapV6 = 22,
    /// Flows of containers to the world, and packets of those that leave by another node.
    EgressV4 = 23,
    EgressV6 = 24,
    /// Packets of flows whose backends are still to learn who their client is.
    ProxyV4 = 25,
    ProxyV6 = 26,
}

/// Goes to another program; returns only when there is none.
#[inline(always)]
pub fn to(ctx: &TcContext, side: Side, target: Target) {
    let index = match side {
        Side::Container => target as u32,
        Side::Uplink => target as u32 + TARGETS / 2,
    };
    // An empty slot is told apart from a jump by coming back.
    // SAFETY: the target is a program for the same kind of context.
    let _ = unsafe { maps::JUMPS.tail_call(ctx, index) };
}
