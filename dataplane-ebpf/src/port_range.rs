//! Which service has a port that is no frontend of its own? Asked once per new
//! flow, in a program of its own, where a service's address would refuse it.

use aya_ebpf::programs::TcContext;
use causeway_schema::{Frontend, Verdict};

use crate::{
    act::{self, Decision},
    decide::{self, Step},
    jump,
    loose::Loose,
    pipeline::Side,
    policy,
    refuse::Refuse,
    slow,
};

/// Goes on for the slow program with such a packet.
#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext) -> i32 {
    let Some(loose) = A::loose() else {
        return act::act(ctx, Decision::end(Verdict::DropInconsistent));
    };
    // SAFETY: as in `flow::pair`.
    let loose = unsafe { &mut *loose };
    let side = loose.side;
    let verdict = match first(ctx, side, loose) {
        Step::End(verdict) => verdict,
        Step::Affinity => {
            jump::to(ctx, side, A::TO_AFFINITY);
            Verdict::DropInconsistent
        }
        Step::Tunnel => {
            jump::to(ctx, side, A::TO_ENCAP);
            Verdict::DropInconsistent
        }
        _ => {
            let target = policy::next(side, loose);
            jump::to(ctx, side, target);
            Verdict::DropInconsistent
        }
    };
    slow::finish(ctx, side, loose, Decision::end(verdict))
}

/// The first packet of a flow to a range.
#[inline(always)]
fn first<A: Refuse>(ctx: &TcContext, side: Side, loose: &mut Loose<A>) -> Step<A> {
    let key = &loose.packet.key;
    let ranges = A::port_ranges(key.dst);
    let Some(range) = ranges.and_then(|ranges| ranges.find(key.dst_port, key.protocol)).copied() else {
        return Step::End(Verdict::DropNoFrontend);
    };
    loose.service = range.service;
    loose.offset = range.offset(key.dst_port);
    decide::first(ctx, side, loose, &Frontend { service: range.service, flags: u32::from(range.flags) })
}
