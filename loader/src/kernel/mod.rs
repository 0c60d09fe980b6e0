//! The kernel obeys: the only module that touches maps, links, pins and routes.
//!
//! [`Tables`] is the seam between the plan and the maps, with two
//! implementations: `memory::MemoryTables`, with injectable faults, and
//! `bpf::BpfTables`.

pub mod bpf;
pub mod memory;
pub mod routes;

use causeway_schema::{Addr, Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Service};

use crate::plan::{Capacity, Map, Step};

/// A write or read that a map refused.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of map {map}: {cause}")]
pub struct TableError {
    pub map: Map,
    /// `update`, `delete`, `read`.
    pub operation: &'static str,
    pub cause: std::io::Error,
}

/// The maps of one address family.
///
/// Arrays are read in place; the kernel's other writers (a foreign hand) may
/// change them meanwhile, so a reader copies a row before it reasons about it.
pub trait Tables<A: Addr> {
    fn capacity(&self) -> Capacity;

    /// Applies the steps in order. Stops at nothing: returns the index and
    /// error of each step that failed, and applies the rest, except that steps
    /// of a later phase are withheld when an earlier one failed (they may
    /// point at what is not there); those are reported too.
    fn apply(&mut self, steps: &[Step<A>]) -> Vec<(usize, TableError)>;

    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, Frontend)>, TableError>;
    fn frontend(&self, key: &FrontendKey<A>) -> Result<Option<Frontend>, TableError>;
    fn endpoint_keys(&self) -> Result<Vec<(EndpointKey<A>, Hop)>, TableError>;
    fn endpoint_key(&self, key: &EndpointKey<A>) -> Result<Option<Hop>, TableError>;
    fn services(&self) -> &[Service];
    fn backends(&self) -> &[Backend<A>];
    fn arena(&self) -> &[Cell];
    fn endpoints(&self) -> &[Endpoint];
}
