//! Does a selector match these labels?

use std::sync::Arc;

use crate::event::policy::{Labels, NAMESPACE_NAME, NETWORK, Namespaces, Operator, PodSelector, Selector};

/// A namespace and its labels, of which its name is always one, even before its
/// object is known.
#[derive(Clone, Copy, Debug)]
pub struct Namespace<'a> {
    pub name: &'a str,
    pub labels: Option<&'a Labels>,
}

impl<'a> Namespace<'a> {
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let said = self.labels.and_then(|labels| labels.get(key));
        said.map(|value| &**value).or((key == NAMESPACE_NAME).then_some(self.name))
    }

    /// Every label, its name included.
    pub fn labels(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let said = self.labels.into_iter().flat_map(|labels| labels.iter());
        let named = said.clone().any(|(key, _)| **key == *NAMESPACE_NAME);
        said.map(|(key, value)| (&**key, &**value)).chain((!named).then_some((NAMESPACE_NAME, self.name)))
    }
}

/// The labels that policies know somebody by: that of a virtual network means
/// nothing for those whom it does not have among its members.
pub fn admitted(labels: Labels, is_member: impl FnOnce(&Arc<str>, &Labels) -> bool) -> Labels {
    if labels.get(NETWORK).is_none_or(|network| is_member(network, &labels)) {
        return labels;
    }
    let mut labels = Labels::unwrap_or_clone(labels);
    labels.remove(NETWORK);
    labels.into()
}

impl PodSelector {
    pub fn matches(&self, namespace: Namespace<'_>, labels: &Labels) -> bool {
        self.namespaces.matches(namespace) && self.pods.matches(|key| labels.get(key).map(|value| &**value))
    }
}

impl Namespaces {
    pub fn matches(&self, namespace: Namespace<'_>) -> bool {
        match self {
            Namespaces::Named(name) => **name == *namespace.name,
            Namespaces::Matching(selector) => selector.matches(|key| namespace.get(key)),
        }
    }
}

impl Selector {
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|requirement| requirement.operator.holds(label(&requirement.key)))
    }

    /// A key that must be there, and the values one of which it must have: who
    /// matches is found under these.
    pub fn anchor(&self) -> Option<(&Arc<str>, &[Arc<str>])> {
        self.0.iter().find_map(|requirement| match &requirement.operator {
            Operator::In(values) => Some((&requirement.key, &**values)),
            _ => None,
        })
    }
}

impl Operator {
    fn holds(&self, value: Option<&str>) -> bool {
        let among = |values: &[Arc<str>]| value.is_some_and(|value| values.iter().any(|one| **one == *value));
        match self {
            Operator::In(values) => among(values),
            Operator::NotIn(values) => !among(values),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
