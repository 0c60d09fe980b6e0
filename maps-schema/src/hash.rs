//! Which number stands for a flow? One 64-bit mix of the client's 5-tuple,
//! the same on every node and on every path, so that all of them choose the
//! same backend.

use crate::{Addr, Port};

/// Odd constants with well spread bits (from the 64-bit finaliser of MurmurHash3).
pub const MULTIPLIER_A: u64 = 0xff51_afd7_ed55_8ccd;
pub const MULTIPLIER_B: u64 = 0xc4ce_b9fe_1a85_ec53;

/// Spreads every input bit over the whole word (MurmurHash3's `fmix64`).
#[inline(always)]
pub const fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(MULTIPLIER_A);
    word ^= word >> 33;
    word = word.wrapping_mul(MULTIPLIER_B);
    word ^ (word >> 33)
}

/// Hash of a flow as the client sees it: its own address and port, the
/// frontend's, and the protocol.
#[inline(always)]
pub fn flow_hash<A: Addr>(
    client: &A,
    client_port: Port,
    frontend: &A,
    frontend_port: Port,
    protocol: u8,
) -> u64 {
    let ports =
        u64::from(client_port.get()) << 32 | u64::from(frontend_port.get()) << 8 | u64::from(protocol);
    let addresses = client.fold().wrapping_mul(MULTIPLIER_B) ^ frontend.fold().rotate_left(32);
    mix(addresses ^ ports.wrapping_mul(MULTIPLIER_A))
}

/// Seed of a backend: a function of its address and port alone, so that every
/// node draws the same lots for it.
pub fn backend_seed<A: Addr>(addr: &A, port: Port) -> u64 {
    mix(mix(addr.fold() ^ MULTIPLIER_B) ^ u64::from(port.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{V4, V6, protocol};

    #[test]
    fn every_field_of_the_tuple_changes_the_hash() {
        let base =
            flow_hash(&V4([10, 0, 0, 1]), Port::new(1000), &V4([10, 96, 0, 1]), Port::new(80), protocol::TCP);
        let others = [
            flow_hash(&V4([10, 0, 0, 2]), Port::new(1000), &V4([10, 96, 0, 1]), Port::new(80), protocol::TCP),
            flow_hash(&V4([10, 0, 0, 1]), Port::new(1001), &V4([10, 96, 0, 1]), Port::new(80), protocol::TCP),
            flow_hash(&V4([10, 0, 0, 1]), Port::new(1000), &V4([10, 96, 0, 2]), Port::new(80), protocol::TCP),
            flow_hash(&V4([10, 0, 0, 1]), Port::new(1000), &V4([10, 96, 0, 1]), Port::new(81), protocol::TCP),
            flow_hash(&V4([10, 0, 0, 1]), Port::new(1000), &V4([10, 96, 0, 1]), Port::new(80), protocol::UDP),
        ];
        assert!(others.iter().all(|&other| other != base));
    }

    /// Nodes of different releases must agree: changing this value reshuffles
    /// every flow of a cluster during its upgrade.
    #[test]
    fn the_hash_is_part_of_the_wire_contract() {
        let v4 = flow_hash(
            &V4([10, 0, 0, 1]),
            Port::new(40000),
            &V4([10, 96, 0, 1]),
            Port::new(80),
            protocol::TCP,
        );
        let v6 = flow_hash(&V6([1; 16]), Port::new(40000), &V6([2; 16]), Port::new(80), protocol::UDP);
        assert_eq!((v4, v6), (V4_GOLDEN, V6_GOLDEN), "{v4:#x} {v6:#x}");
    }

    const V4_GOLDEN: u64 = 0xec5c_15f9_3fd0_b93a;
    const V6_GOLDEN: u64 = 0xb021_6f33_b7f9_98c6;
}
