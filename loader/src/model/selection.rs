//! Which of a service's endpoints serve at a node? The rules of the Kubernetes
//! API: readiness, traffic policies, topology hints.
//!
//! <https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-policies>
//! and KEP-1669 (terminating endpoints), KEP-2433 (hints), KEP-3015 (nodes).

use std::fmt;

use crate::event::{Distribution, EndpointState, SliceEndpoint};

use super::desired::Scope;

/// The node that asks.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    pub node: &'a str,
    pub zone: Option<&'a str>,
}

/// What becomes of an endpoint, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Serves,
    /// It is terminating, and nobody is ready who might serve instead.
    ServesTerminating,
    NotReady,
    /// It is terminating, and others are ready.
    Terminating,
    /// The traffic policy wants this node's own.
    OtherNode,
    /// It is for other nodes or zones, and others are for this one.
    Elsewhere,
}

impl Fate {
    pub fn serves(self) -> bool {
        matches!(self, Fate::Serves | Fate::ServesTerminating)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::Serves => "serves",
            Fate::ServesTerminating => "serves: terminating, but nobody is ready",
            Fate::NotReady => "not ready",
            Fate::Terminating => "terminating, and others are ready",
            Fate::OtherNode => "on another node",
            Fate::Elsewhere => "for other nodes or zones, and others are for this one",
        })
    }
}

/// How endpoints of one family are chosen, for the traffic of a scope.
pub struct Choice<'a> {
    scope: Scope,
    here: Here<'a>,
    near: Near,
    /// None of those within the scope is ready.
    nobody: bool,
}

impl<'a> Choice<'a> {
    /// Among these.
    pub fn of<'e>(
        endpoints: impl Iterator<Item = &'e SliceEndpoint> + Clone,
        scope: Scope,
        distribution: Option<Distribution>,
        here: Here<'a>,
    ) -> Self {
        let mut ready = endpoints.filter(|one| one.state == EndpointState::Ready);
        let near = match scope {
            Scope::Cluster => Near::of(ready.clone(), distribution, here),
            Scope::Local => Near::All,
        };
        let nobody = !ready.any(|endpoint| within(scope, endpoint, here));
        Self { scope, here, near, nobody }
    }

    /// Of one of them.
    pub fn fate(&self, endpoint: &SliceEndpoint) -> Fate {
        match endpoint.state {
            EndpointState::NotReady => Fate::NotReady,
            _ if !within(self.scope, endpoint, self.here) => Fate::OtherNode,
            EndpointState::Draining if self.nobody => Fate::ServesTerminating,
            EndpointState::Draining => Fate::Terminating,
            EndpointState::Ready if self.near.has(endpoint, self.here) => Fate::Serves,
            EndpointState::Ready => Fate::Elsewhere,
        }
    }
}

fn within(scope: Scope, endpoint: &SliceEndpoint, here: Here<'_>) -> bool {
    match scope {
        Scope::Cluster => true,
        Scope::Local => endpoint.node.as_deref() == Some(here.node),
    }
}

/// Which of the ready endpoints are for a node.
enum Near {
    /// Those with a hint for it.
    HintedNode,
    HintedZone,
    /// Without hints, by where they are.
    OwnNode,
    OwnZone,
    All,
}

impl Near {
    /// Hints count when all ready endpoints have them and one is for this node, or
    /// its zone. Where none has any, as in manifests that no controller has seen,
    /// the service's own wish decides by where endpoints are.
    fn of<'e>(
        ready: impl Iterator<Item = &'e SliceEndpoint> + Clone,
        distribution: Option<Distribution>,
        here: Here<'_>,
    ) -> Self {
        let some = |near: &Self| ready.clone().any(|endpoint| near.has(endpoint, here));
        let hinted = |by_node: bool| {
            let hints = |endpoint: &SliceEndpoint| {
                let place = endpoint.place.as_deref();
                place.is_some_and(|place| {
                    !(if by_node { &place.for_nodes } else { &place.for_zones }).is_empty()
                })
            };
            (ready.clone().all(hints), ready.clone().any(hints))
        };
        let ((all_nodes, any_node), (all_zones, any_zone)) = (hinted(true), hinted(false));
        if all_nodes && some(&Near::HintedNode) {
            return Near::HintedNode;
        }
        if all_zones && some(&Near::HintedZone) {
            return Near::HintedZone;
        }
        if any_node || any_zone {
            return Near::All;
        }
        let wished: &[Near] = match distribution {
            Some(Distribution::SameNode) => &[Near::OwnNode, Near::OwnZone],
            Some(Distribution::SameZone) => &[Near::OwnZone],
            None => &[],
        };
        match wished.iter().find(|near| some(near)) {
            Some(Near::OwnNode) => Near::OwnNode,
            Some(_) => Near::OwnZone,
            None => Near::All,
        }
    }

    fn has(&self, endpoint: &SliceEndpoint, here: Here<'_>) -> bool {
        let place = endpoint.place.as_deref();
        let is = |name: Option<&str>, wanted: Option<&str>| name.is_some() && name == wanted;
        match self {
            Near::All => true,
            Near::HintedNode => {
                place.is_some_and(|place| place.for_nodes.iter().any(|node| **node == *here.node))
            }
            Near::HintedZone => {
                let zone =
                    |zone: &str| place.is_some_and(|place| place.for_zones.iter().any(|z| **z == *zone));
                here.zone.is_some_and(zone)
            }
            Near::OwnNode => is(endpoint.node.as_deref(), Some(here.node)),
            Near::OwnZone => is(place.and_then(|place| place.zone.as_deref()), here.zone),
        }
    }
}
