//! What becomes of a packet that is not plain, or that needs more than a plain
//! one? The order is that of `pipeline`; here senders are told of refusals,
//! sources are translated, and headers may be anywhere.

use aya_ebpf::programs::TcContext;
use causeway_schema::{Event, Flow, FrontendKey, Hop, TraceRecord, Verdict, hash::flow_hash};

use crate::{
    act::{self, Decision, Exit},
    count, deliver,
    flow::{self, Serving},
    icmp,
    loose::{Loose, Part, Read},
    nat::{self, Outcome},
    pipeline::Side,
    refuse, rewrite,
    service::{self, Choice},
    trace,
};

#[inline(always)]
pub fn run<A: refuse::Refuse>(ctx: &TcContext, side: Side) -> i32 {
    // In memory of the CPU's own: the stack has no room for it.
    let Some(loose) = A::loose() else {
        return act::act(ctx, Decision::end(Verdict::DropInconsistent));
    };
    // SAFETY: as in `flow::pair`.
    let loose = unsafe { &mut *loose };
    if let Err(verdict) = A::read(ctx, loose) {
        return act::act(ctx, Decision::end(verdict));
    }
    let mut decision = decide(ctx, side, loose);
    if decision.verdict.is_drop() && refuse::tell(ctx, side, loose, decision.verdict) {
        if !trace::is_dry(ctx) {
            count::event(Event::Refused);
        }
        decision = Decision { verdict: decision.verdict, ..Decision::back(ctx, Verdict::Forwarded) }
            .of(decision.service, decision.backend);
    }
    act::act(ctx, decision)
}

#[inline(always)]
fn decide<A: refuse::Refuse>(ctx: &TcContext, side: Side, loose: &Loose<A>) -> Decision {
    let packet = &loose.packet;
    if packet.key.protocol == A::ICMP && loose.part != Part::Later {
        if let Some(decision) = icmp::special(ctx, side, loose) {
            return decision;
        }
    }
    if A::is_multicast(packet.key.dst) {
        return Decision::end(Verdict::StackMulticast);
    }
    if loose.has_ports() {
        let dry = trace::is_dry(ctx);
        if let Some(entry) = flow::find(packet, dry) {
            // SAFETY: map values stay readable until the program ends (RCU).
            let flow = unsafe { &*entry };
            return translated(ctx, loose, flow);
        }
        let key = FrontendKey::new(packet.key.dst, packet.key.dst_port, packet.key.protocol);
        if let Some(frontend) = A::frontend(&key) {
            let decision = first(ctx, side, loose, frontend.service, dry);
            return decision.of(frontend.service, decision.backend);
        }
        if packet.opens_connection() && flow::is_known(&packet.key.reversed()) {
            return beside(ctx, loose, dry);
        }
    }
    plain(ctx, side, loose)
}

/// A packet of a known flow, or the first of a new one.
#[inline(always)]
fn translated<A: Read>(ctx: &TcContext, loose: &Loose<A>, flow: &Flow<A>) -> Decision {
    let decision = match deliver::remembered(flow.hop, flow.dst) {
        Some((_, endpoint)) => deliver::local(ctx, &loose.packet, endpoint, Some(flow), loose.l4()),
        None => deliver::remote(ctx, &loose.packet, flow.src, flow.dst, Some(flow), loose.l4()),
    };
    too_far_or_big(ctx, loose, Some(flow), decision).of(flow.service, flow.backend)
}

/// The first packet of a flow to a service.
#[inline(always)]
fn first<A: Read>(ctx: &TcContext, side: Side, loose: &Loose<A>, service: u32, dry: bool) -> Decision {
    let key = &loose.packet.key;
    let Some(row) = service::row::<A>(service) else {
        return Decision::end(Verdict::DropInconsistent);
    };
    let hash = flow_hash(&key.src, key.src_port, &key.dst, key.dst_port, key.protocol);
    let backend = match service::choose::<A>(&row, hash) {
        Choice::Backend(backend) => backend,
        Choice::None => return Decision::end(Verdict::DropNoBackend),
        Choice::Broken => return Decision::end(Verdict::DropInconsistent),
    };
    let hop = A::endpoint_hop(backend.addr).unwrap_or(Hop::NONE);
    if side == Side::Uplink && hop == Hop::NONE {
        return Decision::end(Verdict::DropRemoteBackend);
    }
    let mut after = *key;
    (after.dst, after.dst_port) = (backend.addr, backend.port);
    if after.dst == after.src {
        // A container that is its own server: to itself it must look like
        // somebody whose answers come out through the gateway.
        after.src = A::HAIRPIN;
    }
    let serving = Serving { service, generation: row.generation, backend: backend.id };
    let decision = match nat::create(key, after, &serving, hop, dry) {
        Outcome::Created(flow) => translated(ctx, loose, flow),
        Outcome::NoPort => Decision::end(Verdict::DropNoPort),
        Outcome::Full => Decision::end(Verdict::DropFlowTable),
    };
    decision.of(service, backend.id)
}

/// A connection to a container's own address whose answers a flow of some
/// service would take for its own: it gets another source port.
#[inline(always)]
fn beside<A: Read>(ctx: &TcContext, loose: &Loose<A>, dry: bool) -> Decision {
    let key = &loose.packet.key;
    let hop = A::endpoint_hop(key.dst).unwrap_or(Hop::NONE);
    let serving = Serving { service: TraceRecord::NONE, generation: 0, backend: TraceRecord::NONE };
    match nat::create(key, *key, &serving, hop, dry) {
        Outcome::Created(flow) => translated(ctx, loose, flow),
        Outcome::NoPort => Decision::end(Verdict::DropNoPort),
        Outcome::Full => Decision::end(Verdict::DropFlowTable),
    }
}

/// A packet to no service: between containers, nodes and the world.
#[inline(always)]
fn plain<A: Read>(ctx: &TcContext, side: Side, loose: &Loose<A>) -> Decision {
    let dst = loose.packet.key.dst;
    if let Some((_, endpoint)) = deliver::endpoint(dst) {
        let decision = deliver::local(ctx, &loose.packet, endpoint, None, loose.l4());
        return too_far_or_big(ctx, loose, None, decision);
    }
    if A::frontend(&FrontendKey::whole_address(dst)).is_some() {
        let verdict = if loose.part == Part::Later { Verdict::DropFragment } else { Verdict::DropNoFrontend };
        return Decision::end(verdict);
    }
    if side == Side::Uplink {
        return Decision::end(Verdict::StackForeign);
    }
    let decision = deliver::remote(ctx, &loose.packet, loose.packet.key.src, dst, None, loose.l4());
    too_far_or_big(ctx, loose, None, decision)
}

/// What the plain path leaves open: a spent TTL, and a packet too long for its
/// way. One that may be fragmented goes to the stack, which does that, with its
/// new addresses.
#[inline(always)]
fn too_far_or_big<A: Read>(
    ctx: &TcContext,
    loose: &Loose<A>,
    flow: Option<&Flow<A>>,
    decision: Decision,
) -> Decision {
    if !decision.is_slow() {
        return decision;
    }
    if loose.packet.ttl <= 1 {
        return Decision::end(Verdict::DropTtl);
    }
    if loose.dont_fragment {
        return Decision::end(Verdict::DropTooBig);
    }
    if flow.is_some() && rewrite::forward(ctx, None, flow, loose.packet.key.protocol, loose.l4()).is_none() {
        return Decision::end(Verdict::DropRewrite);
    }
    Decision::new(Verdict::Forwarded, Exit::Stack, 0)
}
