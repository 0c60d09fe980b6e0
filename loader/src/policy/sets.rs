//! Which set of rules does an endpoint have, and what does it decide about each
//! class? A set stands for its clauses, and exists while an endpoint has it, or
//! had it not long ago: until all rows stand, programs go by the old ones.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use causeway_schema::policy::{MAX_STEPS, OTHERS, Outcome, PolicyStep, SetKey};

use super::{
    clauses::Clauses,
    image::Table,
    numbers::{Leaving, Numbers},
    paint::Canvas,
    rules::{Rules, TOO_LONG},
    terms::{TermId, Terms},
};

/// The set of endpoints without a policy.
pub const NONE: u32 = 0;

type Steps = Arc<[PolicyStep]>;

#[derive(Debug)]
pub struct Sets {
    numbers: Numbers,
    known: HashMap<Arc<Clauses>, u32>,
    entries: BTreeMap<u32, Set>,
    /// Equal lists are one.
    lists: HashSet<Steps>,
    /// Rows removed since unused lists were last dropped.
    removed: usize,
    /// Rows whose list was cut.
    cut: BTreeSet<SetKey>,
    fresh: BTreeSet<u32>,
    idle: BTreeSet<u32>,
    leaving: Leaving,
}

#[derive(Debug)]
struct Set {
    clauses: Arc<Clauses>,
    /// The clauses with a term, by index in both lists together; sorted.
    by_term: Box<[(TermId, u32)]>,
    /// Those for everybody.
    always: Box<[u32]>,
    others: Steps,
    endpoints: usize,
    /// When the last endpoint left it.
    left: u64,
}

impl Default for Sets {
    fn default() -> Self {
        Self {
            numbers: Numbers::from(NONE + 1),
            known: HashMap::new(),
            entries: BTreeMap::new(),
            lists: HashSet::new(),
            removed: 0,
            cut: BTreeSet::new(),
            fresh: BTreeSet::new(),
            idle: BTreeSet::new(),
            leaving: Leaving::default(),
        }
    }
}

impl Sets {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number for these clauses; the endpoint has yet to [join](Sets::join).
    pub fn intern(&mut self, clauses: Clauses, terms: &mut Terms, rules: &mut Rules) -> u32 {
        if clauses.is_empty() {
            return NONE;
        }
        if let Some(&number) = self.known.get(&clauses) {
            return number;
        }
        let number = self.numbers.take();
        clauses.terms().into_iter().for_each(|term| terms.join(term, number));
        clauses.names.iter().for_each(|name| rules.join(name));
        let clauses = Arc::new(clauses);
        self.known.insert(clauses.clone(), number);
        let set = Set::new(clauses);
        self.entries.insert(number, set);
        self.fresh.insert(number);
        self.idle.insert(number);
        number
    }

    pub fn join(&mut self, number: u32) {
        if let Some(set) = self.entries.get_mut(&number) {
            set.endpoints += 1;
        }
    }

    pub fn leave(&mut self, number: u32) {
        if let Some(set) = self.entries.get_mut(&number) {
            set.endpoints -= 1;
            if set.endpoints == 0 {
                self.idle.insert(number);
            }
        }
    }

    /// Which sets are new since the last time, and have yet to get their rows.
    /// The rows of those that have left for good go.
    pub fn settle(
        &mut self,
        (revision, released): (u64, u64),
        rows: &mut Table<SetKey, Steps>,
        terms: &mut Terms,
        rules: &mut Rules,
    ) -> BTreeSet<u32> {
        let mut fresh = std::mem::take(&mut self.fresh);
        for (left, number) in self.leaving.due(released) {
            if self.entries.get(&number).is_some_and(|set| set.endpoints == 0 && set.left == left) {
                self.remove(number, terms, rules);
                self.numbers.rest(number, revision);
                let all = SetKey { set: number, class: 0 }..=SetKey { set: number, class: u32::MAX };
                let keys: Vec<SetKey> = rows.rows().range(all).map(|(key, _)| *key).collect();
                keys.into_iter().for_each(|key| self.clear(rows, key));
            }
        }
        for number in std::mem::take(&mut self.idle) {
            let Some(set) = self.entries.get_mut(&number).filter(|set| set.endpoints == 0) else { continue };
            set.left = revision;
            if fresh.remove(&number) {
                self.remove(number, terms, rules);
                self.numbers.untake(number);
            } else {
                self.leaving.put(number, revision);
            }
        }
        fresh
    }

    fn remove(&mut self, number: u32, terms: &mut Terms, rules: &mut Rules) {
        let Some(set) = self.entries.remove(&number) else { return };
        self.known.remove(&set.clauses);
        set.clauses.terms().into_iter().for_each(|term| terms.leave(term, number));
        set.clauses.names.iter().for_each(|name| rules.leave(name));
    }

    /// Would [`Sets::settle`] drop any?
    pub fn is_due(&self, released: u64) -> bool {
        self.leaving.is_due(released)
    }

    /// The row for everybody else; to be written before those of classes.
    pub fn write_others(&mut self, rows: &mut Table<SetKey, Steps>, number: u32) {
        let Some(set) = self.entries.get(&number) else { return };
        let (steps, cut) = set.steps(&[]);
        let steps = self.share(steps);
        if let Some(set) = self.entries.get_mut(&number) {
            set.others = steps.clone();
        }
        self.put(rows, SetKey { set: number, class: OTHERS }, steps, cut);
    }

    /// The row for a class, if it needs one.
    pub fn write(&mut self, rows: &mut Table<SetKey, Steps>, number: u32, class: u32, terms: &[TermId]) {
        let Some(set) = self.entries.get(&number) else { return };
        let (steps, cut) = set.steps(terms);
        if *steps != *set.others {
            let steps = self.share(steps);
            self.put(rows, SetKey { set: number, class }, steps, cut);
        }
    }

    fn put(&mut self, rows: &mut Table<SetKey, Steps>, key: SetKey, steps: Steps, cut: bool) {
        rows.set(key, Some(steps));
        if cut {
            self.cut.insert(key);
        }
    }

    pub fn clear(&mut self, rows: &mut Table<SetKey, Steps>, key: SetKey) {
        if rows.rows().contains_key(&key) {
            rows.set(key, None);
            self.cut.remove(&key);
            self.removed += 1;
        }
    }

    fn share(&mut self, steps: Vec<PolicyStep>) -> Steps {
        if let Some(known) = self.lists.get(&*steps) {
            return known.clone();
        }
        let steps: Steps = steps.into();
        self.lists.insert(steps.clone());
        steps
    }

    /// Drops lists that no row has, once that may be many.
    pub fn sweep(&mut self) {
        if self.removed > self.lists.len() / 2 {
            self.lists.retain(|steps| Arc::strong_count(steps) > 1);
            self.removed = 0;
        }
    }

    /// The terms that a set names.
    pub fn terms(&self, number: u32) -> BTreeSet<TermId> {
        self.entries.get(&number).map(|set| set.clauses.terms()).unwrap_or_default()
    }

    /// Sets that endpoints have, and what these stand for.
    pub fn in_use(&self) -> impl Iterator<Item = (u32, &Clauses)> {
        let used = self.entries.iter().filter(|(_, set)| set.endpoints > 0);
        used.map(|(number, set)| (*number, &*set.clauses))
    }

    /// Whether a list was cut.
    pub fn has_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Of sets that endpoints have, those with such a list.
    pub fn cut(&self) -> impl Iterator<Item = &Clauses> {
        let sets: BTreeSet<u32> = self.cut.iter().map(|key| key.set).collect();
        self.in_use().filter(move |(set, _)| sets.contains(set)).map(|(_, clauses)| clauses)
    }

    pub fn release(&mut self, revision: u64) {
        self.numbers.release(revision);
    }
}

impl Set {
    fn new(clauses: Arc<Clauses>) -> Self {
        let (mut by_term, mut always) = (Vec::new(), Vec::new());
        for (index, clause) in (0..).zip(clauses.admin.iter().chain(&clauses.rest)) {
            match &clause.peers {
                Some(peers) => by_term.extend(peers.iter().map(|term| (*term, index))),
                None => always.push(index),
            }
        }
        by_term.sort_unstable();
        let (by_term, always) = (by_term.into(), always.into());
        Self { clauses, by_term, always, others: Arc::default(), endpoints: 0, left: 0 }
    }

    /// For whom these terms hold; and whether something had to be cut off.
    fn steps(&self, terms: &[TermId]) -> (Vec<PolicyStep>, bool) {
        let mut asked = self.always.to_vec();
        for &term in terms {
            let first = self.by_term.partition_point(|(other, _)| *other < term);
            let same = self.by_term[first..].iter().take_while(|(other, _)| *other == term);
            asked.extend(same.map(|(_, index)| *index));
        }
        asked.sort_unstable();
        asked.dedup();
        let Clauses { admin, rest, .. } = &*self.clauses;
        let split = asked.partition_point(|index| (*index as usize) < admin.len());
        let mut canvas = Canvas::new();
        canvas.paint(asked[..split].iter().filter_map(|index| admin.get(*index as usize)));
        canvas.paint(asked[split..].iter().filter_map(|index| rest.get(*index as usize - admin.len())));
        let mut steps = canvas.steps();
        let cut = steps.len() > MAX_STEPS as usize;
        if cut {
            steps.truncate(MAX_STEPS as usize);
            if let Some(last) = steps.last_mut() {
                *last = PolicyStep::new(last.from, Outcome::Deny, TOO_LONG);
            }
        }
        (steps, cut)
    }
}
