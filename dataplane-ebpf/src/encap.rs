//! How does a packet reach a backend elsewhere that answers its client itself?
//! As it is, in an outer IP header from this node to the backend (RFC 2003,
//! RFC 2473), or only to the hardware address of the next hop on the way there.
//!
//! Such a flow has one entry here, among those that no answer has been seen of:
//! no answer ever will be. What is in use there outlives a flood, and what is
//! lost is chosen anew, alike while the service has the backends it had.

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::bpf_skb_adjust_room,
    programs::TcContext,
};
use causeway_schema::{Event, Flow, Verdict, flow::flags};
use network_types::eth::EthHdr;

use crate::{
    act::{self, Decision, Exit},
    context::Context,
    count,
    deliver::{self, Way},
    family::Family,
    flow, fragment,
    loose::{self, Loose},
    packet,
    pipeline::Side,
    refuse::Refuse,
    rewrite::{self, L4},
    slow, trace,
};

/// What stays as it is: the lengths of segments, and what is known of checksums,
/// which cover nothing of an outer header.
pub const SAME: u32 = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;

/// Goes on for a slow program with a packet of such a flow: a known one stands
/// where flows are made, a new one in `Loose::begins`.
#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext) -> i32 {
    let (Some(loose), Some(pair)) = (loose::held::<A>(), A::pair()) else { return act::broken(ctx) };
    // SAFETY: as in `new_flow::pair`.
    let flow = unsafe { &mut (*pair).request };
    if !loose.translated {
        *flow = begun(loose);
    }
    (loose.service, loose.backend) = (flow.service, flow.backend);
    let decision = send(ctx, loose, flow);
    slow::finish(ctx, Side::Uplink, loose, decision)
}

#[inline(always)]
fn begun<A: Family>(loose: &Loose<A>) -> Flow<A> {
    let begins = &loose.begins;
    Flow {
        service: begins.serving.service,
        generation: begins.serving.generation,
        backend: begins.serving.backend,
        last_seen: flow::now(),
        flags: begins.flags,
        ..Flow::translating(&loose.packet.key, &begins.after)
    }
}

#[inline(always)]
fn send<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>, flow: &Flow<A>) -> Decision {
    let outer = (flow.flags & flags::ON_LINK == 0).then_some((flow.src, flow.dst));
    let around = if outer.is_some() { A::HEADER as u16 } else { 0 };
    let ifindex = match way(ctx, loose, flow.src, flow.dst, around) {
        Ok(ifindex) => ifindex,
        Err(verdict) => return Decision::end(verdict),
    };
    if !trace::is_dry(ctx) {
        if !loose.translated {
            if !A::put_embryonic(&loose.packet.key, flow) {
                return Decision::end(Verdict::DropFlowTable);
            }
            count::event(Event::FlowCreated);
        }
        fragment::remember(loose, Some(flow), ctx.ifindex());
    }
    leave(ctx, loose, None, outer, ifindex)
}

/// The interface that leads to `dst` with as many bytes of an outer header around
/// the packet.
#[inline(always)]
pub fn way<A: Refuse>(
    ctx: &TcContext,
    loose: &mut Loose<A>,
    src: A,
    dst: A,
    around: u16,
) -> Result<u32, Verdict> {
    if loose.packet.ttl <= 1 {
        return Err(Verdict::DropTtl);
    }
    let (way, mac) = deliver::way_within(ctx, &loose.packet, src, dst, around);
    match way {
        // As it is, it would come here again, and go there again: the next hop has
        // sent it here, by a table that is not ours, or routes by the service's address.
        Way::Out(_) if around == 0 && is_from(ctx, mac) => Err(Verdict::DropNoBackend),
        Way::Out(ifindex) => Ok(ifindex),
        Way::TooBig(mtu) => {
            loose.mtu = mtu.saturating_sub(around);
            Err(Verdict::DropTooBig)
        }
        Way::Host | Way::NoRoute => Err(Verdict::DropNoRoute),
    }
}

/// Whether that is the hardware address that a packet came from.
#[inline(always)]
fn is_from(ctx: &TcContext, mac: [u8; 6]) -> bool {
    let Some(source) = packet::bytes(ctx, 6, 6) else { return false };
    // SAFETY: `bytes` has checked the length.
    let source = unsafe { packet::read::<[u16; 3]>(source, 0) };
    source == bytemuck::cast::<_, [u16; 3]>(mac)
}

/// Out by the way that [`way`] has found last, with what `flow` translates, in an
/// outer header between two addresses if it is to have one.
#[inline(always)]
pub fn leave<A: Refuse>(
    ctx: &TcContext,
    loose: &Loose<A>,
    flow: Option<&Flow<A>>,
    outer: Option<(A, A)>,
    ifindex: u32,
) -> Decision {
    let l4 = if flow.is_some() { loose.l4() } else { L4::Absent };
    let hop = rewrite::forward::<A, _>(ctx, None, flow, loose.packet.key.protocol, l4);
    let wrapped = || outer.map_or(Some(()), |(src, dst)| wrap(ctx, loose, src, dst));
    if hop.and_then(|()| wrapped()).is_none() {
        return Decision::end(Verdict::DropRewrite);
    }
    if outer.is_some() && !trace::is_dry(ctx) {
        count::event(Event::Encapsulated);
    }
    Decision::new(Verdict::Forwarded, Exit::Neighbour, ifindex)
}

/// Puts an outer header around a packet.
#[inline(always)]
fn wrap<A: Refuse>(ctx: &TcContext, loose: &Loose<A>, src: A, dst: A) -> Option<()> {
    // SAFETY: the context is valid for the whole run of the program.
    let grown = unsafe {
        let flags = u64::from(SAME | A::ENCAP_FLAG);
        bpf_skb_adjust_room(ctx.skb.skb, A::HEADER as i32, BPF_ADJ_ROOM_MAC, flags)
    };
    if grown != 0 {
        return None;
    }
    let ip = packet::bytes(ctx, EthHdr::LEN, A::HEADER)?;
    // Of a packet that will be cut into segments, each gets a length of its own.
    let length = loose.end.wrapping_sub(EthHdr::LEN as u32);
    let length = u16::try_from(length).unwrap_or(0);
    // SAFETY: `bytes` has checked the length.
    unsafe { A::write_header(ip, src, dst, A::WITHIN, length) };
    Some(())
}
