//! The compiler's ears: what it is told, and which endpoints that bears on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use causeway_schema::policy::MAX_STEPS;

use super::{
    Name, Pod, PolicyId, PolicyImage, Subject,
    classes::Classes,
    conflicts::Backend,
    image::{Delta, Table},
    index::TermIndex,
    networks::Networks,
    rules::Rules,
    sets::Sets,
    terms::Terms,
    world::{Changed, PortName, World},
};
use crate::event::{
    Problem,
    policy::{Labels, Peer, PolicyObject},
};

/// From policies and those whom they speak of to rows. Says nothing and does
/// next to nothing until [`Compiler::commit`]: changes between two commits
/// become one, whatever their order.
#[derive(Debug, Default)]
pub struct Compiler {
    pub(super) world: World,
    pub(super) policies: BTreeMap<PolicyId, Arc<PolicyObject>>,
    pub(super) endpoints: BTreeMap<Arc<str>, Endpoint>,
    /// Endpoints that may have got another set.
    pub(super) dirty: BTreeSet<Arc<str>>,
    pub(super) terms: Terms,
    pub(super) index: TermIndex,
    pub(super) networks: Networks,
    pub(super) classes: Classes,
    pub(super) sets: Sets,
    pub(super) rules: Rules,
    pub(super) image: PolicyImage,
    pub(super) revision: u64,
    /// The last revision of which all is known to stand.
    pub(super) released: u64,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub subject: Subject,
    /// Names of ports on whose numbers its rules depend.
    pub asked: BTreeSet<PortName>,
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub sets: usize,
    pub classes: usize,
}

impl Compiler {
    /// A compiler that has fewer rule numbers than there are counters.
    #[cfg(test)]
    pub(super) fn with_rules(limit: u32) -> Self {
        Self { rules: Rules::with_limit(limit), ..Self::default() }
    }

    /// `None`: there is no such object; its pods still have its name.
    pub fn set_namespace(&mut self, name: Arc<str>, labels: Option<Labels>) {
        self.world.set_namespace(name, labels);
    }

    pub fn set_pod(&mut self, name: Name, pod: Option<Pod>) {
        self.world.set_pod(name, pod);
    }

    /// The addresses of the backends that serve a service now; empty when it is gone.
    pub fn set_service(&mut self, name: Name, addresses: Vec<IpAddr>) {
        self.world.set_service(name, addresses);
    }

    /// An endpoint of this node. It is no peer by itself: its pod is.
    pub fn set_endpoint(&mut self, name: Arc<str>, subject: Option<Subject>) {
        if self.endpoints.get(&name).map(|endpoint| &endpoint.subject) == subject.as_ref() {
            return;
        }
        match subject {
            Some(subject) => {
                let endpoint = Endpoint { subject, asked: BTreeSet::new() };
                self.endpoints.insert(name.clone(), endpoint);
            }
            None => {
                self.endpoints.remove(&name);
            }
        }
        self.dirty.insert(name);
    }

    pub fn set_policy(&mut self, id: PolicyId, policy: Option<Arc<PolicyObject>>) {
        if self.policies.get(&id) == policy.as_ref() {
            return;
        }
        let old = match policy.clone() {
            Some(policy) => self.policies.insert(id, policy),
            None => self.policies.remove(&id),
        };
        for policy in old.iter().chain(&policy) {
            for (name, endpoint) in &self.endpoints {
                if self.selects(policy, &endpoint.subject) {
                    self.dirty.insert(name.clone());
                }
            }
        }
    }

    pub(super) fn selects(&self, policy: &PolicyObject, subject: &Subject) -> bool {
        policy.subject.matches(self.world.namespace(&subject.namespace), &subject.labels)
    }

    /// Endpoints that are not of what changed, but depend on it.
    pub(super) fn follow(&mut self, changed: &Changed) {
        if changed.namespaces.is_empty() && changed.ports.is_empty() {
            return;
        }
        for (name, endpoint) in &self.endpoints {
            let asks = endpoint.asked.iter().any(|port| changed.ports.contains(port));
            if asks || changed.namespaces.contains(&endpoint.subject.namespace) {
                self.dirty.insert(name.clone());
            }
        }
    }

    /// All that commits up to this revision changed stands in the maps, and no
    /// program that began before is still under way. What these put out of use
    /// goes with the next commit; true if there is any, so that one is worth it.
    pub fn release(&mut self, revision: u64) -> bool {
        self.released = self.released.max(revision.min(self.revision));
        self.classes.release(self.released);
        self.sets.release(self.released);
        self.rules.release(self.released);
        self.sets.is_due(self.released) || self.classes.is_due(self.released)
    }

    /// How many commits there were.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// As of the last commit.
    pub fn image(&self) -> &PolicyImage {
        &self.image
    }

    /// Services that policies name as peers.
    pub fn services(&self) -> BTreeSet<Name> {
        let rules = self.policies.values().flat_map(|policy| policy.egress.iter().flatten());
        let peers = rules.flat_map(|rule| rule.peers.iter().flatten());
        let service = |peer: &Peer| match peer {
            Peer::Service { namespace, name } => Some((namespace.clone(), name.clone())),
            _ => None,
        };
        peers.filter_map(service).collect()
    }

    /// The policies, as they were told.
    pub fn policies(&self) -> &BTreeMap<PolicyId, Arc<PolicyObject>> {
        &self.policies
    }

    pub fn sizes(&self) -> Sizes {
        Sizes { sets: self.sets.len(), classes: self.classes.len() }
    }

    /// What could not be written as it was said, and what says it in vain. `backends`:
    /// who serves a service.
    pub fn problems(&self, backends: impl Fn(&Name) -> BTreeSet<Backend>) -> Vec<Problem> {
        let mut objects = BTreeSet::new();
        for clauses in self.sets.cut() {
            objects.extend(clauses.names.iter().flat_map(|name| name.policies()).map(ToString::to_string));
        }
        let problem = |object| Problem {
            origin: None,
            object,
            field: "spec".into(),
            message: format!(
                "the policies of an endpoint tell more than {MAX_STEPS} ranges of ports apart for one peer: \
                 the highest protocols and ports are denied; join ports into ranges"
            ),
        };
        objects.into_iter().map(problem).chain(self.conflicts(backends)).collect()
    }

    pub(super) fn delta(&mut self) -> Delta {
        let PolicyImage { classes, sets, endpoints, rules } = &mut self.image;
        Delta {
            revision: self.revision,
            classes: Table::changes(classes),
            sets: Table::changes(sets),
            endpoints: Table::changes(endpoints),
            rules: Table::changes(rules),
        }
    }
}
