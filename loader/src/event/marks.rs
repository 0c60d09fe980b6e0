//! How far has a source been read? Of each kind, up to which change, and what was
//! there then: so that agents can be asked whether all of them have read the same.

use std::collections::BTreeMap;

use causeway_schema::hash;
use serde::{Deserialize, Serialize};

use super::Kind;

/// Of each kind that a source has.
pub type Marks = BTreeMap<Kind, Mark>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Everything up to this resource version was heard; 0: not known.
    pub newest: u64,
    /// Sum of [`version_hash`] over the objects.
    pub digest: u64,
}

impl Mark {
    /// An object is of another version now; `None`: it is not there.
    pub fn change(&mut self, before: Option<u64>, after: Option<u64>) {
        self.digest = self.digest.wrapping_sub(before.unwrap_or(0)).wrapping_add(after.unwrap_or(0));
    }

    /// Whether who has read so far has read what was `asked` for. As much is there,
    /// object by object; or more was heard since. (Versions of one server are
    /// numbers that rise, whatever is written: API Concepts, "Resource versions".)
    pub fn covers(self, asked: Self) -> bool {
        self.digest == asked.digest || asked.newest != 0 && self.newest >= asked.newest
    }
}

/// What a version of an object adds to a digest. The same in every build: agents
/// compare them.
pub fn version_hash(namespace: &str, name: &str, version: &str) -> u64 {
    // FNV-1a; sums ask for more than it gives.
    let parts = [namespace, name, version].map(str::as_bytes).join(&0);
    let folded = parts.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash::mix(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_what_is_there_in_whatever_order_it_came() {
        let [a, b, c] = ["1", "2", "3"].map(|version| version_hash("default", "web", version));
        let (mut one, mut other) = (Mark::default(), Mark::default());
        one.change(None, Some(a));
        one.change(None, Some(b));
        one.change(Some(a), Some(c));
        other.change(None, Some(c));
        assert_ne!(one.digest, other.digest);
        other.change(None, Some(b));
        assert_eq!(one, other);
        one.change(Some(b), None);
        one.change(Some(c), None);
        assert_eq!(one, Mark::default());
    }

    #[test]
    fn names_do_not_run_into_one_another() {
        assert_ne!(version_hash("a", "bc", "1"), version_hash("ab", "c", "1"));
        assert_ne!(version_hash("a", "b", "11"), version_hash("a", "b1", "1"));
        // As long as agents of another build are to agree.
        assert_eq!(version_hash("default", "web", "1"), 0x325c_155f_cedc_ad32);
    }

    #[test]
    fn later_covers_and_so_does_the_same() {
        let mark = |newest, digest| Mark { newest, digest };
        assert!(mark(5, 1).covers(mark(5, 2)) && mark(6, 1).covers(mark(5, 2)));
        assert!(!mark(4, 1).covers(mark(5, 2)) && mark(4, 2).covers(mark(5, 2)));
        // Of versions that are no numbers nothing is known but what is there.
        assert!(!mark(0, 1).covers(mark(0, 2)) && mark(0, 2).covers(mark(0, 2)));
    }
}
