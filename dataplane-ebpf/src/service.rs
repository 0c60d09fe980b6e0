//! Which backend serves this frontend for this flow?

use causeway_schema::{
    Algorithm, FlowKey, Frontend, FrontendKey, Port, PortRange, Service, Target, choice, hash::flow_hash,
};

use crate::{family::Family, source_range};

/// The frontend that packets of this tuple knock at. Node ports are served at
/// the node's own address, and stand in the table without one, alike on every
/// node.
#[inline(always)]
pub fn frontend<A: Family>(key: &FlowKey<A>) -> Option<Frontend> {
    let found = A::frontend(&FrontendKey::new(key.dst, key.dst_port, key.protocol));
    if found.is_some() || key.dst == A::UNSPECIFIED || key.dst != A::node() {
        return found;
    }
    A::frontend(&FrontendKey::new(A::UNSPECIFIED, key.dst_port, key.protocol))
}

/// The frontend of clients who come from outside, where it is another than that
/// of all, of these ports.
#[inline(always)]
pub fn for_outside<A: Family>(key: &FlowKey<A>, (first, last): (Port, Port)) -> Option<Frontend> {
    let at = |addr| A::frontend(&FrontendKey::new(addr, first, key.protocol).for_outside(last));
    at(key.dst).or_else(|| if key.dst == A::node() { at(A::UNSPECIFIED) } else { None })
}

/// Whether an address is for services, and for containers to leave under, alone:
/// at what has no frontend there, nobody is to be found. A node's own address has
/// the node's sockets, whatever is served there.
#[inline(always)]
pub fn owns<A: Family>(address: A) -> bool {
    let is_own = address == A::node() && address != A::UNSPECIFIED;
    A::frontend(&FrontendKey::whole_address(address)).is_some() && !is_own && !source_range::is_node(address)
}

/// The range of ports that packets of this tuple knock at, where they find no
/// frontend.
#[inline(always)]
pub fn in_range<A: Family>(key: &FlowKey<A>) -> Option<PortRange> {
    A::port_ranges(key.dst)?.find(key.dst_port, key.protocol).copied()
}

/// A service's row, its parts read once each.
#[inline(always)]
pub fn row<A: Family>(id: u32) -> Option<Service> {
    let row = A::service(id)?;
    // SAFETY: the row lives as long as the map. Userspace writes the target as
    // one word: one volatile load sees either the old or the new.
    unsafe {
        Some(Service {
            target: Target(core::ptr::read_volatile(&raw const (*row).target.0)),
            generation: core::ptr::read_volatile(&raw const (*row).generation),
            flags: core::ptr::read_volatile(&raw const (*row).flags),
        })
    }
}

/// Only the generation: all that a packet of a known flow asks for.
#[inline(always)]
pub fn generation<A: Family>(id: u32) -> Option<u32> {
    let row = A::service(id)?;
    // SAFETY: as in `row`.
    Some(unsafe { core::ptr::read_volatile(&raw const (*row).generation) })
}

/// The backend for a flow: its id, address and port.
pub struct Chosen<A> {
    pub id: u32,
    pub addr: A,
    pub port: Port,
}

/// What a service has for a flow.
pub enum Choice<A> {
    Backend(Chosen<A>),
    /// The service has no backend.
    None,
    /// A table names a row that is not there.
    Broken,
}

/// For a flow that begins with this packet.
#[inline(always)]
pub fn choose_for<A: Family>(service: &Service, packet: &FlowKey<A>) -> Choice<A> {
    let FlowKey { src, src_port, dst, dst_port, protocol, .. } = packet;
    choose(service, flow_hash(src, *src_port, dst, *dst_port, *protocol))
}

#[inline(always)]
fn choose<A: Family>(service: &Service, hash: u64) -> Choice<A> {
    if matches!(service.target.algorithm(), Algorithm::Empty) {
        return Choice::None;
    }
    let Some(id) = choice::choose(&A::arena(), service.target, hash) else {
        return Choice::Broken;
    };
    serving(service, id).map_or(Choice::Broken, Choice::Backend)
}

/// The backend with this id, at the port that it has in this service.
#[inline(always)]
pub fn serving<A: Family>(service: &Service, id: u32) -> Option<Chosen<A>> {
    let backend = A::backend(id).filter(|backend| backend.addr != A::UNSPECIFIED)?;
    let port = if service.target.port() == Port::NONE { backend.port } else { service.target.port() };
    (port != Port::NONE).then_some(Chosen { id, addr: backend.addr, port })
}
