//! What becomes of a packet that another node has sent in an outer header?
//! It loses that, and goes to the backend that the outer header names, or to the
//! world under the egress address that it names; the answer leaves from here, or
//! comes back here.

use aya_ebpf::{
    bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, helpers::bpf_skb_adjust_room, programs::TcContext,
};
use causeway_schema::{
    Event, FlowKey, FrontendKey, Hop, MemberKey, Port, Service, Verdict, nat::Ports, protocol,
};
use network_types::eth::EthHdr;

use crate::{
    act::{self, Decision},
    context::Context,
    count, deliver,
    encap::SAME,
    family::Family,
    flow, fragment, gateway, icmp, jump,
    loose::{self, Loose, Part},
    nat::Begins,
    new_flow::Serving,
    pipeline::Side,
    policy,
    refuse::Refuse,
    service::{self, Choice, Chosen},
    slow, source_range, trace,
};

/// What to do with a packet in an outer header.
enum Step {
    /// None of ours: to the container, as it is.
    Plain,
    /// As any packet.
    Slow,
    /// By the flow that stands where flows are made.
    Carry,
    /// A new flow, to what `Loose::begins` says.
    Begin,
    End(Verdict),
}

/// Goes on for the slow program with a packet of such a protocol.
#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext) -> i32 {
    let Some(loose) = loose::held::<A>() else { return act::broken(ctx) };
    loose.side = Side::Uplink;
    let target = match decide(ctx, loose) {
        Step::Plain if policy::asks(Side::Uplink, loose) => A::TO_POLICY,
        Step::Plain | Step::Carry => A::TO_CARRY,
        Step::Slow => A::TO_SLOW,
        Step::Begin => policy::next(Side::Uplink, loose),
        Step::End(verdict) => return slow::finish(ctx, Side::Uplink, loose, Decision::end(verdict)),
    };
    jump::to(ctx, Side::Uplink, target);
    slow::finish(ctx, Side::Uplink, loose, Decision::end(Verdict::DropInconsistent))
}

#[inline(always)]
fn decide<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>) -> Step {
    let outer = loose.packet.key;
    let hop = deliver::hop(outer.dst);
    let leaves = hop == Hop::NONE && gateway::holds(outer.dst);
    if hop == Hop::NONE && !leaves || loose.part != Part::Whole {
        return Step::Plain;
    }
    let at = loose.l4;
    let is_trusted = source_range::is_node(outer.src);
    let is_ours = match A::embedded(ctx, at) {
        _ if leaves => true,
        Some((inner, _)) => returns_directly(&inner).is_some(),
        // Fragments, and errors about answers: nothing but the address tells.
        None => is_trusted && A::quoted(ctx, at).is_some_and(|inner| is_served(inner.dst)),
    };
    if !is_ours {
        return Step::Plain;
    }
    if !is_trusted {
        return Step::End(Verdict::DropTunnelSource);
    }
    // SAFETY: the context is valid for the whole run of the program.
    let shrunk = unsafe {
        let length = at as i32 - EthHdr::LEN as i32;
        bpf_skb_adjust_room(ctx.skb.skb, -length, BPF_ADJ_ROOM_MAC, u64::from(SAME))
    };
    if shrunk != 0 {
        return Step::End(Verdict::DropRewrite);
    }
    if let Err(verdict) = A::read(ctx, loose) {
        return Step::End(verdict);
    }
    let dry = trace::is_dry(ctx);
    if !dry {
        count::event(Event::Decapsulated);
    }
    if leaves {
        return leave(ctx, loose, outer.dst, dry);
    }
    if !loose.has_ports() || flow::find_now(&loose.packet, ctx.ifindex(), dry).is_some() {
        return Step::Slow;
    }
    loose.unwrapped = true;
    begin(loose, outer.dst, hop)
}

/// To the world under an egress address that this node holds.
#[inline(always)]
fn leave<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>, address: A, dry: bool) -> Step {
    loose.unwrapped = true;
    if loose.part == Part::Later {
        return match fragment::find(loose, ctx.ifindex()) {
            Some(_) => Step::Slow,
            None => Step::End(fragment::hold(ctx, loose, true, dry)),
        };
    }
    let is_echo = loose.packet.key.protocol == A::ICMP && matches!(icmp::name_echo(ctx, loose), Some(true));
    // Nobody translates SCTP.
    let translates = loose.has_ports() && loose.packet.key.protocol != protocol::SCTP;
    if !is_echo && !translates {
        return Step::Slow;
    }
    if let Some(entry) = flow::find_now(&loose.packet, ctx.ifindex(), dry) {
        let Some(pair) = A::pair() else { return Step::End(Verdict::DropInconsistent) };
        // SAFETY: as in `new_flow::pair`, and map values stay readable until the
        // program ends (RCU).
        let flow = unsafe { &*entry };
        if flow::is_slow(flow) || loose.part != Part::Whole {
            return Step::Slow;
        }
        unsafe { (*pair).request = *flow };
        loose.translated = true;
        return Step::Carry;
    }
    loose.begins = gateway::under_egress(&loose.packet, address);
    Step::Begin
}

/// The flow to begin with the backend that another node has chosen.
#[inline(always)]
fn begin<A: Family>(loose: &mut Loose<A>, backend: A, hop: Hop) -> Step {
    let key = &loose.packet.key;
    let Some((id, offset, row)) = returns_directly(key) else { return Step::End(Verdict::DropNoBackend) };
    loose.service = id;
    let Some(chosen) = serving(id, &row, key, backend) else {
        // It has left the service, and the other node has yet to hear of it.
        return Step::End(Verdict::DropNoBackend);
    };
    loose.backend = chosen.id;
    let port = Port::new(chosen.port.get().wrapping_add(offset));
    let after = FlowKey { dst: backend, dst_port: port, ..*key };
    let serving = Serving { service: id, generation: row.generation, backend: chosen.id };
    loose.begins = Begins { after, serving, hop, ports: Ports::ALL, attempt: 0, flags: 0 };
    Step::Begin
}

/// The backend at an address: of several there, the one that is chosen here too.
#[inline(always)]
fn serving<A: Family>(id: u32, row: &Service, key: &FlowKey<A>, backend: A) -> Option<Chosen<A>> {
    if let Choice::Backend(chosen) = service::choose_for(row, key)
        && chosen.addr == backend
    {
        return Some(chosen);
    }
    let member = A::member(&MemberKey::new(id, backend))?;
    service::serving(row, member.backend).filter(|chosen| chosen.addr == backend)
}

/// The service with direct return that packets of this tuple are for, at
/// whatever node they knocked: its id, how far into a range of its ports they
/// go, and its row.
#[inline(always)]
fn returns_directly<A: Family>(key: &FlowKey<A>) -> Option<(u32, u16, Service)> {
    let at = |addr| A::frontend(&FrontendKey::new(addr, key.dst_port, key.protocol));
    let found =
        at(key.dst).or_else(|| if source_range::is_node(key.dst) { at(A::UNSPECIFIED) } else { None });
    let (id, offset) = match found {
        Some(frontend) => (frontend.service, 0),
        None => {
            let range = service::in_range(key)?;
            (range.service, range.offset(key.dst_port))
        }
    };
    let row = service::row::<A>(id)?;
    (row.flags & Service::DSR != 0).then_some((id, offset, row))
}

/// Whether services are served at an address, here or at another node.
#[inline(always)]
fn is_served<A: Family>(address: A) -> bool {
    A::frontend(&FrontendKey::whole_address(address)).is_some() || source_range::is_node(address)
}
