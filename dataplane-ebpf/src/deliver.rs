//! Where does a packet go once its addresses are final? To a container here,
//! or wherever the routing table says.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, bpf_redir_neigh,
    },
    helpers::bpf_fib_lookup,
    programs::TcContext,
};
use causeway_schema::{Endpoint, Flow, Hop, Verdict, endpoint::flags};

use crate::{
    act::{Decision, Exit},
    family::Family,
    maps,
    packet::Packet,
    rewrite,
};

/// The row behind a hop, if the slot still has the tenant it had.
#[inline(always)]
fn tenant(hop: Hop) -> Option<Endpoint> {
    if hop == Hop::NONE {
        return None;
    }
    let row = maps::ENDPOINTS_V4.get(hop.slot())?;
    (row.generation == hop.generation() && row.ifindex != 0).then_some(*row)
}

/// The endpoint at an address of this node.
#[inline(always)]
pub fn endpoint<A: Family>(address: A) -> Option<(Hop, Endpoint)> {
    let hop = A::endpoint_hop(address)?;
    tenant(hop).map(|row| (hop, row))
}

/// As [`endpoint`], with a hop remembered from earlier packets: no hash lookup
/// while it holds.
#[inline(always)]
pub fn remembered<A: Family>(hop: Hop, address: A) -> Option<(Hop, Endpoint)> {
    if hop == Hop::NONE {
        // Remote when the flow began. An endpoint that has moved here since is
        // found through the host's own route to it.
        return None;
    }
    match tenant(hop) {
        Some(row) => Some((hop, row)),
        None => endpoint(address),
    }
}

/// To a container of this node.
#[inline(always)]
pub fn local<A: Family>(
    ctx: &TcContext,
    packet: &Packet<A>,
    endpoint: &Endpoint,
    flow: Option<&Flow<A>>,
) -> Decision {
    if packet.ttl <= 1 {
        return Decision::end(Verdict::DropTtl);
    }
    if rewrite::forward(ctx, Some(&endpoint.mac), flow, packet.key.protocol).is_none() {
        return Decision::end(Verdict::DropRewrite);
    }
    let ifindex = endpoint.ifindex;
    let exit = if endpoint.flags & flags::NO_REDIRECT_PEER == 0 {
        Exit::Peer { ifindex }
    } else {
        Exit::Interface { ifindex }
    };
    Decision::new(Verdict::Delivered, exit)
}

/// By the routing table, which the agent keeps for other nodes and the
/// operator for everything else. `src` and `dst` are the final addresses.
#[inline(always)]
pub fn remote<A: Family>(
    ctx: &TcContext,
    packet: &Packet<A>,
    src: A,
    dst: A,
    flow: Option<&Flow<A>>,
) -> Decision {
    // SAFETY: all bytes zero is a valid lookup; the union fields written are
    // those of the family; the context is valid for the whole run.
    let (code, fib) = unsafe {
        let mut fib: FibLookup = core::mem::zeroed();
        fib.family = A::AF;
        fib.l4_protocol = packet.key.protocol;
        fib.ifindex = (*ctx.skb.skb).ifindex;
        // Both unions start with the v4 word and hold the 16 bytes of v6.
        *(&raw mut fib.__bindgen_anon_3).cast::<A>() = src;
        *(&raw mut fib.__bindgen_anon_4).cast::<A>() = dst;
        // Total length 0: the kernel compares the packet, segment by segment,
        // with the MTU of the way out.
        let code = bpf_fib_lookup(ctx.skb.skb.cast(), &mut fib, size_of::<FibLookup>() as i32, 0);
        (code as u32, fib)
    };
    match code {
        // `redirect_neigh` resolves a neighbour that is not there yet.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {}
        // The host's own address, or no route: the stack knows which.
        BPF_FIB_LKUP_RET_NOT_FWDED if flow.is_none() => return Decision::end(Verdict::StackHost),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => return Decision::end(Verdict::DropTooBig),
        _ => return Decision::end(Verdict::DropNoRoute),
    }
    if packet.ttl <= 1 {
        return Decision::end(Verdict::DropTtl);
    }
    if rewrite::forward(ctx, None, flow, packet.key.protocol).is_none() {
        return Decision::end(Verdict::DropRewrite);
    }
    // SAFETY: as above; a lookup leaves the next hop where the destination was.
    let next_hop = unsafe {
        let mut next_hop: bpf_redir_neigh = core::mem::zeroed();
        next_hop.nh_family = u32::from(A::AF);
        *(&raw mut next_hop.__bindgen_anon_1).cast::<A>() = *(&raw const fib.__bindgen_anon_4).cast::<A>();
        next_hop
    };
    Decision::new(Verdict::Forwarded, Exit::Neighbour { ifindex: fib.ifindex, next_hop })
}
