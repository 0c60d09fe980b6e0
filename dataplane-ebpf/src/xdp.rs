//! What can leave before the stack has seen it? Packets of established flows
//! that go out again by the interface they came by: to backends on other
//! nodes, and their answers. Everything else goes on to `from_uplink`, which
//! would have done the same with these. The one file that knows the actions
//! of XDP.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_SUCCESS,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    programs::XdpContext,
};
use causeway_schema::{Event, Hop, V4, V6, Verdict};

use crate::{
    context::Context,
    count, deliver,
    family::Family,
    flow,
    packet::{self, Frame, Packet},
    rewrite::{self, L4},
};

#[inline(always)]
pub fn enter(ctx: &XdpContext) -> u32 {
    let action = match packet::frame(ctx) {
        Frame::Ipv4 => packet::ipv4(ctx).and_then(|packet| carry::<V4>(ctx, &packet)),
        Frame::Ipv6 => packet::ipv6(ctx).and_then(|packet| carry::<V6>(ctx, &packet)),
        _ => None,
    };
    action.unwrap_or(XDP_PASS)
}

/// Turns a packet around. `None`: it is not one for here, and is as it came.
#[inline(always)]
fn carry<A: Family>(ctx: &XdpContext, packet: &Packet<A>) -> Option<u32> {
    if packet.ttl <= 1 {
        return None;
    }
    let entry = flow::find_settled(packet, ctx.ifindex())?;
    // SAFETY: map values stay readable until the program ends (RCU).
    let flow = unsafe { &*entry };
    if flow.hop != Hop::NONE {
        return None;
    }
    let (code, way) = deliver::look_up(ctx, packet, flow.src, flow.dst, 0);
    if code != BPF_FIB_LKUP_RET_SUCCESS || way.ifindex != ctx.ifindex() {
        return None;
    }
    // The port is promiscuous where a bridge floods: what is not for us is
    // none of ours.
    let ethernet = packet::bytes(ctx, 0, 12)?;
    // SAFETY: `bytes` has checked both addresses.
    unsafe {
        if packet::read::<[u8; 6]>(ethernet, 0) != way.smac {
            return None;
        }
        packet::write_mac(ethernet, way.dmac);
        packet::write_mac(ethernet.add(6), way.smac);
    }
    if rewrite::forward(ctx, None, Some(flow), packet.key.protocol, L4::Plain).is_none() {
        count::verdict(Verdict::DropRewrite);
        return Some(XDP_DROP);
    }
    count::verdict(Verdict::Forwarded);
    count::event(Event::XdpForwarded);
    Some(XDP_TX)
}
