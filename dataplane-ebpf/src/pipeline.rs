//! What is decided, in which order? Flow, service, container, route.

use aya_ebpf::programs::TcContext;
use causeway_schema::{Flow, Frontend, FrontendKey, Hop, Verdict, checksum, flow::flags, hash::flow_hash};

use crate::{
    act::Decision,
    arp, deliver,
    family::Family,
    flow,
    packet::{self, Frame, Packet},
    service::{self, Choice, Chosen},
    trace,
};

/// Which hook the packet came through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Container,
    Uplink,
}

/// A frame the NIC took for another host's (`PACKET_OTHERHOST`).
const PACKET_OTHERHOST: u32 = 3;

#[inline(always)]
pub fn run(ctx: &TcContext, side: Side) -> Decision {
    // SAFETY: the context is valid for the whole run of the program.
    if side == Side::Uplink && unsafe { (*ctx.skb.skb).pkt_type } == PACKET_OTHERHOST {
        return Decision::end(Verdict::StackForeign);
    }
    match packet::frame(ctx) {
        Frame::Ipv4 => match packet::ipv4(ctx) {
            Ok(packet) if packet.key.dst.0[0] >= 224 => Decision::end(Verdict::StackMulticast),
            Ok(packet) => ip(ctx, side, &packet),
            Err(verdict) => Decision::end(verdict),
        },
        Frame::Arp if side == Side::Container => arp::answer(ctx),
        Frame::Arp => Decision::end(Verdict::StackNotIpv4),
        Frame::End(verdict) => Decision::end(verdict),
    }
}

#[inline(always)]
fn ip<A: Family>(ctx: &TcContext, side: Side, packet: &Packet<A>) -> Decision {
    let dry = trace::is_dry(ctx);
    if flow::is_tracked(packet.key.protocol) && packet.key.src_port.raw() != 0 {
        if packet.is_plain_l4() {
            if let Some(entry) = flow::find(packet, dry) {
                return established(ctx, packet, entry, dry);
            }
        } else if let Some(service) = flow::service_of(&packet.key) {
            return Decision { service, ..Decision::end(unusual(packet)) };
        }
        let key = FrontendKey::new(packet.key.dst, packet.key.dst_port, packet.key.protocol);
        if let Some(frontend) = A::frontend(&key) {
            let mut decision = first(ctx, side, packet, &frontend, dry);
            decision.service = frontend.service;
            return decision;
        }
    }
    plain(ctx, side, packet)
}

/// A packet of a flow we know.
#[inline(always)]
fn established<A: Family>(ctx: &TcContext, packet: &Packet<A>, entry: *mut Flow<A>, dry: bool) -> Decision {
    // SAFETY: map values stay readable until the program ends (RCU).
    let flow = unsafe { &mut *entry };
    let (src, dst) = if flow.flags & flags::REPLY == 0 {
        (packet.key.src, flow.addr)
    } else {
        (flow.addr, packet.key.dst)
    };
    let mut decision = match deliver::remembered(flow.hop, dst) {
        Some((hop, endpoint)) => {
            if hop != flow.hop && !dry {
                flow.hop = hop;
            }
            deliver::local(ctx, packet, &endpoint, Some(flow))
        }
        None => deliver::remote(ctx, packet, src, dst, Some(flow)),
    };
    decision.service = flow.service;
    decision.backend = flow.backend;
    decision
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
    if !packet.is_plain_l4() {
        return Decision::end(unusual(packet));
    }
    let Some(service) = service::row(frontend.service) else {
        return Decision::end(Verdict::DropInconsistent);
    };
    let key = &packet.key;
    let hash = flow_hash(&key.src, key.src_port, &key.dst, key.dst_port, key.protocol);
    let backend: Chosen<A> = match service::choose(&service, hash) {
        Choice::Backend(backend) => backend,
        Choice::None => return Decision::end(Verdict::DropNoBackend),
        Choice::Broken => return Decision::end(Verdict::DropInconsistent),
    };
    let destination = deliver::endpoint(backend.addr);
    if side == Side::Uplink && destination.is_none() {
        return Decision::end(Verdict::DropRemoteBackend);
    }

    let last_seen = flow::now();
    let request = Flow {
        addr: backend.addr,
        port: backend.port,
        flags: 0,
        service: frontend.service,
        generation: service.generation,
        backend: backend.id,
        hop: destination.map_or(Hop::NONE, |(hop, _)| hop),
        last_seen,
        addr_delta: checksum::addr_difference(&key.dst, &backend.addr),
    };
    let reply = Flow {
        addr: key.dst,
        port: key.dst_port,
        flags: flags::REPLY,
        hop: A::endpoint_hop(key.src).unwrap_or(Hop::NONE),
        addr_delta: checksum::addr_difference(&backend.addr, &key.dst),
        ..request
    };
    if !dry && !flow::create(key, &request, &reply) {
        return Decision::end(Verdict::DropFlowTable);
    }
    let mut decision = match destination {
        Some((_, endpoint)) => deliver::local(ctx, packet, &endpoint, Some(&request)),
        None => deliver::remote(ctx, packet, key.src, backend.addr, Some(&request)),
    };
    decision.backend = backend.id;
    decision
}

/// Why a packet of a service cannot be translated.
#[inline(always)]
fn unusual<A: Family>(packet: &Packet<A>) -> Verdict {
    if packet.options { Verdict::DropOptions } else { Verdict::DropFragment }
}

/// A packet to no service: between containers, nodes and the world.
#[inline(always)]
fn plain<A: Family>(ctx: &TcContext, side: Side, packet: &Packet<A>) -> Decision {
    let dst = packet.key.dst;
    if let Some((_, endpoint)) = deliver::endpoint(dst) {
        return deliver::local(ctx, packet, &endpoint, None);
    }
    if A::frontend(&FrontendKey::whole_address(dst)).is_some() {
        return Decision::end(Verdict::DropNoFrontend);
    }
    match side {
        Side::Container => deliver::remote(ctx, packet, packet.key.src, dst, None),
        Side::Uplink => Decision::end(Verdict::StackForeign),
    }
}
