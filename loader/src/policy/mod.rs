//! Which rows of the maps say who may talk to whom? From policies, pods,
//! namespaces and services to classes, sets and steps (`causeway_schema::policy`).
//!
//! Pure. [`Compiler`] is told what changes and says, at [`Compiler::commit`],
//! which rows differ; the work is that of the change. What rules mean:
//!
//! - Admin policies are asked first, by priority, then name; the first rule that
//!   matches decides, `Pass` leaves it to the next tier.
//! - Namespaced policies are a union: if any of them selects the endpoint in
//!   this direction, what no rule of theirs allows is denied. Their rules only
//!   allow.
//! - Baseline rules are asked about endpoints that no namespaced policy isolates.
//! - What nobody has anything against is allowed.
//! - A policy with `audit` allows and passes like another, but what it would
//!   deny goes on to the rules after it, and is watched if these let it be.

mod classes;
mod clauses;
mod commit;
mod compiler;
mod explain;
mod finder;
mod image;
mod index;
mod names;
mod networks;
mod numbers;
mod paint;
mod places;
mod rules;
mod selector;
mod sets;
mod terms;
mod world;

#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, sync::Arc};

use serde::Serialize;

use crate::event::policy::{Labels, NamedPort};

pub use compiler::{Compiler, Sizes};
pub use explain::{Differs, Explanation, Flow, Nearest};
pub use image::{Changes, Delta, PolicyImage, Table};
pub use names::RuleName;
pub use selector::Namespace;

/// Namespace and name of a pod or a service.
pub type Name = (Arc<str>, Arc<str>);

/// A policy object. Of two that are asked alike, the smaller name comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PolicyId {
    /// As in the object, e.g. `NetworkPolicy`.
    pub kind: Arc<str>,
    /// Empty for kinds without a namespace.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// As the endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Ingress,
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

/// A pod anywhere in the cluster, as a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub labels: Labels,
    /// Without those that it shares with its node.
    pub addresses: Vec<IpAddr>,
    pub ports: Arc<[NamedPort]>,
}

/// An endpoint of this node, as the one that policies are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub namespace: Arc<str>,
    pub labels: Labels,
    pub ports: Arc<[NamedPort]>,
}
