//! The full wanted contents of every map of one address family.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use causeway_schema::{
    Addr, Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Member, MemberKey, PortRanges,
    Service, SourceRange, SourceRangeKey,
};

use super::{Map, by_id::ById};

/// Only rows that are in use stand here; every other row of an array is zero,
/// except that a freed service or endpoint row keeps its generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Image<A: Addr> {
    pub frontends: HashMap<FrontendKey<A>, Frontend>,
    pub services: ById<Service>,
    pub backends: ById<Backend<A>>,
    /// By index of the first cell.
    pub tables: HashMap<u32, Arc<[Cell]>>,
    /// Of services with affinity.
    pub members: BTreeMap<MemberKey<A>, Member>,
    pub source_ranges: BTreeMap<SourceRangeKey<A>, SourceRange>,
    /// By address.
    pub port_ranges: BTreeMap<A, PortRanges>,
    pub endpoint_keys: HashMap<EndpointKey<A>, Hop>,
    /// By slot.
    pub endpoints: ById<Endpoint>,
}

impl<A: Addr> Default for Image<A> {
    fn default() -> Self {
        Self {
            frontends: HashMap::new(),
            services: ById::default(),
            backends: ById::default(),
            tables: HashMap::new(),
            members: BTreeMap::new(),
            source_ranges: BTreeMap::new(),
            port_ranges: BTreeMap::new(),
            endpoint_keys: HashMap::new(),
            endpoints: ById::default(),
        }
    }
}

/// How many rows each map of a family has room for, fixed when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    pub frontends: u32,
    pub services: u32,
    pub backends: u32,
    /// In cells of 64 bytes.
    pub arena: u32,
    pub endpoints: u32,
    /// Established flows, two entries each.
    pub flows: u32,
    /// Flows that have not seen an answer and a second packet.
    pub embryonic: u32,
    /// Clients of services with affinity that are remembered.
    pub affinity: u32,
    /// Backends of ports of services with affinity, and those ports.
    pub members: u32,
    pub source_ranges: u32,
    /// Addresses with ranges of ports.
    pub port_ranges: u32,
    /// Rule sets, by the classes of peers that they tell apart.
    pub policy_sets: u32,
    /// Steps of rule sets, each the ports between two bounds.
    pub policy_steps: u32,
    /// Addresses and networks that rules tell apart.
    pub peers: u32,
    /// Rules that have a counter of their own.
    pub rules: u32,
}

impl Capacity {
    /// Rows of a map; cells of the arena.
    pub fn of(&self, map: Map) -> u32 {
        match map {
            Map::Frontends => self.frontends,
            Map::Services => self.services,
            Map::Backends => self.backends,
            Map::Arena => self.arena,
            Map::EndpointKeys | Map::Endpoints => self.endpoints,
            Map::Members => self.members,
            Map::SourceRanges => self.source_ranges,
            Map::PortRanges => self.port_ranges,
        }
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            frontends: 65_536,
            services: 32_768,
            backends: 102_400,
            arena: 40_960,
            endpoints: 4_096,
            flows: 131_072,
            embryonic: 32_768,
            affinity: 16_384,
            members: 8_192,
            source_ranges: 8_192,
            port_ranges: 1_024,
            policy_sets: 32_768,
            policy_steps: 65_536,
            peers: 262_144,
            rules: 4_096,
        }
    }
}
