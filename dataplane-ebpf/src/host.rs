//! How do a service's answers look whose backend is the node itself? Its stack
//! has delivered the requests to a socket of the node; what that says comes by
//! here on its way out, and gets the service's address again.

use aya_ebpf::programs::TcContext;
use causeway_schema::{Event, Flow, V4, V6, flow::flags};

use crate::{
    act,
    context::Context,
    count,
    family::Family,
    flow,
    fragment::{self, Went},
    loose::{self, Loose, Part},
    packet::{self, Frame},
    proxy,
    refuse::Refuse,
    rewrite,
};

/// Whatever becomes of it, the packet goes on.
#[inline(always)]
pub fn enter(ctx: &TcContext) -> i32 {
    // Who only passes was looked at where it came in.
    // SAFETY: the context is valid for the whole run of the program.
    if unsafe { (*ctx.skb.skb).ingress_ifindex } != 0 {
        return act::PASS;
    }
    let translated = match packet::frame(ctx) {
        Frame::Ipv4 => answer::<V4>(ctx),
        Frame::Ipv6 => answer::<V6>(ctx),
        _ => None,
    };
    if translated.is_some() {
        count::event(Event::HostAnswered);
    }
    act::PASS
}

#[inline(always)]
fn answer<A: Refuse>(ctx: &TcContext) -> Option<()> {
    let loose = loose::beside::<A>()?;
    A::read(ctx, loose).ok()?;
    let flow = flow_of(ctx, loose)?;
    if flow.flags & flags::REPLY == 0 {
        return None;
    }
    if flow.flags & flags::PROXY != 0 && loose.part != Part::Later {
        proxy::answer(ctx, loose, flow).ok()?;
    }
    rewrite::forward(ctx, None, Some(flow), loose.packet.key.protocol, loose.l4())?;
    fragment::remember(loose, Some(flow), ctx.ifindex());
    Some(())
}

#[inline(always)]
fn flow_of<A: Family>(ctx: &TcContext, loose: &Loose<A>) -> Option<&'static Flow<A>> {
    if loose.part == Part::Later {
        let Some(Went::By(flow)) = fragment::find(loose, ctx.ifindex()) else { return None };
        return Some(flow);
    }
    if !loose.has_ports() {
        return None;
    }
    // SAFETY: map values stay readable until the program ends (RCU).
    flow::find_now(&loose.packet, ctx.ifindex(), false).map(|flow| unsafe { &*flow })
}
