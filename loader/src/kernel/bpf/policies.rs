//! The policy maps of both families: written as the plan says, read back as
//! they are.

mod audit;

use std::{io, os::fd::OwnedFd};

use bytemuck::{Pod, Zeroable};
use causeway_schema::{
    V4, V6,
    policy::{EndpointPolicy, PeerKey, PolicyStep, SetKey, Standing, Steps},
};
use ipnet::IpNet;

use super::{BpfError, batch, mapped::Mapped, object, object::Object, sys};
use crate::plan::{Capacity, Family, PolicyWrite};

pub use audit::Walk;

pub struct PolicyTables {
    standing: Mapped<StandingRow>,
    policies: Mapped<EndpointPolicy>,
    steps: Mapped<PolicyStep>,
    sets: OwnedFd,
    classes_v4: OwnedFd,
    classes_v6: OwnedFd,
    rules: OwnedFd,
    rule_count: u32,
    cpus: usize,
}

/// A mapped array spaces its rows by eight bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(8))]
struct StandingRow {
    standing: Standing,
    pad: u32,
}

impl PolicyTables {
    pub(super) fn open(object: &Object, capacity: &Capacity) -> Result<Self, BpfError> {
        let mapping = |name: &'static str| BpfError::call("map into memory", name);
        let policies = object::policies(capacity);
        Ok(Self {
            standing: Mapped::new(&object.map("POLICY")?, 1).map_err(mapping("POLICY"))?,
            policies: Mapped::new(&object.map("POLICIES")?, policies).map_err(mapping("POLICIES"))?,
            steps: Mapped::new(&object.map("STEPS")?, capacity.policy_steps).map_err(mapping("STEPS"))?,
            sets: object.map("SETS")?,
            classes_v4: object.map("CLASSES_V4")?,
            classes_v6: object.map("CLASSES_V6")?,
            rules: object.map("RULES")?,
            rule_count: capacity.rules,
            cpus: aya::util::nr_cpus().map_err(|(_, cause)| BpfError::call("count", "CPUs")(cause))?,
        })
    }

    /// Writes in order, and stops at what a map refuses.
    ///
    /// # Errors
    /// Names the map.
    pub fn apply(&mut self, writes: &[PolicyWrite]) -> Result<(), String> {
        // Rows of one kind that follow one another go in by batches.
        for run in writes.chunk_by(|a, b| kind(a) == kind(b)) {
            let done = match run {
                [PolicyWrite::Set(_, Some(_)), ..] => put(&self.sets, run.iter().filter_map(set)),
                [PolicyWrite::Class { class: Some(_), .. }, ..] => self.put_classes(run),
                _ => run.iter().try_for_each(|write| self.write(write)),
            };
            done.map_err(|error| format!("write to map {}: {error}", map(&run[0])))?;
        }
        Ok(())
    }

    fn write(&mut self, write: &PolicyWrite) -> io::Result<()> {
        match write {
            PolicyWrite::Steps(base, steps) => self.steps.store_run(*base, steps),
            PolicyWrite::Policy(row, sets) => self.policies.store(*row, sets),
            PolicyWrite::Stand(standing) => {
                self.standing.store(0, &StandingRow { standing: *standing, pad: 0 })
            }
            PolicyWrite::Set(key, row) => match row {
                Some(row) => sys::map_update(&self.sets, key, row),
                None => sys::map_delete(&self.sets, key),
            },
            PolicyWrite::Class { generation, peer, class } => match peer {
                IpNet::V4(_) => one(&self.classes_v4, peer_key::<V4>(*generation, peer), *class),
                IpNet::V6(_) => one(&self.classes_v6, peer_key::<V6>(*generation, peer), *class),
            },
        }
    }

    fn put_classes(&self, run: &[PolicyWrite]) -> io::Result<()> {
        put(&self.classes_v4, run.iter().filter_map(class::<V4>))?;
        put(&self.classes_v6, run.iter().filter_map(class::<V6>))
    }

    /// What is there, whoever wrote it.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn sets(&self) -> io::Result<Vec<(SetKey, Steps)>> {
        batch::read(&self.sets)
    }

    /// With their generations.
    ///
    /// # Errors
    /// As above.
    pub fn classes(&self) -> io::Result<Vec<(u32, IpNet, u32)>> {
        let mut rows = read_classes::<V4>(&self.classes_v4)?;
        rows.extend(read_classes::<V6>(&self.classes_v6)?);
        Ok(rows)
    }

    pub fn standing(&self) -> Standing {
        self.standing.rows()[0].standing
    }

    /// How often each rule has decided, by its number.
    ///
    /// # Errors
    /// As [`PolicyTables::sets`].
    pub fn rule_counts(&self, rules: impl Iterator<Item = u32>) -> io::Result<Vec<(u32, u64)>> {
        let mut row = vec![0_u64; self.cpus];
        let mut counts = Vec::new();
        for rule in rules.filter(|rule| *rule < self.rule_count) {
            if sys::map_lookup_bytes(&self.rules, &rule, bytemuck::cast_slice_mut(&mut row))? {
                counts.push((rule, row.iter().sum()));
            }
        }
        Ok(counts)
    }

    /// The numbers of rules begin anew.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn clear_counts(&self) -> io::Result<()> {
        let row = vec![0_u64; self.cpus];
        (0..self.rule_count)
            .try_for_each(|rule| sys::map_update_bytes(&self.rules, &rule, bytemuck::cast_slice(&row)))
    }
}

fn set(write: &PolicyWrite) -> Option<(SetKey, Steps)> {
    match write {
        PolicyWrite::Set(key, Some(row)) => Some((*key, *row)),
        _ => None,
    }
}

fn class<A: Family>(write: &PolicyWrite) -> Option<(PeerKey<A>, u32)> {
    match write {
        PolicyWrite::Class { generation, peer, class: Some(class) } => {
            peer_key(*generation, peer).map(|key| (key, *class))
        }
        _ => None,
    }
}

/// `None` when the network is of the other family.
fn peer_key<A: Family>(generation: u32, peer: &IpNet) -> Option<PeerKey<A>> {
    Some(PeerKey::new(generation, A::from_ip(peer.network())?, u32::from(peer.prefix_len())))
}

fn read_classes<A: Family>(map: &OwnedFd) -> io::Result<Vec<(u32, IpNet, u32)>> {
    let rows = batch::read::<PeerKey<A>, u32>(map)?;
    Ok(rows.into_iter().filter_map(|(key, class)| Some((key.generation, peer(&key)?, class))).collect())
}

/// `None` when a foreign hand has written what is no network of one generation.
fn peer<A: Family>(key: &PeerKey<A>) -> Option<IpNet> {
    let length = u8::try_from(key.prefix.checked_sub(u32::BITS)?).ok()?;
    IpNet::new(key.addr.to_ip(), length).ok()
}

fn put<K: Pod, V: Pod>(map: &OwnedFd, rows: impl Iterator<Item = (K, V)>) -> io::Result<()> {
    let rows: Vec<(K, V)> = rows.collect();
    batch::update(map, &rows).into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

fn one<K: Pod>(map: &OwnedFd, key: Option<K>, class: Option<u32>) -> io::Result<()> {
    match (key, class) {
        (Some(key), Some(class)) => sys::map_update(map, &key, &class),
        (Some(key), None) => sys::map_delete(map, &key),
        (None, _) => Ok(()),
    }
}

fn kind(write: &PolicyWrite) -> (u8, bool) {
    match write {
        PolicyWrite::Steps(..) => (0, false),
        PolicyWrite::Set(_, row) => (1, row.is_some()),
        PolicyWrite::Class { class, .. } => (2, class.is_some()),
        PolicyWrite::Policy(..) => (3, false),
        PolicyWrite::Stand(_) => (4, false),
    }
}

fn map(write: &PolicyWrite) -> &'static str {
    match write {
        PolicyWrite::Steps(..) => "STEPS",
        PolicyWrite::Set(..) => "SETS",
        PolicyWrite::Class { peer: IpNet::V4(_), .. } => "CLASSES_V4",
        PolicyWrite::Class { .. } => "CLASSES_V6",
        PolicyWrite::Policy(..) => "POLICIES",
        PolicyWrite::Stand(_) => "POLICY",
    }
}
