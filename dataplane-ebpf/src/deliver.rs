//! Where does a packet go once its addresses are final? To a container here,
//! or wherever the routing table says.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup,
    },
    helpers::bpf_check_mtu,
    programs::TcContext,
};
use causeway_schema::{Endpoint, Flow, Hop, Verdict, endpoint::flags, flow};
use network_types::eth::EthHdr;

use crate::{
    act::{Decision, Exit},
    context::Context,
    family::Family,
    maps,
    packet::Packet,
    rewrite::{self, L4},
};

/// The row behind a hop, if the slot still has the tenant it had. The planner
/// gives a freed slot to nobody else for seconds, so the row holds for a packet.
#[inline(always)]
pub fn tenant<A: Family>(hop: Hop) -> Option<&'static Endpoint> {
    if hop == Hop::NONE {
        return None;
    }
    let row = A::endpoint(hop.slot())?;
    (row.generation == hop.generation() && row.ifindex != 0).then_some(row)
}

/// The endpoint at an address of this node.
#[inline(always)]
pub fn endpoint<A: Family>(address: A) -> Option<(Hop, &'static Endpoint)> {
    let hop = A::endpoint_hop(address)?;
    tenant::<A>(hop).map(|row| (hop, row))
}

/// Where packets to an address are delivered.
#[inline(always)]
pub fn hop<A: Family>(address: A) -> Hop {
    endpoint(address).map_or(Hop::NONE, |(hop, _)| hop)
}

/// The endpoint that a packet comes from, if the interface that it came by leads
/// to its source.
#[inline(always)]
pub fn sender<A: Family>(ctx: &TcContext, src: A) -> Option<&'static Endpoint> {
    endpoint(src).map(|(_, row)| row).filter(|row| row.ifindex == ctx.ifindex())
}

/// Whether the interface that a packet came by leads to its source.
#[inline(always)]
pub fn is_own_source<A: Family>(ctx: &TcContext, src: A) -> bool {
    sender(ctx, src).is_some()
}

/// As [`endpoint`], with a hop remembered from earlier packets: no hash lookup
/// while it holds.
#[inline(always)]
pub fn remembered<A: Family>(hop: Hop, address: A) -> Option<(Hop, &'static Endpoint)> {
    if hop == Hop::NONE {
        // Remote when the flow began. An endpoint that has moved here since is
        // found through the host's own route to it.
        return None;
    }
    match tenant::<A>(hop) {
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
    l4: L4,
) -> Decision {
    if packet.ttl <= 1 {
        return Decision::refused(Verdict::DropTtl);
    }
    if rewrite::forward(ctx, Some(&endpoint.mac), flow, packet.key.protocol, l4).is_none() {
        return Decision::end(Verdict::DropRewrite);
    }
    let peer = endpoint.flags & flags::NO_REDIRECT_PEER == 0;
    Decision::new(Verdict::Delivered, if peer { Exit::Peer } else { Exit::Interface }, endpoint.ifindex)
}

/// What the routing table says: a way, or how the packet ends.
pub enum Way {
    /// Out of this interface, to the neighbour in [`maps::NEXT_HOP`].
    Out(u32),
    /// The host's own address, or no route at all.
    Host,
    NoRoute,
    /// The MTU of the way.
    TooBig(u16),
}

/// The length that the MTU of the way out has to hold: of the packet, or of
/// what it will be cut into, with as many bytes around it.
#[inline(always)]
fn longest<A: Family, C: Context>(ctx: &C, packet: &Packet<A>, around: u16) -> u16 {
    let length = match ctx.segment() {
        0 => (ctx.length() as usize - EthHdr::LEN) as u16,
        segment => A::HEADER as u16 + u16::from(packet.l4_header) + segment as u16,
    };
    length.saturating_add(around)
}

/// Asks the routing table, which the agent keeps for other nodes and the
/// operator for everything else. `src` and `dst` are the final addresses,
/// `around` the bytes of a header that comes around the packet.
#[inline(always)]
pub fn look_up<A: Family, C: Context>(
    ctx: &C,
    packet: &Packet<A>,
    src: A,
    dst: A,
    around: u16,
) -> (u32, FibLookup) {
    // SAFETY: all bytes zero is a valid lookup; the union fields written are
    // those of the family.
    let mut fib: FibLookup = unsafe { core::mem::zeroed() };
    fib.family = A::FAMILY;
    fib.l4_protocol = packet.key.protocol;
    fib.__bindgen_anon_1.tot_len = longest(ctx, packet, around);
    fib.ifindex = ctx.ifindex();
    // SAFETY: both unions start with the v4 word and hold the 16 bytes of v6.
    unsafe {
        *(&raw mut fib.__bindgen_anon_3).cast::<A>() = src;
        *(&raw mut fib.__bindgen_anon_4).cast::<A>() = dst;
    }
    let code = ctx.route(&mut fib);
    (code, fib)
}

/// The way to `dst` by the routing table.
#[inline(always)]
pub fn way<A: Family>(ctx: &TcContext, packet: &Packet<A>, src: A, dst: A) -> Way {
    way_within(ctx, packet, src, dst, 0).0
}

/// The way of a packet with as many bytes around it; and the hardware address of
/// the next hop, zeros where that is not known.
#[inline(always)]
pub fn way_within<A: Family>(
    ctx: &TcContext,
    packet: &Packet<A>,
    src: A,
    dst: A,
    around: u16,
) -> (Way, [u8; 6]) {
    let (code, fib) = look_up(ctx, packet, src, dst, around);
    let way = match code {
        // `redirect_neigh` resolves a neighbour that is not there yet.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {
            if let Some(next_hop) = maps::NEXT_HOP.get_ptr_mut(0) {
                // SAFETY: the row belongs to this CPU; a lookup leaves the next
                // hop where the destination was.
                unsafe {
                    (*next_hop).nh_family = u32::from(A::FAMILY);
                    *(&raw mut (*next_hop).__bindgen_anon_1).cast::<A>() =
                        *(&raw const fib.__bindgen_anon_4).cast::<A>();
                }
            }
            Way::Out(fib.ifindex)
        }
        // An uplink that does not forward for the host still carries what we
        // turn around: the kernel finds the neighbour by the rules for what the
        // host itself sends.
        BPF_FIB_LKUP_RET_FWD_DISABLED => {
            // It does not look at the length either.
            if around != 0
                && let Some(mtu) = link_mtu(ctx, fib.ifindex)
                && longest(ctx, packet, around) > mtu
            {
                return (Way::TooBig(mtu), [0; 6]);
            }
            if let Some(next_hop) = maps::NEXT_HOP.get_ptr_mut(0) {
                // SAFETY: the row belongs to this CPU.
                unsafe { (*next_hop).nh_family = 0 };
            }
            Way::Out(fib.ifindex)
        }
        BPF_FIB_LKUP_RET_NOT_FWDED => Way::Host,
        // SAFETY: this answer comes with an MTU.
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Way::TooBig(unsafe { fib.__bindgen_anon_1.mtu_result }),
        _ => Way::NoRoute,
    };
    (way, fib.dmac)
}

/// The MTU of a link.
#[inline(always)]
fn link_mtu(ctx: &TcContext, ifindex: u32) -> Option<u16> {
    let mut mtu = 0;
    // SAFETY: the context is valid for the whole run of the program; the helper
    // leaves the MTU where it is asked for a length, whatever it answers.
    unsafe { bpf_check_mtu(ctx.skb.skb.cast(), ifindex, &raw mut mtu, 0, 0) };
    u16::try_from(mtu).ok().filter(|&mtu| mtu != 0)
}

/// Out of this node.
#[inline(always)]
pub fn remote<A: Family>(
    ctx: &TcContext,
    packet: &Packet<A>,
    src: A,
    dst: A,
    flow: Option<&Flow<A>>,
    l4: L4,
) -> Decision {
    if flow.is_some_and(|flow| flow.flags & flow::flags::HOST != 0) {
        return host(ctx, packet, flow, l4);
    }
    match way(ctx, packet, src, dst) {
        Way::Out(ifindex) => out(ctx, packet, ifindex, flow, l4),
        // Another address of the node: whom it answers there, it answers by here.
        Way::Host if flow.is_none_or(|flow| is_own_source(ctx, flow.src)) => host(ctx, packet, flow, l4),
        Way::Host | Way::NoRoute => Decision::refused(Verdict::DropNoRoute),
        Way::TooBig(_) => Decision::refused(Verdict::DropTooBig),
    }
}

/// To a socket of the node.
#[inline(always)]
fn host<A: Family>(ctx: &TcContext, packet: &Packet<A>, flow: Option<&Flow<A>>, l4: L4) -> Decision {
    if flow.is_some() {
        if packet.ttl <= 1 {
            return Decision::refused(Verdict::DropTtl);
        }
        if rewrite::forward(ctx, None, flow, packet.key.protocol, l4).is_none() {
            return Decision::end(Verdict::DropRewrite);
        }
    }
    Decision::end(Verdict::StackHost)
}

/// The way that [`way`] has found last.
#[inline(always)]
pub fn out<A: Family>(
    ctx: &TcContext,
    packet: &Packet<A>,
    ifindex: u32,
    flow: Option<&Flow<A>>,
    l4: L4,
) -> Decision {
    if packet.ttl <= 1 {
        return Decision::refused(Verdict::DropTtl);
    }
    if rewrite::forward(ctx, None, flow, packet.key.protocol, l4).is_none() {
        return Decision::end(Verdict::DropRewrite);
    }
    Decision::new(Verdict::Forwarded, Exit::Neighbour, ifindex)
}
