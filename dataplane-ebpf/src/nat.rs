//! Which source does a flow get whose own will not do? One whose answers no
//! other flow waits for: the whole tuple counts, so a port is scarce only per
//! backend, never per address.

use causeway_schema::{
    Event, Flow, FlowKey, Hop,
    flow::flags,
    hash::flow_hash,
    nat::{Ports, TRIES, TRIES_AT_ONCE},
};

use crate::{
    cache, count,
    family::Family,
    flow,
    new_flow::{self, Created, Serving},
};

/// A flow that is to begin: the tuple that its packets are to have, what it
/// belongs to, and where it goes.
pub struct Begins<A> {
    pub after: FlowKey<A>,
    pub serving: Serving,
    pub hop: Hop,
    /// Source ports to try when the one in `after` is taken.
    pub ports: Ports,
    /// How many have been tried.
    pub attempt: u32,
    /// What its requests have of [`flags`].
    pub flags: u16,
}

/// What became of a new flow.
pub enum Outcome {
    /// Its entries are where flows are made, and in the table.
    Created,
    /// Not yet: there are other ports to try.
    Again,
    NoPort,
    Full,
}

/// Creates a flow for packets that come as `before`, with another source port
/// than it asks for if that one is taken.
#[inline(always)]
pub fn create<A: Family>(before: &FlowKey<A>, begins: &mut Begins<A>, dry: bool) -> Outcome {
    let hash = flow_hash(&before.src, before.src_port, &before.dst, before.dst_port, before.protocol);
    let mut free = false;
    for _ in 0..TRIES_AT_ONCE {
        if begins.attempt > 0 {
            begins.after.src_port = begins.ports.pick(hash, begins.attempt);
        }
        begins.attempt += 1;
        free = make_free(&begins.after.reversed(), before, begins.flags, dry);
        if free {
            break;
        }
    }
    if !free && begins.attempt < TRIES {
        return Outcome::Again;
    }
    let after = &begins.after;
    let Some(pair) = new_flow::pair(before, after, &begins.serving, begins.hop) else { return Outcome::Full };
    pair.request.flags = begins.flags;
    pair.reply.flags |= begins.flags & (flags::PROXY | flags::OPENED);
    if free && dry {
        return Outcome::Created;
    }
    if !free {
        return Outcome::NoPort;
    }
    match new_flow::create(before, pair) {
        Created::Yes => {
            if after.src != before.src || after.src_port != before.src_port {
                count::event(Event::FlowTranslated);
            }
            Outcome::Created
        }
        Created::Full => Outcome::Full,
        // Another CPU was quicker.
        Created::Taken => Outcome::NoPort,
    }
}

/// Whether no other flow waits for answers of this tuple. One that both sides
/// have closed does not, nor does what `request` itself has left of an earlier
/// life, nor who only asks where another goes on: those are removed.
#[inline(always)]
fn make_free<A: Family>(reply_key: &FlowKey<A>, request: &FlowKey<A>, begins: u16, dry: bool) -> bool {
    if let Some(reply) = A::embryonic(reply_key) {
        // SAFETY (here and below): map values stay readable until the program ends
        // (RCU).
        let reply = unsafe { &*reply };
        let other = reply.twin(reply_key.protocol);
        if flow::only_asks(reply) && begins & flags::OPENED == 0 {
            if !dry {
                // Whose port is taken has lost its own entry already.
                if !flow::is_taken(reply) {
                    A::drop_embryonic(&other);
                }
                A::drop_embryonic(reply_key);
            }
        } else if other != *request || flow::is_taken(reply) {
            return false;
        }
    }
    let Some(reply) = A::established(reply_key) else { return true };
    let reply = unsafe { &*reply };
    let request_key = reply.twin(reply_key.protocol);
    let closed = |flow: &Flow<A>| flow.flags & flags::CLOSING != 0;
    let request_closed = || A::established(&request_key).is_none_or(|request| closed(unsafe { &*request }));
    if request_key != *request && !(closed(reply) && request_closed()) {
        return false;
    }
    if !dry {
        A::drop_established(&request_key);
        A::drop_established(reply_key);
        cache::invalidate();
    }
    true
}
