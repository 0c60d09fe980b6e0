//! What has a plan changed of a hash map? The values that its rows had before,
//! and deleted keys that may still take up room in the kernel.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

#[derive(Debug)]
pub struct Changes<K, V> {
    before: HashMap<K, Option<V>>,
    leaving: HashSet<K>,
}

impl<K, V> Default for Changes<K, V> {
    fn default() -> Self {
        Self { before: HashMap::new(), leaving: HashSet::new() }
    }
}

impl<K: Copy + Ord + Hash, V: Copy + PartialEq> Changes<K, V> {
    /// Whether rows for all of `keys` have room in `rows` of `capacity`.
    pub fn fits<'a>(&self, rows: &BTreeMap<K, V>, keys: impl Iterator<Item = &'a K>, capacity: u32) -> bool
    where
        K: 'a,
    {
        let new = keys.filter(|key| !rows.contains_key(key) && !self.leaving.contains(key)).count();
        new == 0 || rows.len() + self.leaving.len() + new <= capacity as usize
    }

    /// Replaces the rows of `there`, keys of `rows`, by those of `wanted`; false,
    /// and nothing done, when there would be more than `capacity`.
    pub fn replace(
        &mut self,
        rows: &mut BTreeMap<K, V>,
        there: &[K],
        wanted: &BTreeMap<K, V>,
        capacity: u32,
    ) -> bool {
        if !self.fits(rows, wanted.keys(), capacity) {
            return false;
        }
        for key in there.iter().filter(|key| !wanted.contains_key(key)) {
            if let Some(row) = rows.remove(key) {
                self.before.entry(*key).or_insert(Some(row));
                self.leaving.insert(*key);
            }
        }
        for (&key, &row) in wanted {
            let before = rows.insert(key, row);
            if before != Some(row) {
                self.before.entry(key).or_insert(before);
            }
            self.leaving.remove(&key);
        }
        true
    }

    /// The values before the plan, which ends with this.
    pub fn take(&mut self) -> HashMap<K, Option<V>> {
        std::mem::take(&mut self.before)
    }

    /// Deleted keys have been read back as gone; true when there were any.
    pub fn confirm(&mut self) -> bool {
        !std::mem::take(&mut self.leaving).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_up_room_until_it_is_known_to_be_gone() {
        let mut changes = Changes::default();
        let mut rows = BTreeMap::from([(1, 'a'), (2, 'b')]);
        assert!(changes.replace(&mut rows, &[1, 2], &BTreeMap::from([(2, 'c')]), 2));
        assert_eq!(changes.take(), HashMap::from([(1, Some('a')), (2, Some('b'))]));
        assert!(
            !changes.replace(&mut rows, &[2], &BTreeMap::from([(3, 'd')]), 2),
            "the kernel may have 1 yet"
        );
        assert_eq!(rows, BTreeMap::from([(2, 'c')]));
        assert!(changes.replace(&mut rows, &[], &BTreeMap::from([(1, 'a')]), 2), "its own room");
        assert!(!changes.confirm() && changes.take() == HashMap::from([(1, None)]));
    }
}
