//! Rendezvous hashing (highest random weight; Thaler and Ravishankar, 1998):
//! each backend draws a lot from the flow's hash, the best lot serves. Take a
//! backend away and only its own flows draw a new winner.

use bytemuck::{Pod, Zeroable};

use super::{Lot, MAX_WEIGHT, RENDEZVOUS_MAX, log2::neg_log2};
use crate::{Algorithm, Arena, CELL_BYTES, Cell, Target, hash};

/// One backend in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Row {
    pub seed: u64,
    /// `2^31 / weight`: the weighted choice multiplies where it would divide.
    pub inverse_weight: u32,
    pub backend: u32,
}

const ROWS: usize = CELL_BYTES / size_of::<Row>();

/// Cells that a table of `backends` takes.
pub const fn cells(backends: usize) -> usize {
    backends.div_ceil(ROWS)
}

/// Fills `table`, of [`cells`] cells, from lots sorted by seed.
pub fn fill(lots: &[Lot], table: &mut [Cell]) {
    for (cell, lots) in table.iter_mut().zip(lots.chunks(ROWS)) {
        let mut rows = [Row::zeroed(); ROWS];
        for (row, lot) in rows.iter_mut().zip(lots) {
            let weight = lot.weight.clamp(1, MAX_WEIGHT);
            *row = Row { seed: lot.seed, inverse_weight: (1 << 31) / weight, backend: lot.backend };
        }
        *cell = bytemuck::cast(rows);
    }
}

/// A backend's lot for a flow.
#[inline(always)]
fn lot(hash: u64, seed: u64) -> u32 {
    let mut word = (hash ^ seed).wrapping_mul(hash::MULTIPLIER_A);
    word ^= word >> 32;
    (word.wrapping_mul(hash::MULTIPLIER_B) >> 32) as u32
}

/// No backend has this id; plain numbers keep the verifier's states few.
const NOBODY: u32 = u32::MAX;

#[inline(always)]
pub(super) fn choose<T: Arena + ?Sized>(arena: &T, target: Target, hash: u64) -> Option<u32> {
    let weighted = matches!(target.algorithm(), Algorithm::RendezvousWeighted);
    let mut best = u64::MAX;
    let mut winner = NOBODY;
    let backends = target.len() as usize;
    for index in 0..RENDEZVOUS_MAX / ROWS {
        if index * ROWS >= backends {
            break;
        }
        let cell = arena.cell(target.base() + index as u32)?;
        let rows: &[Row; ROWS] = bytemuck::cast_ref(cell);
        for (at, row) in rows.iter().enumerate() {
            if index * ROWS + at >= backends {
                break;
            }
            let lot = lot(hash, row.seed);
            let score =
                if weighted { neg_log2(lot) * u64::from(row.inverse_weight) } else { u64::from(!lot) };
            // Ties go to the earlier row, that is to the lower seed.
            if score < best {
                best = score;
                winner = row.backend;
            }
        }
    }
    (winner != NOBODY).then_some(winner)
}
