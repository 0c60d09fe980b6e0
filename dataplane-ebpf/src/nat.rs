//! Which source does a flow get whose own will not do? One whose answers no
//! other flow waits for: the whole tuple counts, so a port is scarce only per
//! backend, never per address.

use causeway_schema::{Event, Flow, FlowKey, Hop, Port, flow::flags, hash::flow_hash};

use crate::{
    cache, count,
    family::Family,
    flow::{self, Created, Serving},
};

/// Ports that are tried: with three of four taken, 99 % of flows find one.
const TRIES: u32 = 16;
/// Ports below are for servers.
const LOWEST: u32 = 1024;
const PORTS: u32 = 65_536 - LOWEST;

/// What became of a new flow.
pub enum Outcome<A: 'static> {
    Created(&'static Flow<A>),
    NoPort,
    Full,
}

/// Creates a flow whose packets go from `before` to `after`, with another
/// source port than `after` asks for if that one is taken.
#[inline(always)]
pub fn create<A: Family>(
    before: &FlowKey<A>,
    mut after: FlowKey<A>,
    serving: &Serving,
    hop: Hop,
    dry: bool,
) -> Outcome<A> {
    let hash = flow_hash(&before.src, before.src_port, &before.dst, before.dst_port, before.protocol) as u32;
    for attempt in 0..TRIES {
        let Some(pair) = flow::pair(before, &after, serving, hop) else { return Outcome::Full };
        forget_dead(&after.reversed());
        if dry {
            if !flow::is_known(&after.reversed()) {
                return Outcome::Created(&pair.request);
            }
        } else {
            match flow::create(before, pair) {
                Created::Yes => {
                    if after.src != before.src || after.src_port != before.src_port {
                        count::event(Event::FlowTranslated);
                    }
                    return Outcome::Created(&pair.request);
                }
                Created::Full => return Outcome::Full,
                Created::Taken => {}
            }
        }
        // An odd stride meets every port.
        let step = hash.wrapping_add(attempt.wrapping_mul(hash >> 16 | 1));
        after.src_port = Port::new((LOWEST + step % PORTS) as u16);
    }
    Outcome::NoPort
}

/// Removes a flow that both sides have closed: its ports may be had.
#[inline(always)]
fn forget_dead<A: Family>(reply_key: &FlowKey<A>) {
    let Some(reply) = A::established(reply_key) else { return };
    // SAFETY: map values stay readable until the program ends (RCU).
    let reply = unsafe { &*reply };
    let request_key = reply.twin(reply_key.protocol);
    let closed = |flow: &Flow<A>| flow.flags & flags::CLOSING != 0;
    // SAFETY: as above.
    let request_closed = A::established(&request_key).is_none_or(|request| closed(unsafe { &*request }));
    if closed(reply) && request_closed {
        A::drop_established(&request_key);
        A::drop_established(reply_key);
        cache::invalidate();
    }
}
