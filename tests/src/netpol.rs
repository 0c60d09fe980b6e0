//! Does the network do what policies say? Cases are data: manifests, and who
//! must reach whom; every pair is tried by real connections.
//!
//! The stage is always the same: namespaces x, y and z with pods a, b and c in
//! each, spread over two nodes, every pod serving ports 80 and 81 over TCP and
//! UDP, and a host outside that does so too. docs/netpol.md describes a case.

mod case;
mod probe;
mod stage;

pub use case::{Case, Rule};
pub use probe::{PORTS, Port, Way};
pub use stage::{Difference, Stage};

/// Who talks, and who is talked to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// Namespace and name.
    Pod(String, String),
    /// Of the node, by its number from 1 on.
    Host(u8),
    Outside,
}

impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Party::Pod(namespace, name) => write!(f, "{namespace}/{name}"),
            Party::Host(number) => write!(f, "n{number}"),
            Party::Outside => f.write_str("outside"),
        }
    }
}

pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
pub const PODS: [&str; 3] = ["a", "b", "c"];

/// All pods, in order.
pub fn pods() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMESPACES.into_iter().flat_map(|namespace| PODS.into_iter().map(move |name| (namespace, name)))
}
