//! What can be read of the maps of one address family?
//!
//! The read half of the seam between plan and kernel: the plan adopts, audits
//! and digests through it and never writes.

use causeway_schema::{
    Addr, Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Member, MemberKey, PortRanges,
    Service, SourceRange, SourceRangeKey,
};

use super::Map;

/// A map that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read of map {map}: {cause}")]
pub struct ReadError {
    pub map: Map,
    pub cause: std::io::Error,
}

/// Arrays are read in place; the kernel's other writers (a foreign hand) may
/// change them meanwhile, so a reader copies a row before it reasons about it.
pub trait Rows<A: Addr> {
    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, Frontend)>, ReadError>;
    fn frontend(&self, key: &FrontendKey<A>) -> Result<Option<Frontend>, ReadError>;
    fn endpoint_keys(&self) -> Result<Vec<(EndpointKey<A>, Hop)>, ReadError>;
    fn endpoint_key(&self, key: &EndpointKey<A>) -> Result<Option<Hop>, ReadError>;
    fn members(&self) -> Result<Vec<(MemberKey<A>, Member)>, ReadError>;
    fn member(&self, key: &MemberKey<A>) -> Result<Option<Member>, ReadError>;
    fn source_ranges(&self) -> Result<Vec<(SourceRangeKey<A>, SourceRange)>, ReadError>;
    /// The row of this very range, not of one that holds it.
    fn source_range(&self, key: &SourceRangeKey<A>) -> Result<Option<SourceRange>, ReadError>;
    fn port_ranges(&self) -> Result<Vec<(A, PortRanges)>, ReadError>;
    fn port_ranges_at(&self, addr: &A) -> Result<Option<PortRanges>, ReadError>;
    fn services(&self) -> &[Service];
    fn backends(&self) -> &[Backend<A>];
    fn arena(&self) -> &[Cell];
    fn endpoints(&self) -> &[Endpoint];
}
