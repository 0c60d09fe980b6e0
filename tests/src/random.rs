//! Random numbers that a failing test can be run again with.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use causeway_schema::hash;

/// A small generator; the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(hash::mix(seed ^ hash::MULTIPLIER_B))
    }

    /// Runs `round` with one fresh seed after the other until `budget` is over,
    /// or with `$CAUSEWAY_SEED` alone; returns how many rounds it was. A round
    /// that panics has its seed printed.
    pub fn rounds(budget: Duration, mut round: impl FnMut(&mut Random)) -> u64 {
        let end = Instant::now() + budget;
        Self::rounds_while(|random| {
            round(random);
            Instant::now() <= end
        })
    }

    /// As [`Random::rounds`], for as long as `round` says so.
    pub fn rounds_while(mut round: impl FnMut(&mut Random) -> bool) -> u64 {
        let given = std::env::var("CAUSEWAY_SEED").ok();
        let given = given.map(|seed| seed.parse().expect("CAUSEWAY_SEED is a number"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = given.unwrap_or(now.as_micros() as u64);
        println!("first CAUSEWAY_SEED={first}");
        for seed in first.. {
            let guard = Guard(seed);
            let goes_on = round(&mut Random::new(seed));
            drop(guard);
            if given.is_some() || !goes_on {
                return seed - first + 1;
            }
        }
        0
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(hash::MULTIPLIER_A);
        hash::mix(self.0)
    }

    /// 0 to `bound - 1`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.word()) * bound as u128) >> 64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

/// Says the seed when its round fails.
struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("failed with CAUSEWAY_SEED={}", self.0);
        }
    }
}
