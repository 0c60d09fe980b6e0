//! `-log2` of a 32-bit lot in fixed point, by table and linear interpolation:
//! what weighted rendezvous needs, without floating point. (Ceph's straw2
//! buckets draw their straws the same way.)

/// Fractional bits of the result.
pub const FRACTION_BITS: u32 = 26;

const STEPS: usize = 256;

/// `log2(1 + i / 256)` with [`FRACTION_BITS`] fractional bits.
static TABLE: [u32; STEPS + 1] = {
    let mut table = [0; STEPS + 1];
    let mut i = 0;
    while i <= STEPS {
        table[i] = log2_of_ratio(STEPS as u64 + i as u64);
        i += 1;
    }
    table
};

/// `log2(numerator / 256)` for a ratio in 1..=2, bit by bit: squaring doubles
/// the logarithm, and a result of 2 or more yields a one.
const fn log2_of_ratio(numerator: u64) -> u32 {
    if numerator >= 2 * STEPS as u64 {
        return 1 << FRACTION_BITS;
    }
    // 32 fractional bits in a u128 leave room for the square.
    let mut value = (numerator as u128) << (32 - 8);
    let mut result = 0;
    let mut bit = 0;
    while bit < FRACTION_BITS {
        value = (value * value) >> 32;
        result <<= 1;
        if value >= 2 << 32 {
            value >>= 1;
            result |= 1;
        }
        bit += 1;
    }
    result
}

/// `-log2((lot + 1) / 2^32)`, in units of `2^-26`; 0 for the highest lot,
/// `32 << 26` for lot 0. Monotone: a higher lot never gives a higher result.
#[inline(always)]
pub fn neg_log2(lot: u32) -> u64 {
    let value = u64::from(lot) + 1;
    let exponent = (63 - value.leading_zeros()) & 63;
    // The mantissa without its leading one, as 32 fractional bits.
    let mantissa = ((value << (32 - exponent)) & 0xffff_ffff) as u32;
    let step = (mantissa >> 24) as usize & (STEPS - 1);
    let rest = u64::from(mantissa & 0x00ff_ffff);
    let low = u64::from(TABLE[step]);
    let high = u64::from(TABLE[step + 1]);
    let log2 = (u64::from(exponent) << FRACTION_BITS) + low + (((high - low) * rest) >> 24);
    (32u64 << FRACTION_BITS) - log2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    extern crate std;

    #[test]
    fn both_ends_are_exact() {
        assert_eq!(neg_log2(u32::MAX), 0);
        assert_eq!(neg_log2(0), 32 << FRACTION_BITS);
        assert_eq!(neg_log2((1 << 31) - 1), 1 << FRACTION_BITS);
    }

    proptest! {
        #[test]
        fn it_is_the_logarithm(lot: u32) {
            let exact = -((f64::from(lot) + 1.0) / 4294967296.0).log2();
            let ours = neg_log2(lot) as f64 / f64::from(1 << FRACTION_BITS);
            prop_assert!((exact - ours).abs() < 4e-6, "{} against {}", ours, exact);
        }

        #[test]
        fn a_higher_lot_is_never_worse(lot in 0u32..u32::MAX) {
            prop_assert!(neg_log2(lot + 1) <= neg_log2(lot));
        }
    }
}
