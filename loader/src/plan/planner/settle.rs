//! What does one service get? Its frontends unless a smaller service has them,
//! its table if it fits, an id; or else what it had before, and a problem that
//! says what is in the way.

use std::collections::BTreeSet;

use causeway_schema::{FrontendKey, Port, PortRange, Target, choice::Lot, choice::maglev, hash};

use super::{Entry, Place, Planner};
use crate::event::Problem;
use crate::model::desired::ServiceId;
use crate::plan::wanted::Wanted;
use crate::plan::{Family, Map, describe, tables::slots};

/// Why a set of backends has no table.
enum NoTable {
    Full(Map),
    TooMany,
}

impl From<Map> for NoTable {
    fn from(map: Map) -> Self {
        NoTable::Full(map)
    }
}

/// Services in a round of retries.
const ROUND: usize = 64;

impl<A: Family> Planner<A> {
    /// Smaller names first, so that a frontend rarely changes hands twice.
    pub(super) fn settle_all(&mut self, mut queue: BTreeSet<ServiceId>) {
        while let Some(name) = queue.pop_first() {
            self.settle(&name, &mut queue);
        }
        self.sweep();
    }

    pub(super) fn sweep(&mut self) {
        self.tables.sweep(&mut self.ledger, &mut self.backends);
        self.backends.sweep(&mut self.ledger);
    }

    /// Tries services that did not fit, in rounds, until all had their turn or
    /// a round was in vain; the next call goes on from there.
    pub(super) fn retry(&mut self) {
        while self.untried > 0 && !self.waiting.is_empty() {
            let from = self.retry_from.take();
            let later = self.waiting.iter().skip_while(|name| from.as_ref().is_some_and(|from| *name < from));
            let earlier =
                self.waiting.iter().take_while(|name| from.as_ref().is_some_and(|from| *name < from));
            let mut names = later.chain(earlier).cloned();
            let round: BTreeSet<ServiceId> = names.by_ref().take(ROUND.min(self.untried)).collect();
            self.retry_from = names.next();
            drop(names);
            self.untried = self.untried.saturating_sub(round.len());
            let before = self.waiting.len();
            self.settle_all(round);
            if self.waiting.len() == before {
                break;
            }
        }
    }

    /// Forgets a service that is no longer desired.
    pub(super) fn remove(&mut self, name: &ServiceId, queue: &mut BTreeSet<ServiceId>) {
        let Some(mut entry) = self.services.remove(name) else { return };
        self.unplace(&mut entry, queue);
        self.claim_ranges(name, None, Box::default(), queue);
        entry.lost.iter().for_each(|key| self.rivals.remove(key, name));
        self.problems.remove(name);
        self.waiting.remove(name);
        queue.remove(name);
    }

    /// Brings a service's place in the image in line with what it wants.
    /// Services that this concerns are put into the queue.
    fn settle(&mut self, name: &ServiceId, queue: &mut BTreeSet<ServiceId>) {
        let Some(mut entry) = self.services.remove(name) else { return };
        self.waiting.remove(name);
        let mut problems = Vec::new();
        let mut frontends = self.contest(name, &mut entry, &mut problems);
        let mut ranges = self.contest_ranges(name, &entry, &mut problems);
        if !self.ledger.frontends_fit(&frontends, &ranges, &self.capacity) {
            problems.push(self.full(name, &entry.wanted, Map::Frontends));
            frontends.retain(|key| self.ledger.image().frontends.contains_key(key));
            self.keep_marked(&mut ranges);
        }
        // Ports are counted from the first of a range: a range that begins
        // elsewhere goes over to another row at once, with that row's port.
        let moves = entry.place.as_ref().is_some_and(|place| place.first != entry.wanted.first());
        let nothing = frontends.is_empty() && ranges.is_empty();
        if nothing || moves {
            self.unplace(&mut entry, queue);
        }
        if !nothing && let Err(problem) = self.place(name, &mut entry, frontends, &ranges, queue) {
            problems.push(problem);
        }
        self.settle_ranges(name, &entry, &ranges, &mut problems, queue);
        self.settle_options(name, &entry, &mut problems);
        if problems.is_empty() {
            self.problems.remove(name);
        } else {
            self.problems.insert(name.clone(), problems);
        }
        self.services.insert(name.clone(), entry);
    }

    /// The frontends that a service may have; it waits for the others.
    fn contest(
        &mut self,
        name: &ServiceId,
        entry: &mut Entry<A>,
        problems: &mut Vec<Problem>,
    ) -> Vec<FrontendKey<A>> {
        entry.lost.iter().for_each(|key| self.rivals.remove(key, name));
        let mut lost = Vec::new();
        let mut frontends = Vec::with_capacity(entry.wanted.frontends.len());
        for &key in &entry.wanted.frontends {
            match self.owner(&key) {
                Some(owner) if owner < name => {
                    let message = format!(
                        "{} already belongs to service {owner}: give one of them another address or port",
                        describe::frontend(&key)
                    );
                    problems.push(entry.wanted.problem(name, "spec.clusterIP", message));
                    self.rivals.add(key, name);
                    lost.push(key);
                }
                _ => frontends.push(key),
            }
        }
        entry.lost = lost.into();
        frontends
    }

    /// The desired service that has a frontend.
    fn owner(&self, key: &FrontendKey<A>) -> Option<&ServiceId> {
        let row = self.ledger.image().frontends.get(key)?;
        if self.orphans.contains(key) { None } else { self.names.get(&row.service) }
    }

    /// Gives a service its row, table and frontends. On error it keeps the
    /// table it had; without one it gets no place.
    fn place(
        &mut self,
        name: &ServiceId,
        entry: &mut Entry<A>,
        frontends: Vec<FrontendKey<A>>,
        ranges: &[(A, PortRange)],
        queue: &mut BTreeSet<ServiceId>,
    ) -> Result<(), Problem> {
        let table = self.table(&entry.wanted);
        let mut result = Ok(());
        let Some(place) = entry.place.take().or_else(|| self.claim(&entry.wanted, &frontends, ranges)) else {
            let table = table.map_err(|lack| self.no_table(name, &entry.wanted, lack))?;
            let Some(id) = self.ids.take() else {
                table.into_iter().for_each(|base| self.tables.drop(base));
                return Err(self.full(name, &entry.wanted, Map::Services));
            };
            self.ledger.put_service(id, self.target(table, &entry.wanted), false);
            let place = Place { id, table, first: entry.wanted.first(), frontends: Box::default() };
            entry.place = Some(self.move_in(name, place, frontends, queue));
            return Ok(());
        };
        let table = match table {
            Ok(table) => {
                let left = self.has_lost_a_backend(&place, &entry.wanted);
                self.ledger.put_service(place.id, self.target(table, &entry.wanted), left);
                place.table.into_iter().for_each(|base| self.tables.drop(base));
                table
            }
            Err(lack) => {
                result = Err(self.no_table(name, &entry.wanted, lack));
                place.table
            }
        };
        entry.place = Some(self.move_in(name, Place { table, ..place }, frontends, queue));
        result
    }

    /// Points `frontends` at a service's row, and no others.
    fn move_in(
        &mut self,
        name: &ServiceId,
        place: Place<A>,
        frontends: Vec<FrontendKey<A>>,
        queue: &mut BTreeSet<ServiceId>,
    ) -> Place<A> {
        for &key in &frontends {
            let loser = self.owner(&key).filter(|owner| *owner != name).cloned();
            queue.extend(loser);
            self.orphans.remove(&key);
            self.ledger.put_frontend(key, place.id);
        }
        for key in place.frontends.iter().filter(|key| frontends.binary_search(key).is_err()) {
            self.give_up(*key, place.id, queue);
        }
        if !self.names.contains_key(&place.id) {
            self.names.insert(place.id, name.clone());
        }
        Place { frontends: frontends.into(), ..place }
    }

    /// The id that an earlier agent gave to a service with one of `frontends` or
    /// `ranges`.
    fn claim(
        &mut self,
        wanted: &Wanted<A>,
        frontends: &[FrontendKey<A>],
        ranges: &[(A, PortRange)],
    ) -> Option<Place<A>> {
        let rows = &self.ledger.image().frontends;
        let ids = frontends.iter().filter_map(|key| Some(rows.get(key)?.service));
        let first = wanted.first();
        // It must count from the same port, or have had nothing to count for.
        let counts = |there: Option<Port>| there == first || there.is_none() && ranges.is_empty();
        let known = |id: &u32| self.adopted.contains(id) && counts(self.claims.adopted_first(*id));
        let id = ids.chain(self.claims.adopted_ids(ranges)).find(known)?;
        self.adopted.remove(&id);
        Some(Place { id, table: self.table_of(id), first, frontends: Box::default() })
    }

    fn unplace(&mut self, entry: &mut Entry<A>, queue: &mut BTreeSet<ServiceId>) {
        let Some(place) = entry.place.take() else { return };
        for &key in &place.frontends {
            self.give_up(key, place.id, queue);
        }
        // Frontends that the id had under an earlier agent go with it.
        let rows = &self.ledger.image().frontends;
        let points_here = |key: &&FrontendKey<A>| rows.get(key).is_some_and(|row| row.service == place.id);
        for key in self.orphans.iter().copied().filter(|key| points_here(&key)).collect::<Vec<_>>() {
            self.orphans.remove(&key);
            self.ledger.delete_frontend(key);
        }
        self.forget_ranges(Some(place.id));
        place.table.into_iter().for_each(|base| self.tables.drop(base));
        self.ledger.clear_service(place.id);
        self.names.remove(&place.id);
        self.ids.free(place.id);
    }

    /// Removes a frontend that still is the service's own, and tells those
    /// who wait for it.
    fn give_up(&mut self, key: FrontendKey<A>, id: u32, queue: &mut BTreeSet<ServiceId>) {
        if self.ledger.image().frontends.get(&key).is_some_and(|row| row.service == id) {
            self.ledger.delete_frontend(key);
            queue.extend(self.rivals.of(&key).cloned());
        }
    }

    /// The table of a service's wanted backends; the service holds it.
    fn table(&mut self, wanted: &Wanted<A>) -> Result<Option<u32>, NoTable> {
        let Some(first) = wanted.backends.first() else { return Ok(None) };
        if wanted.backends.len() > maglev::MAX_BACKENDS {
            return Err(NoTable::TooMany);
        }
        let common = wanted.common_port() != Port::NONE;
        let even = wanted.backends.iter().all(|share| share.weight == first.weight);
        let mut lots = Vec::with_capacity(wanted.backends.len());
        for share in &wanted.backends {
            // With a common port, services share rows and tables across ports.
            let port = if common { Port::NONE } else { share.port };
            let backend = self.backends.intern(&mut self.ledger, share.addr, port)?;
            let weight = if even { 1 } else { share.weight };
            lots.push(Lot { seed: hash::backend_seed(&share.addr, port), weight, backend });
        }
        lots.sort_unstable();
        let slots =
            slots(lots.len(), wanted.options.as_ref().map(|options| options.table).unwrap_or_default());
        Ok(Some(self.tables.acquire(&mut self.ledger, &mut self.backends, &lots, slots)?))
    }

    fn target(&self, table: Option<u32>, wanted: &Wanted<A>) -> Target {
        table.map_or(Target::EMPTY, |base| self.tables.target(base, wanted.common_port()))
    }

    /// First cell of the table that a row names.
    pub(super) fn table_of(&self, id: u32) -> Option<u32> {
        let target = self.ledger.image().services.get(&id)?.target;
        (!target.is_empty()).then(|| target.base())
    }

    /// Whether a backend that serves now is not wanted any more.
    fn has_lost_a_backend(&self, place: &Place<A>, wanted: &Wanted<A>) -> bool {
        let image = self.ledger.image();
        let Some((base, row)) = place.table.zip(image.services.get(&place.id)) else { return false };
        let mut serving = self.tables.lots(base).iter().filter_map(|lot| image.backends.get(&lot.backend));
        serving.any(|backend| {
            let port = if backend.port == Port::NONE { row.target.port() } else { backend.port };
            !wanted.has_backend(backend.addr, port)
        })
    }

    fn no_table(&mut self, name: &ServiceId, wanted: &Wanted<A>, lack: NoTable) -> Problem {
        match lack {
            NoTable::Full(map) => self.full(name, wanted, map),
            NoTable::TooMany => {
                let message = format!(
                    "{} backends, but a service has room for {}: split it; until then it keeps the backends it had",
                    wanted.backends.len(),
                    maglev::MAX_BACKENDS
                );
                wanted.problem(name, "endpoints", message)
            }
        }
    }

    /// The service is tried again when there is room.
    pub(super) fn full(&mut self, name: &ServiceId, wanted: &Wanted<A>, map: Map) -> Problem {
        self.waiting.insert(name.clone());
        wanted.problem(name, "", full_message(map, self.capacity.of(map)))
    }
}

/// What an operator is told of a full map.
pub(in crate::plan) fn full_message(map: Map, rows: u32) -> String {
    let setting = match map {
        Map::EndpointKeys => Map::Endpoints,
        other => other,
    };
    format!("map {map} is full ({rows} rows): raise capacity.{setting}")
}
