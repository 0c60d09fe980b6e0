//! How is a service laid out in the maps?
//!
//! `FrontendKey -> Frontend{service}` (hash), `Service` (array by id) names the
//! backend table by its [`Target`], the table lies in the arena and names
//! `Backend` rows (array by id).

use bytemuck::{Pod, Zeroable};

use crate::{Addr, Port, PortRange, V4, V6};

/// Where clients knock. `port` and `protocol` zero: the marker row that says
/// "this whole address belongs to services", so that a packet to a port that has
/// no row here goes to whom the address's [ranges](crate::port_range) give it, or
/// is refused instead of routed away.
///
/// A frontend [with other backends for the outside](Frontend::OUTSIDE) has a second
/// row; that of a range of ports stands at its first, where a port of its own and
/// the whole address may have theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FrontendKey<A> {
    pub addr: A,
    pub port: Port,
    pub protocol: u8,
    /// In the row for clients who come from outside one of the kinds below, else 0.
    pub outside: u8,
}

impl<A: Addr> FrontendKey<A> {
    #[inline(always)]
    pub fn new(addr: A, port: Port, protocol: u8) -> Self {
        Self { addr, port, protocol, outside: 0 }
    }

    /// Kinds of rows for clients who come from outside.
    pub const OUTSIDE_PORT: u8 = 1;
    pub const OUTSIDE_RANGE: u8 = 2;
    pub const OUTSIDE_WHOLE: u8 = 3;

    /// The row for clients who come from outside to the ports up to `last`.
    #[inline(always)]
    pub fn for_outside(self, last: Port) -> Self {
        let outside = if (self.port, last) == PortRange::WHOLE {
            Self::OUTSIDE_WHOLE
        } else if self.port == last {
            Self::OUTSIDE_PORT
        } else {
            Self::OUTSIDE_RANGE
        };
        Self { outside, ..self }
    }

    /// The marker row of `addr`.
    #[inline(always)]
    pub fn whole_address(addr: A) -> Self {
        Self::new(addr, Port::NONE, 0)
    }
}

/// The service behind a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Frontend {
    /// Index of the [`Service`] row; [`Frontend::WHOLE_ADDRESS`] in marker rows.
    pub service: u32,
    /// [`Frontend::SOURCE_RANGES`] and [`Frontend::OUTSIDE`], in marker rows
    /// [`Frontend::EGRESS`], or zero.
    pub flags: u32,
}

impl Frontend {
    pub const WHOLE_ADDRESS: u32 = u32::MAX;
    /// Only for clients within the service's [source ranges](crate::source_range).
    pub const SOURCE_RANGES: u32 = 1 << 1;
    /// No service's address: one that this node holds for containers to leave under.
    pub const EGRESS: u32 = 1 << 2;
    /// Clients who come from outside are served by others: their row says by whom.
    pub const OUTSIDE: u32 = 1 << 3;
    /// The marker row of such an address.
    pub const HELD: Self = Self { service: Self::WHOLE_ADDRESS, flags: Self::EGRESS };
}

/// A service's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Service {
    /// The backend table. Written in one 8-byte store.
    pub target: Target,
    /// Raised each time a backend leaves the service (and when the id gets
    /// another service), after the new table stands.
    pub generation: u32,
    /// [`Service::AFFINITY`], one of the ways of direct return or
    /// [`Service::PROXY`], or none, and [`Service::SILENT`].
    pub flags: u32,
}

impl Service {
    /// A client goes back to the backend it had: see [`affinity`](crate::affinity).
    pub const AFFINITY: u32 = 1;
    /// What comes from outside to a backend on another node goes there whole, in
    /// an outer IP header, and the answer goes from there to the client.
    pub const DSR: u32 = 1 << 1;
    /// The same, by the hardware address of the next hop instead: it gets the packet
    /// as it is, and chooses the same backend.
    pub const DSR_L2: u32 = 1 << 2;
    /// It has backends on other nodes only, which are not to serve here: who finds
    /// none is told nothing, and may find another node when it asks again.
    pub const SILENT: u32 = 1 << 3;
    /// What backends hear first on a TCP connection is who the client is (PROXY
    /// protocol, version 2). The same bit as in a flow's flags.
    pub const PROXY: u32 = crate::flow::flags::PROXY as u32;
    pub const FLAGS: u32 = Self::AFFINITY | Self::DSR | Self::DSR_L2 | Self::SILENT | Self::PROXY;
}

/// How a table chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// No backend.
    Empty = 0,
    /// Rendezvous over backends of equal weight: the highest lot wins.
    Rendezvous = 1,
    /// Weighted rendezvous: the lowest `-log2(lot) / weight` wins.
    RendezvousWeighted = 2,
    /// Weighted Maglev: a slot names an index into the list of backend ids.
    Maglev = 3,
}

/// Which table, how long, which algorithm, and the backends' common port, in
/// one word, so that userspace changes all of it at once.
///
/// Bits, from the lowest: 16 port (host order), 2 algorithm, 20 length,
/// 26 index of the first cell. Length counts backends for rendezvous, slots
/// for Maglev. Port 0: each backend row has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Target(pub u64);

impl Target {
    pub const EMPTY: Target = Target(0);
    /// Largest length that fits.
    pub const MAX_LEN: u32 = (1 << 20) - 1;
    /// Largest cell index that fits: an arena of 4 GiB.
    pub const MAX_BASE: u32 = (1 << 26) - 1;

    pub const fn new(base: u32, len: u32, algorithm: Algorithm, port: Port) -> Self {
        debug_assert!(base <= Self::MAX_BASE && len <= Self::MAX_LEN);
        Target((base as u64) << 38 | (len as u64) << 18 | (algorithm as u64) << 16 | port.get() as u64)
    }

    #[inline(always)]
    pub const fn base(self) -> u32 {
        (self.0 >> 38) as u32
    }

    #[inline(always)]
    pub const fn len(self) -> u32 {
        (self.0 >> 18) as u32 & Self::MAX_LEN
    }

    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        matches!(self.algorithm(), Algorithm::Empty)
    }

    #[inline(always)]
    pub const fn algorithm(self) -> Algorithm {
        match (self.0 >> 16) & 3 {
            0 => Algorithm::Empty,
            1 => Algorithm::Rendezvous,
            2 => Algorithm::RendezvousWeighted,
            _ => Algorithm::Maglev,
        }
    }

    /// The port that every backend of the service listens on, if it is one.
    #[inline(always)]
    pub const fn port(self) -> Port {
        Port::new(self.0 as u16)
    }
}

/// A backend's row. Never rewritten while a table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Backend<A: Addr> {
    pub addr: A,
    /// [`Port::NONE`]: the port stands in the service's [`Target`], and the
    /// row is shared by every service port on this address.
    pub port: Port,
    /// Reserved for state and zone; zero.
    pub flags: u16,
    pub pad: A::RowPad,
}

impl<A: Addr> Backend<A> {
    #[inline(always)]
    pub fn new(addr: A, port: Port) -> Self {
        Self { addr, port, flags: 0, pad: A::RowPad::zeroed() }
    }
}

// SAFETY: `repr(C)`, every field is Pod, sizes below leave no padding.
unsafe impl<A: Addr> Zeroable for FrontendKey<A> {}
unsafe impl<A: Addr> Pod for FrontendKey<A> {}
unsafe impl<A: Addr> Zeroable for Backend<A> {}
unsafe impl<A: Addr> Pod for Backend<A> {}

const _: () = {
    assert!(size_of::<FrontendKey<V4>>() == 8 && size_of::<FrontendKey<V6>>() == 20);
    assert!(size_of::<Frontend>() == 8);
    assert!(size_of::<Service>() == 16 && align_of::<Service>() == 8);
    assert!(size_of::<Backend<V4>>() == 8 && size_of::<Backend<V6>>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_keeps_its_four_parts_apart() {
        let target = Target::new(Target::MAX_BASE, Target::MAX_LEN - 1, Algorithm::Maglev, Port::new(8080));
        assert_eq!(target.base(), Target::MAX_BASE);
        assert_eq!(target.len(), Target::MAX_LEN - 1);
        assert_eq!(target.algorithm(), Algorithm::Maglev);
        assert_eq!(target.port(), Port::new(8080));
        assert!(Target::EMPTY.is_empty());
    }
}
