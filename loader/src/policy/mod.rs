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
mod conflicts;
mod explain;
mod finder;
mod image;
mod index;
mod names;
mod networks;
mod numbers;
mod paint;
mod places;
mod rehearse;
mod rules;
mod selector;
mod sets;
mod terms;
mod told;
mod world;

#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::event::{
    ObjectKey, PodObject,
    policy::{Labels, NamedPort},
};

pub use compiler::{Compiler, Sizes};
pub use conflicts::Backend;
pub use explain::{Explanation, Flow, word};
pub use image::{Changes, Delta, PolicyImage, Table};
pub use names::RuleName;
pub use rehearse::{Difference, Here, Judgement, Said, Talk, rehearse};
pub use selector::{Namespace, admitted};
pub use told::Told;

/// Namespace and name of a pod or a service.
pub type Name = (Arc<str>, Arc<str>);

/// A policy object. Of two that are asked alike, the smaller name comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

impl From<&ObjectKey> for PolicyId {
    fn from(key: &ObjectKey) -> Self {
        Self { kind: key.kind.to_string().into(), namespace: key.namespace.clone(), name: key.name.clone() }
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

impl Pod {
    /// One that is an endpoint of this node: what its object says, if there is
    /// one, and what is known of it here.
    pub fn here(object: Option<Self>, labels: Labels, addresses: &[IpAddr]) -> Self {
        let (mut known, ports) = object.map(|object| (object.addresses, object.ports)).unwrap_or_default();
        let new: Vec<IpAddr> = addresses.iter().filter(|address| !known.contains(address)).copied().collect();
        known.extend(new);
        Self { labels, addresses: known, ports }
    }
}

impl From<&PodObject> for Pod {
    fn from(object: &PodObject) -> Self {
        let PodObject { labels, addresses, ports, .. } = object;
        Self { labels: labels.clone(), addresses: addresses.clone(), ports: ports.clone() }
    }
}

/// An endpoint of this node, as the one that policies are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub namespace: Arc<str>,
    pub labels: Labels,
    pub ports: Arc<[NamedPort]>,
}
