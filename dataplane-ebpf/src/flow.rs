//! What do we remember of a flow, and for how long? Two tables, two entries a
//! flow; see `causeway_schema::flow` for what stands in an entry.

use aya_ebpf::helpers::bpf_jiffies64;
use causeway_schema::{Event, Flow, FlowKey, flow::flags, protocol};

use crate::{cache, count, family::Family, maps, packet::Packet, service};

/// The kernel's clock in ticks; wraps, so only differences mean anything.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a plain helper, inlined by the verifier.
    unsafe { bpf_jiffies64() as u32 }
}

/// The key under which packets of the other direction look the flow up.
///
/// A request entry holds the backend, which its replies come from; a reply
/// entry holds the frontend, which its requests go to.
#[inline(always)]
pub fn twin<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
    if flow.flags & flags::REPLY == 0 {
        FlowKey {
            src: flow.addr,
            dst: key.src,
            src_port: flow.port,
            dst_port: key.src_port,
            protocol: key.protocol,
            pad: [0; 3],
        }
    } else {
        FlowKey {
            src: key.dst,
            dst: flow.addr,
            src_port: key.dst_port,
            dst_port: flow.port,
            protocol: key.protocol,
            pad: [0; 3],
        }
    }
}

/// The service of the flow that a packet belongs to which the fast path cannot
/// translate: sent on as it is, it would show its receiver the wrong address.
#[inline(always)]
pub fn service_of<A: Family>(key: &FlowKey<A>) -> Option<u32> {
    let flow = A::established(key).or_else(|| A::embryonic(key))?;
    // SAFETY: map values stay readable until the program ends (RCU).
    Some(unsafe { (*flow).service })
}

/// The entry that translates this packet, if the flow goes on as it began.
///
/// `None` for a packet of no known flow, and for one that begins a flow anew:
/// a SYN on an old connection's ports, or a datagram whose service has lost a
/// backend since the flow began.
#[inline(always)]
pub fn find<A: Family>(packet: &Packet<A>, dry: bool) -> Option<*mut Flow<A>> {
    let now = now();
    let epoch = cache::epoch();
    if !dry && let Some(flow) = cache::find(packet, epoch, now) {
        return Some(flow);
    }
    let (entry, established) = match A::established(&packet.key) {
        Some(entry) => (entry, true),
        None => (A::embryonic(&packet.key)?, false),
    };
    // SAFETY: map values stay readable until the program ends (RCU).
    let flow = unsafe { &mut *entry };
    if flow.flags & flags::REPLY == 0 && begins_anew(packet, flow, dry) {
        if established && !dry {
            // The new flow starts among the embryonic ones, which are looked
            // up second: the old entries must not stand in front of it.
            A::drop_established(&twin(&packet.key, flow));
            A::drop_established(&packet.key);
            cache::invalidate();
        }
        return None;
    }
    if dry {
        return Some(entry);
    }

    if now.wrapping_sub(flow.last_seen) >= maps::TICKS_PER_SECOND.load() {
        flow.last_seen = now;
    }
    if packet.closes_connection() && flow.flags & flags::CLOSING == 0 {
        flow.flags |= flags::CLOSING;
    }
    if established {
        cache::fill(&packet.key, flow, epoch);
    } else {
        advance(packet, flow);
    }
    Some(entry)
}

#[inline(always)]
fn begins_anew<A: Family>(packet: &Packet<A>, flow: &Flow<A>, dry: bool) -> bool {
    if packet.is_tcp() {
        return packet.opens_connection();
    }
    let current = service::row(flow.service).is_some_and(|row| row.generation == flow.generation);
    if !current && !dry {
        count::event(Event::FlowStale);
    }
    !current
}

/// Moves an embryonic flow on: the first answer marks both entries, the
/// client's next packet after it makes the flow an established one.
#[inline(always)]
fn advance<A: Family>(packet: &Packet<A>, flow: &mut Flow<A>) {
    let is_reply = flow.flags & flags::REPLY != 0;
    if is_reply {
        if flow.flags & flags::REPLIED == 0 {
            flow.flags |= flags::REPLIED;
            if let Some(request) = A::embryonic(&twin(&packet.key, flow)) {
                // SAFETY: as in `find`.
                unsafe { (*request).flags |= flags::REPLIED };
            }
        }
        return;
    }
    if flow.flags & flags::REPLIED == 0 {
        return;
    }
    let reply_key = twin(&packet.key, flow);
    let Some(reply) = A::embryonic(&reply_key) else { return };
    let mut request = *flow;
    request.flags |= flags::ESTABLISHED;
    // SAFETY: as in `find`.
    let mut reply = unsafe { *reply };
    reply.flags |= flags::ESTABLISHED;
    if !A::put_established(&reply_key, &reply) {
        count::event(Event::FlowPromotionFailed);
        return;
    }
    if !A::put_established(&packet.key, &request) {
        A::drop_established(&reply_key);
        cache::invalidate();
        count::event(Event::FlowPromotionFailed);
        return;
    }
    A::drop_embryonic(&packet.key);
    A::drop_embryonic(&reply_key);
    count::event(Event::FlowPromoted);
}

/// Remembers a new flow, both directions. False when the table refused.
#[inline(always)]
pub fn create<A: Family>(key: &FlowKey<A>, request: &Flow<A>, reply: &Flow<A>) -> bool {
    // The reply entry first: an answer must never find the way back missing.
    if !A::put_embryonic(&twin(key, request), reply) || !A::put_embryonic(key, request) {
        return false;
    }
    count::event(Event::FlowCreated);
    true
}

/// Whether an entry of this protocol may carry flows at all.
#[inline(always)]
pub fn is_tracked(protocol: u8) -> bool {
    protocol == protocol::TCP || protocol == protocol::UDP
}
