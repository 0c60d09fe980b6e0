//! May these two talk? Asked once per flow, in a program of its own, of
//! endpoints that have a policy; others pay one test of a flag.

use aya_ebpf::programs::TcContext;
use causeway_schema::{
    Endpoint, FlowKey, Hop, Port, TraceRecord, Verdict,
    nat::Ports,
    policy::{self, OTHERS, Outcome, PolicyStep, SetKey, Standing},
    protocol,
};

use crate::{
    act::{self, Decision},
    deliver::{self, Way},
    family::Family,
    flow, jump,
    loose::{self, Loose, Part},
    maps,
    nat::Begins,
    new_flow::Serving,
    packet::Packet,
    pipeline::Side,
    refuse::Refuse,
    slow, trace,
};

/// Whether anything is asked about what an endpoint sends and gets.
#[inline(always)]
pub fn has(endpoint: &Endpoint) -> bool {
    endpoint.policy != 0
}

/// Whether anything is to be asked about a packet that begins a flow to `hop`.
#[inline(always)]
pub fn applies<A: Family>(side: Side, src: A, hop: Hop) -> bool {
    deliver::tenant::<A>(hop).is_some_and(has)
        || side == Side::Container && deliver::endpoint(src).is_some_and(|(_, row)| has(row))
}

/// Who goes on with a flow that is to begin.
#[inline(always)]
pub fn next<A: Refuse>(side: Side, loose: &mut Loose<A>) -> jump::Target {
    (loose.side, loose.question) = (side, Question::Sends);
    if applies(side, loose.packet.key.src, loose.begins.hop) { A::TO_POLICY } else { A::TO_BEGIN }
}

/// Whether anything is to be asked about a packet to no service; if so, the
/// flow that it begins is.
#[inline(always)]
pub fn asks<A: Refuse>(side: Side, loose: &mut Loose<A>) -> bool {
    let key = loose.packet.key;
    let hop = deliver::hop(key.dst);
    if !applies(side, key.src, hop) {
        return false;
    }
    loose.side = side;
    loose.question = if is_answer(&loose.packet) { Question::AnswerSends } else { Question::Sends };
    loose.begins =
        Begins { after: key, serving: Serving::NONE, hop, ports: Ports::ALL, attempt: 0, flags: 0 };
    true
}

/// Whether a packet of a connection that nobody has seen begin may be one of the
/// side that was called: clients have the higher ports. If it began before anybody
/// asked, it is judged as the other side's; or else who may not call could go on by
/// answering.
#[inline(always)]
fn is_answer<A: Family>(packet: &Packet<A>) -> bool {
    let key = &packet.key;
    let called = key.src_port.get() < key.dst_port.get() || tells_nothing(key);
    packet.is_tcp() && !packet.opens_connection() && called
}

/// Ports that kernels give to clients (`ip_local_port_range`), from here on.
const CLIENTS: u16 = 32_768;

/// Whether the ports do not say who was called: either side may have been, so both
/// must be allowed to call.
#[inline(always)]
fn tells_nothing<A: Family>(key: &FlowKey<A>) -> bool {
    key.src_port.get() >= CLIENTS && key.dst_port.get() >= CLIENTS
}

/// What is asked, one question at a run: the program jumps to itself for the
/// next, so that the verifier walks the tables once.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Question {
    /// May the sender send there?
    Sends,
    /// May the receiver get it from there?
    Gets,
    /// Of [an answer](is_answer): might the other side have begun it?
    AnswerSends,
    AnswerGets,
}

/// Goes on with a flow that the slow programs have decided on.
#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext) -> i32 {
    let Some(loose) = loose::held::<A>() else { return act::broken(ctx) };
    let side = loose.side;
    if loose.question == Question::Sends && names_sctp(ctx, loose) && slow::known(ctx, loose).is_some() {
        jump::to(ctx, side, A::TO_CARRY);
    }
    let (target, verdict) = match ask(ctx, loose) {
        Some(Outcome::Allow | Outcome::Audit) => allowed(loose),
        Some(Outcome::Deny) => (None, denied(loose, Verdict::DropPolicy)),
        Some(Outcome::Reject) => (None, denied(loose, Verdict::DropPolicyReject)),
        None => (None, Verdict::DropInconsistent),
    };
    if let Some(target) = target {
        jump::to(ctx, side, target);
    }
    if verdict.is_drop() && loose.cuts {
        loose.verdict = verdict;
        jump::to(ctx, side, A::TO_REFUSE);
    }
    slow::finish(ctx, side, loose, Decision::end(verdict))
}

/// Reads the ports of SCTP, which begins with them as TCP does. As nothing of it
/// is ever translated, it has flows only here, where answers have to be told
/// from what nobody has asked for.
#[inline(always)]
fn names_sctp<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>) -> bool {
    if loose.packet.key.protocol != protocol::SCTP || loose.part == Part::Later || loose.l4 + 4 > loose.end {
        return false;
    }
    let Ok(ports) = ctx.load::<[Port; 2]>(loose.l4 as usize) else { return false };
    for key in [&mut loose.packet.key, &mut loose.begins.after] {
        [key.src_port, key.dst_port] = ports;
    }
    true
}

/// Who goes on when a question is answered with yes.
#[inline(always)]
fn allowed<A: Refuse>(loose: &mut Loose<A>) -> (Option<jump::Target>, Verdict) {
    let target = match loose.question {
        Question::Sends => {
            loose.question = Question::Gets;
            A::TO_POLICY
        }
        Question::AnswerSends => {
            loose.question = Question::AnswerGets;
            A::TO_POLICY
        }
        Question::AnswerGets if tells_nothing(&loose.packet.key) => {
            loose.question = Question::Sends;
            A::TO_POLICY
        }
        // Whose packets open nothing are asked about one by one, until the side
        // that may begin has spoken.
        Question::AnswerGets => A::TO_CARRY,
        // Without ports there is nothing to tell a flow by; without an answer to
        // wait for, nothing to remember.
        _ if loose.packet.key.src_port == Port::NONE || loose.stays && is_plain(loose) => A::TO_CARRY,
        _ => A::TO_BEGIN,
    };
    (Some(target), Verdict::DropInconsistent)
}

/// What is done when it is answered with no.
#[inline(always)]
fn denied<A: Refuse>(loose: &mut Loose<A>, verdict: Verdict) -> Verdict {
    // It was allowed once, or began before anybody asked: both sides are told.
    loose.cuts = loose.packet.is_tcp() && !loose.packet.opens_connection() && is_plain(loose);
    verdict
}

/// Whether it is to no service.
#[inline(always)]
fn is_plain<A: Family>(loose: &Loose<A>) -> bool {
    loose.begins.serving.service == TraceRecord::NONE
}

/// The answer to the question at hand; `None` when a table names a row that is
/// not there.
#[inline(always)]
fn ask<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>) -> Option<Outcome> {
    let (before, after, hop) = (&loose.packet.key, &loose.begins.after, loose.begins.hop);
    let own = match loose.side {
        Side::Container => A::endpoint_hop(before.src).unwrap_or(Hop::NONE),
        Side::Uplink => Hop::NONE,
    };
    if matches!(loose.question, Question::Sends | Question::AnswerSends) {
        loose.standing = standing();
        // To the node itself, which every container may always talk to.
        loose.stays = loose.side == Side::Container
            && hop == Hop::NONE
            && matches!(deliver::way(ctx, &loose.packet, before.src, after.dst), Way::Host);
    }
    // A container may always talk to itself, too.
    if own == hop || loose.stays {
        return Some(Outcome::Allow);
    }
    // Echo messages have ports only for us.
    let ported = flow::is_tracked(before.protocol);
    let [from, to] = if ported { [before.src_port, after.dst_port] } else { [Port::NONE; 2] };
    let (whose, egress, peer, port) = match loose.question {
        Question::Sends => (own, true, after.dst, to),
        Question::Gets => (hop, false, before.src, to),
        Question::AnswerSends => (hop, true, before.src, from),
        Question::AnswerGets => (own, false, before.dst, from),
    };
    let Some(endpoint) = deliver::tenant::<A>(whose).filter(|endpoint| has(endpoint)) else {
        return Some(Outcome::Allow);
    };
    let standing = loose.standing;
    // SAFETY: the row lives as long as the map, and is written as one word.
    let row = unsafe { core::ptr::read_volatile(maps::POLICIES.get_ptr(standing.row(endpoint.policy))?) };
    let set = if egress { row.egress } else { row.ingress };
    if set == 0 {
        return Some(Outcome::Allow);
    }
    let step = find::<A>(set, standing.generation(), peer, before.protocol, port)?;
    note(step.rule(), trace::is_dry(ctx));
    Some(step.outcome())
}

/// What counts now.
#[inline(always)]
fn standing() -> Standing {
    // SAFETY: a row of an array; the agent writes it as one word.
    maps::POLICY.get_ptr(0).map_or(Standing(0), |row| unsafe { core::ptr::read_volatile(row) })
}

/// What a set says about a peer.
#[inline(always)]
fn find<A: Family>(set: u32, generation: u32, peer: A, protocol: u8, port: Port) -> Option<PolicyStep> {
    let class = A::class(generation, peer).unwrap_or(OTHERS);
    // SAFETY: rows are written whole, and never changed.
    let steps = unsafe {
        match maps::SETS.get(SetKey { set, class }) {
            Some(steps) => *steps,
            None => *maps::SETS.get(SetKey { set, class: OTHERS })?,
        }
    };
    policy::find(steps, policy::place(protocol, port), |index| maps::STEPS.get(index).copied())
}

/// Which rule has decided.
#[inline(always)]
fn note(rule: u32, dry: bool) {
    if dry {
        trace::rule(rule);
    } else if let Some(counter) = maps::RULES.get_ptr_mut(rule) {
        // SAFETY: the row belongs to this CPU.
        unsafe { *counter += 1 };
    }
}
