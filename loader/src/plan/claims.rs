//! Which service gets which range of an address's ports? Where two overlap, the
//! smaller service has it, however many there are and in whatever order they
//! came: the row of an address follows from the claims on it alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use causeway_schema::{PORT_RANGES, Port, PortRange, PortRanges};

use super::Family;
use crate::model::desired::ServiceId;

/// Ranges with the addresses that they belong to; sorted.
pub type Ranges<A> = Box<[(A, PortRange)]>;

#[derive(Debug)]
pub struct Claims<A> {
    claims: BTreeMap<ServiceId, Claim<A>>,
    /// The services with claims on an address.
    at: HashMap<A, BTreeSet<ServiceId>>,
    /// Ranges of an earlier agent's services that none has claimed.
    adopted: BTreeMap<A, Vec<PortRange>>,
}

/// What a service wants.
#[derive(Debug, PartialEq)]
struct Claim<A> {
    /// A service without a place stands in nobody's way.
    id: Option<u32>,
    ranges: Ranges<A>,
}

/// Why a service does not get a range.
#[derive(Debug, PartialEq)]
pub enum Lost<'a> {
    To(&'a ServiceId, PortRange),
    /// The address has as many as fit into a row.
    NoRoom,
}

impl<A: Family> Claims<A> {
    /// Claims of an earlier agent's services.
    pub fn adopt(rows: &BTreeMap<A, PortRanges>) -> Self {
        let adopted = rows.iter().map(|(&addr, row)| (addr, row.iter().copied().collect())).collect();
        Self { claims: BTreeMap::new(), at: HashMap::new(), adopted }
    }

    /// Whether a service may have a range.
    pub fn judge(&self, name: &ServiceId, addr: A, range: &PortRange) -> Result<(), Lost<'_>> {
        let smaller = self.at.get(&addr).into_iter().flat_map(|names| names.range(..name.clone()));
        let taken = self.taken(addr, smaller);
        match taken.iter().find(|(_, other)| collide(other, range)) {
            Some(&(owner, other)) => Err(Lost::To(owner, other)),
            None if taken.len() == PORT_RANGES => Err(Lost::NoRoom),
            None => Ok(()),
        }
    }

    /// Notes what a service wants: nothing, if it is gone. Returns the
    /// addresses whose rows may change.
    pub fn set(&mut self, name: &ServiceId, id: Option<u32>, ranges: Ranges<A>) -> BTreeSet<A> {
        let claim = Claim { id, ranges };
        let before = self.claims.remove(name);
        if before.as_ref().is_none_or(|before| before.ranges.is_empty()) && claim.ranges.is_empty() {
            return BTreeSet::new();
        }
        let mut concerned = BTreeSet::new();
        if before.as_ref() != Some(&claim) {
            let old = before.iter().flat_map(|claim| claim.ranges.iter());
            concerned = old.chain(claim.ranges.iter()).map(|(addr, _)| *addr).collect();
        }
        for addr in before.iter().flat_map(|claim| claim.ranges.iter()).map(|(addr, _)| *addr) {
            if let Some(names) = self.at.get_mut(&addr) {
                names.remove(name);
                if names.is_empty() {
                    self.at.remove(&addr);
                }
            }
        }
        for (addr, _) in &claim.ranges {
            self.at.entry(*addr).or_default().insert(name.clone());
            if let Some(adopted) = self.adopted.get_mut(addr) {
                adopted.retain(|range| Some(range.service) != id);
            }
        }
        if !claim.ranges.is_empty() {
            self.claims.insert(name.clone(), claim);
        }
        concerned
    }

    /// The services that a smaller one's claim on an address concerns.
    pub fn after<'a>(&'a self, name: &'a ServiceId, addr: &A) -> impl Iterator<Item = &'a ServiceId> {
        let names = self.at.get(addr).into_iter().flatten();
        names.skip_while(move |other| *other <= name)
    }

    /// The row that an address is to have.
    pub fn row(&self, addr: A) -> PortRanges {
        let mut ranges: Vec<PortRange> = Vec::new();
        let names = self.at.get(&addr).into_iter().flatten();
        ranges.extend(self.taken(addr, names).into_iter().map(|(_, range)| range));
        for range in self.adopted.get(&addr).into_iter().flatten() {
            if ranges.len() < PORT_RANGES && !ranges.iter().any(|other| collide(other, range)) {
                ranges.push(*range);
            }
        }
        PortRanges::of(ranges)
    }

    /// The ids that an earlier agent gave to services with one of `ranges`.
    pub fn adopted_ids(&self, ranges: &[(A, PortRange)]) -> impl Iterator<Item = u32> {
        ranges.iter().flat_map(|(addr, range)| {
            let there = self.adopted.get(addr).into_iter().flatten();
            let same = |other: &&PortRange| {
                (other.first, other.last, other.protocol) == (range.first, range.last, range.protocol)
            };
            there.filter(same).map(|other| other.service)
        })
    }

    /// Where the ranges of an earlier agent's service begin, if it has any.
    pub fn adopted_first(&self, id: u32) -> Option<Port> {
        let all = self.adopted.values().flatten();
        all.into_iter().find(|range| range.service == id).map(|range| range.first)
    }

    /// Forgets ranges of an earlier agent: those of one id, or all. Returns the
    /// addresses whose rows may change.
    pub fn forget_adopted(&mut self, id: Option<u32>) -> Vec<A> {
        let mut concerned = Vec::new();
        self.adopted.retain(|addr, ranges| {
            let before = ranges.len();
            ranges.retain(|range| id.is_some_and(|id| range.service != id));
            if ranges.len() < before {
                concerned.push(*addr);
            }
            !ranges.is_empty()
        });
        concerned
    }

    /// What services take of an address, in the order of their names.
    fn taken<'a>(
        &'a self,
        addr: A,
        names: impl Iterator<Item = &'a ServiceId>,
    ) -> Vec<(&'a ServiceId, PortRange)> {
        let mut taken: Vec<(&ServiceId, PortRange)> = Vec::new();
        for (name, claim) in names.filter_map(|name| Some((name, self.claims.get(name)?))) {
            let Some(service) = claim.id else { continue };
            for (_, range) in claim.ranges.iter().filter(|(at, _)| *at == addr) {
                if taken.len() < PORT_RANGES && !taken.iter().any(|(_, other)| collide(other, range)) {
                    taken.push((name, PortRange { service, ..*range }));
                }
            }
        }
        taken
    }
}

/// A range of some ports comes before one of all: they are not in each other's way.
fn collide(a: &PortRange, b: &PortRange) -> bool {
    let overlap = a.first.get() <= b.last.get() && b.first.get() <= a.last.get();
    overlap && a.protocol == b.protocol && a.is_whole() == b.is_whole()
}
