//! Random numbers that a failing test can be run again with.

use causeway_schema::hash;

/// A small generator; the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(hash::mix(seed ^ hash::MULTIPLIER_B))
    }

    /// Seeds for a suite: `$CAUSEWAY_SEED` alone, or `count` fresh ones, each
    /// printed, so that the last one printed is the one that failed.
    pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
        let given = std::env::var("CAUSEWAY_SEED").ok().map(|seed| seed.parse().expect("CAUSEWAY_SEED is a number"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let (first, count) = given.map_or((now.as_nanos() as u64 >> 10, count), |seed| (seed, 1));
        (first..first + count).inspect(|seed| println!("CAUSEWAY_SEED={seed}"))
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
