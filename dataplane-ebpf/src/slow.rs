//! What becomes of a packet that is not plain, or that needs more than a plain
//! one? The order is that of `pipeline`; here senders are told of refusals,
//! sources are translated, and headers may be anywhere.

use aya_ebpf::programs::TcContext;
use causeway_schema::{
    Event, Flow, Frontend, FrontendKey, Hop, Service, TraceRecord, Verdict, hash::flow_hash, protocol,
};

use crate::{
    act::{self, Decision, Exit},
    count,
    deliver::{self, Way},
    family::Family,
    flow::{self, Serving},
    fragment, icmp, jump,
    loose::{Loose, Part},
    nat::{self, Begins, Outcome},
    packet::Packet,
    pipeline::Side,
    refuse::{self, Refuse},
    rewrite,
    service::{self, Choice},
    source_range, trace,
};

/// What has to be done with a packet.
pub enum Step<A: 'static> {
    Translate(&'static Flow<A>),
    /// A new flow, to what `Loose::begins` says.
    Begin,
    /// A new flow to a service with affinity, whose backend is still to be chosen.
    Affinity,
    /// To no service: between containers, nodes and the world.
    Plain,
    /// A first fragment for which others wait.
    Release,
    End(Verdict),
}

#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext, side: Side) -> i32 {
    // In memory of the CPU's own: the stack has no room for it.
    let Some(loose) = A::loose() else {
        return act::act(ctx, Decision::end(Verdict::DropInconsistent));
    };
    // SAFETY: as in `flow::pair`.
    let loose = unsafe { &mut *loose };
    if let Err(verdict) = A::read(ctx, loose) {
        return act::act(ctx, Decision::end(verdict));
    }
    if loose.packet.key.protocol == A::ICMP && loose.part != Part::Later {
        jump::to(ctx, side, A::TO_ICMP);
    }
    let verdict = match decide(ctx, side, loose) {
        Step::Translate(flow) => {
            if let Some(pair) = A::pair() {
                // SAFETY: as in `flow::pair`.
                unsafe { (*pair).request = *flow };
                loose.translated = true;
            }
            jump::to(ctx, side, A::TO_CARRY);
            Verdict::DropInconsistent
        }
        Step::Begin => {
            loose.side = side;
            jump::to(ctx, side, A::TO_BEGIN);
            Verdict::DropInconsistent
        }
        Step::Affinity => {
            loose.side = side;
            jump::to(ctx, side, A::TO_AFFINITY);
            Verdict::DropInconsistent
        }
        Step::Plain => {
            jump::to(ctx, side, A::TO_CARRY);
            Verdict::DropInconsistent
        }
        Step::Release => {
            // Counted when it comes in again.
            jump::to(ctx, side, A::TO_RELEASE);
            Verdict::DropInconsistent
        }
        Step::End(verdict) => verdict,
    };
    finish(ctx, side, loose, Decision::end(verdict))
}

/// Begins the flow that the slow program has decided on, with another source
/// if it needs one.
#[inline(always)]
pub fn begin<A: Refuse>(ctx: &TcContext) -> i32 {
    let Some(loose) = A::loose() else {
        return act::act(ctx, Decision::end(Verdict::DropInconsistent));
    };
    // SAFETY: as in `flow::pair`.
    let loose = unsafe { &mut *loose };
    let verdict = match nat::create(&loose.packet.key, &mut loose.begins, trace::is_dry(ctx)) {
        Outcome::Created => {
            loose.translated = true;
            jump::to(ctx, loose.side, A::TO_CARRY);
            Verdict::DropInconsistent
        }
        Outcome::NoPort => Verdict::DropNoPort,
        Outcome::Full => Verdict::DropFlowTable,
    };
    act::act(ctx, Decision::end(verdict).of(loose.service, loose.backend))
}

/// Carries on what the slow program has decided: by the flow that it left
/// where flows are made, or as the packet is.
#[inline(always)]
pub fn carry<A: Refuse>(ctx: &TcContext, side: Side) -> i32 {
    let (Some(loose), Some(pair)) = (A::loose(), A::pair()) else {
        return act::act(ctx, Decision::end(Verdict::DropInconsistent));
    };
    // SAFETY: as in `flow::pair`.
    let (loose, flow) = unsafe { (&mut *loose, &(*pair).request) };
    let decision = if loose.translated { translated(ctx, loose, flow) } else { plain(ctx, side, loose) };
    finish(ctx, side, loose, decision)
}

/// ICMP, as the slow program has read it.
#[inline(always)]
pub fn icmp<A: Refuse>(ctx: &TcContext, side: Side) -> i32 {
    let Some(loose) = A::loose() else {
        return act::act(ctx, Decision::end(Verdict::DropInconsistent));
    };
    // SAFETY: as in `flow::pair`.
    let loose = unsafe { &mut *loose };
    let decision = match icmp::special(ctx, side, loose) {
        Some(decision) => decision,
        None if is_spoofed(ctx, side, loose) => Decision::end(Verdict::DropSpoofed),
        None if A::is_multicast(loose.packet.key.dst) => Decision::end(Verdict::StackMulticast),
        None => plain(ctx, side, loose),
    };
    finish(ctx, side, loose, decision)
}

/// Counts and acts, unless the sender has to be told.
#[inline(always)]
pub fn finish<A: Refuse>(ctx: &TcContext, side: Side, loose: &mut Loose<A>, decision: Decision) -> i32 {
    if refuse::is_told(side, decision.verdict) {
        loose.verdict = decision.verdict;
        jump::to(ctx, side, A::TO_REFUSE);
    }
    act::act(ctx, decision.of(loose.service, loose.backend))
}

/// Tells the sender of a drop that the slow program has decided on.
#[inline(always)]
pub fn refuse<A: Refuse>(ctx: &TcContext) -> i32 {
    let Some(loose) = A::loose() else {
        return act::act(ctx, Decision::end(Verdict::DropInconsistent));
    };
    // SAFETY: as in `flow::pair`.
    let loose = unsafe { &*loose };
    let mut decision = Decision::end(loose.verdict);
    if refuse::tell(ctx, loose) {
        if !trace::is_dry(ctx) {
            count::event(Event::Refused);
        }
        decision = Decision { verdict: loose.verdict, ..Decision::back(ctx, Verdict::Forwarded) };
    }
    act::act(ctx, decision.of(loose.service, loose.backend))
}

#[inline(always)]
fn decide<A: Refuse>(ctx: &TcContext, side: Side, loose: &mut Loose<A>) -> Step<A> {
    let dry = trace::is_dry(ctx);
    // SAFETY: the context is valid for the whole run of the program.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let later = loose.part == Part::Later && flow::is_tracked(loose.packet.key.protocol);
    if later && let Some(flow) = fragment::find(loose, ifindex) {
        return Step::Translate(flow);
    }
    if !dry && fragment::is_awaited(loose) {
        return Step::Release;
    }
    if loose.has_ports()
        && let Some(entry) = flow::find(&loose.packet, ifindex, dry)
    {
        // SAFETY: map values stay readable until the program ends (RCU).
        return Step::Translate(unsafe { &*entry });
    }
    if side == Side::Container && is_rogue(&loose.packet) {
        return Step::End(Verdict::DropRogueServer);
    }
    if is_spoofed(ctx, side, loose) {
        return Step::End(Verdict::DropSpoofed);
    }
    if A::is_multicast(loose.packet.key.dst) {
        return Step::End(Verdict::StackMulticast);
    }
    if later {
        return early(ctx, loose, ifindex, dry);
    }
    if !loose.has_ports() {
        return Step::Plain;
    }
    let key = &loose.packet.key;
    if let Some(frontend) = service::frontend(key) {
        loose.service = frontend.service;
        return first(side, loose, &frontend);
    }
    if loose.packet.opens_connection() && flow::is_known(&key.reversed()) && is_ours(ctx, side, loose) {
        // To a container's own address, but its answers would be taken for a
        // flow's to some service: it gets another source port.
        let serving = Serving { service: TraceRecord::NONE, generation: 0, backend: TraceRecord::NONE };
        loose.begins = Begins { after: *key, serving, hop: hop_of(key.dst) };
        return Step::Begin;
    }
    Step::Plain
}

/// Ports that DHCP servers send from (RFC 2131, RFC 8415), in memory's order.
const DHCP: [u16; 2] = [67_u16.to_be(), 547_u16.to_be()];

/// What a container that plays DHCP server sends.
#[inline(always)]
pub fn is_rogue<A: Family>(packet: &Packet<A>) -> bool {
    packet.key.protocol == protocol::UDP && DHCP.contains(&packet.key.src_port.raw())
}

/// From a container, with a source that is not its own. Who has no address yet
/// may say so to all, and what is link-local goes no further than the host.
#[inline(always)]
fn is_spoofed<A: Refuse>(ctx: &TcContext, side: Side, loose: &Loose<A>) -> bool {
    let key = &loose.packet.key;
    if side == Side::Uplink || deliver::is_own_source(ctx, key.src) {
        return false;
    }
    let stays = A::is_multicast(key.dst) || A::is_link_local(key.dst);
    !(stays && (key.src == A::UNSPECIFIED || A::is_link_local(key.src)))
}

/// A fragment without ports that comes before its first one.
#[inline(always)]
fn early<A: Refuse>(ctx: &TcContext, loose: &Loose<A>, ifindex: u32, dry: bool) -> Step<A> {
    if A::frontend(&FrontendKey::whole_address(loose.packet.key.dst)).is_none() {
        return Step::Plain;
    }
    let verdict = fragment::hold(ctx, loose, dry);
    if !dry && fragment::find(loose, ifindex).is_some() {
        // The first one went by on another CPU meanwhile, and saw nobody wait.
        return Step::Release;
    }
    Step::End(verdict)
}

/// The first packet of a flow to a service.
#[inline(always)]
fn first<A: Refuse>(side: Side, loose: &mut Loose<A>, frontend: &Frontend) -> Step<A> {
    let key = &loose.packet.key;
    if !source_range::is_open_to(frontend, key.src) {
        return Step::End(Verdict::DropSourceRange);
    }
    let Some(row) = service::row::<A>(loose.service) else {
        return Step::End(Verdict::DropInconsistent);
    };
    if row.flags & Service::AFFINITY != 0 {
        return Step::Affinity;
    }
    let hash = flow_hash(&key.src, key.src_port, &key.dst, key.dst_port, key.protocol);
    begin_with(side, loose, &row, service::choose(&row, hash))
}

/// The flow to begin with a backend.
#[inline(always)]
pub fn begin_with<A: Refuse>(side: Side, loose: &mut Loose<A>, row: &Service, choice: Choice<A>) -> Step<A> {
    let backend = match choice {
        Choice::Backend(backend) => backend,
        Choice::None => return Step::End(Verdict::DropNoBackend),
        Choice::Broken => return Step::End(Verdict::DropInconsistent),
    };
    let key = &loose.packet.key;
    loose.backend = backend.id;
    let hop = hop_of(backend.addr);
    let mut after = *key;
    (after.dst, after.dst_port) = (backend.addr, backend.port);
    if side == Side::Uplink && hop == Hop::NONE {
        // The answer must come back this way: it goes to whom it sees.
        after.src = A::node();
        if after.src == A::UNSPECIFIED {
            return Step::End(Verdict::DropRemoteBackend);
        }
    }
    if after.dst == after.src {
        // A container that is its own server: to itself it must look like
        // somebody whose answers come out through the gateway.
        after.src = A::HAIRPIN;
    }
    let serving = Serving { service: loose.service, generation: row.generation, backend: backend.id };
    loose.begins = Begins { after, serving, hop };
    Step::Begin
}

/// Whether a packet to no service goes on from here.
#[inline(always)]
fn is_ours<A: Refuse>(ctx: &TcContext, side: Side, loose: &Loose<A>) -> bool {
    let key = &loose.packet.key;
    deliver::endpoint(key.dst).is_some()
        || side == Side::Container
            && matches!(deliver::way(ctx, &loose.packet, key.src, key.dst), Way::Out(_))
}

#[inline(always)]
fn hop_of<A: Family>(address: A) -> Hop {
    deliver::endpoint(address).map_or(Hop::NONE, |(hop, _)| hop)
}

/// A packet of a known flow, or the first of a new one.
#[inline(always)]
fn translated<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>, flow: &Flow<A>) -> Decision {
    (loose.service, loose.backend) = (flow.service, flow.backend);
    let decision = match deliver::remembered(flow.hop, flow.dst) {
        Some((_, endpoint)) => deliver::local(ctx, &loose.packet, endpoint, Some(flow), loose.l4()),
        None => deliver::remote(ctx, &loose.packet, flow.src, flow.dst, Some(flow), loose.l4()),
    };
    let decision = or_fragmented(ctx, loose, Some(flow), decision);
    if !decision.verdict.is_drop() && !trace::is_dry(ctx) {
        fragment::remember(loose, flow);
    }
    decision
}

/// A packet to no service.
#[inline(always)]
fn plain<A: Refuse>(ctx: &TcContext, side: Side, loose: &Loose<A>) -> Decision {
    let dst = loose.packet.key.dst;
    if let Some((_, endpoint)) = deliver::endpoint(dst) {
        let decision = deliver::local(ctx, &loose.packet, endpoint, None, loose.l4());
        return or_fragmented(ctx, loose, None, decision);
    }
    if A::frontend(&FrontendKey::whole_address(dst)).is_some() {
        return Decision::end(Verdict::DropNoFrontend);
    }
    if side == Side::Uplink {
        return Decision::end(Verdict::StackForeign);
    }
    let decision = deliver::remote(ctx, &loose.packet, loose.packet.key.src, dst, None, loose.l4());
    or_fragmented(ctx, loose, None, decision)
}

/// A packet too long for its way that may be fragmented goes to the stack,
/// which does that, with its new addresses; other refusals stand.
#[inline(always)]
fn or_fragmented<A: Refuse>(
    ctx: &TcContext,
    loose: &Loose<A>,
    flow: Option<&Flow<A>>,
    decision: Decision,
) -> Decision {
    if !decision.is_slow() {
        return decision;
    }
    if decision.verdict != Verdict::DropTooBig || loose.dont_fragment || loose.packet.ttl <= 1 {
        return Decision::end(decision.verdict);
    }
    if flow.is_some() && rewrite::forward(ctx, None, flow, loose.packet.key.protocol, loose.l4()).is_none() {
        return Decision::end(Verdict::DropRewrite);
    }
    Decision::new(Verdict::Forwarded, Exit::Stack, 0)
}

/// Sends a first fragment and those that waited for it in anew.
#[inline(always)]
pub fn release<A: Family>(ctx: &TcContext) -> i32 {
    // What the slow program has read of the packet.
    if let Some(loose) = A::loose() {
        // SAFETY: as in `flow::pair`.
        fragment::release(ctx, unsafe { &*loose });
    }
    act::CLONED
}
