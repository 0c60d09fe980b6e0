//! Whom are policies about? What is known of pods, namespaces, services and the
//! endpoints of this node goes to the compiler, and an endpoint learns whether its
//! rules are known.

use std::collections::BTreeSet;

use super::agent::Agent;
use crate::{
    attach::Stored,
    event::pod_name,
    model::Touched,
    plan::policy::SEALED,
    policy::{Name, Pod, Subject},
};

impl Agent {
    /// Tells the compiler what the sources have changed.
    pub fn tell_policies(&mut self, touched: &Touched) {
        for name in &touched.namespaces {
            let labels = self.model.namespace_labels(name);
            self.policies.compiler.set_namespace(name.clone(), Some(labels));
        }
        for key in &touched.policies {
            let object = self.model.policy(key).map(|policy| policy.object);
            self.policies.compiler.set_policy(key.into(), object);
        }
        // Whether there are any decides over who is not known yet.
        self.policies.introduced |= !touched.policies.is_empty() || touched.egress;
        let moved = self.moved_between_networks(touched);
        for name in touched.pods.union(&moved) {
            self.tell_pod(name);
        }
        let named = self.policies.compiler.services();
        let served: BTreeSet<Name> = if touched.policies.is_empty() {
            let touched = touched.services.iter().map(|id| (id.namespace.clone(), id.name.clone()));
            touched.filter(|name| named.contains(name)).collect()
        } else {
            named
        };
        for name in served {
            let addresses = self.model.backend_addresses(&name);
            self.policies.compiler.set_service(name, addresses);
        }
    }

    /// What an endpoint's row is to say: its rules, or that nobody has said yet which
    /// are its own.
    pub fn policy_of(&self, name: &str, stored: &Stored) -> Option<u16> {
        // Docker's driver is not told whose endpoint it makes; the engine tells us soon
        // after. While no source is known, what held goes on to hold.
        let told_later = stored.request.handover && self.config.docker.is_some();
        let is_nobody =
            || self.model.pod(&pod_name(name)).is_none() || self.policies.unsealing.contains(name);
        let rules = || self.model.policies().next().is_some() || self.model.egresses().next().is_some();
        let matters = || self.model.containers_known() && rules();
        if told_later && is_nobody() && matters() { Some(SEALED) } else { self.policies.index(name) }
    }

    /// An endpoint came, went, or has other labels.
    pub fn tell_endpoint(&mut self, name: &str) {
        self.tell_pod(&pod_name(name));
        if self.store.get(name).is_none() {
            self.policies.compiler.set_endpoint(name.into(), None);
        }
    }

    /// A pod as a peer, and as the one that policies are about where it is an
    /// endpoint: what its object says, and what is known of it here.
    fn tell_pod(&mut self, name: &Name) {
        let mut pod = self.model.pod(name).map(|object| {
            let pod = Pod::from(&**object);
            Pod { labels: self.admitted(&name.0, pod.labels.clone()), ..pod }
        });
        if let Some((endpoint, stored)) = self.endpoint_of(name) {
            let (namespace, labels) = self.model.endpoint_labels(endpoint, &stored.request.labels);
            let labels = self.admitted(&namespace, labels);
            let here = Pod::here(pod, labels, &stored.endpoint.addresses);
            let subject = Subject { namespace, labels: here.labels.clone(), ports: here.ports.clone() };
            let (endpoint, introduced) = (endpoint.into(), stored.request.handover);
            self.policies.introduced |= introduced;
            self.policies.compiler.set_endpoint(endpoint, Some(subject));
            pod = Some(here);
        }
        self.policies.compiler.set_pod(name.clone(), pod);
    }

    /// The endpoint of a pod, if it is one of this node.
    fn endpoint_of(&self, (namespace, name): &Name) -> Option<(&str, &Stored)> {
        let full = format!("{namespace}/{name}");
        let bare = if &**namespace == "default" { &**name } else { "" };
        [full.as_str(), bare].into_iter().find_map(|name| self.store.get_key_value(name))
    }
}
