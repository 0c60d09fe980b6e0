//! Where in the arena does a new table go? Into the smallest free run of cells
//! that holds it, the lowest of those, after its last tenant's quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::quarantine::Quarantine;

#[derive(Debug, Default)]
pub struct Ranges {
    /// Start to length. Neighbours are always merged.
    free: BTreeMap<u32, u32>,
    /// The same, as (length, start).
    by_length: BTreeSet<(u32, u32)>,
    quarantine: Quarantine<(u32, u32)>,
}

impl Ranges {
    /// An arena in which `used` runs, as (start, length), are taken. They must
    /// come sorted and must not overlap.
    pub fn adopt(capacity: u32, used: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut ranges = Self::default();
        let mut next = 0;
        for (start, length) in used {
            ranges.insert(next, start.min(capacity).saturating_sub(next));
            next = start + length;
        }
        ranges.insert(next, capacity.saturating_sub(next));
        ranges
    }

    /// Length of the longest free run.
    pub fn longest(&self) -> u32 {
        self.by_length.last().map_or(0, |&(length, _)| length)
    }

    /// Cells of all free runs.
    pub fn total(&self) -> u32 {
        self.free.values().sum()
    }

    /// `None` when no free run is long enough.
    pub fn take(&mut self, length: u32) -> Option<u32> {
        let &(found, start) = self.by_length.range((length, 0)..).next()?;
        self.remove(start, found);
        self.insert(start + length, found - length);
        Some(start)
    }

    pub fn free(&mut self, start: u32, length: u32) {
        self.quarantine.put((start, length));
    }

    /// See [`Quarantine::release`]; true when cells came free.
    pub fn release(&mut self, now: Duration) -> bool {
        let freed = self.quarantine.release(now);
        for &(start, length) in &freed {
            self.merge(start, length);
        }
        !freed.is_empty()
    }

    fn merge(&mut self, mut start: u32, mut length: u32) {
        if let Some((&before, &before_length)) = self.free.range(..start).next_back()
            && before + before_length == start
        {
            self.remove(before, before_length);
            start = before;
            length += before_length;
        }
        if let Some(&after_length) = self.free.get(&(start + length)) {
            self.remove(start + length, after_length);
            length += after_length;
        }
        self.insert(start, length);
    }

    fn insert(&mut self, start: u32, length: u32) {
        if length > 0 {
            self.free.insert(start, length);
            self.by_length.insert((length, start));
        }
    }

    fn remove(&mut self, start: u32, length: u32) {
        self.free.remove(&start);
        self.by_length.remove(&(length, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::quarantine::GRACE;
    use proptest::prelude::*;

    #[test]
    fn the_smallest_run_that_fits_is_taken() {
        let mut ranges = Ranges::adopt(100, [(10, 5), (18, 2), (30, 60)]);
        assert_eq!(ranges.take(3), Some(15));
        assert_eq!(ranges.take(10), Some(0));
        assert_eq!(ranges.take(11), None);
        assert_eq!(ranges.longest(), 10);
    }

    #[test]
    fn neighbours_merge_after_their_grace() {
        let mut ranges = Ranges::adopt(10, []);
        let runs = [ranges.take(4), ranges.take(3), ranges.take(3)].map(Option::unwrap);
        for (start, length) in [(runs[1], 3), (runs[2], 3), (runs[0], 4)] {
            ranges.free(start, length);
        }
        assert_eq!(ranges.longest(), 0);
        ranges.release(Duration::ZERO);
        ranges.release(GRACE);
        assert_eq!(ranges.take(10), Some(0));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_nothing_is_lost(
            ops in proptest::collection::vec((1u32..9, any::<prop::sample::Index>(), any::<bool>()), 1..80),
        ) {
            let mut ranges = Ranges::adopt(64, []);
            let mut held: Vec<(u32, u32)> = Vec::new();
            let mut now = Duration::ZERO;
            for (length, pick, take) in ops {
                if take {
                    if let Some(start) = ranges.take(length) {
                        prop_assert!(start + length <= 64);
                        prop_assert!(held.iter().all(|&(s, l)| start + length <= s || s + l <= start));
                        held.push((start, length));
                    }
                } else if !held.is_empty() {
                    let (start, length) = held.swap_remove(pick.index(held.len()));
                    ranges.free(start, length);
                }
                now += GRACE;
                ranges.release(now);
            }
            held.drain(..).for_each(|(start, length)| ranges.free(start, length));
            ranges.release(now);
            ranges.release(now + GRACE);
            prop_assert_eq!(ranges.take(64), Some(0));
        }
    }
}
