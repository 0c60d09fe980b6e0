//! How does a container leave to the world? Under its node's address; or under
//! an egress address, that some node holds: this one, or another, to which its
//! packets go in an outer header.

use aya_ebpf::programs::TcContext;
use causeway_schema::{Egress, Flow, FlowKey, Hop, Verdict, flow::flags, nat::Ports};

use crate::{
    act::{self, Decision},
    context::Context,
    egress, encap,
    family::Family,
    fragment, jump,
    loose::{self, Loose},
    nat::Begins,
    new_flow::Serving,
    packet::Packet,
    policy,
    refuse::Refuse,
    slow, trace,
};

/// Goes on for a slow program with a new flow, or with a packet of one that
/// leaves by another node: that stands where flows are made.
#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext) -> i32 {
    let (Some(loose), Some(pair)) = (loose::held::<A>(), A::pair()) else { return act::broken(ctx) };
    let side = loose.side;
    if loose.translated {
        // SAFETY: as in `new_flow::pair`.
        let flow = unsafe { &(*pair).request };
        let decision = send(ctx, loose, flow);
        return slow::finish(ctx, side, loose, decision);
    }
    if !begin(loose) {
        return slow::finish(ctx, side, loose, Decision::end(Verdict::DropNoEgress));
    }
    let target = policy::next(side, loose);
    jump::to(ctx, side, target);
    slow::finish(ctx, side, loose, Decision::end(Verdict::DropInconsistent))
}

/// The flow to begin; false when nobody holds the address that it is to have.
#[inline(always)]
fn begin<A: Family>(loose: &mut Loose<A>) -> bool {
    let key = &loose.packet.key;
    loose.begins = match A::egress(key.src) {
        None => under(key, A::node(), egress::ports(), 0),
        Some(own) if own.is_here() => under_egress(&loose.packet, own.address),
        Some(own) if !own.is_elsewhere() => return false,
        Some(_) => Begins {
            after: *key,
            serving: Serving::NONE,
            hop: Hop::NONE,
            ports: Ports::ALL,
            attempt: 0,
            flags: flags::EGRESS,
        },
    };
    true
}

/// A flow to the world under an egress address that this node holds: all its
/// ports are for such flows.
#[inline(always)]
pub fn under_egress<A: Family>(packet: &Packet<A>, address: A) -> Begins<A> {
    let flags = if packet.opens_connection() { flags::OPENED } else { 0 };
    under(&packet.key, address, Ports::ALL, flags)
}

#[inline(always)]
fn under<A: Family>(key: &FlowKey<A>, source: A, ports: Ports, flags: u16) -> Begins<A> {
    let after = FlowKey { src: source, src_port: egress::first_port(key, ports), ..*key };
    Begins { after, serving: Serving::NONE, hop: Hop::NONE, ports, attempt: 0, flags }
}

#[inline(always)]
fn send<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>, flow: &Flow<A>) -> Decision {
    // Who holds the address may change while the flow lasts. One that is held
    // here is translated here: the agent ends what goes elsewhere.
    let Some(own) = A::egress(flow.src).filter(Egress::is_elsewhere) else {
        return Decision::end(Verdict::DropNoEgress);
    };
    let ifindex = match encap::way(ctx, loose, A::node(), own.node, A::HEADER as u16) {
        Ok(ifindex) => ifindex,
        Err(verdict) => return Decision::end(verdict),
    };
    if !trace::is_dry(ctx) {
        fragment::remember(loose, Some(flow), ctx.ifindex());
    }
    // An ICMP error goes as it is.
    let flow = if loose.has_ports() { Some(flow) } else { None };
    encap::leave(ctx, loose, flow, Some((A::node(), own.address)), ifindex)
}

/// Whether this node holds an egress address.
#[inline(always)]
pub fn holds<A: Family>(address: A) -> bool {
    // Without a branch for each word: the verifier would walk them all.
    A::egress(address).is_some_and(|own| own.address.difference(&address) == 0)
}

/// How a packet ends that knocks where nobody is asked for.
#[inline(always)]
pub fn closed<A: Family>(key: &FlowKey<A>) -> Verdict {
    if !holds(key.dst) {
        return Verdict::DropNoFrontend;
    }
    // The stack has the address, and must hear of its neighbours.
    if key.protocol == A::ICMP { Verdict::StackForeign } else { Verdict::DropEgressClosed }
}
