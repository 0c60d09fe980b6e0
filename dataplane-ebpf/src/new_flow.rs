//! How does a flow begin to be remembered? With two entries, one for each
//! direction, which are made in memory of the CPU's own.

use causeway_schema::{Event, Flow, FlowKey, Hop, TraceRecord, flow::flags};

use crate::{count, family::Family, flow};

/// What a flow belongs to.
pub struct Serving {
    pub service: u32,
    pub generation: u32,
    pub backend: u32,
}

impl Serving {
    /// Of flows to no service.
    pub const NONE: Self = Self { service: TraceRecord::NONE, generation: 0, backend: TraceRecord::NONE };
}

/// The two entries of a new flow. They are made in memory of the CPU's own:
/// the stack has no room for two of IPv6.
#[repr(C)]
pub struct Pair<A> {
    pub request: Flow<A>,
    pub reply: Flow<A>,
    /// The embryonic flow that [`flow`] has found last.
    pub found: Flow<A>,
}

/// The entries of a flow whose requests go from `before` to `after`, to the
/// endpoint at `hop` if it is one of this node.
#[inline(always)]
pub fn pair<A: Family>(
    before: &FlowKey<A>,
    after: &FlowKey<A>,
    serving: &Serving,
    hop: Hop,
) -> Option<&'static mut Pair<A>> {
    // SAFETY: the row belongs to this CPU, programs do not migrate, and one
    // packet is worked on at a time.
    let pair = unsafe { &mut *A::pair()? };
    let Serving { service, generation, backend } = *serving;
    let last_seen = flow::now();
    let client = A::endpoint_hop(before.src).unwrap_or(Hop::NONE);
    pair.request = Flow {
        service,
        generation,
        backend,
        hop,
        last_seen,
        ingress: behind::<A>(client),
        ..Flow::translating(before, after)
    };
    pair.reply = Flow {
        service,
        generation,
        backend,
        hop: client,
        last_seen,
        ingress: behind::<A>(hop),
        flags: flags::REPLY,
        ..Flow::translating(&after.reversed(), &before.reversed())
    };
    Some(pair)
}

/// The interface that an endpoint's packets come by, as flows remember it.
#[inline(always)]
fn behind<A: Family>(hop: Hop) -> u16 {
    if hop == Hop::NONE {
        return 0;
    }
    A::endpoint(hop.slot()).map_or(0, |row| row.ifindex as u16)
}

/// Whether a new flow could be remembered.
pub enum Created {
    Yes,
    /// Another flow's replies would come with the same tuple.
    Taken,
    /// The table refused.
    Full,
}

/// Remembers a new flow, both directions.
#[inline(always)]
pub fn create<A: Family>(key: &FlowKey<A>, pair: &Pair<A>) -> Created {
    let Pair { request, reply, .. } = pair;
    let reply_key = request.twin(key.protocol);
    // The reply entry first: an answer must never find the way back missing.
    if A::established(&reply_key).is_some() {
        return Created::Taken;
    }
    if !A::reserve_embryonic(&reply_key, reply) {
        let Some(there) = A::embryonic(&reply_key) else { return Created::Full };
        // SAFETY: as in `find`.
        if unsafe { (*there).twin(key.protocol) } != *key {
            return Created::Taken;
        }
        // Left over from this flow's earlier life.
        if !A::put_embryonic(&reply_key, reply) {
            return Created::Full;
        }
    }
    if !A::put_embryonic(key, request) {
        return Created::Full;
    }
    count::event(Event::FlowCreated);
    Created::Yes
}
