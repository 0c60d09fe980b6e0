//! Where do the maps differ from the image, and which steps mend that?

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use causeway_schema::{Endpoint, Service, Target};

use super::{Family, Image, ReadError, Rows, Step, by_id::ById};

/// A row that is not as it should be, and the step that mends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Repair<A: Family> {
    pub step: Step<A>,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such row, or it is zero.
    Missing,
    Altered,
    /// Nobody wants this row.
    Unknown,
}

/// The steps that turn what the maps hold into the image, in the order of
/// their phases; but keys that nobody wants go first, because they may fill a
/// map that other rows must come into, and nothing needs them. Cells outside the image's tables do not matter, nor do
/// generations that freed rows keep.
pub fn audit<A: Family>(image: &Image<A>, rows: &impl Rows<A>) -> Result<Vec<Repair<A>>, ReadError> {
    let mut repairs = Vec::new();
    audit_backends(image, rows, &mut repairs);
    audit_tables(image, rows, &mut repairs);
    audit_services(image, rows, &mut repairs);
    audit_endpoints(image, rows, &mut repairs);
    compare_keys(&image.frontends, rows.frontends()?, &mut repairs, |key, row| match row {
        Some(&row) => Step::PutFrontend { key, row },
        None => Step::DeleteFrontend { key },
    });
    compare_keys(&image.endpoint_keys, rows.endpoint_keys()?, &mut repairs, |key, hop| match hop {
        Some(&hop) => Step::PutEndpointKey { key, hop },
        None => Step::DeleteEndpointKey { key },
    });
    compare_keys(&image.members, rows.members()?, &mut repairs, |key, row| match row {
        Some(&row) => Step::PutMember { key, row },
        None => Step::DeleteMember { key },
    });
    compare_keys(&image.source_ranges, rows.source_ranges()?, &mut repairs, |key, row| match row {
        Some(&row) => Step::PutSourceRange { key, row },
        None => Step::DeleteSourceRange { key },
    });
    compare_keys(&image.port_ranges, rows.port_ranges()?, &mut repairs, |addr, row| match row {
        Some(&row) => Step::PutPortRanges { addr, row },
        None => Step::DeletePortRanges { addr },
    });
    repairs.sort_by_key(|repair| (!repair.step.removes(), repair.step.phase()));
    Ok(repairs)
}

/// The indices of the steps whose rows do not read back as written.
pub fn confirm<A: Family>(steps: &[Step<A>], rows: &impl Rows<A>) -> Result<Vec<usize>, ReadError> {
    let mut failed = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let stands = match step {
            Step::PutBackend { id, row } => rows.backends().get(*id as usize) == Some(row),
            Step::PutTable { base, cells } => rows.arena().get(run(*base, cells.len())) == Some(&cells[..]),
            Step::PutService { id, row } | Step::ClearService { id, row } => {
                rows.services().get(*id as usize) == Some(row)
            }
            Step::PutEndpoint { slot, row } | Step::ClearEndpoint { slot, row } => {
                rows.endpoints().get(*slot as usize) == Some(row)
            }
            Step::PutEndpointKey { key, hop } => rows.endpoint_key(key)? == Some(*hop),
            Step::PutFrontend { key, row } => rows.frontend(key)? == Some(*row),
            Step::DeleteFrontend { key } => rows.frontend(key)?.is_none(),
            Step::DeleteEndpointKey { key } => rows.endpoint_key(key)?.is_none(),
            Step::PutMember { key, row } => rows.member(key)? == Some(*row),
            Step::DeleteMember { key } => rows.member(key)?.is_none(),
            Step::PutSourceRange { key, row } => rows.source_range(key)? == Some(*row),
            Step::DeleteSourceRange { key } => rows.source_range(key)?.is_none(),
            Step::PutPortRanges { addr, row } => rows.port_ranges_at(addr)? == Some(*row),
            Step::DeletePortRanges { addr } => rows.port_ranges_at(addr)?.is_none(),
            Step::ClearBackend { id } => rows.backends().get(*id as usize).is_some_and(is_zero),
        };
        if !stands {
            failed.push(index);
        }
    }
    Ok(failed)
}

fn audit_backends<A: Family>(image: &Image<A>, rows: &impl Rows<A>, repairs: &mut Vec<Repair<A>>) {
    compare_rows(&image.backends, rows.backends(), repairs, |id, _, wanted| match wanted {
        Some(&row) => Some(Step::PutBackend { id, row }),
        None => Some(Step::ClearBackend { id }),
    });
}

fn audit_services<A: Family>(image: &Image<A>, rows: &impl Rows<A>, repairs: &mut Vec<Repair<A>>) {
    compare_rows(&image.services, rows.services(), repairs, |id, found, wanted| match wanted {
        Some(&row) => Some(Step::PutService { id, row }),
        None => {
            let freed = Service { target: Target::EMPTY, generation: found.generation, flags: 0 };
            let row = Service { generation: found.generation.wrapping_add(1), ..freed };
            (*found != freed).then_some(Step::ClearService { id, row })
        }
    });
}

fn audit_endpoints<A: Family>(image: &Image<A>, rows: &impl Rows<A>, repairs: &mut Vec<Repair<A>>) {
    compare_rows(&image.endpoints, rows.endpoints(), repairs, |slot, found, wanted| match wanted {
        Some(&row) => Some(Step::PutEndpoint { slot, row }),
        None => {
            let generation = found.generation;
            let freed = Endpoint { ifindex: 0, generation, flags: 0, mac: [0; 6], policy: 0 };
            let row = Endpoint { generation: generation.wrapping_add(1), ..freed };
            (*found != freed).then_some(Step::ClearEndpoint { slot, row })
        }
    });
}

fn audit_tables<A: Family>(image: &Image<A>, rows: &impl Rows<A>, repairs: &mut Vec<Repair<A>>) {
    let first = repairs.len();
    for (&base, cells) in &image.tables {
        if rows.arena().get(run(base, cells.len())) != Some(&cells[..]) {
            let step = Step::PutTable { base, cells: cells.clone() };
            repairs.push(Repair { step, fault: Fault::Altered });
        }
    }
    repairs[first..].sort_by_key(|repair| match repair.step {
        Step::PutTable { base, .. } => base,
        _ => 0,
    });
}

/// Compares an array. `mend` gets the row found and the row wanted, if any.
fn compare_rows<A: Family, V: Copy + PartialEq + bytemuck::Pod>(
    image: &ById<V>,
    rows: &[V],
    repairs: &mut Vec<Repair<A>>,
    mend: impl Fn(u32, &V, Option<&V>) -> Option<Step<A>>,
) {
    for (id, found) in (0..).zip(rows) {
        let wanted = image.get(&id);
        let fault = match wanted {
            Some(row) if row == found => continue,
            Some(_) if is_zero(found) => Fault::Missing,
            Some(_) => Fault::Altered,
            None if is_zero(found) => continue,
            None => Fault::Unknown,
        };
        repairs.extend(mend(id, found, wanted).map(|step| Repair { step, fault }));
    }
    let beyond = image.iter().skip_while(|(id, _)| (*id as usize) < rows.len());
    let missing = |(id, row)| mend(id, &V::zeroed(), Some(row));
    repairs.extend(beyond.filter_map(missing).map(|step| Repair { step, fault: Fault::Missing }));
}

/// The rows of a hash map as they should be.
trait Rowed<K, V> {
    fn get(&self, key: &K) -> Option<&V>;
    fn keys<'a>(&'a self) -> impl ExactSizeIterator<Item = &'a K>
    where
        K: 'a,
        V: 'a;
}

impl<K: Eq + Hash, V> Rowed<K, V> for HashMap<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        HashMap::get(self, key)
    }

    fn keys<'a>(&'a self) -> impl ExactSizeIterator<Item = &'a K>
    where
        V: 'a,
    {
        HashMap::keys(self)
    }
}

impl<K: Ord, V> Rowed<K, V> for BTreeMap<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        BTreeMap::get(self, key)
    }

    fn keys<'a>(&'a self) -> impl ExactSizeIterator<Item = &'a K>
    where
        V: 'a,
    {
        BTreeMap::keys(self)
    }
}

/// Compares a hash map. `mend` gets the row wanted, if any.
fn compare_keys<A: Family, K: Copy + Ord + Hash, V: PartialEq>(
    image: &impl Rowed<K, V>,
    rows: Vec<(K, V)>,
    repairs: &mut Vec<Repair<A>>,
    mend: impl Fn(K, Option<&V>) -> Step<A>,
) {
    let mut bad = Vec::new();
    let mut seen = 0;
    for (key, found) in &rows {
        match image.get(key) {
            Some(wanted) => {
                seen += 1;
                if wanted != found {
                    bad.push((*key, Fault::Altered));
                }
            }
            None => bad.push((*key, Fault::Unknown)),
        }
    }
    if seen < image.keys().len() {
        let found: std::collections::HashSet<&K> = rows.iter().map(|(key, _)| key).collect();
        bad.extend(image.keys().filter(|key| !found.contains(key)).map(|key| (*key, Fault::Missing)));
    }
    bad.sort_unstable_by_key(|&(key, _)| key);
    repairs.extend(bad.into_iter().map(|(key, fault)| Repair { step: mend(key, image.get(&key)), fault }));
}

fn run(base: u32, cells: usize) -> std::ops::Range<usize> {
    base as usize..base as usize + cells
}

fn is_zero<V: bytemuck::Pod>(row: &V) -> bool {
    bytemuck::bytes_of(row) == bytemuck::bytes_of(&V::zeroed())
}
