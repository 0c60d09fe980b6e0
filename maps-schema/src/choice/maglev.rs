//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4), with weights by
//! credit: each round a backend earns its weight, and places a slot when its
//! credit reaches the heaviest backend's weight.
//!
//! Layout of a table of M slots: M indices of 2 bytes, then from the next
//! cell on the backends' ids, 4 bytes each. An index picks the id.

use super::Lot;
use crate::{Arena, CELL_BYTES, Cell, Target};

const SLOTS: usize = CELL_BYTES / 2;
const IDS: usize = CELL_BYTES / 4;

/// Largest set of backends in a table. Limited by [`Target::MAX_LEN`]: the
/// longest table still gives each backend 100 slots.
pub const MAX_BACKENDS: usize = 10_000;

/// Primes just below powers of two.
const LENGTHS: [u32; 8] = [16_381, 32_749, 65_521, 131_071, 262_139, 524_287, 786_431, 1_048_573];

/// Slots for a set of `backends`: the shortest length that gives each 500, so
/// that a leaving backend moves less than 1% of the other flows; the longest
/// one above 2,000 backends, where a backend's own share is far below that.
pub fn length(backends: usize) -> u32 {
    let wanted = backends.saturating_mul(500);
    LENGTHS.into_iter().find(|&length| length as usize >= wanted).unwrap_or(LENGTHS[LENGTHS.len() - 1])
}

/// Slots for somebody who asks for so many: the next length there is, and never fewer
/// than a hundred for each of `backends`.
pub fn length_of(slots: u32, backends: usize) -> u32 {
    let wanted = (slots as usize).max(backends.saturating_mul(100));
    LENGTHS.into_iter().find(|&length| length as usize >= wanted).unwrap_or(LENGTHS[LENGTHS.len() - 1])
}

/// Cells that a table of `length` slots over `backends` takes.
pub const fn cells(length: u32, backends: usize) -> usize {
    (length as usize).div_ceil(SLOTS) + backends.div_ceil(IDS)
}

/// A backend's walk through the slots; scratch space of [`fill`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    next: u32,
    skip: u32,
    credit: u32,
}

const FREE: u16 = u16::MAX;

/// Fills `table`, of [`cells`] cells, from lots sorted by seed. `walks` is
/// scratch space, one for each lot. With no lot the table is left alone.
pub fn fill(lots: &[Lot], length: u32, walks: &mut [Walk], table: &mut [Cell]) {
    let heaviest = lots.iter().map(|lot| lot.weight).max().unwrap_or(0);
    if heaviest == 0 {
        return;
    }
    for (walk, lot) in walks.iter_mut().zip(lots) {
        let (high, low) = ((lot.seed >> 32) as u32, lot.seed as u32);
        *walk = Walk { next: high % length, skip: low % (length - 1) + 1, credit: 0 };
    }

    let (slots, ids) = table.split_at_mut((length as usize).div_ceil(SLOTS));
    let slots: &mut [u16] = bytemuck::cast_slice_mut(slots);
    let slots = &mut slots[..length as usize];
    slots.fill(FREE);
    let mut left = length;
    while left > 0 {
        for (index, (walk, lot)) in walks.iter_mut().zip(lots).enumerate() {
            walk.credit += lot.weight;
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            // `length` is prime, so the walk visits every slot.
            while slots[walk.next as usize] != FREE {
                // A division would be most of the time that this takes.
                walk.next += walk.skip;
                walk.next -= if walk.next >= length { length } else { 0 };
            }
            slots[walk.next as usize] = index as u16;
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }

    let ids: &mut [u32] = bytemuck::cast_slice_mut(ids);
    ids.fill(0);
    for (id, lot) in ids.iter_mut().zip(lots) {
        *id = lot.backend;
    }
}

#[inline(always)]
pub(super) fn choose<T: Arena + ?Sized>(arena: &T, target: Target, hash: u64) -> Option<u32> {
    let length = target.len();
    // The upper half of the hash, scaled to the length: a modulo without division.
    let slot = ((hash >> 32) * u64::from(length)) >> 32;
    let slot = slot as u32;
    let cell: &[u16; SLOTS] = bytemuck::cast_ref(arena.cell(target.base() + slot / SLOTS as u32)?);
    let index = u32::from(cell[slot as usize % SLOTS]);
    let ids = target.base() + length.div_ceil(SLOTS as u32);
    let cell: &[u32; IDS] = bytemuck::cast_ref(arena.cell(ids + index / IDS as u32)?);
    Some(cell[index as usize % IDS])
}
