//! Who is in which virtual network? Whoever carries its label, as long as the
//! network has it among its members; to all others the label means nothing.

use std::collections::BTreeSet;

use super::agent::Agent;
use crate::{
    event::{
        Kind, ObjectKey, Problem, pod_name,
        policy::{Labels, NETWORK},
    },
    model::Touched,
    policy::{self, Name, Namespace},
    providers::docker,
    snapshot::AttachRequest,
};

impl Agent {
    /// # Errors
    /// As text for the one who asked: the endpoint may not be in the network
    /// that it asks for.
    pub(super) fn check_network(&self, request: &AttachRequest) -> Result<(), String> {
        let (namespace, labels) = self.model.endpoint_labels(&request.name, &request.labels);
        if labels.contains_key(NETWORK) && !self.model.containers_known_but(docker::SOURCE) {
            let name = &request.name;
            return Err(format!(
                "endpoint {name}: networks are not known yet: try again when `causeway status` says that the sources have spoken"
            ));
        }
        let stranger = self.is_stranger(&namespace, &labels);
        stranger.map_or(Ok(()), |why| Err(format!("endpoint {}: {why}", request.name)))
    }

    /// Why somebody is not in the network that they ask for.
    fn is_stranger(&self, namespace: &str, labels: &Labels) -> Option<String> {
        let network = labels.get(NETWORK)?;
        let key =
            ObjectKey { kind: Kind::VirtualNetwork, namespace: Default::default(), name: network.clone() };
        let Some(policy) = self.model.policy(&key) else {
            return Some(format!(
                "there is no VirtualNetwork {network}: apply one, or take the label {NETWORK} away"
            ));
        };
        let known = self.model.namespace_labels(&namespace.into());
        let namespace = Namespace { name: namespace, labels: Some(&known) };
        let members = &policy.object.subject;
        (!members.matches(namespace, labels)).then(|| {
            format!(
                "may not be in VirtualNetwork {network}: its members are {members} ({}); change its spec.members, or take the label {NETWORK} away",
                policy.origin
            )
        })
    }

    /// The labels that policies know somebody by.
    pub(super) fn admitted(&self, namespace: &str, labels: Labels) -> Labels {
        policy::admitted(labels, |_, labels| self.is_stranger(namespace, labels).is_none())
    }

    /// Pods and endpoints whose membership may not be what it was.
    pub(super) fn moved_between_networks(&self, touched: &Touched) -> BTreeSet<Name> {
        let networks: BTreeSet<&str> = touched
            .policies
            .iter()
            .filter(|key| key.kind == Kind::VirtualNetwork)
            .map(|key| &*key.name)
            .collect();
        // Where there is no network, its label means nothing before and after.
        let exist = || self.model.policies().any(|(key, _)| key.kind == Kind::VirtualNetwork);
        if networks.is_empty() && (touched.namespaces.is_empty() || !exist()) {
            return BTreeSet::new();
        }
        let concerns = |namespace: &str, labels: &Labels| {
            labels.get(NETWORK).is_some_and(|network| {
                networks.contains(&**network) || touched.namespaces.contains(namespace)
            })
        };
        let pods = self.model.pods().filter(|(key, pod)| concerns(&key.namespace, &pod.labels));
        let mut moved: BTreeSet<Name> =
            pods.map(|(key, _)| (key.namespace.clone(), key.name.clone())).collect();
        for (name, stored) in self.store.iter() {
            let (namespace, labels) = self.model.endpoint_labels(name, &stored.request.labels);
            if concerns(&namespace, &labels) {
                moved.insert(pod_name(name));
            }
        }
        moved
    }

    /// Endpoints that carry the label of a network which does not have them.
    pub(super) fn network_problems(&self) -> impl Iterator<Item = Problem> {
        self.store.iter().filter_map(|(name, stored)| {
            let (namespace, labels) = self.model.endpoint_labels(name, &stored.request.labels);
            let message = self.is_stranger(&namespace, &labels)?;
            Some(Problem {
                origin: None,
                object: format!("endpoint {name}"),
                field: format!("labels[{NETWORK}]"),
                message,
            })
        })
    }
}
