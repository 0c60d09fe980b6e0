//! Which backend serves a flow? A pure function of the flow's hash and the
//! set of backends, computed here for the kernel, the planner and the oracle.
//!
//! Up to [`RENDEZVOUS_MAX`] backends: weighted rendezvous, where a backend that
//! leaves moves no other flow. Above: weighted Maglev, whose table is long
//! enough that at most 1% of the others move.

pub mod log2;
pub mod maglev;
pub mod rendezvous;

#[cfg(test)]
mod tests;

use crate::{Algorithm, Arena, Target};

/// Largest set that rendezvous chooses from. A lot costs about a nanosecond, once a
/// flow, and 16 bytes; a Maglev table of as few backends 64 KiB, in the kernel and in
/// the agent, and two misses of the cache. Of more, the verifier would walk more of
/// `sock_connect6` than `cargo xtask verify` allows.
pub const RENDEZVOUS_MAX: usize = 52;

/// The id of the backend that serves a flow of `hash`; `None` when the service
/// has none, or the table is not what the target says.
#[inline(always)]
pub fn choose<T: Arena + ?Sized>(arena: &T, target: Target, hash: u64) -> Option<u32> {
    match target.algorithm() {
        Algorithm::Empty => None,
        Algorithm::Rendezvous | Algorithm::RendezvousWeighted => rendezvous::choose(arena, target, hash),
        Algorithm::Maglev => maglev::choose(arena, target, hash),
    }
}

/// A backend as the tables see it. Tables are built from lots sorted by seed,
/// so that the order of the input does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lot {
    /// [`backend_seed`](crate::hash::backend_seed) of the backend.
    pub seed: u64,
    /// Share of the flows, relative to the other lots; 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// The backend's id.
    pub backend: u32,
}

/// Largest weight of a backend.
pub const MAX_WEIGHT: u32 = 1000;
