//! What is kept of an object while it waits to be converted? Its JSON without
//! what nobody here reads, which is most of a pod and of a node.

use std::borrow::Cow;

use kube::{
    api::ObjectMeta,
    core::{DynamicResourceScope, Resource},
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::kinds::Watched;
use crate::event::marks::version_hash;

/// As it comes: of pods, all but what they are asked for is dropped at once.
#[derive(Clone, Debug)]
pub struct OfKind<const POD: bool>(pub Listed);

/// An object of a list or of a watch.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Name, namespace and resource version.
    meta: Box<ObjectMeta>,
    pub value: Value,
}

impl Listed {
    pub fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    /// How many writes of any kind came before its last; `None` where the
    /// server counts otherwise.
    pub fn version(&self) -> Option<u64> {
        self.meta.resource_version.as_deref()?.parse().ok()
    }

    /// What it adds to the digest of its kind.
    pub fn hash(&self) -> u64 {
        let version = self.meta.resource_version.as_deref().unwrap_or_default();
        version_hash(self.namespace(), self.name(), version)
    }
}

impl<'de, const POD: bool> Deserialize<'de> for OfKind<POD> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        prune(&mut value);
        if POD {
            prune_pod(&mut value);
        }
        let text = |name: &str| value.pointer(name).and_then(Value::as_str).map(str::to_owned);
        let meta = Box::new(ObjectMeta {
            name: text("/metadata/name"),
            namespace: text("/metadata/namespace"),
            resource_version: text("/metadata/resourceVersion"),
            ..ObjectMeta::default()
        });
        Ok(Self(Listed { meta, value }))
    }
}

impl<const POD: bool> Resource for OfKind<POD> {
    type DynamicType = Watched;
    type Scope = DynamicResourceScope;

    fn kind(watched: &Watched) -> Cow<'_, str> {
        watched.name.into()
    }

    fn group(watched: &Watched) -> Cow<'_, str> {
        watched.group().into()
    }

    fn version(watched: &Watched) -> Cow<'_, str> {
        watched.version().into()
    }

    fn plural(watched: &Watched) -> Cow<'_, str> {
        watched.plural.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.meta
    }
}

/// Large, and of no interest to us.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn prune(value: &mut Value) {
    keep(value.get_mut("metadata"), |key| {
        matches!(
            key,
            "name" | "namespace" | "labels" | "annotations" | "resourceVersion" | "deletionTimestamp"
        )
    });
    keep(value.pointer_mut("/metadata/annotations"), |key| key != LAST_APPLIED);
    // A node's.
    keep(value.get_mut("status"), |key| !matches!(key, "conditions" | "images" | "nodeInfo"));
}

fn prune_pod(value: &mut Value) {
    keep(value.get_mut("status"), |key| matches!(key, "phase" | "podIP" | "podIPs"));
    keep(value.get_mut("spec"), |key| {
        matches!(key, "nodeName" | "hostNetwork" | "containers" | "initContainers")
    });
    for list in ["/spec/containers", "/spec/initContainers"] {
        let containers = value.pointer_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            keep(Some(container), |key| matches!(key, "ports" | "restartPolicy"));
        }
    }
}

fn keep(value: Option<&mut Value>, wanted: impl Fn(&str) -> bool) {
    if let Some(Value::Object(map)) = value {
        map.retain(|key, _| wanted(key));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_reads_is_dropped_at_once() {
        let pod = json!({
            "metadata": {
                "name": "a", "namespace": "b", "resourceVersion": "7", "uid": "x",
                "labels": {"managedFields": "a label may be called so"},
                "annotations": {LAST_APPLIED: "{}", "causeway.io/weight": "2"},
                "managedFields": [{"manager": "kubelet"}],
            },
            "spec": {"nodeName": "n", "volumes": [], "containers": [{"name": "c", "env": [], "ports": []}]},
            "status": {"phase": "Running", "conditions": [], "podIP": "10.0.0.1"},
        });
        let OfKind::<true>(listed) = serde_json::from_value(pod).unwrap();
        assert_eq!((listed.namespace(), listed.name(), listed.version()), ("b", "a", Some(7)));
        let kept = json!({
            "metadata": {
                "name": "a", "namespace": "b", "resourceVersion": "7",
                "labels": {"managedFields": "a label may be called so"},
                "annotations": {"causeway.io/weight": "2"},
            },
            "spec": {"nodeName": "n", "containers": [{"ports": []}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        });
        assert_eq!(listed.value, kept);
    }

    #[test]
    fn only_a_pod_is_cut_down_as_one() {
        let object = json!({
            "metadata": {"name": "a", "annotations": {LAST_APPLIED: "{}"}},
            "spec": {"containers": [], "subject": {}},
        });
        let OfKind::<false>(listed) = serde_json::from_value(object).unwrap();
        assert_eq!(
            listed.value,
            json!({"metadata": {"name": "a", "annotations": {}}, "spec": {"containers": [], "subject": {}}})
        );
        let OfKind::<true>(bare) = serde_json::from_value(json!({"spec": {"volumes": []}})).unwrap();
        assert_eq!(bare.value, json!({"spec": {}}));
    }

    #[test]
    fn whatever_a_field_holds_the_list_goes_on() {
        let odd = json!({"metadata": 7, "spec": {"containers": 3}});
        let OfKind::<true>(odd) = serde_json::from_value(odd).unwrap();
        assert_eq!((odd.name(), odd.version()), ("", None));
    }
}
