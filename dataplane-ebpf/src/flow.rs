//! What do we remember of a flow, and for how long? Two tables, two entries a
//! flow; see `causeway_schema::flow` for what stands in an entry.

use aya_ebpf::helpers::bpf_jiffies64;
use causeway_schema::{Event, Flow, FlowKey, TraceRecord, flow::flags, protocol};

use crate::{
    cache, count,
    family::Family,
    maps,
    packet::{Packet, TCP_RST, TCP_SYN},
    service,
};

/// The kernel's clock in ticks; wraps, so only differences mean anything.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a plain helper, inlined by the verifier.
    unsafe { bpf_jiffies64() as u32 }
}

/// Whether either table has an entry for packets of this tuple.
#[inline(always)]
pub fn is_known<A: Family>(key: &FlowKey<A>) -> bool {
    A::established(key).is_some() || A::embryonic(key).is_some()
}

/// What is remembered of a tuple, whatever its packets say: to be read.
#[inline(always)]
pub fn lookup<A: Family>(key: &FlowKey<A>) -> Option<*mut Flow<A>> {
    A::established(key).or_else(|| embryonic(key).map(|(_, flow)| flow))
}

/// The entry itself, to be written.
#[inline(always)]
pub fn entry<A: Family>(key: &FlowKey<A>) -> Option<*mut Flow<A>> {
    A::established(key).or_else(|| A::embryonic(key))
}

/// An entry of the table of embryonic flows, to be written, and a copy of it, to
/// be read.
///
/// The kernel gives the memory of an entry that leaves to the next that comes,
/// whoever is reading it still; embryonic flows come and go all the time. What
/// was read is the flow's own if its entry still stands there afterwards. (One of
/// the established leaves when it has long been idle, or is closed, or begins anew:
/// a packet that is under way on another CPU at that moment may go wrong.)
#[inline(always)]
fn embryonic<A: Family>(key: &FlowKey<A>) -> Option<(*mut Flow<A>, *mut Flow<A>)> {
    let entry = A::embryonic(key)?;
    // SAFETY: the row belongs to this CPU; map values stay readable until the
    // program ends (RCU).
    let copy = unsafe { &raw mut (*A::pair()?).found };
    unsafe { *copy = *entry };
    (A::embryonic(key) == Some(entry)).then_some((entry, copy))
}

/// How often a flow has become an established one; see [`maps::PROMOTIONS`]. Read
/// and raised in the order of the look-ups and changes around it, as x86-64 keeps it.
#[inline(always)]
fn promotions() -> u64 {
    match maps::PROMOTIONS.get_ptr(0) {
        // SAFETY: the row lives as long as the map.
        Some(count) => unsafe { core::ptr::read_volatile(count) },
        None => 0,
    }
}

/// Whether a packet by interface `ifindex` can be of a flow.
#[inline(always)]
pub fn comes_by<A>(flow: &Flow<A>, ifindex: u32) -> bool {
    flow.ingress == 0 || flow.ingress == ifindex as u16
}

/// Whether its end has been declared.
#[inline(always)]
pub fn is_expired<A>(flow: &Flow<A>) -> bool {
    flow.flags & flags::EXPIRED != 0
}

/// What XDP leaves alone.
const STAYS: u16 = flags::EXPIRED | flags::PROXY | flags::HOST;

/// Whether its packets need more than new addresses: a refusal, or a header.
#[inline(always)]
pub fn is_slow<A>(flow: &Flow<A>) -> bool {
    flow.flags & (flags::EXPIRED | flags::TUNNELLED | flags::EGRESS | flags::PROXY) != 0
}

/// Whether nobody has answered a connection's SYN yet that may be for a port of
/// another's.
#[inline(always)]
pub fn only_asks<A>(flow: &Flow<A>) -> bool {
    flow.flags & (flags::OPENED | flags::REPLIED) == flags::OPENED
}

/// Whether an entry of replies keeps others from a port that is another's.
#[inline(always)]
pub fn is_taken<A>(reply: &Flow<A>) -> bool {
    reply.flags & flags::TAKEN != 0
}

/// What is known of a packet's flow.
pub enum Found<A> {
    Flow(*mut Flow<A>),
    Nothing,
    /// It was in neither table, but some flow has moved from one to the other
    /// meanwhile: look again.
    Moving,
}

/// The entry that translates this packet, if the flow goes on as it began.
///
/// `Nothing` for a packet of no known flow, and for one that begins a flow anew:
/// a SYN on an old connection's ports, or a datagram whose service has lost a
/// backend since the flow began; nor for one that comes from another container
/// than the flow's own.
#[inline(always)]
pub fn find<A: Family>(packet: &Packet<A>, ifindex: u32, dry: bool) -> Found<A> {
    let promotions = promotions();
    let (entry, found, established) = match A::established(&packet.key) {
        Some(entry) => (entry, entry, true),
        None => match embryonic(&packet.key) {
            Some((entry, copy)) => (entry, copy, false),
            None if self::promotions() == promotions => return Found::Nothing,
            None => return Found::Moving,
        },
    };
    // SAFETY (here and below): map values stay readable until the program ends
    // (RCU), and so does the memory of this CPU.
    let flow = unsafe { &mut *found };
    if !comes_by(flow, ifindex) {
        return Found::Nothing;
    }
    if !established && flow.flags & flags::REPLY != 0 && only_asks(flow) && is_anothers(packet, flow) {
        if !dry && !is_taken(flow) {
            // Its sender would reset the other's connection (RFC 9293, 3.5.1);
            // with its next SYN it tries another port.
            A::drop_embryonic(&flow.twin(packet.key.protocol));
            unsafe { (*entry).flags |= flags::TAKEN };
        }
        return Found::Nothing;
    }
    if flow.flags & flags::REPLY == 0 && begins_anew(packet, flow, dry) {
        if !dry {
            // Nothing of it may stand in the new one's way.
            let twin = flow.twin(packet.key.protocol);
            if established {
                A::drop_established(&twin);
                A::drop_established(&packet.key);
                cache::invalidate();
            } else {
                A::drop_embryonic(&twin);
            }
            // Nor what it may have hidden, of whoever sent in its name.
            A::drop_embryonic(&packet.key);
        }
        return Found::Nothing;
    }
    if dry {
        return Found::Flow(found);
    }
    let now = now();
    let closes = packet.closes_connection() && flow.flags & flags::CLOSING == 0;
    touch(flow, now);
    if closes {
        flow.flags |= flags::CLOSING;
    }
    if !established {
        let there = unsafe { &mut *entry };
        touch(there, now);
        if closes {
            there.flags |= flags::CLOSING;
        }
        advance(packet, flow, there);
    }
    Found::Flow(found)
}

/// As [`find`], for who cannot look again later: at most one other flow moves
/// between two looks.
#[inline(always)]
pub fn find_now<A: Family>(packet: &Packet<A>, ifindex: u32, dry: bool) -> Option<*mut Flow<A>> {
    for _ in 0..2 {
        match find(packet, ifindex, dry) {
            Found::Flow(flow) => return Some(flow),
            Found::Nothing => break,
            Found::Moving => {}
        }
    }
    None
}

/// As [`find`], asking this CPU's cache first.
#[inline(always)]
pub fn find_cached<A: Family>(packet: &Packet<A>, ifindex: u32, dry: bool) -> Found<A> {
    let epoch = cache::epoch();
    if !dry && let Some(flow) = cache::find(packet, ifindex, epoch, now()) {
        return Found::Flow(flow);
    }
    let found = find(packet, ifindex, dry);
    if !dry && let Found::Flow(flow) = &found {
        // SAFETY: as in `find`.
        let flow = unsafe { &**flow };
        // XDP carries whatever it finds in the cache.
        if flow.flags & (flags::ESTABLISHED | STAYS) == flags::ESTABLISHED {
            cache::fill(&packet.key, flow, epoch);
        }
    }
    found
}

/// As [`find`], for a hook in front of the one that knows all: the entry of an
/// established flow, for a packet that moves nothing on.
#[inline(always)]
pub fn find_settled<A: Family>(packet: &Packet<A>, ifindex: u32) -> Option<*mut Flow<A>> {
    if packet.changes_connection() {
        return None;
    }
    let now = now();
    let epoch = cache::epoch();
    if let Some(flow) = cache::find(packet, ifindex, epoch, now) {
        return Some(flow);
    }
    let entry = A::established(&packet.key)?;
    // SAFETY: as in `find`.
    let flow = unsafe { &mut *entry };
    if !comes_by(flow, ifindex)
        || flow.flags & STAYS != 0
        || flow.flags & flags::REPLY == 0 && begins_anew(packet, flow, true)
    {
        return None;
    }
    touch(flow, now);
    cache::fill(&packet.key, flow, epoch);
    Some(entry)
}

/// Notes that the flow is in use; once a second is enough.
#[inline(always)]
fn touch<A>(flow: &mut Flow<A>, now: u32) {
    if now.wrapping_sub(flow.last_seen) >= maps::TICKS_PER_SECOND.load() {
        flow.last_seen = now;
    }
}

/// Whether what comes for a flow that only asks is no answer to a SYN: it is for
/// a connection that has long begun.
#[inline(always)]
fn is_anothers<A: Family>(packet: &Packet<A>, reply: &Flow<A>) -> bool {
    is_taken(reply) || packet.tcp_flags & (TCP_SYN | TCP_RST) == 0
}

#[inline(always)]
fn begins_anew<A: Family>(packet: &Packet<A>, flow: &Flow<A>, dry: bool) -> bool {
    if packet.is_tcp() {
        // Where the backend has answered and lacks its header, `proxy` decides.
        let waits = flags::PROXY | flags::REPLIED;
        return packet.opens_connection() && flow.flags & waits != waits;
    }
    if flow.service == TraceRecord::NONE {
        // Of no service, which loses no backend.
        return false;
    }
    let current = service::generation::<A>(flow.service) == Some(flow.generation);
    if !current && !dry {
        count::event(Event::FlowStale);
    }
    !current
}

/// Moves an embryonic flow on: the first answer marks both entries, the
/// client's next packet after it makes the flow an established one. `flow` is a
/// copy of what stands `there`.
#[inline(always)]
fn advance<A: Family>(packet: &Packet<A>, flow: &mut Flow<A>, there: &mut Flow<A>) {
    let is_reply = flow.flags & flags::REPLY != 0;
    if is_reply {
        if flow.flags & flags::REPLIED == 0 {
            there.flags |= flags::REPLIED;
            if let Some(request) = A::embryonic(&flow.twin(packet.key.protocol)) {
                // SAFETY: as in `find`.
                unsafe { (*request).flags |= flags::REPLIED };
            }
        }
        return;
    }
    if flow.flags & flags::REPLIED == 0 || packet.opens_connection() {
        return;
    }
    let reply_key = flow.twin(packet.key.protocol);
    let (Some(there), Some(pair)) = (A::embryonic(&reply_key), A::pair()) else { return };
    flow.flags |= flags::ESTABLISHED;
    // SAFETY: as in `find`; nobody else is making a flow on this CPU.
    let reply = unsafe { &mut (*pair).reply };
    *reply = unsafe { *there };
    reply.flags |= flags::ESTABLISHED;
    if A::embryonic(&reply_key) != Some(there) {
        // Gone meanwhile, as in `embryonic`.
        return;
    }
    if !A::put_established(&reply_key, reply) {
        count::event(Event::FlowPromotionFailed);
        return;
    }
    if !A::put_established(&packet.key, flow) {
        A::drop_established(&reply_key);
        cache::invalidate();
        count::event(Event::FlowPromotionFailed);
        return;
    }
    // Before they leave where somebody may just have looked in vain.
    cache::raise(&maps::PROMOTIONS);
    A::drop_embryonic(&packet.key);
    A::drop_embryonic(&reply_key);
    count::event(Event::FlowPromoted);
}

/// Whether packets of this protocol belong to flows, by the ports that their
/// L4 header begins with.
#[inline(always)]
pub fn is_tracked(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}
