//! [`Tables`] over the kernel's maps: arrays through their mappings, hash maps
//! by batches.

use std::{io, os::fd::OwnedFd};

use causeway_schema::{
    Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Member, MemberKey, PortRanges, Service,
    SourceRange, SourceRangeKey,
};

use super::{BpfError, batch, mapped::Mapped, object::Object, sys};
use crate::{
    kernel::{TableError, Tables},
    plan::{Capacity, Family, Map, ReadError, Rows, Step},
};

pub struct BpfTables<A: Family> {
    capacity: Capacity,
    frontends: OwnedFd,
    endpoint_keys: OwnedFd,
    members: OwnedFd,
    source_ranges: OwnedFd,
    port_ranges: OwnedFd,
    services: Mapped<Service>,
    backends: Mapped<Backend<A>>,
    arena: Mapped<Cell>,
    endpoints: Mapped<Endpoint>,
}

impl<A: Family> BpfTables<A> {
    pub(super) fn open(object: &Object, capacity: Capacity) -> Result<Self, BpfError> {
        let name = |stem: &str| format!("{stem}{}", A::MAP_SUFFIX);
        let map = |stem: &str| object.map(&name(stem));
        let mapping = |stem: &str| BpfError::call("map into memory", name(stem));
        Ok(Self {
            capacity,
            frontends: map("FRONTENDS")?,
            endpoint_keys: map("EP_KEYS")?,
            members: map("MEMBERS")?,
            source_ranges: map("SRC_RANGES")?,
            port_ranges: map("PORT_RANGES")?,
            services: Mapped::new(&map("SERVICES")?, capacity.services).map_err(mapping("SERVICES"))?,
            backends: Mapped::new(&map("BACKENDS")?, capacity.backends).map_err(mapping("BACKENDS"))?,
            arena: Mapped::new(&map("ARENA")?, capacity.arena).map_err(mapping("ARENA"))?,
            endpoints: Mapped::new(&map("ENDPOINTS")?, capacity.endpoints + 1)
                .map_err(mapping("ENDPOINTS"))?,
        })
    }

    /// Applies steps of one phase.
    fn apply_phase(&mut self, first: usize, steps: &[Step<A>], failed: &mut Vec<(usize, TableError)>) {
        let mut frontends = Vec::new();
        let mut endpoint_keys = Vec::new();
        let mut members = Vec::new();
        let mut source_ranges = Vec::new();
        let mut port_ranges = Vec::new();
        let mut gone_frontends = Vec::new();
        let mut gone_endpoint_keys = Vec::new();
        let mut gone_members = Vec::new();
        let mut gone_source_ranges = Vec::new();
        let mut gone_port_ranges = Vec::new();
        for (index, step) in (first..).zip(steps) {
            let stored = match step {
                Step::PutBackend { id, row } => self.backends.store(*id, row),
                Step::ClearBackend { id } => self.backends.store(*id, &bytemuck::Zeroable::zeroed()),
                Step::PutTable { base, cells } => self.arena.store_run(*base, cells),
                Step::PutService { id, row } | Step::ClearService { id, row } => {
                    self.services.store(*id, row)
                }
                Step::PutEndpoint { slot, row } | Step::ClearEndpoint { slot, row } => {
                    self.endpoints.store(*slot, row)
                }
                Step::PutFrontend { key, row } => {
                    frontends.push((*key, *row));
                    Ok(())
                }
                Step::PutEndpointKey { key, hop } => {
                    endpoint_keys.push((*key, *hop));
                    Ok(())
                }
                Step::PutMember { key, row } => {
                    members.push((*key, *row));
                    Ok(())
                }
                Step::PutSourceRange { key, row } => {
                    source_ranges.push((*key, *row));
                    Ok(())
                }
                Step::PutPortRanges { addr, row } => {
                    port_ranges.push((*addr, *row));
                    Ok(())
                }
                Step::DeletePortRanges { addr } => {
                    gone_port_ranges.push(*addr);
                    Ok(())
                }
                Step::DeleteMember { key } => {
                    gone_members.push(*key);
                    Ok(())
                }
                Step::DeleteSourceRange { key } => {
                    gone_source_ranges.push(*key);
                    Ok(())
                }
                Step::DeleteFrontend { key } => {
                    gone_frontends.push(*key);
                    Ok(())
                }
                Step::DeleteEndpointKey { key } => {
                    gone_endpoint_keys.push(*key);
                    Ok(())
                }
            };
            if let Err(cause) = stored {
                failed.push((index, TableError { map: step.map(), operation: "update", cause }));
            }
        }
        // A phase writes to one map in one way, so indices run along.
        let mut collect = |map, operation, errors: Vec<(usize, io::Error)>| {
            let errors = errors.into_iter();
            failed.extend(errors.map(|(at, cause)| (first + at, TableError { map, operation, cause })));
        };
        collect(Map::Frontends, "update", batch::update(&self.frontends, &frontends));
        collect(Map::EndpointKeys, "update", batch::update(&self.endpoint_keys, &endpoint_keys));
        collect(Map::Members, "update", batch::update(&self.members, &members));
        collect(Map::SourceRanges, "update", batch::update(&self.source_ranges, &source_ranges));
        collect(Map::PortRanges, "update", batch::update(&self.port_ranges, &port_ranges));
        collect(Map::PortRanges, "delete", batch::delete(&self.port_ranges, &gone_port_ranges));
        collect(Map::Members, "delete", batch::delete(&self.members, &gone_members));
        collect(Map::SourceRanges, "delete", batch::delete(&self.source_ranges, &gone_source_ranges));
        collect(Map::Frontends, "delete", batch::delete(&self.frontends, &gone_frontends));
        collect(Map::EndpointKeys, "delete", batch::delete(&self.endpoint_keys, &gone_endpoint_keys));
    }
}

impl<A: Family> Rows<A> for BpfTables<A> {
    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, Frontend)>, ReadError> {
        batch::read(&self.frontends).map_err(|cause| ReadError { map: Map::Frontends, cause })
    }

    fn frontend(&self, key: &FrontendKey<A>) -> Result<Option<Frontend>, ReadError> {
        sys::map_lookup(&self.frontends, key).map_err(|cause| ReadError { map: Map::Frontends, cause })
    }

    fn endpoint_keys(&self) -> Result<Vec<(EndpointKey<A>, Hop)>, ReadError> {
        batch::read(&self.endpoint_keys).map_err(|cause| ReadError { map: Map::EndpointKeys, cause })
    }

    fn endpoint_key(&self, key: &EndpointKey<A>) -> Result<Option<Hop>, ReadError> {
        sys::map_lookup(&self.endpoint_keys, key).map_err(|cause| ReadError { map: Map::EndpointKeys, cause })
    }

    fn members(&self) -> Result<Vec<(MemberKey<A>, Member)>, ReadError> {
        batch::read(&self.members).map_err(|cause| ReadError { map: Map::Members, cause })
    }

    fn member(&self, key: &MemberKey<A>) -> Result<Option<Member>, ReadError> {
        sys::map_lookup(&self.members, key).map_err(|cause| ReadError { map: Map::Members, cause })
    }

    fn source_ranges(&self) -> Result<Vec<(SourceRangeKey<A>, SourceRange)>, ReadError> {
        batch::read(&self.source_ranges).map_err(|cause| ReadError { map: Map::SourceRanges, cause })
    }

    fn source_range(&self, key: &SourceRangeKey<A>) -> Result<Option<SourceRange>, ReadError> {
        let found: Option<SourceRange> = sys::map_lookup(&self.source_ranges, key)
            .map_err(|cause| ReadError { map: Map::SourceRanges, cause })?;
        Ok(found.filter(|row| row.prefix == key.prefix))
    }

    fn port_ranges(&self) -> Result<Vec<(A, PortRanges)>, ReadError> {
        batch::read(&self.port_ranges).map_err(|cause| ReadError { map: Map::PortRanges, cause })
    }

    fn port_ranges_at(&self, addr: &A) -> Result<Option<PortRanges>, ReadError> {
        sys::map_lookup(&self.port_ranges, addr).map_err(|cause| ReadError { map: Map::PortRanges, cause })
    }

    fn services(&self) -> &[Service] {
        self.services.rows()
    }

    fn backends(&self) -> &[Backend<A>] {
        self.backends.rows()
    }

    fn arena(&self) -> &[Cell] {
        self.arena.rows()
    }

    fn endpoints(&self) -> &[Endpoint] {
        self.endpoints.rows()
    }
}

impl<A: Family> Tables<A> for BpfTables<A> {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn apply(&mut self, steps: &[Step<A>]) -> Vec<(usize, TableError)> {
        let mut failed = Vec::new();
        let (mut first, mut failed_phase) = (0, u8::MAX);
        for phase in steps.chunk_by(|a, b| a.phase() == b.phase()) {
            let number = phase[0].phase();
            if number <= failed_phase {
                let before = failed.len();
                self.apply_phase(first, phase, &mut failed);
                if failed.len() > before {
                    failed_phase = number;
                }
            } else {
                let withheld = || io::Error::other("withheld: an earlier step failed");
                failed.extend((first..).zip(phase).map(|(index, step)| {
                    (index, TableError { map: step.map(), operation: "update", cause: withheld() })
                }));
            }
            first += phase.len();
        }
        failed
    }
}
