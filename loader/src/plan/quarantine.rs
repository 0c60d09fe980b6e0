//! When may what was freed be given to someone else? Once the plan that freed
//! it has been read back from the kernel, and then a grace period has passed,
//! so that no reader still holds the row that named it.

use std::collections::VecDeque;
use std::time::Duration;

/// A program runs for microseconds; userspace readers (a trace, a dump) are
/// done within this.
pub const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Quarantine<T> {
    /// Freed by plans that are not yet known to stand in the kernel.
    unconfirmed: Vec<T>,
    /// Oldest first, with the time from which on it is free.
    waiting: VecDeque<(Duration, T)>,
}

impl<T> Default for Quarantine<T> {
    fn default() -> Self {
        Self { unconfirmed: Vec::new(), waiting: VecDeque::new() }
    }
}

impl<T> Quarantine<T> {
    pub fn put(&mut self, freed: T) {
        self.unconfirmed.push(freed);
    }

    /// To be called when everything planned so far has been read back. `now`
    /// counts from any fixed point. Returns what is free, oldest first.
    pub fn release(&mut self, now: Duration) -> Vec<T> {
        let due = self.waiting.partition_point(|(from, _)| *from <= now);
        let free = self.waiting.drain(..due).map(|(_, freed)| freed).collect();
        self.waiting.extend(self.unconfirmed.drain(..).map(|freed| (now + GRACE, freed)));
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_starts_when_the_plan_is_confirmed() {
        let mut quarantine = Quarantine::default();
        quarantine.put('a');
        assert!(quarantine.release(Duration::from_secs(100)).is_empty());
        quarantine.put('b');
        assert!(quarantine.release(Duration::from_millis(100_999)).is_empty());
        assert_eq!(quarantine.release(Duration::from_secs(101)), ['a']);
        assert_eq!(quarantine.release(Duration::from_secs(200)), ['b']);
    }
}
