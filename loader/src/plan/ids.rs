//! Which number does a new object get? The one that has been free longest, or
//! else the lowest that was never used, so that the rows in use stay close
//! together.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::quarantine::Quarantine;

#[derive(Debug)]
pub struct IdPool {
    /// Never given out: `next..limit`.
    next: u32,
    limit: u32,
    free: VecDeque<u32>,
    quarantine: Quarantine<u32>,
}

impl IdPool {
    pub fn new(ids: Range<u32>) -> Self {
        Self { next: ids.start, limit: ids.end, free: VecDeque::new(), quarantine: Quarantine::default() }
    }

    /// A pool in which `used` are given out, and `stray` are not but may still
    /// be named by a row that someone else left: they start in quarantine.
    pub fn adopt(
        ids: Range<u32>,
        used: impl IntoIterator<Item = u32>,
        stray: impl IntoIterator<Item = u32>,
    ) -> Self {
        let mut pool = Self::new(ids.clone());
        let mut taken: BTreeSet<u32> = used.into_iter().filter(|id| ids.contains(id)).collect();
        for id in stray {
            if ids.contains(&id) && taken.insert(id) {
                pool.quarantine.put(id);
            }
        }
        for id in taken {
            pool.free.extend(pool.next..id);
            pool.next = id + 1;
        }
        pool
    }

    /// `None` when every id is in use or in quarantine.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop_front() {
            return Some(id);
        }
        let id = (self.next < self.limit).then_some(self.next)?;
        self.next += 1;
        Some(id)
    }

    /// Takes back an id that has stood in a map.
    pub fn free(&mut self, id: u32) {
        self.quarantine.put(id);
    }

    /// Takes back an id that no row ever named.
    pub fn untake(&mut self, id: u32) {
        self.free.push_front(id);
    }

    /// See [`Quarantine::release`]; true when ids came free.
    pub fn release(&mut self, now: Duration) -> bool {
        // An adopted id may lie above a capacity that was lowered since.
        let limit = self.limit;
        let before = self.free.len();
        self.free.extend(self.quarantine.release(now).into_iter().filter(|&id| id < limit));
        self.free.len() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::quarantine::GRACE;

    #[test]
    fn a_freed_id_comes_back_after_its_grace_and_in_order() {
        let mut pool = IdPool::new(1..4);
        assert_eq!([pool.take(), pool.take(), pool.take(), pool.take()], [Some(1), Some(2), Some(3), None]);
        pool.free(2);
        pool.free(1);
        assert_eq!(pool.take(), None);
        assert!(!pool.release(Duration::ZERO));
        assert_eq!(pool.take(), None);
        assert!(pool.release(GRACE));
        assert_eq!([pool.take(), pool.take(), pool.take()], [Some(2), Some(1), None]);
    }

    #[test]
    fn adoption_fills_holes_first_and_keeps_strays_apart() {
        let mut pool = IdPool::adopt(0..10, [1, 4, 99], [2, 4]);
        assert_eq!([pool.take(), pool.take(), pool.take()], [Some(0), Some(3), Some(5)]);
        pool.release(Duration::ZERO);
        pool.release(GRACE);
        assert_eq!([pool.take(), pool.take()], [Some(2), Some(6)]);
    }

    #[test]
    fn an_id_that_was_never_written_comes_back_at_once() {
        let mut pool = IdPool::new(0..1);
        let id = pool.take().unwrap();
        pool.untake(id);
        assert_eq!(pool.take(), Some(id));
    }
}
