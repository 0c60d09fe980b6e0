//! Which service has a port that is no frontend of its own? Asked once per new
//! flow, in a program of its own, where a service's address would refuse it.

use aya_ebpf::programs::TcContext;
use causeway_schema::Frontend;

use crate::{
    act,
    decide::{self, Step},
    egress, gateway,
    loose::{self, Loose},
    pipeline::Side,
    refuse::Refuse,
    service, slow,
};

/// Goes on for the slow program with such a packet.
#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext) -> i32 {
    let Some(loose) = loose::held::<A>() else { return act::broken(ctx) };
    let side = loose.side;
    let step = first(ctx, side, loose);
    slow::go_on(ctx, side, loose, step)
}

/// The first packet of a flow to a range.
#[inline(always)]
fn first<A: Refuse>(ctx: &TcContext, side: Side, loose: &mut Loose<A>) -> Step<A> {
    let key = &loose.packet.key;
    let Some(range) = service::in_range(key) else {
        return if service::owns(key.dst) {
            Step::End(gateway::closed(key))
        } else if egress::leaves(ctx, side, loose) {
            Step::Leave
        } else {
            Step::Plain
        };
    };
    loose.offset = range.offset(key.dst_port);
    let frontend = Frontend { service: range.service, flags: u32::from(range.flags) };
    decide::first(ctx, side, loose, frontend, (range.first, range.last))
}
