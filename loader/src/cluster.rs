//! Has every node read back what the API server had when somebody asked? By what
//! the agents have published of themselves. Never true when it is not: what is
//! not known to be read back is not.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    event::marks::{Mark, Marks},
    snapshot::Laggard,
};

/// What an agent publishes of its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBack {
    /// As the agent counts, for people.
    pub revision: u64,
    /// All this stands in the kernel, or has stood there and what came later does.
    pub kinds: Marks,
}

/// What the API server had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub marks: Marks,
    /// Names of the Nodes.
    pub nodes: BTreeSet<String>,
}

/// What the agents say, by node; or why it cannot be understood.
pub type Said = BTreeMap<String, Result<ReadBack, String>>;

/// The nodes that are not known to have it, and why.
pub fn laggards(asked: &Asked, said: &Said) -> Vec<Laggard> {
    // Who has read more than there is has read something else, from another server
    // or of another history.
    let head = asked.marks.values().map(|mark| mark.newest).max().unwrap_or(0);
    let lacks = |node: &String| match said.get(node) {
        None => Some("its agent has published nothing".to_owned()),
        Some(Err(error)) => Some(format!("what its agent has published cannot be understood: {error}")),
        Some(Ok(read)) => asked.marks.iter().find_map(|(kind, asked)| {
            let mark = read.kinds.get(kind).copied().unwrap_or_default();
            let newest = if mark.newest > head { 0 } else { mark.newest };
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
        nodes.iter().map(|&(node, newest, digest)| (node.to_owned(), Ok(read(newest, digest)))).collect()
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
        words.insert("b".into(), Err("no JSON".into()));
        assert_eq!(names(&words), ["b"]);
        // Of a kind that an agent does not know of.
        let Some(Ok(read)) = words.get_mut("a") else { panic!() };
        read.kinds.remove(&Kind::Pod);
        assert_eq!(names(&words), ["a", "b"]);
    }

    #[test]
    fn who_is_ahead_of_the_server_knows_another() {
        assert_eq!(names(&said(&[("a", 11, 1), ("b", 10, 1)])), ["a"]);
    }
}
