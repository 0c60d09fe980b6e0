//! Which hosts see a container's own address? The others see the node's
//! (masquerade), or an address that a few containers have for this.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, V4, V6};

/// Networks that the programs compare a destination with, per family.
pub const NETWORKS: usize = 16;

/// A network whose hosts know the way to containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Network<A> {
    pub addr: A,
    /// The prefix's bits one, the others zero.
    pub mask: A,
}

impl<A: Addr> Network<A> {
    /// Contains no address that packets go to.
    pub const NONE: Self = Self { addr: A::UNSPECIFIED, mask: A::ONES };

    #[inline(always)]
    pub fn contains(&self, address: &A) -> bool {
        address.difference_within(&self.addr, &self.mask) == 0
    }
}

/// A container's egress address, under the container's own; and of egress
/// addresses that this node holds, under themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Egress<A> {
    /// What the world sees.
    pub address: A,
    /// Address of the other node that holds it; `address` itself while this one
    /// does, and unspecified while none does.
    pub node: A,
}

impl<A: Addr> Egress<A> {
    /// While this node holds it.
    pub fn here(address: A) -> Self {
        Self { address, node: address }
    }

    #[inline(always)]
    pub fn is_here(&self) -> bool {
        self.node.difference(&self.address) == 0
    }

    /// Whether another node holds it.
    #[inline(always)]
    pub fn is_elsewhere(&self) -> bool {
        !self.is_here() && self.node.difference(&A::UNSPECIFIED) != 0
    }
}

// SAFETY: `repr(C)` of two equal Pod fields.
unsafe impl<A: Addr> Zeroable for Network<A> {}
unsafe impl<A: Addr> Pod for Network<A> {}
unsafe impl<A: Addr> Zeroable for Egress<A> {}
unsafe impl<A: Addr> Pod for Egress<A> {}

const _: () = {
    assert!(size_of::<Network<V4>>() == 8 && size_of::<Network<V6>>() == 32);
    assert!(size_of::<Egress<V4>>() == 8 && size_of::<Egress<V6>>() == 32);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        let ten = Network { addr: V4([10, 0, 0, 0]), mask: V4([255, 0, 0, 0]) };
        assert!(ten.contains(&V4([10, 9, 8, 7])) && !ten.contains(&V4([11, 0, 0, 0])));
        let all = Network { addr: V4::UNSPECIFIED, mask: V4::UNSPECIFIED };
        assert!(all.contains(&V4([1, 2, 3, 4])) && !Network::NONE.contains(&V4([1, 2, 3, 4])));
        let mut mask = V6::UNSPECIFIED;
        mask.0[0] = 0xfe;
        let mut addr = V6::UNSPECIFIED;
        addr.0[0] = 0xfc;
        let local = Network { addr, mask };
        let (mut inside, mut outside) = (V6::ONES, V6::ONES);
        (inside.0[0], outside.0[0]) = (0xfd, 0x20);
        assert!(local.contains(&inside) && !local.contains(&outside));
    }
}
