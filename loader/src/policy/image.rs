//! Rows that are wanted, and which of them the last commit changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use causeway_schema::policy::{EndpointPolicy, PolicyStep, SetKey};
use ipnet::IpNet;

use super::RuleName;

/// Everything that should stand in the maps.
#[derive(Debug, Default)]
pub struct PolicyImage {
    pub classes: Table<IpNet, u32>,
    /// Each set has a row for `OTHERS`; for other classes only where they differ
    /// from that.
    pub sets: Table<SetKey, Arc<[PolicyStep]>>,
    /// By endpoint name; those without a policy in either direction included.
    pub endpoints: Table<Arc<str>, EndpointPolicy>,
    /// Who is meant by the rule numbers in the steps.
    pub rules: Table<u32, Arc<RuleName>>,
}

/// What a commit changed.
#[derive(Debug, Default)]
pub struct Delta {
    /// To be given to [`super::Compiler::release`] when no row that this commit
    /// removed can be read any more.
    pub revision: u64,
    pub classes: Changes<IpNet, u32>,
    pub sets: Changes<SetKey, Arc<[PolicyStep]>>,
    pub endpoints: Changes<Arc<str>, EndpointPolicy>,
    pub rules: Changes<u32, Arc<RuleName>>,
}

impl Delta {
    /// What follows comes on top.
    pub fn follow(&mut self, next: Delta) {
        self.revision = next.revision;
        self.classes.follow(next.classes);
        self.sets.follow(next.sets);
        self.endpoints.follow(next.endpoints);
        self.rules.follow(next.rules);
    }

    pub fn is_empty(&self) -> bool {
        self.classes.is_empty() && self.sets.is_empty() && self.endpoints.is_empty() && self.rules.is_empty()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Changes<K, V> {
    /// New, or with another value.
    pub put: BTreeMap<K, V>,
    pub gone: BTreeSet<K>,
}

impl<K, V> Default for Changes<K, V> {
    fn default() -> Self {
        Self { put: BTreeMap::new(), gone: BTreeSet::new() }
    }
}

impl<K: Ord, V> Changes<K, V> {
    fn follow(&mut self, next: Self) {
        self.gone.retain(|key| !next.put.contains_key(key));
        self.put.retain(|key, _| !next.gone.contains(key));
        self.put.extend(next.put);
        self.gone.extend(next.gone);
    }
}

impl<K, V> Changes<K, V> {
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty()
    }
}

/// Rows that remember what they were before the commit.
#[derive(Debug)]
pub struct Table<K, V> {
    rows: BTreeMap<K, V>,
    before: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), before: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Table<K, V> {
    pub fn rows(&self) -> &BTreeMap<K, V> {
        &self.rows
    }

    /// Returns what the row was.
    pub(super) fn set(&mut self, key: K, value: Option<V>) -> Option<V> {
        let old = match value {
            Some(value) => self.rows.insert(key.clone(), value),
            None => self.rows.remove(&key),
        };
        self.before.entry(key).or_insert_with(|| old.clone());
        old
    }

    pub(super) fn changes(&mut self) -> Changes<K, V> {
        let mut changes = Changes::default();
        for (key, before) in std::mem::take(&mut self.before) {
            match self.rows.get(&key) {
                Some(now) if before.as_ref() != Some(now) => {
                    changes.put.insert(key, now.clone());
                }
                None if before.is_some() => {
                    changes.gone.insert(key);
                }
                _ => {}
            }
        }
        changes
    }
}
