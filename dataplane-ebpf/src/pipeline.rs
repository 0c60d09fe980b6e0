//! What is decided, in which order? Flow, service, container, route: for plain
//! packets, which are nearly all. Whatever needs more goes to `slow`, which
//! decides in the same order.

use aya_ebpf::programs::TcContext;
use causeway_schema::{Flow, Frontend, FrontendKey, Hop, Service, V6, Verdict};

use crate::{
    act::{self, Decision},
    arp,
    context::Context,
    decide,
    deliver::{self, Way},
    egress,
    family::Family,
    flow::{self, Found},
    jump,
    new_flow::{self, Created, Serving},
    own_socket,
    packet::{self, Frame, Packet},
    policy,
    rewrite::L4,
    service::{self, Choice},
    trace,
};

/// Which hook the packet came through.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Side {
    Container,
    Uplink,
}

/// A frame the NIC took for another host's (`PACKET_OTHERHOST`).
const PACKET_OTHERHOST: u32 = 3;

#[inline(always)]
pub fn enter(ctx: &TcContext, side: Side) -> i32 {
    // SAFETY: the context is valid for the whole run of the program.
    if side == Side::Uplink && unsafe { (*ctx.skb.skb).pkt_type } == PACKET_OTHERHOST {
        return act::act(ctx, Decision::end(Verdict::StackForeign));
    }
    let (decision, target) = match packet::frame(ctx) {
        Frame::Ipv4 => match packet::ipv4(ctx) {
            Some(packet) => (ip(ctx, side, &packet), jump::Target::SlowV4),
            None => (Decision::slow(), jump::Target::SlowV4),
        },
        Frame::Ipv6 => (Decision::slow(), jump::Target::FastV6),
        other => (not_ip(ctx, side, other), jump::Target::SlowV4),
    };
    finish(ctx, side, decision, target)
}

#[inline(always)]
pub fn fast_v6(ctx: &TcContext, side: Side) -> i32 {
    let decision = match packet::ipv6(ctx) {
        Some(packet) => ip::<V6>(ctx, side, &packet),
        None => Decision::slow(),
    };
    finish(ctx, side, decision, jump::Target::SlowV6)
}

#[inline(always)]
fn finish(ctx: &TcContext, side: Side, decision: Decision, otherwise: jump::Target) -> i32 {
    if decision.is_slow() {
        jump::to(ctx, side, otherwise);
    }
    act::act(ctx, decision)
}

#[inline(always)]
fn not_ip(ctx: &TcContext, side: Side, frame: Frame) -> Decision {
    match frame {
        Frame::Arp if side == Side::Container => arp::answer(ctx),
        Frame::Vlan => Decision::end(Verdict::StackVlan),
        Frame::Truncated => Decision::end(Verdict::DropTruncated),
        _ => Decision::end(Verdict::StackNotIp),
    }
}

#[inline(always)]
fn ip<A: Family>(ctx: &TcContext, side: Side, packet: &Packet<A>) -> Decision {
    let dry = trace::is_dry(ctx);
    match flow::find_cached(packet, ctx.ifindex(), dry) {
        Found::Flow(entry) => return established(ctx, packet, entry, dry, L4::Plain),
        // The slow program looks again.
        Found::Moving => return Decision::slow(),
        Found::Nothing => {}
    }
    if side == Side::Container
        && (deliver::sender(ctx, packet.key.src).is_none_or(policy::has) || decide::is_rogue(packet))
    {
        return Decision::slow();
    }
    if let Some(frontend) = service::frontend(&packet.key) {
        return first(ctx, side, packet, &frontend, dry);
    }
    plain(ctx, side, packet)
}

/// A packet of a flow we know.
#[inline(always)]
pub fn established<A: Family>(
    ctx: &TcContext,
    packet: &Packet<A>,
    entry: *mut Flow<A>,
    dry: bool,
    l4: L4,
) -> Decision {
    // SAFETY: map values stay readable until the program ends (RCU).
    let flow = unsafe { &mut *entry };
    if flow::is_slow(flow) {
        return Decision::slow();
    }
    let decision = match deliver::remembered(flow.hop, flow.dst) {
        Some((hop, endpoint)) => {
            if hop != flow.hop && !dry {
                flow.hop = hop;
            }
            deliver::local(ctx, packet, endpoint, Some(flow), l4)
        }
        None => deliver::remote(ctx, packet, flow.src, flow.dst, Some(flow), l4),
    };
    decision.of(flow.service, flow.backend)
}

/// The first packet of a flow to a service.
#[inline(always)]
fn first<A: Family>(
    ctx: &TcContext,
    side: Side,
    packet: &Packet<A>,
    frontend: &Frontend,
    dry: bool,
) -> Decision {
    let Some(service) = service::row::<A>(frontend.service) else { return Decision::slow() };
    let asks = frontend.flags & (Frontend::SOURCE_RANGES | Frontend::OUTSIDE) != 0
        || service.flags & (Service::AFFINITY | Service::PROXY) != 0;
    if asks || own_socket::may_answer(packet) {
        return Decision::slow();
    }
    let key = &packet.key;
    let Choice::Backend(backend) = service::choose_for(&service, key) else { return Decision::slow() };
    let destination = deliver::endpoint(backend.addr);
    let unusual = match &destination {
        // The second is a container that is its own server, at whichever of its addresses.
        Some((_, endpoint)) => policy::has(endpoint) || endpoint.ifindex == ctx.ifindex(),
        None => side == Side::Uplink,
    };
    if unusual || packet.ttl <= 1 || side == Side::Uplink && backend.addr == key.src {
        return Decision::slow();
    }
    // The flow is to begin only when its way is known.
    let mut ifindex = 0;
    if destination.is_none() {
        let Way::Out(found) = deliver::way(ctx, packet, key.src, backend.addr) else {
            return Decision::slow();
        };
        ifindex = found;
    }
    let hop = destination.as_ref().map_or(Hop::NONE, |(hop, _)| *hop);
    let mut after = *key;
    (after.dst, after.dst_port) = (backend.addr, backend.port);
    let serving = Serving { service: frontend.service, generation: service.generation, backend: backend.id };
    let Some(pair) = new_flow::pair(key, &after, &serving, hop) else { return Decision::slow() };
    // A trace only asks whether the answers' tuple is free.
    let created = if dry {
        !flow::is_known(&pair.request.twin(key.protocol))
    } else {
        matches!(new_flow::create(key, pair), Created::Yes)
    };
    if !created {
        return Decision::slow();
    }
    let request = Some(&pair.request);
    let decision = match destination {
        Some((_, endpoint)) => deliver::local(ctx, packet, endpoint, request, L4::Plain),
        None => deliver::out(ctx, packet, ifindex, request, L4::Plain),
    };
    decision.of(frontend.service, backend.id)
}

/// A packet to no service: between containers, nodes and the world.
#[inline(always)]
fn plain<A: Family>(ctx: &TcContext, side: Side, packet: &Packet<A>) -> Decision {
    let dst = packet.key.dst;
    // A connection whose answers a flow to some service would take for its own.
    if packet.opens_connection() && flow::is_known(&packet.key.reversed()) {
        return Decision::slow();
    }
    if let Some((_, endpoint)) = deliver::endpoint(dst) {
        if policy::has(endpoint) {
            return Decision::slow();
        }
        return deliver::local(ctx, packet, endpoint, None, L4::Plain);
    }
    // At a node's own address, only ranges are asked about further.
    if A::frontend(&FrontendKey::whole_address(dst)).is_some()
        && (service::owns(dst) || A::port_ranges(dst).is_some())
    {
        return Decision::slow();
    }
    if side == Side::Container && egress::is_foreign(dst) {
        return Decision::slow();
    }
    match side {
        Side::Container => deliver::remote(ctx, packet, packet.key.src, dst, None, L4::Plain),
        Side::Uplink => Decision::end(Verdict::StackForeign),
    }
}
