//! Where do backend tables live? In one flat array of 64-byte cells, mapped
//! into the agent, read by BPF through inlined array lookups.
//!
//! A table is a run of cells. The agent fills a fresh run by plain stores and
//! then flips the service's [`Target`](crate::Target) in one 8-byte store; a
//! published run is never written again, so readers never see half a table.

use bytemuck::{Pod, Zeroable};

/// Bytes in a cell: one cache line. Small enough for every kernel's limit on
/// array values, large enough that the 8-byte rounding of array elements
/// wastes nothing.
pub const CELL_BYTES: usize = 64;

/// One cell of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Cell(pub [u64; CELL_BYTES / 8]);

impl Cell {
    pub const ZERO: Cell = Cell([0; CELL_BYTES / 8]);
}

/// Read access to the cells: a BPF array in the kernel, a mapping or a vector
/// in userspace. The backend choice is written once, over this.
pub trait Arena {
    fn cell(&self, index: u32) -> Option<&Cell>;
}

impl Arena for [Cell] {
    fn cell(&self, index: u32) -> Option<&Cell> {
        self.get(index as usize)
    }
}
