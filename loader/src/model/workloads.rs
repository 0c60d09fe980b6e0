//! What do all sources say of namespaces, pods, policies and egress addresses? Each object is
//! one source's, the first that has it; nothing is copied or put together.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Model, Said, Touched,
    desired::{Egress, PodName, Policy, PolicyId},
};
use crate::event::{
    Kind, Object, ObjectKey, PodObject, Problem, pod_name,
    policy::{Labels, NAMESPACE_NAME, with_given},
};

/// Objects of these kinds as they stood before a batch.
pub type Before = BTreeMap<ObjectKey, Option<Arc<Object>>>;

impl Model {
    /// Labels of the namespaces that there are objects for.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Arc<str>, &Labels)> {
        self.of_kind(Kind::Namespace).filter_map(|(key, (object, _))| match &**object {
            Object::Namespace(namespace) => Some((&key.name, &namespace.labels)),
            _ => None,
        })
    }

    /// A namespace's labels; of one that no source has, its name alone.
    pub fn namespace_labels(&self, name: &Arc<str>) -> Labels {
        let key = ObjectKey { kind: Kind::Namespace, namespace: Arc::default(), name: name.clone() };
        match self.first(&key).map(|(object, _)| &**object) {
            Some(Object::Namespace(namespace)) => namespace.labels.clone(),
            _ => Labels::new([(NAMESPACE_NAME.into(), name.clone())].into()),
        }
    }

    /// In order of namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<PodObject>)> {
        self.of_kind(Kind::Pod).filter_map(|(key, (object, _))| match &**object {
            Object::Pod(pod) => Some((key, pod)),
            _ => None,
        })
    }

    pub fn pod(&self, (namespace, name): &PodName) -> Option<&Arc<PodObject>> {
        let key = ObjectKey { kind: Kind::Pod, namespace: namespace.clone(), name: name.clone() };
        match &*self.first(&key)?.0 {
            Object::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    /// In order of kind, namespace and name.
    pub fn policies(&self) -> impl Iterator<Item = (&PolicyId, Policy)> {
        let all = self.of_kinds(Kind::NetworkPolicy, Kind::VirtualNetwork);
        all.filter_map(|(key, said)| Some((key, policy(said)?)))
    }

    /// Adds where the policies are from to problems that name them.
    pub fn place_policies(&self, problems: &mut [Problem]) {
        if problems.is_empty() {
            return;
        }
        let origins: BTreeMap<String, _> =
            self.policies().map(|(key, policy)| (key.to_string(), policy.origin)).collect();
        for problem in problems {
            problem.origin = origins.get(&problem.object).map(|origin| (**origin).clone());
        }
    }

    /// How many policies there are.
    pub fn policy_count(&self) -> usize {
        self.policies
    }

    pub fn policy(&self, id: &PolicyId) -> Option<Policy> {
        policy(self.first(id)?)
    }

    /// In order of their names.
    pub fn egresses(&self) -> impl Iterator<Item = (&Arc<str>, Egress)> {
        self.of_kind(Kind::Egress).filter_map(|(key, (object, origin))| match &**object {
            Object::Egress(object) => {
                Some((&key.name, Egress { object: object.clone(), origin: origin.clone() }))
            }
            _ => None,
        })
    }

    /// Namespace and labels of an endpoint of this node. One that is called
    /// `namespace/pod` has the pod's labels too, but those given at its attach
    /// win; one without a namespace in its name is in `default`.
    pub fn endpoint_labels(&self, name: &str, given: &BTreeMap<String, String>) -> (Arc<str>, Labels) {
        let pod = pod_name(name);
        let known = self.pod(&pod).map(|pod| pod.labels.clone()).unwrap_or_default();
        (pod.0, with_given(known, given))
    }

    /// Notes how an object stands that a batch is about to change, if whoever
    /// selects endpoints looks at its kind.
    pub(super) fn remember(&self, key: &ObjectKey, before: &mut Before) {
        if (matches!(key.kind, Kind::Pod | Kind::Namespace | Kind::Egress) || key.kind.is_policy())
            && !before.contains_key(key)
        {
            before.insert(key.clone(), self.first(key).map(|(object, _)| object.clone()));
        }
    }

    /// Which of them are not as they were. That an object moved within its file
    /// is no change.
    pub(super) fn compare_workloads(&mut self, before: Before, touched: &mut Touched) {
        for (key, old) in before {
            let new = self.first(&key).map(|(object, _)| object);
            let count = |object: Option<&Arc<Object>>| usize::from(object.is_some() && key.kind.is_policy());
            let (more, less, same) = (count(new), count(old.as_ref()), new == old.as_ref());
            self.policies = self.policies + more - less;
            if same {
                continue;
            }
            match key.kind {
                Kind::Pod => drop(touched.pods.insert((key.namespace, key.name))),
                Kind::Namespace => drop(touched.namespaces.insert(key.name)),
                Kind::Egress => touched.egress = true,
                _ => drop(touched.policies.insert(key)),
            }
        }
    }

    /// The word of the first source that has an object.
    fn first(&self, key: &ObjectKey) -> Option<&Said> {
        self.slots.iter().find_map(|slot| slot.objects.get(key))
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Said)> {
        self.of_kinds(kind, kind)
    }

    /// Each object once, in order of its key where there is one source.
    fn of_kinds(&self, first: Kind, last: Kind) -> impl Iterator<Item = (&ObjectKey, &Said)> {
        let from = ObjectKey { kind: first, namespace: Arc::default(), name: Arc::default() };
        let of = move |slot: usize| {
            let objects = self.slots[slot].objects.range(from.clone()..);
            let objects = objects.take_while(move |(key, _)| key.kind <= last);
            // What an earlier source has is that one's.
            objects.filter(move |(key, _)| {
                !self.slots[..slot].iter().any(|other| other.objects.contains_key(*key))
            })
        };
        (0..self.slots.len()).flat_map(of)
    }
}

fn policy((object, origin): &Said) -> Option<Policy> {
    match &**object {
        Object::Policy(object) => Some(Policy { object: object.clone(), origin: origin.clone() }),
        _ => None,
    }
}
