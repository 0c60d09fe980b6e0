//! Which source ports does a flow try whose own will not do? The same on every
//! node and in every model.

use bytemuck::{Pod, Zeroable};

use crate::{Port, hash::mix};

/// Ports that are tried, the flow's own first: with nine of ten taken, 99.9 %
/// of flows find one.
pub const TRIES: u32 = 64;
/// Of them in one run of the program: as many as keep it well under the
/// verifier's budget.
pub const TRIES_AT_ONCE: u32 = 8;

/// A range of ports, both ends in it; host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    /// All but those below 1024, which are for servers.
    pub const ALL: Self = Self { first: 1024, last: u16::MAX };

    #[inline(always)]
    pub fn contains(self, port: Port) -> bool {
        self.first <= port.get() && port.get() <= self.last
    }

    /// The port to try first: the flow's own, if it may keep that.
    #[inline(always)]
    pub fn first(self, own: Port, hash: u64) -> Port {
        if self.contains(own) { own } else { self.pick(hash, 0) }
    }

    /// The port to try after `attempt` others, by the flow's hash.
    #[inline(always)]
    pub fn pick(self, hash: u64, attempt: u32) -> Port {
        let count = u32::from(self.last).wrapping_sub(self.first.into()).wrapping_add(1);
        // Anew each time: clients take neighbouring ports, and steps from one
        // place would stay among them.
        let mixed = (mix(hash.wrapping_add(attempt.into())) >> 32) as u32;
        Port::new(self.first.wrapping_add((mixed % count.max(1)) as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_stay_in_their_range_and_hardly_repeat() {
        for ports in [Ports::ALL, Ports { first: 1024, last: 29_999 }, Ports { first: 61_000, last: 65_535 }]
        {
            let mut repeated = 0;
            for seed in 0..1000_u64 {
                let hash = (seed + 1).wrapping_mul(crate::hash::MULTIPLIER_A).rotate_left(29);
                let tried: [Port; TRIES as usize] =
                    core::array::from_fn(|attempt| ports.pick(hash, attempt as u32));
                assert!(tried.iter().all(|&port| ports.contains(port)), "{ports:?}: {tried:?}");
                repeated += (1..tried.len()).filter(|&at| tried[..at].contains(&tried[at])).count();
            }
            // Chance alone would repeat as many of the narrowest range.
            assert!(repeated < 1000, "{ports:?}: {repeated} of 64,000 ports were tried twice");
        }
    }
}
