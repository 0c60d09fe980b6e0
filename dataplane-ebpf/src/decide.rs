//! What has to be done with a packet that is not plain? Flow, source, service,
//! container, route, as `pipeline` asks for those that are.

use aya_ebpf::programs::TcContext;
use causeway_schema::{
    Flow, Frontend, FrontendKey, Hop, Port, Service, Verdict, flow::flags, nat::Ports, protocol,
};

use crate::{
    context::Context,
    deliver::{self, Way},
    egress,
    family::Family,
    flow::{self, Found},
    fragment::{self, Went},
    loose::{Loose, Part},
    nat::Begins,
    new_flow::Serving,
    own_socket,
    packet::Packet,
    pipeline::Side,
    policy,
    refuse::Refuse,
    service::{self, Choice},
    source_range, trace,
};

/// What has to be done with a packet.
pub enum Step<A: 'static> {
    Translate(&'static Flow<A>),
    /// Its flow moves from one table to the other: it is decided once more.
    Again,
    /// A new flow, to what `Loose::begins` says.
    Begin,
    /// A new flow of a container's to the world.
    Leave,
    /// A new flow to a service with affinity, whose backend is still to be chosen.
    Affinity,
    /// To a service's address, at a port that has no frontend of its own.
    PortRange,
    /// A new flow to a backend elsewhere that is to answer its client itself.
    Tunnel,
    /// To no service: between containers, nodes and the world.
    Plain,
    /// Another fragment of such a packet, whose first one has been let pass.
    Follow,
    /// A first fragment for which others wait.
    Release,
    End(Verdict),
}

#[inline(always)]
pub fn decide<A: Refuse>(ctx: &TcContext, side: Side, loose: &mut Loose<A>) -> Step<A> {
    let dry = trace::is_dry(ctx);
    let ifindex = ctx.ifindex();
    let later = loose.part == Part::Later && flow::is_tracked(loose.packet.key.protocol);
    let has_flow = later || loose.part == Part::Later && loose.packet.key.protocol == A::ICMP;
    if has_flow {
        match fragment::find(loose, ifindex) {
            Some(Went::By(flow)) => return Step::Translate(flow),
            // The sender may have lost its address meanwhile.
            Some(Went::Plainly) if !is_spoofed(ctx, side, loose) => return Step::Follow,
            _ => {}
        }
    }
    if !dry && fragment::is_awaited(loose) {
        return Step::Release;
    }
    if loose.has_ports() {
        match flow::find(&loose.packet, ifindex, dry) {
            Found::Flow(entry) => {
                // SAFETY: map values stay readable until the program ends (RCU).
                let flow = unsafe { &*entry };
                (loose.service, loose.backend) = (flow.service, flow.backend);
                let expired = flow::is_expired(flow);
                return if expired { Step::End(Verdict::DropExpired) } else { Step::Translate(flow) };
            }
            Found::Moving => return Step::Again,
            Found::Nothing => {}
        }
    }
    if side == Side::Container && is_rogue(&loose.packet) {
        return Step::End(Verdict::DropRogueServer);
    }
    if is_spoofed(ctx, side, loose) {
        return Step::End(Verdict::DropSpoofed);
    }
    if A::is_multicast(loose.packet.key.dst) {
        return Step::End(Verdict::StackMulticast);
    }
    // Asked once, so that the verifier walks it once.
    let leaves = egress::leaves(ctx, side, loose);
    if later {
        let key = &loose.packet.key;
        // Nobody translates SCTP.
        let translated = key.protocol != protocol::SCTP && (leaves || service::owns(key.dst));
        let awaits = translated || policy::applies(side, key.src, deliver::hop(key.dst));
        return early(ctx, side, loose, awaits, dry);
    }
    if !loose.has_ports() {
        return Step::Plain;
    }
    let key = &loose.packet.key;
    if let Some(frontend) = service::frontend(key) {
        let ports = (key.dst_port, key.dst_port);
        return first(ctx, side, loose, frontend, ports);
    }
    if is_service_address(key.dst) {
        return Step::PortRange;
    }
    if leaves {
        return Step::Leave;
    }
    if loose.packet.opens_connection() && flow::is_known(&key.reversed()) && is_ours(ctx, side, loose) {
        // To a container's own address, but its answers would be taken for a
        // flow's to some service: it gets another source port.
        loose.begins = Begins {
            after: *key,
            serving: Serving::NONE,
            hop: deliver::hop(key.dst),
            ports: Ports::ALL,
            attempt: 0,
            flags: 0,
        };
        return Step::Begin;
    }
    Step::Plain
}

/// Ports that DHCP servers send from (RFC 2131, RFC 8415), in memory's order.
const DHCP: [u16; 2] = [67_u16.to_be(), 547_u16.to_be()];

/// What a container that plays DHCP server sends.
#[inline(always)]
pub fn is_rogue<A: Family>(packet: &Packet<A>) -> bool {
    packet.key.protocol == protocol::UDP && DHCP.contains(&packet.key.src_port.raw())
}

/// From a container, with a source that is not its own. Who has no address yet
/// may say so to all, and what is link-local goes no further than the host.
#[inline(always)]
pub fn is_spoofed<A: Refuse>(ctx: &TcContext, side: Side, loose: &Loose<A>) -> bool {
    let key = &loose.packet.key;
    if side == Side::Uplink || deliver::is_own_source(ctx, key.src) {
        return false;
    }
    let stays = A::is_multicast(key.dst) || A::is_link_local(key.dst);
    !(stays && (key.src == A::UNSPECIFIED || A::is_link_local(key.src)))
}

/// Whether an address has services, and is no container's here.
#[inline(always)]
fn is_service_address<A: Family>(address: A) -> bool {
    A::frontend(&FrontendKey::whole_address(address)).is_some() && deliver::endpoint(address).is_none()
}

/// A fragment without ports that comes before its first one: whether it waits is
/// known, or not.
#[inline(always)]
fn early<A: Refuse>(ctx: &TcContext, side: Side, loose: &Loose<A>, awaits: bool, dry: bool) -> Step<A> {
    if !awaits && !fragment::may_be_answer(side, &loose.packet.key) {
        return Step::Plain;
    }
    let verdict = fragment::hold(ctx, loose, awaits, dry);
    if !dry && fragment::find(loose, ctx.ifindex()).is_some() {
        // The first one went by on another CPU meanwhile, and saw nobody wait.
        return Step::Release;
    }
    // It goes as it is, as most do.
    if verdict == Verdict::DropFragment && !awaits { Step::Plain } else { Step::End(verdict) }
}

/// The first packet of a flow to a service, by a frontend at these ports, from the
/// first to the last.
#[inline(always)]
pub fn first<A: Refuse>(
    ctx: &TcContext,
    side: Side,
    loose: &mut Loose<A>,
    mut frontend: Frontend,
    ports: (Port, Port),
) -> Step<A> {
    if own_socket::may_answer(&loose.packet) && own_socket::is_answered(ctx, &loose.packet) {
        return Step::Plain;
    }
    let key = &loose.packet.key;
    if side == Side::Uplink
        && frontend.flags & Frontend::OUTSIDE != 0
        && let Some(outside) = service::for_outside(key, ports)
    {
        frontend = outside;
    }
    loose.service = frontend.service;
    if !source_range::is_open_to(&frontend, key.src) {
        return Step::End(Verdict::DropSourceRange);
    }
    let Some(row) = service::row::<A>(loose.service) else {
        return Step::End(Verdict::DropInconsistent);
    };
    if row.flags & Service::AFFINITY != 0 {
        return Step::Affinity;
    }
    begin_with(ctx, side, loose, &row, service::choose_for(&row, key))
}

/// The flow to begin with a backend.
#[inline(always)]
pub fn begin_with<A: Refuse>(
    ctx: &TcContext,
    side: Side,
    loose: &mut Loose<A>,
    row: &Service,
    choice: Choice<A>,
) -> Step<A> {
    let backend = match choice {
        Choice::Backend(backend) => backend,
        Choice::None if row.flags & Service::SILENT != 0 => return Step::End(Verdict::DropNoLocalBackend),
        Choice::None => return Step::End(Verdict::DropNoBackend),
        Choice::Broken => return Step::End(Verdict::DropInconsistent),
    };
    let key = &loose.packet.key;
    loose.backend = backend.id;
    let endpoint = deliver::endpoint(backend.addr);
    let hop = endpoint.as_ref().map_or(Hop::NONE, |(hop, _)| *hop);
    let own = endpoint.is_some_and(|(_, row)| row.ifindex == ctx.ifindex());
    let mut after = *key;
    let mut ports = Ports::ALL;
    after.dst = backend.addr;
    after.dst_port = Port::new(backend.port.get().wrapping_add(loose.offset));
    let mut flags = (row.flags & Service::PROXY) as u16;
    if hop == Hop::NONE && backend.addr == A::node() {
        // The node itself answers whom it sees, and by here.
        flags |= flags::HOST;
    } else if side == Side::Uplink && hop == Hop::NONE {
        // The answer must come back this way: it goes to whom it sees.
        after.src = A::node();
        if after.src == A::UNSPECIFIED {
            return Step::End(Verdict::DropRemoteBackend);
        }
        // A packet for this node's own address would find nobody elsewhere.
        let on_link = row.flags & Service::DSR_L2 != 0 && key.dst != after.src;
        let direct = on_link || row.flags & Service::DSR != 0;
        // A node's own sockets get nothing that comes packed in.
        if direct && !source_range::is_node(backend.addr) {
            let flags = if on_link { flags::TUNNELLED | flags::ON_LINK } else { flags::TUNNELLED };
            after.src_port = Port::NONE;
            loose.begins = Begins { after, serving: serving(loose, row), hop, ports, attempt: 0, flags };
            return Step::Tunnel;
        }
        ports = egress::ports();
        after.src_port = egress::first_port(key, ports);
    }
    if own || after.dst == after.src {
        // A container that is its own server, at whichever of its addresses: to
        // itself it must look like somebody whose answers come out through the
        // gateway.
        after.src = A::HAIRPIN;
    }
    loose.begins = Begins { after, serving: serving(loose, row), hop, ports, attempt: 0, flags };
    Step::Begin
}

#[inline(always)]
fn serving<A>(loose: &Loose<A>, row: &Service) -> Serving {
    Serving { service: loose.service, generation: row.generation, backend: loose.backend }
}

/// Whether a packet to no service goes on from here.
#[inline(always)]
fn is_ours<A: Refuse>(ctx: &TcContext, side: Side, loose: &Loose<A>) -> bool {
    let key = &loose.packet.key;
    deliver::endpoint(key.dst).is_some()
        || side == Side::Container
            && matches!(deliver::way(ctx, &loose.packet, key.src, key.dst), Way::Out(_) | Way::Host)
}
