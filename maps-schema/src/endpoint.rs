//! Which interface leads to a container? An address names a slot, a slot names
//! the interface.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, V4, V6};

/// The link-local gateway that every container sees; the dataplane answers
/// ARP for it, nothing on the host owns it.
pub const GATEWAY_V4: V4 = V4([169, 254, 1, 1]);

/// The same for IPv6: the address that neighbour solicitations are answered for.
pub const GATEWAY_V6: V6 = V6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Whom a container that calls its own service sees as its client: an address
/// that leads back through the gateway and that nobody else has.
pub const HAIRPIN_V4: V4 = V4([169, 254, 1, 2]);
pub const HAIRPIN_V6: V6 = V6([0xfd, 0xca, 0x05, 0xe0, 0x0a, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);

/// The gateway's hardware address, on the host side of every container's
/// interface: locally administered, the same everywhere, so that a container's
/// neighbour entry stays right when it moves.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0xca, 0x05, 0xe0, 0x0a, 0x01];

/// Key of the endpoint table: an address of a container on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct EndpointKey<A>(pub A);

/// Row of an endpoint, at its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Endpoint {
    /// Interface index of the host side; 0 in a free slot.
    pub ifindex: u32,
    /// Changes when the slot gets another tenant: see [`Hop`].
    pub generation: u16,
    /// `flags::*`.
    pub flags: u16,
    /// Hardware address of the container's side.
    pub mac: [u8; 6],
    /// Which rows of the table of policies are its own; 0: nothing is asked
    /// about it. See [`policy`](crate::policy).
    pub policy: u16,
}

/// Bits of [`Endpoint::flags`].
pub mod flags {
    /// Deliver through the host side's egress instead of `bpf_redirect_peer`:
    /// for guests that bridge onward, and for shaped endpoints.
    pub const NO_REDIRECT_PEER: u16 = 1;
}

/// A slot and its generation in one word: where a flow's packets are delivered.
/// `Hop::NONE` means "not on this node: ask the routing table".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Hop(pub u32);

impl Hop {
    /// Slot 0 is never given out.
    pub const NONE: Hop = Hop(0);

    #[inline(always)]
    pub const fn new(slot: u16, generation: u16) -> Self {
        Hop((generation as u32) << 16 | slot as u32)
    }

    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 & 0xffff
    }

    #[inline(always)]
    pub const fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

// SAFETY: transparent over a Pod address.
unsafe impl<A: Addr> Zeroable for EndpointKey<A> {}
unsafe impl<A: Addr> Pod for EndpointKey<A> {}

const _: () = {
    assert!(size_of::<Endpoint>() == 16);
    assert!(size_of::<EndpointKey<V4>>() == 4 && size_of::<EndpointKey<V6>>() == 16);
};
