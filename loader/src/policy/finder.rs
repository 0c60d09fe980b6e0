//! Which pods have a label, or a port? One flat set of hashes, because nearly
//! every pod has labels that no other has.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::Pod;
use crate::event::policy::{NamedPort, Operator, Selector};

/// By hash of what a pod has, its number. Who is found has it, or something else
/// with the same hash.
#[derive(Debug, Default)]
pub struct Finder(BTreeSet<(u32, u32)>);

/// More than so many are many.
const MANY: usize = 1 << 16;

impl Finder {
    pub fn add(&mut self, number: u32, pod: &Pod) {
        self.0.extend(hashes(pod).map(|hash| (hash, number)));
    }

    pub fn remove(&mut self, number: u32, pod: &Pod) {
        for hash in hashes(pod) {
            self.0.remove(&(hash, number));
        }
    }

    pub fn with_port(&self, port: &NamedPort) -> impl Iterator<Item = u32> {
        self.having(hash_of(port))
    }

    /// Those that may match, each once; `None` if labels do not tell.
    pub fn matching(&self, selector: &Selector) -> Option<Vec<u32>> {
        let wanted = selector.0.iter().filter_map(|requirement| match &requirement.operator {
            Operator::In(values) => {
                Some(values.iter().map(|value| hash_of(&(&*requirement.key, &**value))).collect())
            }
            _ => None,
        });
        let mut wanted: Vec<BTreeSet<u32>> = wanted.collect();
        let count =
            |hashes: &BTreeSet<u32>| hashes.iter().flat_map(|hash| self.having(*hash)).take(MANY).count();
        wanted.sort_by_cached_key(count);
        let (fewest, others) = wanted.split_first()?;
        let found = fewest.iter().flat_map(|hash| self.having(*hash));
        let has =
            |number, hashes: &BTreeSet<u32>| hashes.iter().any(|hash| self.0.contains(&(*hash, number)));
        let found: BTreeSet<u32> =
            found.filter(|number| others.iter().all(|hashes| has(*number, hashes))).collect();
        Some(found.into_iter().collect())
    }

    fn having(&self, hash: u32) -> impl Iterator<Item = u32> {
        self.0.range((hash, 0)..=(hash, u32::MAX)).map(|(_, number)| *number)
    }
}

fn hashes(pod: &Pod) -> impl Iterator<Item = u32> {
    let labels = pod.labels.iter().map(|(key, value)| hash_of(&(&**key, &**value)));
    labels.chain(pod.ports.iter().map(hash_of))
}

fn hash_of(value: &impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish() as u32
}
