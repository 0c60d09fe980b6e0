//! How is a packet taken further that is not plain, or that needs more than a
//! plain one? By programs that jump to one another; here senders are told of
//! refusals, sources are translated, and headers may be anywhere.

use aya_ebpf::programs::TcContext;
use causeway_schema::{Event, Flow, Verdict, flow::flags};

use crate::{
    act::{self, Decision, Exit},
    context::Context,
    count,
    decide::{self, Step},
    deliver, egress,
    family::Family,
    flow, fragment, gateway, icmp, jump,
    loose::{self, Loose, Part},
    nat::{self, Outcome},
    outer_error,
    pipeline::Side,
    policy, proxy,
    refuse::{self, Refuse},
    rewrite, service, trace,
};

#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext, side: Side) -> i32 {
    // In memory of the CPU's own: the stack has no room for it.
    let Some(loose) = loose::held::<A>() else { return act::broken(ctx) };
    if let Err(verdict) = A::read(ctx, loose) {
        return act::act(ctx, Decision::end(verdict));
    }
    if loose.packet.key.protocol == A::ICMP && loose.part != Part::Later {
        jump::to(ctx, side, A::TO_ICMP);
    }
    let step = decide::decide(ctx, side, loose);
    go_on(ctx, side, loose, step)
}

/// Does what has been decided about a packet, or hands it to who does.
#[inline(always)]
pub fn go_on<A: Refuse>(ctx: &TcContext, side: Side, loose: &mut Loose<A>, step: Step<A>) -> i32 {
    loose.side = side;
    let target = match step {
        Step::Translate(flow) => {
            if let Some(pair) = A::pair() {
                // SAFETY: as in `new_flow::pair`.
                unsafe { (*pair).request = *flow };
                loose.translated = true;
            }
            carrier::<A>(flow.flags)
        }
        Step::Again => A::TO_SLOW,
        Step::Begin => policy::next(side, loose),
        Step::Leave => A::TO_EGRESS,
        Step::Affinity => A::TO_AFFINITY,
        Step::PortRange => A::TO_PORT_RANGE,
        Step::Tunnel => A::TO_ENCAP,
        Step::Plain if side == Side::Uplink && loose.packet.key.protocol == A::WITHIN => A::TO_DECAP,
        Step::Plain if policy::asks(side, loose) => A::TO_POLICY,
        Step::Plain | Step::Follow => A::TO_CARRY,
        // Counted when it comes in again.
        Step::Release => A::TO_RELEASE,
        Step::End(verdict) => return finish(ctx, side, loose, Decision::end(verdict)),
    };
    jump::to(ctx, side, target);
    finish(ctx, side, loose, Decision::end(Verdict::DropInconsistent))
}

/// Who goes on with a packet of a flow that has these flags.
#[inline(always)]
pub fn carrier<A: Family>(flags: u16) -> jump::Target {
    match flags & (flags::TUNNELLED | flags::EGRESS | flags::PROXY) {
        0 => A::TO_CARRY,
        flags::TUNNELLED => A::TO_ENCAP,
        flags::EGRESS => A::TO_EGRESS,
        _ => A::TO_PROXY,
    }
}

/// Begins the flow that the slow program has decided on, with another source
/// if it needs one.
#[inline(always)]
pub fn begin<A: Refuse>(ctx: &TcContext) -> i32 {
    let Some(loose) = loose::held::<A>() else { return act::broken(ctx) };
    if !proxy::may_begin(ctx, loose) {
        return finish(ctx, loose.side, loose, Decision::end(Verdict::DropExpired));
    }
    let verdict = match nat::create(&loose.packet.key, &mut loose.begins, trace::is_dry(ctx)) {
        Outcome::Created => {
            loose.translated = true;
            if loose.unwrapped && fragment::is_awaited(loose) {
                jump::to(ctx, loose.side, A::TO_RELEASE);
            }
            jump::to(ctx, loose.side, carrier::<A>(loose.begins.flags));
            Verdict::DropInconsistent
        }
        Outcome::Again => {
            jump::to(ctx, loose.side, A::TO_BEGIN);
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
    let (Some(loose), Some(pair)) = (loose::held::<A>(), A::pair()) else { return act::broken(ctx) };
    // SAFETY: as in `new_flow::pair`.
    let flow = unsafe { &(*pair).request };
    let decision = if loose.translated { translated(ctx, loose, flow) } else { plain(ctx, side, loose) };
    let is_asked_for = loose.translated || fragment::may_be_answer(side, &loose.packet.key);
    if is_asked_for && !decision.verdict.is_drop() && !trace::is_dry(ctx) {
        fragment::remember(loose, if loose.translated { Some(flow) } else { None }, ctx.ifindex());
    }
    finish(ctx, side, loose, decision)
}

/// Who goes on with a packet whose ports the first slow program does not read, if
/// it is of a flow; that is left where flows are made.
#[inline(always)]
pub fn known<A: Family>(ctx: &TcContext, loose: &mut Loose<A>) -> Option<jump::Target> {
    let entry = flow::find_now(&loose.packet, ctx.ifindex(), trace::is_dry(ctx))?;
    if let Some(pair) = A::pair() {
        // SAFETY: as in `new_flow::pair`, and map values stay readable.
        unsafe { (*pair).request = *entry };
        loose.translated = true;
    }
    // SAFETY: as above.
    Some(carrier::<A>(unsafe { (*entry).flags }))
}

/// ICMP, as the slow program has read it.
#[inline(always)]
pub fn icmp<A: Refuse>(ctx: &TcContext, side: Side) -> i32 {
    let Some(loose) = loose::held::<A>() else { return act::broken(ctx) };
    if side == Side::Uplink
        && let Some(verdict) = outer_error::read(ctx, loose)
    {
        return finish(ctx, side, loose, Decision::end(verdict));
    }
    let decision = match icmp::special(ctx, side, loose) {
        Some(decision) => decision,
        None if decide::is_spoofed(ctx, side, loose) => Decision::end(Verdict::DropSpoofed),
        None if A::is_multicast(loose.packet.key.dst) => Decision::end(Verdict::StackMulticast),
        None => match egress::echo(ctx, side, loose) {
            Some(target) => {
                jump::to(ctx, side, target);
                Decision::end(Verdict::DropInconsistent)
            }
            None if policy::asks(side, loose) => {
                jump::to(ctx, side, A::TO_POLICY);
                Decision::end(Verdict::DropInconsistent)
            }
            None => plain(ctx, side, loose),
        },
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
    let Some(loose) = loose::held::<A>() else { return act::broken(ctx) };
    let mut decision = Decision::end(loose.verdict);
    if loose.cuts {
        if let Some(cut) = refuse::cut_off(ctx, loose) {
            if !trace::is_dry(ctx) {
                count::event(Event::Refused);
            }
            decision = Decision { verdict: loose.verdict, ..cut };
        }
    } else if refuse::tell(ctx, loose) {
        if !trace::is_dry(ctx) {
            count::event(Event::Refused);
        }
        let back = match loose.unwrapped {
            true => refuse::home(ctx, loose),
            false => Decision::back(ctx, Verdict::Forwarded),
        };
        decision = Decision { verdict: loose.verdict, ..back };
    }
    act::act(ctx, decision.of(loose.service, loose.backend))
}

/// A packet of a known flow, or the first of a new one.
#[inline(always)]
fn translated<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>, flow: &Flow<A>) -> Decision {
    (loose.service, loose.backend) = (flow.service, flow.backend);
    let decision = match deliver::remembered(flow.hop, flow.dst) {
        Some((_, endpoint)) => deliver::local(ctx, &loose.packet, endpoint, Some(flow), loose.l4()),
        None => deliver::remote(ctx, &loose.packet, flow.src, flow.dst, Some(flow), loose.l4()),
    };
    or_fragmented(ctx, loose, Some(flow), decision)
}

/// A packet to no service.
#[inline(always)]
fn plain<A: Refuse>(ctx: &TcContext, side: Side, loose: &Loose<A>) -> Decision {
    let dst = loose.packet.key.dst;
    if let Some((_, endpoint)) = deliver::endpoint(dst) {
        let decision = deliver::local(ctx, &loose.packet, endpoint, None, loose.l4());
        return or_fragmented(ctx, loose, None, decision);
    }
    if service::owns(dst) {
        return Decision::end(gateway::closed(&loose.packet.key));
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
    if let Some(loose) = loose::held::<A>() {
        fragment::release(ctx, loose);
    }
    act::CLONED
}
