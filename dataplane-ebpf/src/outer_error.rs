//! What does a client learn when its packet is lost in an outer header? What
//! it would have been told without (RFC 2003, section 4): the packet that the
//! error is about gets back to be itself, and is refused.

use aya_ebpf::{
    bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, helpers::bpf_skb_adjust_room, programs::TcContext,
};
use causeway_schema::{Verdict, flow::flags};
use network_types::eth::EthHdr;

use crate::{
    encap::SAME,
    flow,
    icmp::{self, Quoted},
    loose::{Loose, Part},
    refuse::{self, Refuse},
};

/// Makes an error about a packet of ours in an outer header that packet, as far
/// as the error has it; what is to be told to its sender.
#[inline(always)]
pub fn read<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>) -> Option<Verdict> {
    let kind: u8 = ctx.load(loose.l4 as usize).ok()?;
    if loose.packet.key.dst != A::node() || !A::is_error(kind) {
        return None;
    }
    let Quoted { src, protocol, payload, .. } = A::quoted(ctx, loose.l4 + icmp::HEADER)?;
    if src != A::node() || protocol != A::WITHIN {
        return None;
    }
    let (inner, _) = A::embedded(ctx, payload)?;
    let flow = flow::lookup(&inner)?;
    // SAFETY: map values stay readable until the program ends (RCU).
    let flow = unsafe { &*flow };
    if flow.flags & (flags::TUNNELLED | flags::EGRESS) == 0 {
        return None;
    }
    let mtu = refuse::told_mtu::<A>(ctx, loose.l4);
    // SAFETY: the context is valid for the whole run of the program.
    let shrunk = unsafe {
        let length = payload as i32 - EthHdr::LEN as i32;
        bpf_skb_adjust_room(ctx.skb.skb, -length, BPF_ADJ_ROOM_MAC, u64::from(SAME))
    };
    if shrunk != 0 {
        return Some(Verdict::DropRewrite);
    }
    loose.packet.key = inner;
    (loose.l4, loose.end, loose.part) = (A::L4 as u32, ctx.len(), Part::Whole);
    (loose.service, loose.backend) = (flow.service, flow.backend);
    loose.unwrapped = true;
    Some(match mtu {
        Some(mtu) => {
            loose.mtu = mtu.saturating_sub(A::HEADER as u16);
            Verdict::DropTooBig
        }
        None => Verdict::DropNoRoute,
    })
}
