//! The kernel obeys: the only module that touches maps, links, pins and routes,
//! and sends packets.
//!
//! [`Tables`] is the seam between the plan and the maps, with two
//! implementations: `memory::MemoryTables`, with injectable faults, and
//! `bpf::BpfTables`.

pub mod bpf;
pub mod driver;
pub mod echo;
pub mod knock;
pub mod memory;
mod message;
pub mod netfilter;
pub mod ping;
pub mod routes;
pub mod solicit;
pub mod udp_sockets;

use causeway_schema::Addr;

use crate::plan::{Capacity, Map, ReadError, Rows, Step};

/// A write or read that a map refused.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of map {map}: {cause}")]
pub struct TableError {
    pub map: Map,
    /// `update`, `delete`, `read`.
    pub operation: &'static str,
    pub cause: std::io::Error,
}

impl From<ReadError> for TableError {
    fn from(error: ReadError) -> Self {
        Self { map: error.map, operation: "read", cause: error.cause }
    }
}

/// The maps of one address family: [`Rows`] that can be written.
pub trait Tables<A: Addr>: Rows<A> {
    fn capacity(&self) -> Capacity;

    /// Applies the steps in order. Stops at nothing: returns the index and
    /// error of each step that failed, and applies the rest, except that steps
    /// of a later phase are withheld when an earlier one failed (they may
    /// point at what is not there); those are reported too.
    fn apply(&mut self, steps: &[Step<A>]) -> Vec<(usize, TableError)>;
}
