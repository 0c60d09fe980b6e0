//! Has every node read back what the API server had when somebody asked? By what
//! the agents publish of themselves. What is not known to be so is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    event::marks::{Mark, Marks},
    snapshot::Laggard,
};

/// An agent publishes what is new at most so often, and in large clusters so rarely
/// that all together do it a hundred times a second.
const PACE: Duration = Duration::from_secs(1);
const OF_A_NODE: Duration = Duration::from_millis(10);
/// What is not new is published again so often, and nobody is heard of who has
/// missed that so many times.
const RENEWAL: Duration = Duration::from_secs(10);
const MISSED: u32 = 4;

/// What an agent publishes of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBack {
    /// As the agent counts, for people.
    pub revision: u64,
    /// All this stands in the kernel, or has stood there and what came later does;
    /// empty: nothing that could be said.
    pub kinds: Marks,
}

/// What the API server had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub marks: Marks,
    /// Names of the Nodes.
    pub nodes: BTreeSet<String>,
}

/// What the agents say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// How many writes the server had seen by then, of whatever kind.
    pub head: u64,
    /// By node, with how long ago it was; or why it cannot be understood.
    pub nodes: BTreeMap<String, Result<(ReadBack, Duration), String>>,
}

/// The nodes that are not known to have it, and why.
pub fn laggards(asked: &Asked, said: &Said) -> Vec<Laggard> {
    let longest = renewal(asked.nodes.len()) * MISSED;
    let lacks = |node: &String| match said.nodes.get(node) {
        None => Some("its agent has published nothing".to_owned()),
        Some(Err(error)) => Some(format!("what its agent has published cannot be understood: {error}")),
        Some(Ok((_, age))) if *age > longest => {
            Some(format!("its agent was last heard of {} s ago", age.as_secs()))
        }
        Some(Ok((read, _))) if read.kinds.is_empty() => {
            Some("its agent says that not all stands there: `causeway status` on it says why".to_owned())
        }
        Some(Ok((read, _))) => asked.marks.iter().find_map(|(kind, asked)| {
            let mark = read.kinds.get(kind).copied().unwrap_or_default();
            // Who has read more than there is has read something else, from another
            // server or of another history.
            let newest = if mark.newest > said.head { 0 } else { mark.newest };
            let covers = Mark { newest, ..mark }.covers(*asked);
            (!covers).then(|| {
                let (newest, asked, revision) = (mark.newest, asked.newest, read.revision);
                format!("{kind}: has read back up to {newest} (its revision {revision}), not up to {asked}")
            })
        }),
    };
    let lagging = |node: &String| Some(Laggard { node: node.clone(), reason: lacks(node)? });
    asked.nodes.iter().filter_map(lagging).collect()
}

/// How long an agent of so many waits before it publishes again.
pub fn pace(nodes: usize) -> Duration {
    PACE.max(OF_A_NODE * u32::try_from(nodes).unwrap_or(u32::MAX))
}

/// How long, at most, before it publishes what has not changed.
pub fn renewal(nodes: usize) -> Duration {
    RENEWAL.max(pace(nodes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;

    fn marks(newest: u64, digest: u64) -> Marks {
        [(Kind::Service, Mark { newest, digest }), (Kind::Pod, Mark { newest: 3, digest: 3 })].into()
    }

    fn asked() -> Asked {
        Asked { marks: marks(10, 7), nodes: ["a".into(), "b".into()].into() }
    }

    fn said(nodes: &[(&str, u64, u64)]) -> Said {
        let read = |newest, digest| ReadBack { revision: 1, kinds: marks(newest, digest) };
        let words = nodes.iter().map(|&(node, newest, digest)| {
            (node.to_owned(), Ok((read(newest, digest), Duration::from_secs(1))))
        });
        Said { head: 10, nodes: words.collect() }
    }

    fn names(said: &Said) -> Vec<String> {
        laggards(&asked(), said).into_iter().map(|laggard| laggard.node).collect()
    }

    #[test]
    fn every_listed_node_must_have_read_it() {
        assert_eq!(names(&said(&[("a", 10, 1), ("b", 4, 7)])), [""; 0]);
        assert_eq!(names(&said(&[("a", 9, 1), ("b", 10, 1)])), ["a"]);
        assert_eq!(names(&said(&[("a", 10, 1)])), ["b"]);
        // A node that is gone does not count, whatever it has said.
        assert_eq!(names(&said(&[("a", 10, 1), ("b", 10, 1), ("c", 1, 1)])), [""; 0]);
    }

    #[test]
    fn what_is_not_understood_is_not_believed() {
        let mut words = said(&[("a", 10, 1)]);
        words.nodes.insert("b".into(), Err("no JSON".into()));
        assert_eq!(names(&words), ["b"]);
        // Of a kind that an agent does not know of.
        let Some(Ok((read, _))) = words.nodes.get_mut("a") else { panic!() };
        read.kinds.remove(&Kind::Pod);
        assert_eq!(names(&words), ["a", "b"]);
    }

    #[test]
    fn who_is_ahead_of_the_server_knows_another() {
        let mut words = said(&[("a", 11, 1), ("b", 10, 1)]);
        assert_eq!(names(&words), ["a"]);
        // There was more by the time that they were asked.
        words.head = 11;
        assert_eq!(names(&words), [""; 0]);
    }

    #[test]
    fn who_is_silent_or_has_nothing_to_say_is_not_believed() {
        let mut words = said(&[("a", 10, 7), ("b", 10, 7)]);
        let Some(Ok((_, age))) = words.nodes.get_mut("a") else { panic!() };
        *age = RENEWAL * MISSED;
        assert_eq!(names(&words), [""; 0]);
        let Some(Ok((_, age))) = words.nodes.get_mut("a") else { panic!() };
        *age += Duration::from_secs(1);
        let Some(Ok((read, _))) = words.nodes.get_mut("b") else { panic!() };
        read.kinds.clear();
        assert_eq!(names(&words), ["a", "b"]);
    }

    #[test]
    fn many_nodes_write_a_hundred_times_a_second() {
        let seconds = |time: fn(usize) -> Duration| [3, 100, 500, 5000].map(|nodes| time(nodes).as_secs());
        assert_eq!(seconds(pace), [1, 1, 5, 50]);
        assert_eq!(seconds(renewal), [10, 10, 10, 50]);
    }
}
