//! How does a checksum change when a packet does? By the difference alone
//! (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).
//!
//! Words are taken as they lie in memory: one's complement sums do not depend
//! on byte order as long as all words have the same one (RFC 1071, section 2).

use crate::Addr;

/// Folds a sum of 16-bit words into one word.
#[inline(always)]
pub const fn fold(mut sum: u32) -> u16 {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The difference `~from + to` as a sum of words, unfolded.
#[inline(always)]
pub fn difference(from: u32, to: u32) -> u32 {
    (!u32::from(fold(from)) & 0xffff) + to
}

/// A difference folded, with one zero instead of two: adding 0xffff changes
/// nothing, so it need not be added.
#[inline(always)]
pub const fn normal(difference: u32) -> u16 {
    match fold(difference) {
        0xffff => 0,
        folded => folded,
    }
}

/// The difference that replacing address `from` by `to` makes.
#[inline(always)]
pub fn addr_difference<A: Addr>(from: &A, to: &A) -> u32 {
    u32::from(fold(difference(from.sum(), to.sum())))
}

/// The checksum after a change of `difference`.
#[inline(always)]
pub const fn update(checksum: u16, difference: u32) -> u16 {
    !fold((!checksum as u32 & 0xffff) + fold(difference) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::V4;
    use proptest::prelude::*;

    /// RFC 1071 over whole words, the slow way.
    fn checksum(words: &[u16]) -> u16 {
        !fold(words.iter().map(|&word| u32::from(word)).sum())
    }

    proptest! {
        #[test]
        fn an_update_equals_a_fresh_checksum(mut words in proptest::collection::vec(1u16.., 4..40), to: [u16; 2], at in 0usize..3) {
            let before = checksum(&words);
            let from = u32::from(words[at]) + u32::from(words[at + 1]);
            words[at] = to[0];
            words[at + 1] = to[1];
            let after = update(before, difference(from, u32::from(to[0]) + u32::from(to[1])));
            // Both zeroes of one's complement stand for the same sum.
            let same = after == checksum(&words) || (after ^ checksum(&words)) == 0xffff && (after == 0 || after == 0xffff);
            prop_assert!(same);
        }

        #[test]
        fn an_address_there_and_back_changes_nothing(from: [u8; 4], to: [u8; 4], check in 1u16..0xffff) {
            let there = update(check, addr_difference(&V4(from), &V4(to)));
            prop_assert_eq!(update(there, addr_difference(&V4(to), &V4(from))), check);
        }
    }
}
