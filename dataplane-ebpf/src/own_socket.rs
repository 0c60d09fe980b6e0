//! Is a packet for the node's own address an answer to one of its processes? The
//! kernel may give a connection of the host a source port that is a node port's
//! number too: its answers are nobody's knock.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_CURRENT_NETNS, BPF_TCP_ESTABLISHED, BPF_TCP_LISTEN, bpf_sock, bpf_sock_tuple},
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use causeway_schema::FlowKey;

use crate::{family::Family, packet::Packet};

/// Whether a packet to a frontend may be such an answer.
#[inline(always)]
pub fn may_answer<A: Family>(packet: &Packet<A>) -> bool {
    packet.key.dst == A::node() && !packet.opens_connection()
}

/// Whether a socket of the host talks to the sender of such a packet, and to
/// nobody else. A datagram socket that is not connected talks to all: packets for
/// its port are for the frontend.
#[inline(always)]
pub fn is_answered<A: Family>(ctx: &TcContext, packet: &Packet<A>) -> bool {
    // Both addresses and both ports, as `bpf_sock_tuple` has them.
    let tuple = (&raw const packet.key).cast_mut().cast::<bpf_sock_tuple>();
    let length = (2 * size_of::<A>() + 4) as u32;
    let here = i64::from(BPF_F_CURRENT_NETNS) as u64;
    // SAFETY: the context is valid for the whole run of the program, the tuple is
    // as long as the family's; what was found is given back.
    unsafe {
        if packet.is_tcp() {
            let found = bpf_skc_lookup_tcp(ctx.as_ptr(), tuple, length, here, 0);
            state(found).is_some_and(|state| state != BPF_TCP_LISTEN)
        } else {
            let found = bpf_sk_lookup_udp(ctx.as_ptr(), tuple, length, here, 0);
            state(found) == Some(BPF_TCP_ESTABLISHED)
        }
    }
}

/// The state of a socket that was looked up, which is given back.
///
/// # Safety
/// It was looked up just now, and is not used again.
#[inline(always)]
unsafe fn state(found: *mut bpf_sock) -> Option<u32> {
    if found.is_null() {
        return None;
    }
    // Two kinds of pointers to the verifier, which no instruction may read alike:
    // the compiler leaves this one where it stands.
    let state: u32;
    // SAFETY: the caller's word.
    unsafe {
        asm!("{state} = *(u32 *)({found} + {at})", state = out(reg) state, found = in(reg) found,
            at = const core::mem::offset_of!(bpf_sock, state), options(nostack, readonly));
        bpf_sk_release(found.cast());
    }
    Some(state)
}

const _: () = {
    use causeway_schema::{V4, V6};
    assert!(core::mem::offset_of!(FlowKey<V4>, src) == 0 && core::mem::offset_of!(FlowKey<V6>, src) == 0);
    assert!(core::mem::offset_of!(FlowKey<V4>, dst_port) == 10);
    assert!(core::mem::offset_of!(FlowKey<V6>, dst_port) == 34);
};
