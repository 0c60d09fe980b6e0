//! Where do fragments without ports go? Where their first one went. Those that
//! come before it wait, in bounded memory, and are sent in anew behind it.

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use causeway_schema::{Flow, Verdict};

use crate::{
    family::Family,
    loose::{Loose, Part},
    maps,
};

/// Datagrams whose fragments we follow at a time, for each family.
pub const DATAGRAMS: u32 = 2048;
/// Fragments that can wait at a time; a power of two.
pub const WAITING: u32 = 2048;
/// Fragments of one datagram that can wait: 64 KiB in packets of 1,400 bytes.
pub const PER_DATAGRAM: usize = 48;
/// The longest frame that can wait.
const LONGEST: usize = 1_592;

/// What the fragments of a datagram have in common (RFC 791, RFC 8200).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Datagram<A> {
    src: A,
    dst: A,
    id: u32,
    protocol: u32,
}

impl<A: Family> Datagram<A> {
    #[inline(always)]
    pub fn of(loose: &Loose<A>) -> Self {
        let key = &loose.packet.key;
        Self { src: key.src, dst: key.dst, id: loose.id, protocol: u32::from(key.protocol) }
    }

    #[inline(always)]
    fn fold(&self) -> u64 {
        self.src.fold() << 1 ^ self.dst.fold() ^ u64::from(self.id) << 32 ^ u64::from(self.protocol)
    }
}

/// The slots of a datagram's fragments that wait.
#[repr(C)]
pub struct Queue {
    count: u32,
    slots: [u16; PER_DATAGRAM],
}

impl Queue {
    pub const EMPTY: Queue = Queue { count: 0, slots: [0; PER_DATAGRAM] };
}

/// A frame that waits; `of` tells whose it is, should the slot be taken by
/// another meanwhile.
#[repr(C)]
pub struct Held {
    of: u64,
    length: u64,
    frame: [u8; LONGEST],
}

/// Remembers where a first fragment went.
#[inline(always)]
pub fn remember<A: Family>(loose: &Loose<A>, flow: &Flow<A>) {
    if loose.part == Part::First {
        A::put_fragment(&Datagram::of(loose), flow);
    }
}

/// Whether fragments wait for this first one.
#[inline(always)]
pub fn is_awaited<A: Family>(loose: &Loose<A>) -> bool {
    loose.part == Part::First && A::queue(&Datagram::of(loose)).is_some()
}

/// Lets a fragment wait for its first one.
#[inline(always)]
pub fn hold<A: Family>(ctx: &TcContext, loose: &Loose<A>, dry: bool) -> Verdict {
    if dry || put(ctx, &Datagram::of(loose)).is_some() {
        Verdict::HeldFragment
    } else {
        Verdict::DropFragment
    }
}

#[inline(always)]
fn put<A: Family>(ctx: &TcContext, datagram: &Datagram<A>) -> Option<()> {
    let length = ctx.len() as usize;
    if length == 0 || length > LONGEST {
        return None;
    }
    if A::queue(datagram).is_none() {
        A::open_queue(datagram);
    }
    // SAFETY (this function): rows live as long as their maps. Two CPUs that
    // write to one queue may lose a fragment, as any network may.
    let queue = unsafe { &mut *A::queue(datagram)? };
    let place = queue.count as usize;
    if place >= PER_DATAGRAM {
        return None;
    }
    let cursor = unsafe { &mut *maps::HELD_NEXT.get_ptr_mut(0)? };
    let slot = *cursor as u32 % WAITING;
    *cursor += 1;
    let held = unsafe { &mut *maps::HELD.get_ptr_mut(slot)? };
    held.of = datagram.fold();
    held.length = length as u64;
    // SAFETY: the length is within the frame's.
    let loaded =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, held.frame.as_mut_ptr().cast(), length as u32) };
    if loaded != 0 {
        return None;
    }
    queue.slots[place] = slot as u16;
    queue.count += 1;
    Some(())
}

/// Sends a first fragment in anew, and behind it those that have waited: now
/// they find where it went.
#[inline(always)]
pub fn release<A: Family>(ctx: &TcContext, loose: &Loose<A>) {
    let datagram = Datagram::of(loose);
    let Some(queue) = A::queue(&datagram) else { return };
    // SAFETY: rows live as long as their maps, even when deleted here; the
    // context is valid for the whole run of the program.
    unsafe {
        let skb = ctx.skb.skb;
        let ifindex = (*skb).ifindex;
        let count = (*queue).count;
        bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS));
        for place in 0..PER_DATAGRAM {
            if place as u32 >= count {
                break;
            }
            let slot = u32::from((*queue).slots[place]);
            let Some(held) = maps::HELD.get_ptr_mut(slot) else { continue };
            let length = (*held).length;
            if (*held).of != datagram.fold() || length == 0 || length > LONGEST as u64 {
                continue;
            }
            (*held).of = 0;
            if bpf_skb_change_tail(skb, length as u32, 0) == 0
                && bpf_skb_store_bytes(skb, 0, (*held).frame.as_ptr().cast(), length as u32, 0) == 0
            {
                bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS));
            }
        }
    }
    A::close_queue(&datagram);
}
