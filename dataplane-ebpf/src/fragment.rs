//! Where do fragments without ports go? Where their first one went. Those that
//! come before it wait, in bounded memory, and are sent in anew behind it.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use causeway_schema::{Flow, FlowKey, Verdict, hash, protocol};

use crate::{
    deliver,
    family::Family,
    flow,
    loose::{Loose, Part},
    maps,
    pipeline::Side,
};

/// Datagrams whose fragments we follow at a time, for each family, and in how
/// many places one may stand.
pub const DATAGRAMS: u32 = 8192;
const WAYS: u32 = 4;
/// Datagrams for which fragments can wait.
pub const QUEUES: u32 = 1024;
/// Fragments that can wait at a time; a power of two. One half is for those that
/// have to, the other for those of which only their first one will tell: whoever
/// fills the latter takes nothing from the former.
pub const WAITING: u32 = 4096;
/// Fragments of one datagram that can wait: 64 KiB in packets of 1,400 bytes,
/// and some that came twice.
pub const PER_DATAGRAM: usize = 64;
/// Slots that are looked at for a free one.
const TRIES: u32 = 16;
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

/// Where the fragments of a datagram go.
///
/// A table of our own: an LRU map of the kernel that is full gives up, now and
/// then, what has just come.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Routed<A> {
    datagram: Datagram<A>,
    flow: Flow<A>,
    /// The interface that it came by, if it went as it was; else 0.
    plain_by: u32,
    /// Kernel ticks (low 32 bits of jiffies) when the first one came.
    since: u32,
}

/// What became of a first fragment.
pub enum Went<A: 'static> {
    By(&'static Flow<A>),
    /// As it was.
    Plainly,
}

impl<A: Family> Datagram<A> {
    #[inline(always)]
    pub fn of(loose: &Loose<A>) -> Self {
        let key = &loose.packet.key;
        Self { src: key.src, dst: key.dst, id: loose.id, protocol: u32::from(key.protocol) }
    }

    /// The rows of the table that this datagram may stand in.
    #[inline(always)]
    fn places(&self) -> core::ops::Range<u32> {
        let set = (hash::mix(self.fold()) >> 32) as u32 % (DATAGRAMS / WAYS);
        set * WAYS..set * WAYS + WAYS
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
    /// Kernel ticks (low 32 bits of jiffies) when the last one came.
    since: u32,
    slots: [u16; PER_DATAGRAM],
}

impl Queue {
    pub const EMPTY: Queue = Queue { count: 0, since: 0, slots: [0; PER_DATAGRAM] };
}

/// Whether two seconds are over: nobody waits longer, and who comes then with the
/// same number is of another datagram.
#[inline(always)]
fn is_over(since: u32) -> bool {
    flow::now().wrapping_sub(since) > maps::TICKS_PER_SECOND.load() * 2
}

/// A frame that waits; `of` tells whose it is, should the slot be taken by
/// another meanwhile, and is 0 when it is free.
#[repr(C)]
pub struct Held {
    of: u64,
    length: u32,
    /// Kernel ticks (low 32 bits of jiffies) when it came.
    since: u32,
    frame: [u8; LONGEST],
}

/// Remembers how a first fragment went that came by `ifindex`, by a flow or as it
/// was: in the place of an earlier datagram that was numbered the same, or of the
/// oldest of those it may stand in.
#[inline(always)]
pub fn remember<A: Family>(loose: &Loose<A>, flow: Option<&Flow<A>>, ifindex: u32) {
    if loose.part != Part::First {
        return;
    }
    let (datagram, now) = (Datagram::of(loose), flow::now());
    let (mut oldest, mut age) = (None, 0);
    for place in datagram.places() {
        let Some(routed) = A::routed(place) else { return };
        // SAFETY: the row lives as long as the map. Should two CPUs take it at
        // a time, its datagrams are lost, as in any network.
        let there = unsafe { &*routed };
        let since = if there.datagram == datagram { u32::MAX } else { now.wrapping_sub(there.since) };
        if oldest.is_none() || since > age {
            (oldest, age) = (Some(routed), since);
        }
    }
    if let Some(routed) = oldest {
        // SAFETY: as above.
        let row = unsafe { &mut *routed };
        // Nobody's, until all of it is there.
        row.datagram.protocol = u32::MAX;
        compiler_fence(Ordering::SeqCst);
        row.since = now;
        row.plain_by = 0;
        match flow {
            Some(flow) => row.flow = *flow,
            None => row.plain_by = ifindex,
        }
        compiler_fence(Ordering::SeqCst);
        row.datagram = datagram;
    }
}

/// Whether a fragment may be of an answer to a flow, that has another source than
/// it shows: one that comes before its first one had better wait for it. What
/// goes through this node between others is none of ours.
#[inline(always)]
pub fn may_be_answer<A: Family>(side: Side, key: &FlowKey<A>) -> bool {
    let is_own = key.dst == A::node() && key.dst != A::UNSPECIFIED;
    matches!(key.protocol, protocol::TCP | protocol::UDP)
        && (side == Side::Container || is_own || deliver::endpoint(key.dst).is_some())
}

/// Where the first fragment of this one's datagram went.
#[inline(always)]
pub fn find<A: Family>(loose: &Loose<A>, ifindex: u32) -> Option<Went<A>> {
    let datagram = Datagram::of(loose);
    for place in datagram.places() {
        // SAFETY: as in `remember`.
        let routed = unsafe { &*A::routed(place)? };
        if routed.datagram != datagram {
            continue;
        }
        if routed.plain_by == ifindex {
            return Some(Went::Plainly);
        }
        if routed.plain_by == 0 && flow::comes_by(&routed.flow, ifindex) {
            return Some(Went::By(&routed.flow));
        }
    }
    None
}

/// Whether fragments wait for this first one.
#[inline(always)]
pub fn is_awaited<A: Family>(loose: &Loose<A>) -> bool {
    // SAFETY: the row lives as long as the map.
    let waits = |queue: *mut Queue| !is_over(unsafe { (*queue).since });
    loose.part == Part::First && A::queue(&Datagram::of(loose)).is_some_and(waits)
}

/// Lets a fragment wait for its first one. `must`: it is lost if it does not.
#[inline(always)]
pub fn hold<A: Family>(ctx: &TcContext, loose: &Loose<A>, must: bool, dry: bool) -> Verdict {
    let datagram = Datagram::of(loose);
    let is_full = |queue: *mut Queue| {
        // SAFETY: the row lives as long as the map.
        let queue = unsafe { &*queue };
        queue.count >= PER_DATAGRAM as u32 && !is_over(queue.since)
    };
    let fits = ctx.len() as usize <= LONGEST;
    if dry && fits && !A::queue(&datagram).is_some_and(is_full) || !dry && put(ctx, &datagram, must).is_some()
    {
        Verdict::HeldFragment
    } else {
        Verdict::DropFragment
    }
}

#[inline(always)]
fn put<A: Family>(ctx: &TcContext, datagram: &Datagram<A>, must: bool) -> Option<()> {
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
    if is_over(queue.since) {
        queue.count = 0;
    }
    let place = queue.count as usize;
    if place >= PER_DATAGRAM {
        return None;
    }
    let slot = free_slot(must)?;
    let held = unsafe { &mut *maps::HELD.get_ptr_mut(slot)? };
    held.of = datagram.fold();
    held.length = length as u32;
    held.since = flow::now();
    // SAFETY: the size is within the frame's.
    let loaded = unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, held.frame.as_mut_ptr().cast(), bounded(length as u32))
    };
    if loaded != 0 {
        return None;
    }
    // The verifier of Linux 6.1 has forgotten what was asked.
    queue.slots[core::hint::black_box(place) % PER_DATAGRAM] = slot as u16;
    queue.count = place as u32 + 1;
    queue.since = held.since;
    Some(())
}

/// A length from 1 to [`LONGEST`], as itself: what is not 0 is not yet at least 1 to
/// the verifier of Linux 6.1.
#[inline(always)]
fn bounded(length: u32) -> u32 {
    core::hint::black_box(length).wrapping_sub(1).min(LONGEST as u32 - 1) + 1
}

/// The next slot whose frame has left, or has waited longer than any will.
#[inline(always)]
fn free_slot(must: bool) -> Option<u32> {
    // SAFETY: as in `put`.
    let cursor = unsafe { &mut *maps::HELD_NEXT.get_ptr_mut(0)? };
    for _ in 0..TRIES {
        let number = *cursor as u32;
        *cursor += 1;
        let slot = number % (WAITING / 2) + if must { 0 } else { WAITING / 2 };
        // SAFETY: as in `put`.
        let held = unsafe { &*maps::HELD.get_ptr(slot)? };
        if held.of == 0 || is_over(held.since) {
            return Some(slot);
        }
    }
    None
}

/// Sends a fragment in anew, the first one as a rule, and behind it those that
/// have waited: now they find where it went.
#[inline(always)]
pub fn release<A: Family>(ctx: &TcContext, loose: &Loose<A>) {
    let datagram = Datagram::of(loose);
    // SAFETY: rows live as long as their maps, even when deleted here; the
    // context is valid for the whole run of the program.
    unsafe {
        let skb = ctx.skb.skb;
        let ifindex = (*skb).ifindex;
        // Whoever waited may be gone meanwhile: this one is here.
        bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS));
        let Some(queue) = A::queue(&datagram) else { return };
        let count = (*queue).count;
        for place in 0..PER_DATAGRAM {
            if place as u32 >= count {
                break;
            }
            let slot = u32::from((*queue).slots[place]);
            let Some(held) = maps::HELD.get_ptr_mut(slot) else { continue };
            let length = (*held).length;
            if (*held).of != datagram.fold() || length == 0 || length > LONGEST as u32 {
                continue;
            }
            (*held).of = 0;
            if bpf_skb_change_tail(skb, length, 0) == 0
                && bpf_skb_store_bytes(skb, 0, (*held).frame.as_ptr().cast(), bounded(length), 0) == 0
            {
                bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS));
            }
        }
    }
    A::close_queue(&datagram);
}
