//! Which number stands for a new thing? Never one that a row may still name:
//! what was freed rests until the caller says that it is gone from the maps.

use std::collections::VecDeque;

/// Things that went out of use, by the commit that made them, oldest first: what
/// the rows say of them stays until no program can still be about to read it.
#[derive(Debug, Default)]
pub struct Leaving(VecDeque<(u64, u32)>);

impl Leaving {
    pub fn put(&mut self, number: u32, revision: u64) {
        self.0.push_back((revision, number));
    }

    /// With the revision, those that commits up to `released` made.
    pub fn due(&mut self, released: u64) -> Vec<(u64, u32)> {
        let due = self.0.partition_point(|(left, _)| *left <= released);
        self.0.drain(..due).collect()
    }

    pub fn is_due(&self, released: u64) -> bool {
        self.0.front().is_some_and(|(left, _)| *left <= released)
    }
}

#[derive(Debug)]
pub struct Numbers {
    /// The lowest that was never given.
    next: u32,
    free: VecDeque<u32>,
    /// With the commit that freed them, oldest first.
    resting: VecDeque<(u64, u32)>,
}

impl Numbers {
    pub fn from(first: u32) -> Self {
        Self { next: first, free: VecDeque::new(), resting: VecDeque::new() }
    }

    pub fn take(&mut self) -> u32 {
        self.take_below(u32::MAX).unwrap_or(u32::MAX)
    }

    /// `None`: all below the limit are in use, or rest.
    pub fn take_below(&mut self, limit: u32) -> Option<u32> {
        if let Some(number) = self.free.pop_front() {
            return Some(number);
        }
        let number = (self.next < limit).then_some(self.next)?;
        self.next += 1;
        Some(number)
    }

    /// Takes back what no row ever named.
    pub fn untake(&mut self, number: u32) {
        self.free.push_front(number);
    }

    /// Takes back what stood in rows until the commit of this revision.
    pub fn rest(&mut self, number: u32, revision: u64) {
        self.resting.push_back((revision, number));
    }

    /// What commits up to this revision freed may be given again.
    pub fn release(&mut self, revision: u64) {
        let rested = self.resting.partition_point(|(freed, _)| *freed <= revision);
        self.free.extend(self.resting.drain(..rested).map(|(_, number)| number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_rests_until_its_revision_is_released() {
        let mut numbers = Numbers::from(1);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [1, 2, 3]);
        numbers.rest(2, 7);
        numbers.rest(1, 8);
        assert_eq!(numbers.take_below(4), None);
        numbers.release(6);
        assert_eq!(numbers.take_below(4), None);
        numbers.release(7);
        assert_eq!([numbers.take(), numbers.take()], [2, 4]);
        numbers.untake(4);
        numbers.release(8);
        assert_eq!([numbers.take(), numbers.take()], [4, 1]);
    }
}
