//! How does the agent behave when maps fail? This second implementation of
//! [`Tables`] keeps the rows in memory, and fails, loses writes and is edited
//! by a foreign hand on demand.

use std::collections::HashMap;
use std::io;

use causeway_schema::{
    Addr, Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Member, MemberKey, PortRanges,
    Service, SourceRange, SourceRangeKey, Target,
};

use super::{TableError, Tables};
use crate::plan::{Capacity, Map, ReadError, Rows, Step};

/// `E2BIG`: what a hash map without room answers to an update.
const E2BIG: i32 = libc::E2BIG;
/// Why a step was not tried: an earlier one failed.
const ECANCELED: i32 = libc::ECANCELED;

#[derive(Clone, Debug)]
pub struct MemoryTables<A: Addr> {
    capacity: Capacity,
    contents: Contents<A>,
    failing: HashMap<Map, Failure>,
    /// Writes to each map that are to vanish without an error.
    losing: HashMap<Map, u32>,
}

/// The rows, for foreign hands and for tests that look on.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents<A: Addr> {
    pub frontends: HashMap<FrontendKey<A>, Frontend>,
    pub endpoint_keys: HashMap<EndpointKey<A>, Hop>,
    pub members: HashMap<MemberKey<A>, Member>,
    pub source_ranges: HashMap<SourceRangeKey<A>, SourceRange>,
    pub port_ranges: HashMap<A, PortRanges>,
    pub services: Vec<Service>,
    pub backends: Vec<Backend<A>>,
    pub arena: Vec<Cell>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    errno: i32,
    /// Writes that are still to fail; `None`: all of them.
    left: Option<u32>,
}

impl<A: Addr> MemoryTables<A> {
    pub fn new(capacity: Capacity) -> Self {
        let zero_service = Service { target: Target::EMPTY, generation: 0, flags: 0 };
        Self {
            contents: Contents {
                frontends: HashMap::new(),
                endpoint_keys: HashMap::new(),
                members: HashMap::new(),
                source_ranges: HashMap::new(),
                port_ranges: HashMap::new(),
                services: vec![zero_service; capacity.services as usize],
                backends: vec![bytemuck::Zeroable::zeroed(); capacity.backends as usize],
                arena: vec![Cell::ZERO; capacity.arena as usize],
                // Slot 0 is never given out.
                endpoints: vec![bytemuck::Zeroable::zeroed(); capacity.endpoints as usize + 1],
            },
            capacity,
            failing: HashMap::new(),
            losing: HashMap::new(),
        }
    }

    /// Lets writes to `map` fail with `errno`: the next `writes`, or all until
    /// [`mend`](Self::mend).
    pub fn fail(&mut self, map: Map, errno: i32, writes: Option<u32>) {
        self.failing.insert(map, Failure { errno, left: writes });
    }

    /// Lets the next `writes` to `map` vanish: they succeed and change nothing.
    pub fn lose(&mut self, map: Map, writes: u32) {
        self.losing.insert(map, writes);
    }

    /// Ends all faults.
    pub fn mend(&mut self) {
        self.failing.clear();
        self.losing.clear();
    }

    pub fn contents(&self) -> &Contents<A> {
        &self.contents
    }

    /// The rows, to be changed behind the agent's back.
    pub fn edit(&mut self) -> &mut Contents<A> {
        &mut self.contents
    }

    fn write(&mut self, step: &Step<A>) -> io::Result<()> {
        let map = step.map();
        if let Some(failure) = self.failing.get_mut(&map)
            && failure.left != Some(0)
        {
            failure.left = failure.left.map(|left| left - 1);
            return Err(io::Error::from_raw_os_error(failure.errno));
        }
        if let Some(left) = self.losing.get_mut(&map).filter(|left| **left > 0) {
            *left -= 1;
            return Ok(());
        }
        self.contents.write(step, &self.capacity)
    }
}

impl<A: Addr> Contents<A> {
    fn write(&mut self, step: &Step<A>, capacity: &Capacity) -> io::Result<()> {
        match step {
            Step::PutBackend { id, row } => store(&mut self.backends, *id, std::slice::from_ref(row)),
            Step::ClearBackend { id } => store(&mut self.backends, *id, &[bytemuck::Zeroable::zeroed()]),
            Step::PutTable { base, cells } => store(&mut self.arena, *base, cells),
            Step::PutService { id, row } | Step::ClearService { id, row } => {
                store(&mut self.services, *id, std::slice::from_ref(row))
            }
            Step::PutEndpoint { slot, row } | Step::ClearEndpoint { slot, row } => {
                store(&mut self.endpoints, *slot, std::slice::from_ref(row))
            }
            Step::PutEndpointKey { key, hop } => {
                insert(&mut self.endpoint_keys, *key, *hop, capacity.endpoints)
            }
            Step::PutFrontend { key, row } => insert(&mut self.frontends, *key, *row, capacity.frontends),
            Step::PutMember { key, row } => insert(&mut self.members, *key, *row, capacity.members),
            Step::PutSourceRange { key, row } => {
                insert(&mut self.source_ranges, *key, *row, capacity.source_ranges)
            }
            Step::PutPortRanges { addr, row } => {
                insert(&mut self.port_ranges, *addr, *row, capacity.port_ranges)
            }
            Step::DeletePortRanges { addr } => {
                self.port_ranges.remove(addr);
                Ok(())
            }
            Step::DeleteMember { key } => {
                self.members.remove(key);
                Ok(())
            }
            Step::DeleteSourceRange { key } => {
                self.source_ranges.remove(key);
                Ok(())
            }
            Step::DeleteEndpointKey { key } => {
                self.endpoint_keys.remove(key);
                Ok(())
            }
            Step::DeleteFrontend { key } => {
                self.frontends.remove(key);
                Ok(())
            }
        }
    }
}

fn store<V: Copy>(rows: &mut [V], first: u32, new: &[V]) -> io::Result<()> {
    let first = first as usize;
    let run = rows.get_mut(first..first + new.len());
    run.ok_or_else(|| io::Error::from_raw_os_error(E2BIG))?.copy_from_slice(new);
    Ok(())
}

fn insert<K: std::hash::Hash + Eq, V>(
    rows: &mut HashMap<K, V>,
    key: K,
    row: V,
    capacity: u32,
) -> io::Result<()> {
    if rows.len() >= capacity as usize && !rows.contains_key(&key) {
        return Err(io::Error::from_raw_os_error(E2BIG));
    }
    rows.insert(key, row);
    Ok(())
}

impl<A: Addr> Rows<A> for MemoryTables<A> {
    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, Frontend)>, ReadError> {
        Ok(self.contents.frontends.iter().map(|(key, row)| (*key, *row)).collect())
    }

    fn frontend(&self, key: &FrontendKey<A>) -> Result<Option<Frontend>, ReadError> {
        Ok(self.contents.frontends.get(key).copied())
    }

    fn endpoint_keys(&self) -> Result<Vec<(EndpointKey<A>, Hop)>, ReadError> {
        Ok(self.contents.endpoint_keys.iter().map(|(key, hop)| (*key, *hop)).collect())
    }

    fn endpoint_key(&self, key: &EndpointKey<A>) -> Result<Option<Hop>, ReadError> {
        Ok(self.contents.endpoint_keys.get(key).copied())
    }

    fn members(&self) -> Result<Vec<(MemberKey<A>, Member)>, ReadError> {
        Ok(self.contents.members.iter().map(|(key, row)| (*key, *row)).collect())
    }

    fn member(&self, key: &MemberKey<A>) -> Result<Option<Member>, ReadError> {
        Ok(self.contents.members.get(key).copied())
    }

    fn source_ranges(&self) -> Result<Vec<(SourceRangeKey<A>, SourceRange)>, ReadError> {
        Ok(self.contents.source_ranges.iter().map(|(key, row)| (*key, *row)).collect())
    }

    fn source_range(&self, key: &SourceRangeKey<A>) -> Result<Option<SourceRange>, ReadError> {
        Ok(self.contents.source_ranges.get(key).copied())
    }

    fn port_ranges(&self) -> Result<Vec<(A, PortRanges)>, ReadError> {
        Ok(self.contents.port_ranges.iter().map(|(addr, row)| (*addr, *row)).collect())
    }

    fn port_ranges_at(&self, addr: &A) -> Result<Option<PortRanges>, ReadError> {
        Ok(self.contents.port_ranges.get(addr).copied())
    }

    fn services(&self) -> &[Service] {
        &self.contents.services
    }

    fn backends(&self) -> &[Backend<A>] {
        &self.contents.backends
    }

    fn arena(&self) -> &[Cell] {
        &self.contents.arena
    }

    fn endpoints(&self) -> &[Endpoint] {
        &self.contents.endpoints
    }
}

impl<A: Addr> Tables<A> for MemoryTables<A> {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn apply(&mut self, steps: &[Step<A>]) -> Vec<(usize, TableError)> {
        let mut errors = Vec::new();
        let mut failed_phase = u8::MAX;
        for (index, step) in steps.iter().enumerate() {
            let result = if step.phase() > failed_phase {
                Err(io::Error::from_raw_os_error(ECANCELED))
            } else {
                self.write(step)
            };
            if let Err(cause) = result {
                failed_phase = failed_phase.min(step.phase());
                let operation = if step.removes() { "delete" } else { "update" };
                errors.push((index, TableError { map: step.map(), operation, cause }));
            }
        }
        errors
    }
}
