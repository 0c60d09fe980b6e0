//! Which table does a set of backends get? One for each distinct set, shared
//! by all services that have it, built only when the set is new.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use causeway_schema::choice::{Lot, RENDEZVOUS_MAX, maglev, rendezvous};
use causeway_schema::{Algorithm, Cell, Port, Target};

use super::backends::Backends;
use super::ledger::Ledger;
use super::ranges::Ranges;
use super::{Family, Map};
use crate::event::Table as Wish;

/// Of a Maglev table; `None`: rendezvous.
pub type Slots = Option<u32>;

/// Which table backends get: what the service asks for, or what is usual for so many.
pub fn slots(backends: usize, table: Wish) -> Slots {
    let is_maglev = table.maglev || backends > RENDEZVOUS_MAX;
    is_maglev.then(|| {
        table.slots.map_or_else(|| maglev::length(backends), |least| maglev::length_of(least, backends))
    })
}

#[derive(Debug)]
pub struct TableStore {
    /// By their slots, and then by their lots.
    by_lots: HashMap<Slots, HashMap<Arc<[Lot]>, u32>>,
    /// By index of the first cell.
    tables: HashMap<u32, Table>,
    /// Tables of an earlier agent, by the hash of their cells, until a service
    /// wants the set.
    adopted: HashMap<u64, u32>,
    ranges: Ranges,
    /// Tables that may have lost their last service.
    idle: Vec<u32>,
}

#[derive(Debug)]
struct Table {
    lots: Arc<[Lot]>,
    length: u32,
    algorithm: Algorithm,
    services: u32,
    /// Where it stands in `adopted`, if it does.
    fingerprint: Option<u64>,
}

impl Table {
    fn slots(&self) -> Slots {
        (self.algorithm == Algorithm::Maglev).then_some(self.length)
    }
}

/// A table that an earlier agent left in the arena.
#[derive(Debug)]
pub struct Adopted {
    pub target: Target,
    /// Weights may be unknown.
    pub lots: Arc<[Lot]>,
    pub services: u32,
}

impl TableStore {
    /// Takes over the image's tables, which `adopted` describes.
    pub fn new<A: Family>(
        ledger: &Ledger<A>,
        backends: &mut Backends<A>,
        capacity: u32,
        adopted: Vec<Adopted>,
    ) -> Self {
        let tables = &ledger.image().tables;
        let mut runs: Vec<(u32, u32)> =
            tables.iter().map(|(&base, cells)| (base, cells.len() as u32)).collect();
        runs.sort_unstable();
        let mut store = Self {
            by_lots: HashMap::new(),
            tables: HashMap::new(),
            adopted: HashMap::new(),
            ranges: Ranges::adopt(capacity, runs),
            idle: Vec::new(),
        };
        for Adopted { target, lots, services } in adopted {
            let Some(cells) = tables.get(&target.base()) else { continue };
            lots.iter().for_each(|lot| backends.hold(lot.backend));
            let (length, algorithm) = (target.len(), target.algorithm());
            let fingerprint = fingerprint(cells, algorithm, length);
            store.adopted.insert(fingerprint, target.base());
            let table = Table { lots, length, algorithm, services, fingerprint: Some(fingerprint) };
            store.tables.insert(target.base(), table);
        }
        store
    }

    /// The table of a set of lots, sorted by seed and of equal weight 1 if all
    /// weights are equal; one more service holds it. The caller fits the port.
    pub fn acquire<A: Family>(
        &mut self,
        ledger: &mut Ledger<A>,
        backends: &mut Backends<A>,
        lots: &[Lot],
        slots: Slots,
    ) -> Result<u32, Map> {
        if let Some(&base) = self.by_lots.get(&slots).and_then(|of_slots| of_slots.get(lots)) {
            self.hold(base);
            return Ok(base);
        }
        if self.ranges.longest() < most_cells(lots.len(), slots) && self.adopted.is_empty() {
            return Err(Map::Arena);
        }
        let (cells, length, algorithm) = build(lots, slots);
        let lots: Arc<[Lot]> = lots.into();
        if !self.adopted.is_empty() {
            let print = fingerprint(&cells, algorithm, length);
            if let Some(&base) = self.adopted.get(&print)
                && ledger.image().tables.get(&base) == Some(&cells)
                && let Some(table) = self.tables.get_mut(&base)
            {
                self.adopted.remove(&print);
                table.fingerprint = None;
                // The new lots may name backends that no slot names.
                lots.iter().for_each(|lot| backends.hold(lot.backend));
                table.lots.iter().for_each(|lot| backends.drop(lot.backend));
                table.lots = lots.clone();
                table.services += 1;
                self.by_lots.entry(slots).or_default().insert(lots, base);
                return Ok(base);
            }
        }
        let base = self.ranges.take(cells.len() as u32).ok_or(Map::Arena)?;
        ledger.put_table(base, cells);
        lots.iter().for_each(|lot| backends.hold(lot.backend));
        let table = Table { lots: lots.clone(), length, algorithm, services: 1, fingerprint: None };
        self.tables.insert(base, table);
        self.by_lots.entry(slots).or_default().insert(lots, base);
        Ok(base)
    }

    pub fn target(&self, base: u32, port: Port) -> Target {
        let table = self.tables.get(&base);
        table.map_or(Target::EMPTY, |table| Target::new(base, table.length, table.algorithm, port))
    }

    pub fn lots(&self, base: u32) -> &[Lot] {
        self.tables.get(&base).map_or(&[], |table| &table.lots)
    }

    fn hold(&mut self, base: u32) {
        if let Some(table) = self.tables.get_mut(&base) {
            table.services += 1;
        }
    }

    /// A service lets go of its table; the table goes with the next
    /// [`sweep`](Self::sweep) unless another holds it by then.
    pub fn drop(&mut self, base: u32) {
        if let Some(table) = self.tables.get_mut(&base) {
            table.services = table.services.saturating_sub(1);
            if table.services == 0 {
                self.idle.push(base);
            }
        }
    }

    /// Forgets the tables that no service has.
    pub fn sweep<A: Family>(&mut self, ledger: &mut Ledger<A>, backends: &mut Backends<A>) {
        for base in std::mem::take(&mut self.idle) {
            if self.tables.get(&base).is_none_or(|table| table.services > 0) {
                continue;
            }
            let Some(table) = self.tables.remove(&base) else { continue };
            match table.fingerprint {
                Some(fingerprint) => self.adopted.remove(&fingerprint),
                None => {
                    self.by_lots.get_mut(&table.slots()).and_then(|of_slots| of_slots.remove(&table.lots))
                }
            };
            table.lots.iter().for_each(|lot| backends.drop(lot.backend));
            let cells = ledger.drop_table(base);
            self.ranges.free(base, cells);
        }
    }

    /// Tables of an earlier agent that no service has wanted since are no
    /// longer looked for.
    pub fn forget_adopted(&mut self) {
        self.adopted = HashMap::new();
    }

    pub fn release(&mut self, now: Duration) -> bool {
        self.ranges.release(now)
    }
}

/// An upper bound of the cells that a table over `backends` takes.
fn most_cells(backends: usize, slots: Slots) -> u32 {
    let cells = match slots {
        None => rendezvous::cells(backends),
        Some(length) => maglev::cells(length, backends),
    };
    cells as u32
}

fn build(lots: &[Lot], slots: Slots) -> (Arc<[Cell]>, u32, Algorithm) {
    let mut cells = vec![Cell::ZERO; most_cells(lots.len(), slots) as usize];
    let Some(length) = slots else {
        rendezvous::fill(lots, &mut cells);
        let weighted = lots.iter().any(|lot| lot.weight != lots[0].weight);
        let algorithm = if weighted { Algorithm::RendezvousWeighted } else { Algorithm::Rendezvous };
        return (cells.into(), lots.len() as u32, algorithm);
    };
    maglev::fill(lots, length, &mut vec![maglev::Walk::default(); lots.len()], &mut cells);
    // Backends too light for a slot may end the list. Cells that only they
    // stand in are left out, so that a table's extent can be told from its
    // slots, by an agent that adopts it.
    let named = maglev_ids(&cells, length);
    cells.truncate(maglev::cells(length, named));
    (cells.into(), length, Algorithm::Maglev)
}

/// How many ids at the end of a Maglev table its slots name.
pub fn maglev_ids(cells: &[Cell], length: u32) -> usize {
    let slots: &[u16] = bytemuck::cast_slice(cells);
    slots[..length as usize].iter().max().map_or(0, |&last| usize::from(last) + 1)
}

fn fingerprint(cells: &[Cell], algorithm: Algorithm, length: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(u64::from(length) << 8 | algorithm as u64);
    hasher.write(bytemuck::cast_slice(cells));
    hasher.finish()
}
