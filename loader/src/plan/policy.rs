//! Which writes bring the policy maps to what the compiler says? Rows that
//! nothing names yet first, then the one word that makes all endpoints change
//! over, then what nothing names any more.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use causeway_schema::policy::{
    self, EndpointPolicy, NO_RULE, OTHERS, Outcome, PolicyStep, SetKey, Standing, Steps,
};
use ipnet::IpNet;

use super::{quarantine::Quarantine, ranges::Ranges};
use crate::policy::Delta;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyWrite {
    /// From this index of the steps on.
    Steps(u32, Arc<[PolicyStep]>),
    Set(SetKey, Option<Steps>),
    Class {
        generation: u32,
        peer: IpNet,
        class: Option<u32>,
    },
    /// At this index of the table of policies.
    Policy(u32, EndpointPolicy),
    /// All endpoints change over.
    Stand(Standing),
}

/// What is to be written, in this order, around the endpoints' own rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyPlan {
    pub before: Vec<PolicyWrite>,
    /// When the endpoints' rows say [`PolicyPlanner::indexes`].
    pub flip: Vec<PolicyWrite>,
    pub after: Vec<PolicyWrite>,
    /// Some decision may be another than before.
    pub decides_anew: bool,
}

/// What there is no room for, and what to raise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: no room for more than {rows}: raise capacity.{key}")]
pub struct NoRoom {
    pub what: &'static str,
    pub rows: u32,
    pub key: &'static str,
}

/// What the maps are to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyMaps {
    pub standing: Standing,
    pub sets: BTreeMap<SetKey, Steps>,
    pub steps: BTreeMap<u32, Arc<[PolicyStep]>>,
    /// Of the standing generation.
    pub classes: BTreeMap<IpNet, u32>,
    /// By index, of both banks.
    pub policies: BTreeMap<u32, EndpointPolicy>,
}

/// Endpoints of which nobody has said yet what holds for them have this index:
/// nothing may come or go.
pub const SEALED: u16 = 1;
/// Its set, and where its only step stands.
const SEALED_SET: u32 = u32::MAX;
const SEALED_STEPS: Steps = Steps { base: 0, len: 1 };

/// Bits of a set's number that are the compiler's; those above tell agents apart.
const TAG: u32 = 24;

pub struct PolicyPlanner {
    image: PolicyMaps,
    ranges: Ranges,
    capacity: u32,
    /// Lists by their contents: where they stand, and how many rows name them.
    lists: HashMap<Arc<[PolicyStep]>, (u32, u32)>,
    indexes: BTreeMap<Arc<str>, u16>,
    /// Endpoints whose rows name an index until all have changed over.
    leaving: Vec<Arc<str>>,
    /// Endpoints of an earlier agent that have none.
    unasked: BTreeSet<Arc<str>>,
    free: BTreeSet<u16>,
    resting: Quarantine<u16>,
    /// Commits of which some rows may still be read.
    revisions: Quarantine<u64>,
    /// An earlier agent's rows, until this one's stand.
    old: Option<Old>,
}

#[derive(Default)]
struct Old {
    sets: Vec<SetKey>,
    classes: Vec<(u32, IpNet)>,
    lists: Vec<Steps>,
}

/// What an earlier agent has left.
#[derive(Default)]
pub struct Left {
    pub standing: Standing,
    pub sets: Vec<(SetKey, Steps)>,
    pub classes: Vec<(u32, IpNet)>,
    /// Of the endpoints that are still there; 0 for none.
    pub indexes: BTreeMap<Arc<str>, u16>,
}

impl PolicyPlanner {
    /// `steps` and `endpoints`: rows of the maps. What is left goes on to hold
    /// until the first plan.
    pub fn adopt(left: Left, steps: u32, endpoints: u32) -> Self {
        let mut runs: Vec<(u32, u32)> = left
            .sets
            .iter()
            .map(|(_, at)| (at.base, at.len))
            .filter(|run| run.0 != SEALED_STEPS.base)
            .collect();
        runs.push((SEALED_STEPS.base, SEALED_STEPS.len));
        runs.sort_unstable();
        runs.dedup();
        // A foreign hand may have written anything.
        let mut end = 0;
        runs.retain(|&(base, len)| {
            let sound = base >= end
                && len <= policy::MAX_STEPS
                && base.checked_add(len).is_some_and(|to| to <= steps);
            if sound {
                end = base + len;
            }
            sound
        });
        let held: BTreeSet<u16> = left.indexes.values().copied().collect();
        let last = u16::try_from(endpoints).unwrap_or(u16::MAX);
        let standing =
            Standing::new(left.standing.generation().wrapping_add(1) & (u32::MAX >> 1), left.standing.bank());
        Self {
            image: PolicyMaps { standing, ..PolicyMaps::default() },
            ranges: Ranges::adopt(steps, runs.iter().copied()),
            capacity: steps,
            lists: HashMap::new(),
            unasked: left
                .indexes
                .iter()
                .filter(|(_, index)| **index == 0)
                .map(|(name, _)| name.clone())
                .collect(),
            indexes: left.indexes.into_iter().filter(|(_, index)| *index != 0).collect(),
            leaving: Vec::new(),
            free: (SEALED + 1..=last).filter(|index| !held.contains(index)).collect(),
            resting: Quarantine::default(),
            revisions: Quarantine::default(),
            old: Some(Old {
                sets: left.sets.iter().map(|(key, _)| *key).collect(),
                classes: left.classes,
                lists: left.sets.iter().map(|(_, at)| *at).collect(),
            }),
        }
    }

    /// What an endpoint of which nothing is known is to find: written before
    /// anything else.
    pub fn seal() -> Vec<PolicyWrite> {
        let nobody: Arc<[PolicyStep]> = [PolicyStep::new(0, Outcome::Deny, NO_RULE)].into();
        let sealed = EndpointPolicy { ingress: SEALED_SET, egress: SEALED_SET };
        let key = SetKey { set: SEALED_SET, class: OTHERS };
        let mut writes =
            vec![PolicyWrite::Steps(SEALED_STEPS.base, nobody), PolicyWrite::Set(key, Some(SEALED_STEPS))];
        writes.extend([0, 1].map(|bank| PolicyWrite::Policy(u32::from(SEALED) * 2 + bank, sealed)));
        writes
    }

    pub fn image(&self) -> &PolicyMaps {
        &self.image
    }

    /// Whether anything has been planned: until then an earlier agent's rows
    /// hold, and new endpoints are sealed.
    pub fn stands(&self) -> bool {
        self.old.is_none()
    }

    /// What an endpoint's row is to say; `None`: what it says already.
    pub fn index(&self, name: &str) -> Option<u16> {
        match (self.indexes.get(name), self.stands()) {
            (Some(index), _) => Some(*index),
            (None, false) if self.unasked.contains(name) => None,
            (None, stands) => Some(if stands { 0 } else { SEALED }),
        }
    }

    /// The sets of an endpoint, as they stand.
    fn sets_of(&self, name: &str) -> EndpointPolicy {
        let index = self.indexes.get(name).map(|index| self.image.standing.row(*index));
        index.and_then(|index| self.image.policies.get(&index)).copied().unwrap_or_default()
    }

    /// The writes that follow from a change.
    ///
    /// # Errors
    /// When something does not fit: nothing is planned then, and all stays as
    /// it was.
    pub fn plan(&mut self, delta: &Delta) -> Result<PolicyPlan, NoRoom> {
        self.check_room(delta)?;
        let mut plan = PolicyPlan::default();
        let generation = self.image.standing.generation();
        for (key, steps) in &delta.sets.put {
            let (key, at) = (self.tagged(*key), self.list(steps, &mut plan.before)?);
            self.image.sets.insert(key, at);
            plan.before.push(PolicyWrite::Set(key, Some(at)));
        }
        for (&peer, &class) in &delta.classes.put {
            self.image.classes.insert(peer, class);
            plan.before.push(PolicyWrite::Class { generation, peer, class: Some(class) });
        }
        // Before the change: a prefix that lingers would hide a shorter one. The
        // sets that go know what takes its place.
        for &peer in &delta.classes.gone {
            self.image.classes.remove(&peer);
            plan.before.push(PolicyWrite::Class { generation, peer, class: None });
        }
        self.turn(delta, &mut plan)?;
        for &key in &delta.sets.gone {
            let key = self.tagged(key);
            if let Some(at) = self.image.sets.remove(&key) {
                self.unlist(at);
                plan.after.push(PolicyWrite::Set(key, None));
            }
        }
        plan.decides_anew = !plan.flip.is_empty() || !delta.sets.is_empty() || !delta.classes.is_empty();
        self.forget_old(&mut plan.after);
        self.revisions.put(delta.revision);
        Ok(plan)
    }

    /// Gives the endpoints their sets in the bank that does not count yet, and
    /// makes that one count.
    fn turn(&mut self, delta: &Delta, plan: &mut PolicyPlan) -> Result<(), NoRoom> {
        let adopts = self.old.is_some();
        if delta.endpoints.is_empty() && !adopts {
            return Ok(());
        }
        let now = self.image.standing;
        let next = Standing::new(now.generation(), now.bank() ^ 1);
        let mut wanted: BTreeMap<u16, EndpointPolicy> = BTreeMap::new();
        if !adopts {
            wanted.extend(self.indexes.values().map(|&index| {
                (index, self.image.policies.get(&now.row(index)).copied().unwrap_or_default())
            }));
        } else {
            // Whoever is not named has no policy any more.
            wanted.extend(self.indexes.values().map(|&index| (index, EndpointPolicy::default())));
        }
        let none = EndpointPolicy::default();
        let gone = delta.endpoints.gone.iter().map(|name| (name, &none));
        for (name, sets) in delta.endpoints.put.iter().chain(gone) {
            let sets = EndpointPolicy { ingress: self.tag(sets.ingress), egress: self.tag(sets.egress) };
            let index = match self.indexes.get(name) {
                Some(index) => *index,
                None if sets == EndpointPolicy::default() => continue,
                None => {
                    let index = self.free.pop_first().ok_or(NoRoom {
                        what: "endpoints with a policy",
                        rows: self.indexes.len() as u32,
                        key: "endpoints",
                    })?;
                    self.indexes.insert(name.clone(), index);
                    // Nothing is asked before the change.
                    self.put(now.row(index), EndpointPolicy::default(), &mut plan.before, true);
                    index
                }
            };
            wanted.insert(index, sets);
        }
        for (index, sets) in wanted {
            self.put(next.row(index), sets, &mut plan.before, adopts);
        }
        self.image.standing = next;
        plan.flip.push(PolicyWrite::Stand(next));
        // Whoever has no sets any more is not to be asked about.
        let without = |name: &&Arc<str>| self.sets_of(name) == EndpointPolicy::default();
        self.leaving = self.indexes.keys().filter(without).cloned().collect();
        Ok(())
    }

    /// All have changed over: those without sets lose their indexes; whether
    /// there are any.
    pub fn changed_over(&mut self) -> bool {
        let leaving = std::mem::take(&mut self.leaving);
        for name in &leaving {
            if let Some(index) = self.indexes.remove(name) {
                self.resting.put(index);
            }
        }
        !leaving.is_empty()
    }

    /// Lets what was freed be used again, once it is read back: see
    /// [`Quarantine::release`]. The last commit of which no row is read any more.
    pub fn release(&mut self, now: Duration) -> Option<u64> {
        self.ranges.release(now);
        for index in self.resting.release(now) {
            for bank in [0, 1] {
                self.image.policies.remove(&(u32::from(index) * 2 + bank));
            }
            self.free.insert(index);
        }
        self.revisions.release(now).into_iter().max()
    }

    fn put(&mut self, row: u32, sets: EndpointPolicy, writes: &mut Vec<PolicyWrite>, always: bool) {
        if self.image.policies.insert(row, sets) != Some(sets) || always {
            writes.push(PolicyWrite::Policy(row, sets));
        }
    }

    fn check_room(&self, delta: &Delta) -> Result<(), NoRoom> {
        let mut lists: BTreeSet<&Arc<[PolicyStep]>> = BTreeSet::new();
        let fresh: u32 = delta
            .sets
            .put
            .values()
            .filter(|steps| !self.lists.contains_key(*steps) && lists.insert(steps))
            .map(|steps| steps.len() as u32)
            .sum();
        // Of one piece as a rule; a scattered arena says so when it comes to that.
        if fresh > self.ranges.total() {
            return Err(self.full());
        }
        Ok(())
    }

    fn full(&self) -> NoRoom {
        NoRoom { what: "steps of policies", rows: self.capacity, key: "policy_steps" }
    }

    fn list(&mut self, steps: &Arc<[PolicyStep]>, writes: &mut Vec<PolicyWrite>) -> Result<Steps, NoRoom> {
        let len = steps.len() as u32;
        if let Some((base, names)) = self.lists.get_mut(steps) {
            *names += 1;
            return Ok(Steps { base: *base, len });
        }
        let base = self.ranges.take(len).ok_or_else(|| self.full())?;
        self.lists.insert(steps.clone(), (base, 1));
        self.image.steps.insert(base, steps.clone());
        writes.push(PolicyWrite::Steps(base, steps.clone()));
        Ok(Steps { base, len })
    }

    fn unlist(&mut self, at: Steps) {
        let Some(steps) = self.image.steps.get(&at.base).cloned() else { return };
        let Some((_, names)) = self.lists.get_mut(&steps) else { return };
        *names -= 1;
        if *names == 0 {
            self.lists.remove(&steps);
            self.image.steps.remove(&at.base);
            self.ranges.free(at.base, at.len);
        }
    }

    fn forget_old(&mut self, writes: &mut Vec<PolicyWrite>) {
        let Some(old) = self.old.take() else { return };
        let sealed = |key: &SetKey| key.set == SEALED_SET;
        writes.extend(old.sets.into_iter().filter(|key| !sealed(key)).map(|key| PolicyWrite::Set(key, None)));
        let classes = old.classes.into_iter();
        writes.extend(classes.map(|(generation, peer)| PolicyWrite::Class { generation, peer, class: None }));
        let mut lists: Vec<Steps> = old.lists.into_iter().filter(|at| *at != SEALED_STEPS).collect();
        lists.sort_unstable();
        lists.dedup();
        for at in lists {
            self.ranges.free(at.base, at.len);
        }
    }

    fn tagged(&self, key: SetKey) -> SetKey {
        SetKey { set: self.tag(key.set), ..key }
    }

    /// 0 stays 0: no policy. Never [`SEALED_SET`].
    fn tag(&self, set: u32) -> u32 {
        if set == 0 { 0 } else { (self.image.standing.generation() & 0x7f) << TAG | set }
    }
}

#[cfg(test)]
#[path = "policy/tests.rs"]
mod tests;
