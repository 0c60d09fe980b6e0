//! Which class is an address in? A class stands for the terms that hold for it,
//! and exists while a row has it, or had it not long ago.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use causeway_schema::policy::OTHERS;
use ipnet::IpNet;

use super::{
    image::Table,
    numbers::{Leaving, Numbers},
    terms::TermId,
};

#[derive(Debug)]
pub struct Classes {
    numbers: Numbers,
    known: HashMap<Arc<[TermId]>, u32>,
    entries: HashMap<u32, Class>,
    /// The classes of each term.
    with: HashMap<TermId, BTreeSet<u32>>,
    fresh: BTreeSet<u32>,
    idle: BTreeSet<u32>,
    leaving: Leaving,
}

/// A class that was, and its terms.
pub type Gone = (u32, Arc<[TermId]>);

#[derive(Debug)]
struct Class {
    /// Sorted.
    terms: Arc<[TermId]>,
    rows: usize,
    /// When the last row left it.
    left: u64,
}

impl Default for Classes {
    fn default() -> Self {
        Self {
            numbers: Numbers::from(OTHERS + 1),
            known: HashMap::new(),
            entries: HashMap::new(),
            with: HashMap::new(),
            fresh: BTreeSet::new(),
            idle: BTreeSet::new(),
            leaving: Leaving::default(),
        }
    }
}

impl Classes {
    pub fn terms(&self, class: u32) -> &[TermId] {
        self.entries.get(&class).map_or(&[], |class| &class.terms)
    }

    pub fn with(&self, term: TermId) -> impl Iterator<Item = u32> {
        self.with.get(&term).into_iter().flatten().copied()
    }

    /// Whether a row has it.
    pub fn is_used(&self, class: u32) -> bool {
        self.entries.get(&class).is_some_and(|class| class.rows > 0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives a row the class of these terms (sorted), or takes it away.
    pub fn set(&mut self, rows: &mut Table<IpNet, u32>, key: IpNet, terms: Option<&[TermId]>) {
        let class = terms.map(|terms| self.join(terms));
        if let Some(old) = rows.set(key, class) {
            self.leave(old);
        }
    }

    fn join(&mut self, terms: &[TermId]) -> u32 {
        if terms.is_empty() {
            return OTHERS;
        }
        if let Some(&number) = self.known.get(terms) {
            if let Some(class) = self.entries.get_mut(&number) {
                class.rows += 1;
            }
            return number;
        }
        let terms: Arc<[TermId]> = terms.into();
        let number = self.numbers.take();
        for &term in terms.iter() {
            self.with.entry(term).or_default().insert(number);
        }
        self.known.insert(terms.clone(), number);
        self.entries.insert(number, Class { terms, rows: 1, left: 0 });
        self.fresh.insert(number);
        number
    }

    fn leave(&mut self, number: u32) {
        if let Some(class) = self.entries.get_mut(&number) {
            class.rows -= 1;
            if class.rows == 0 {
                self.idle.insert(number);
            }
        }
    }

    /// Which classes are new since the last time, and which are gone, with their
    /// terms.
    pub fn settle(&mut self, revision: u64, released: u64) -> (BTreeSet<u32>, Vec<Gone>) {
        let mut fresh = std::mem::take(&mut self.fresh);
        let mut gone = Vec::new();
        for (left, number) in self.leaving.due(released) {
            if self.entries.get(&number).is_some_and(|class| class.rows == 0 && class.left == left) {
                gone.extend(self.remove(number));
                self.numbers.rest(number, revision);
            }
        }
        for number in std::mem::take(&mut self.idle) {
            let Some(class) = self.entries.get_mut(&number).filter(|class| class.rows == 0) else { continue };
            class.left = revision;
            if fresh.remove(&number) {
                self.remove(number);
                self.numbers.untake(number);
            } else {
                self.leaving.put(number, revision);
            }
        }
        (fresh, gone)
    }

    fn remove(&mut self, number: u32) -> Option<Gone> {
        let Class { terms, .. } = self.entries.remove(&number)?;
        self.known.remove(&terms);
        for term in terms.iter() {
            if let Some(classes) = self.with.get_mut(term) {
                classes.remove(&number);
                if classes.is_empty() {
                    self.with.remove(term);
                }
            }
        }
        Some((number, terms))
    }

    /// Would [`Classes::settle`] drop any?
    pub fn is_due(&self, released: u64) -> bool {
        self.leaving.is_due(released)
    }

    pub fn release(&mut self, revision: u64) {
        self.numbers.release(revision);
    }
}
