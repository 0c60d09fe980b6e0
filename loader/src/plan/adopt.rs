//! What of the maps that an earlier agent left can be trusted? What is sound
//! from the frontend down to the backend row. The rest is left out of the
//! image, so that the next audit repairs it; its ids rest for a while, and
//! every generation continues from what is found.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use causeway_schema::choice::{Lot, RENDEZVOUS_MAX, maglev, rendezvous};
use causeway_schema::{
    Algorithm, Backend, CELL_BYTES, Cell, Frontend, FrontendKey, Member, Port, PortRange, PortRanges,
    Service, Target, hash, source_range::NODES,
};

use super::tables::{self, Adopted};
use super::{Family, Image, ReadError, Rows};
use crate::event::Protocol;

pub struct Found<A: Family> {
    pub image: Image<A>,
    pub tables: Vec<Adopted>,
    /// Generations of rows that are not in use.
    pub parked_services: HashMap<u32, u32>,
    pub parked_endpoints: HashMap<u32, u16>,
    /// Ids and slots outside the image whose rows are damaged, and slots that a
    /// damaged key names.
    pub stray_services: Vec<u32>,
    pub stray_backends: Vec<u32>,
    pub stray_slots: Vec<u32>,
}

impl<A: Family> Default for Found<A> {
    fn default() -> Self {
        Self {
            image: Image::default(),
            tables: Vec::new(),
            parked_services: HashMap::new(),
            parked_endpoints: HashMap::new(),
            stray_services: Vec::new(),
            stray_backends: Vec::new(),
            stray_slots: Vec::new(),
        }
    }
}

pub fn find<A: Family>(rows: &impl Rows<A>) -> Result<Found<A>, ReadError> {
    let mut found = Found::default();
    find_backends(rows.backends(), &mut found);
    let (frontends, ranges) = (rows.frontends()?, rows.port_ranges()?);
    let ranged = ranges.iter().flat_map(|(_, row)| row.iter().map(|range| range.service));
    let named = frontends.iter().map(|(_, row)| row.service).chain(ranged);
    find_services(named.collect(), rows.services(), rows.arena(), &mut found);
    find_frontends(&frontends, &mut found);
    find_ranges(&ranges, &mut found);
    find_options(rows, &mut found)?;
    find_endpoints(rows, &mut found)?;
    Ok(found)
}

fn find_backends<A: Family>(rows: &[Backend<A>], found: &mut Found<A>) {
    let mut seen = HashSet::new();
    for (id, &row) in (0..).zip(rows) {
        if bytemuck::bytes_of(&row).iter().all(|&byte| byte == 0) {
            continue;
        }
        if row.flags == 0 && row.addr != A::UNSPECIFIED && seen.insert((row.addr, row.port)) {
            found.image.backends.insert(id, row);
        } else {
            found.stray_backends.push(id);
        }
    }
}

/// Services that a frontend or range names, with their tables, and all generations.
fn find_services<A: Family>(mut named: Vec<u32>, rows: &[Service], arena: &[Cell], found: &mut Found<A>) {
    named.sort_unstable();
    named.dedup();
    let mut targets: BTreeMap<(u32, u32), Adopted> = BTreeMap::new();
    for &id in &named {
        let Some(&row) = rows.get(id as usize).filter(|row| row.flags & !Service::FLAGS == 0) else {
            continue;
        };
        if !row.target.is_empty() {
            let key = (row.target.base(), row.target.len());
            if let Some(table) = targets.get_mut(&key) {
                if !fits(row.target, table, found) {
                    continue;
                }
                table.services += 1;
            } else if let Some(lots) = read_table(row.target, arena, found) {
                targets.insert(key, Adopted { target: row.target, lots, services: 1 });
            } else {
                continue;
            }
        } else if row.target != Target::EMPTY {
            continue;
        }
        found.image.services.insert(id, row);
    }
    keep_apart(targets, arena, found);
    for (id, row) in (0..).zip(rows).filter(|(_, row)| **row != ZERO_SERVICE) {
        if !found.image.services.contains_key(&id) {
            // An empty row only keeps its generation; any other is damaged.
            let empty = row.target == Target::EMPTY && row.flags == 0;
            found.parked_services.insert(id, row.generation.wrapping_add(u32::from(!empty)));
            if !empty {
                found.stray_services.push(id);
            }
        }
    }
}

const ZERO_SERVICE: Service = Service { target: Target::EMPTY, generation: 0, flags: 0 };

/// Whether a second target on the same cells reads them as the first does.
fn fits<A: Family>(target: Target, table: &Adopted, found: &Found<A>) -> bool {
    target.algorithm() == table.target.algorithm() && ports_fit(target, &table.lots, found)
}

/// A port in the target if and only if there is none in the rows.
fn ports_fit<A: Family>(target: Target, lots: &[Lot], found: &Found<A>) -> bool {
    let shared = target.port() != Port::NONE;
    let mut rows = lots.iter().filter_map(|lot| found.image.backends.get(&lot.backend));
    rows.all(|row| (row.port == Port::NONE) == shared)
}

/// Of tables that overlap, the first stays.
fn keep_apart<A: Family>(targets: BTreeMap<(u32, u32), Adopted>, arena: &[Cell], found: &mut Found<A>) {
    let mut end = 0;
    let mut dropped = HashSet::new();
    for ((base, length), adopted) in targets {
        let cells = cells_of(adopted.target, adopted.lots.len());
        if base < end {
            dropped.insert((base, length));
            continue;
        }
        end = base + cells;
        let run = &arena[base as usize..end as usize];
        found.image.tables.insert(base, run.into());
        found.tables.push(adopted);
    }
    if !dropped.is_empty() {
        let keep = |row: &Service| {
            row.target.is_empty() || !dropped.contains(&(row.target.base(), row.target.len()))
        };
        found.image.services.retain(keep);
    }
}

/// Cells of a table that names `backends`.
fn cells_of(target: Target, backends: usize) -> u32 {
    let cells = match target.algorithm() {
        Algorithm::Maglev => maglev::cells(target.len(), backends),
        _ => rendezvous::cells(backends),
    };
    cells as u32
}

/// The lots of a table; `None` if it is not one that a planner built over the
/// backends' rows.
fn read_table<A: Family>(target: Target, arena: &[Cell], found: &Found<A>) -> Option<Arc<[Lot]>> {
    let cells = arena.get(target.base() as usize..)?;
    let lots = match target.algorithm() {
        Algorithm::Empty => return None,
        Algorithm::Rendezvous => read_rendezvous(cells, target.len(), false)?,
        Algorithm::RendezvousWeighted => read_rendezvous(cells, target.len(), true)?,
        Algorithm::Maglev => read_maglev(cells, target.len(), found)?,
    };
    let sound = lots.iter().all(|lot| {
        let row = found.image.backends.get(&lot.backend);
        row.is_some_and(|row| hash::backend_seed(&row.addr, row.port) == lot.seed)
    });
    let sorted = lots.windows(2).all(|pair| pair[0].seed < pair[1].seed);
    (sound && sorted && ports_fit(target, &lots, found)).then(|| lots.into())
}

fn read_rendezvous(cells: &[Cell], length: u32, weighted: bool) -> Option<Vec<Lot>> {
    let length = length as usize;
    if length == 0 || length > RENDEZVOUS_MAX {
        return None;
    }
    let cells = cells.get(..rendezvous::cells(length))?;
    let rows: &[rendezvous::Row] = bytemuck::cast_slice(cells);
    let lots: Vec<Lot> = rows[..length]
        .iter()
        .map(|row| {
            let weight = ((1u32 << 31) + row.inverse_weight / 2).checked_div(row.inverse_weight).unwrap_or(0);
            Lot { seed: row.seed, weight, backend: row.backend }
        })
        .collect();
    // Building it again shows damage in every byte, the unused ones included.
    let mut again = vec![Cell::ZERO; cells.len()];
    rendezvous::fill(&lots, &mut again);
    let even = lots.iter().all(|lot| lot.weight == 1);
    (again == cells && even != weighted).then_some(lots)
}

fn read_maglev<A: Family>(cells: &[Cell], length: u32, found: &Found<A>) -> Option<Vec<Lot>> {
    let slots = (length as usize).div_ceil(CELL_BYTES / size_of::<u16>());
    if length == 0 || cells.len() < slots {
        return None;
    }
    let named = tables::maglev_ids(cells, length);
    let ids = cells.get(slots..maglev::cells(length, named))?;
    let ids: &[u32] = bytemuck::cast_slice(ids);
    let lot = |&backend: &u32| {
        let row = found.image.backends.get(&backend)?;
        // The table does not hold weights; it is recognised by its cells.
        Some(Lot { seed: hash::backend_seed(&row.addr, row.port), weight: 0, backend })
    };
    ids[..named].iter().map(lot).collect()
}

/// Frontends of adopted services, and the marker rows they need.
fn find_frontends<A: Family>(frontends: &[(FrontendKey<A>, Frontend)], found: &mut Found<A>) {
    let image = &mut found.image;
    for &(key, row) in frontends {
        if key == FrontendKey::whole_address(key.addr) && row == Frontend::HELD {
            image.frontends.entry(key).or_insert(row);
        }
        let flags = match key.outside {
            0 => Frontend::SOURCE_RANGES | Frontend::OUTSIDE,
            FrontendKey::<A>::OUTSIDE_PORT..=FrontendKey::<A>::OUTSIDE_WHOLE => Frontend::SOURCE_RANGES,
            _ => continue,
        };
        let sound = key.port != Port::NONE && row.flags & !flags == 0;
        if sound && Protocol::from_number(key.protocol).is_some() && image.services.contains_key(&row.service)
        {
            image.frontends.insert(key, row);
            let marker = Frontend { service: Frontend::WHOLE_ADDRESS, flags: 0 };
            image.frontends.insert(FrontendKey::whole_address(key.addr), marker);
        }
    }
}

/// The ranges of adopted services; what is not sound is left out of its row.
fn find_ranges<A: Family>(rows: &[(A, PortRanges)], found: &mut Found<A>) {
    let image = &mut found.image;
    for &(addr, row) in rows {
        let sound = |range: &&PortRange| {
            let (first, last) = (range.first.get(), range.last.get());
            first != 0
                && first < last
                && range.pad == 0
                && u32::from(range.flags) & !(Frontend::SOURCE_RANGES | Frontend::OUTSIDE) == 0
                && Protocol::from_number(range.protocol).is_some()
                && image.services.contains_key(&range.service)
        };
        let row = PortRanges::of(row.iter().filter(sound).copied());
        if row != PortRanges::NONE {
            image.port_ranges.insert(addr, row);
            let marker = Frontend { service: Frontend::WHOLE_ADDRESS, flags: 0 };
            image.frontends.insert(FrontendKey::whole_address(addr), marker);
        }
    }
}

/// What services have beyond frontends and tables.
fn find_options<A: Family>(rows: &impl Rows<A>, found: &mut Found<A>) -> Result<(), ReadError> {
    let image = &mut found.image;
    for (key, row) in rows.members()? {
        // Settings are of affinity, members of that and of direct return.
        let wants = if row.backend == Member::NONE {
            Service::AFFINITY
        } else {
            Service::AFFINITY | Service::DSR | Service::DSR_L2
        };
        let has = image.services.get(&key.service).is_some_and(|row| row.flags & wants != 0);
        let backend = image.backends.get(&row.backend).map_or(A::UNSPECIFIED, |row| row.addr);
        if has && backend == key.backend {
            image.members.insert(key, row);
        }
    }
    for (key, row) in rows.source_ranges()? {
        let known = key.service == NODES || image.services.contains_key(&key.service);
        if known && row.prefix == key.prefix {
            image.source_ranges.insert(key, row);
        }
    }
    Ok(())
}

fn find_endpoints<A: Family>(rows: &impl Rows<A>, found: &mut Found<A>) -> Result<(), ReadError> {
    let image = &mut found.image;
    let endpoints = rows.endpoints();
    for (key, hop) in rows.endpoint_keys()? {
        let row = endpoints.get(hop.slot() as usize).filter(|row| {
            hop.slot() != 0 && row.ifindex != 0 && row.generation == hop.generation() && row.flags == 0
        });
        match row {
            Some(&row) => {
                image.endpoint_keys.insert(key, hop);
                image.endpoints.insert(hop.slot(), row);
            }
            None => found.stray_slots.push(hop.slot()),
        }
    }
    for (slot, row) in (0..).zip(endpoints).filter(|(slot, _)| !image.endpoints.contains_key(slot)) {
        let generation = row.generation.wrapping_add(u16::from(row.ifindex != 0));
        if generation != 0 {
            found.parked_endpoints.insert(slot, generation);
        }
        if row.ifindex != 0 {
            found.stray_slots.push(slot);
        }
    }
    found.stray_slots.retain(|slot| !image.endpoints.contains_key(slot));
    Ok(())
}
