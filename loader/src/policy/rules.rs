//! Which number does a rule have in the steps? One of its own, as long as there
//! are numbers: each has a counter.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use causeway_schema::policy::{MAX_RULES, NO_RULE};

use super::{RuleName, image::Table, numbers::Numbers};

/// The step that stands for the end of a list that was cut.
pub const TOO_LONG: u32 = MAX_RULES - 1;
/// The last numbers before that are for rules that get none of their own.
const SHARED: u32 = 64;
/// Of those, so many are named.
const NAMED: usize = 3;

#[derive(Debug)]
pub struct Rules {
    /// Numbers below it have one rule, [`SHARED`] from it on have several.
    limit: u32,
    numbers: Numbers,
    entries: HashMap<Arc<RuleName>, Entry>,
    shared: BTreeMap<u32, BTreeSet<Arc<RuleName>>>,
    fresh: Vec<Arc<RuleName>>,
    idle: Vec<Arc<RuleName>>,
}

#[derive(Debug)]
struct Entry {
    number: u32,
    /// How many sets name it.
    sets: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self::with_limit(TOO_LONG - SHARED)
    }
}

impl Rules {
    pub fn with_limit(limit: u32) -> Self {
        Self {
            limit,
            numbers: Numbers::from(NO_RULE + 1),
            entries: HashMap::new(),
            shared: BTreeMap::new(),
            fresh: Vec::new(),
            idle: Vec::new(),
        }
    }

    pub fn intern(&mut self, name: RuleName) -> (u32, Arc<RuleName>) {
        if let Some((name, entry)) = self.entries.get_key_value(&name) {
            return (entry.number, name.clone());
        }
        let number = self.numbers.take_below(self.limit).unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            name.policies().hash(&mut hasher);
            self.limit + (hasher.finish() % u64::from(SHARED)) as u32
        });
        let name = Arc::new(name);
        self.entries.insert(name.clone(), Entry { number, sets: 0 });
        self.fresh.push(name.clone());
        (number, name)
    }

    /// Another set names it.
    pub fn join(&mut self, name: &Arc<RuleName>) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.sets += 1;
        }
    }

    pub fn leave(&mut self, name: &Arc<RuleName>) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.sets -= 1;
            if entry.sets == 0 {
                self.idle.push(name.clone());
            }
        }
    }

    /// Brings the rows up to date.
    pub fn settle(&mut self, revision: u64, rows: &mut Table<u32, Arc<RuleName>>) {
        let fresh: BTreeSet<_> = std::mem::take(&mut self.fresh).into_iter().collect();
        let idle: BTreeSet<_> = std::mem::take(&mut self.idle).into_iter().collect();
        for name in fresh.union(&idle) {
            let Some(&Entry { number, sets }) = self.entries.get(name) else { continue };
            let alone = number < self.limit;
            match (sets, alone) {
                (0, true) if fresh.contains(name) => self.numbers.untake(number),
                (0, true) => {
                    self.numbers.rest(number, revision);
                    rows.set(number, None);
                }
                (0, false) => self.share(number, rows, |names| names.remove(name)),
                (_, true) => {
                    rows.set(number, Some(name.clone()));
                }
                (_, false) => self.share(number, rows, |names| names.insert(name.clone())),
            }
            if sets == 0 {
                self.entries.remove(name);
            }
        }
    }

    fn share(
        &mut self,
        number: u32,
        rows: &mut Table<u32, Arc<RuleName>>,
        change: impl FnOnce(&mut BTreeSet<Arc<RuleName>>) -> bool,
    ) {
        let names = self.shared.entry(number).or_default();
        change(names);
        let some = names.iter().take(NAMED).cloned().collect();
        let row = (!names.is_empty()).then(|| Arc::new(RuleName::Shared { count: names.len(), some }));
        if names.is_empty() {
            self.shared.remove(&number);
        }
        rows.set(number, row);
    }

    pub fn release(&mut self, revision: u64) {
        self.numbers.release(revision);
    }
}
