//! One write to one map, and the order in which writes are safe.

use std::sync::Arc;

use causeway_schema::{
    Addr, Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Member, MemberKey, PortRanges,
    Service, SourceRange, SourceRangeKey,
};

/// A step is idempotent: applying it twice, or to a map that is already
/// there, changes nothing more.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<A: Addr> {
    PutBackend {
        id: u32,
        row: Backend<A>,
    },
    /// Fills a run of cells that no published target names.
    PutTable {
        base: u32,
        cells: Arc<[Cell]>,
    },
    PutMember {
        key: MemberKey<A>,
        row: Member,
    },
    PutSourceRange {
        key: SourceRangeKey<A>,
        row: SourceRange,
    },
    /// The flip: one 8-byte store of the target, then the generation.
    PutService {
        id: u32,
        row: Service,
    },
    PutEndpoint {
        slot: u32,
        row: Endpoint,
    },
    PutEndpointKey {
        key: EndpointKey<A>,
        hop: Hop,
    },
    PutFrontend {
        key: FrontendKey<A>,
        row: Frontend,
    },
    PutPortRanges {
        addr: A,
        row: PortRanges,
    },
    DeletePortRanges {
        addr: A,
    },
    DeleteFrontend {
        key: FrontendKey<A>,
    },
    DeleteEndpointKey {
        key: EndpointKey<A>,
    },
    /// Writes the row of a freed slot (zero but for its generation).
    ClearEndpoint {
        slot: u32,
        row: Endpoint,
    },
    DeleteSourceRange {
        key: SourceRangeKey<A>,
    },
    DeleteMember {
        key: MemberKey<A>,
    },
    /// Writes the row of a freed id (empty target, raised generation).
    ClearService {
        id: u32,
        row: Service,
    },
    /// Zeroes the row of a backend that no published table names.
    ClearBackend {
        id: u32,
    },
}

impl<A: Addr> Step<A> {
    /// Steps of a plan are sorted by this: what is pointed at stands before
    /// what points at it, and goes after it. So every prefix of a plan leaves
    /// each frontend with a service, each service with a whole table, each
    /// table with its backends; and a frontend that is not for all is never
    /// open to more than the old and the new ranges. Frontends come before the
    /// ranges that they are taken from, and go after those that take their ports.
    pub fn phase(&self) -> u8 {
        match self {
            Step::PutBackend { .. } => 0,
            Step::PutTable { .. } => 1,
            Step::PutMember { .. } => 2,
            Step::PutSourceRange { .. } => 3,
            Step::PutService { .. } => 4,
            Step::PutEndpoint { .. } => 5,
            Step::PutEndpointKey { .. } => 6,
            Step::PutFrontend { .. } => 7,
            Step::PutPortRanges { .. } => 8,
            Step::DeletePortRanges { .. } => 9,
            Step::DeleteFrontend { .. } => 10,
            Step::DeleteEndpointKey { .. } => 11,
            Step::ClearEndpoint { .. } => 12,
            Step::DeleteSourceRange { .. } => 13,
            Step::DeleteMember { .. } => 14,
            Step::ClearService { .. } => 15,
            Step::ClearBackend { .. } => 16,
        }
    }

    /// Whether it removes a row of a map that has room for so many; rows of
    /// the others are always there.
    pub fn removes(&self) -> bool {
        matches!(
            self,
            Step::DeleteFrontend { .. }
                | Step::DeleteEndpointKey { .. }
                | Step::DeleteMember { .. }
                | Step::DeleteSourceRange { .. }
                | Step::DeletePortRanges { .. }
        )
    }

    /// The map it writes to, by the name in the BPF object.
    pub fn map(&self) -> Map {
        match self {
            Step::PutBackend { .. } | Step::ClearBackend { .. } => Map::Backends,
            Step::PutTable { .. } => Map::Arena,
            Step::PutService { .. } | Step::ClearService { .. } => Map::Services,
            Step::PutEndpoint { .. } | Step::ClearEndpoint { .. } => Map::Endpoints,
            Step::PutEndpointKey { .. } | Step::DeleteEndpointKey { .. } => Map::EndpointKeys,
            Step::PutFrontend { .. } | Step::DeleteFrontend { .. } => Map::Frontends,
            Step::PutMember { .. } | Step::DeleteMember { .. } => Map::Members,
            Step::PutSourceRange { .. } | Step::DeleteSourceRange { .. } => Map::SourceRanges,
            Step::PutPortRanges { .. } | Step::DeletePortRanges { .. } => Map::PortRanges,
        }
    }
}

/// The maps that userspace writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Map {
    Frontends,
    Services,
    Backends,
    Arena,
    EndpointKeys,
    Endpoints,
    Members,
    SourceRanges,
    PortRanges,
}

impl Map {
    pub fn name(self) -> &'static str {
        match self {
            Map::Frontends => "frontends",
            Map::Services => "services",
            Map::Backends => "backends",
            Map::Arena => "arena",
            Map::EndpointKeys => "endpoint_keys",
            Map::Endpoints => "endpoints",
            Map::Members => "members",
            Map::SourceRanges => "source_ranges",
            Map::PortRanges => "port_ranges",
        }
    }
}

impl std::fmt::Display for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
