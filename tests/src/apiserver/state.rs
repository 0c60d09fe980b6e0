//! What does the server hold? Objects, the changes that led there, and what it
//! has forgotten of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{events::Events, faults::Faults, leases::Leases};

/// A kind by its place in [`KINDS`].
pub type Kind = usize;

/// Version, name, path, whether objects have a namespace, and whether every
/// server has it.
pub const KINDS: [(&str, &str, &str, bool, bool); 12] = [
    ("v1", "Service", "services", true, true),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", true, true),
    ("v1", "Node", "nodes", false, true),
    ("v1", "Pod", "pods", true, true),
    ("v1", "Namespace", "namespaces", false, true),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true, true),
    ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy", "adminnetworkpolicies", false, false),
    (
        "policy.networking.k8s.io/v1alpha1",
        "BaselineAdminNetworkPolicy",
        "baselineadminnetworkpolicies",
        false,
        false,
    ),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", false, false),
    ("causeway.io/v1alpha1", "Policy", "policies", false, false),
    ("causeway.io/v1alpha1", "VirtualNetwork", "virtualnetworks", false, false),
    ("causeway.io/v1alpha1", "Egress", "egresses", false, false),
];

/// What the server says of its kinds, where a kind is asked for: it can fail, too.
pub const DISCOVERY: Kind = KINDS.len();

/// The kind of a name.
pub fn kind(name: &str) -> Kind {
    KINDS.iter().position(|(_, known, ..)| *known == name).unwrap_or_else(|| panic!("no kind {name}"))
}

/// One change of one object.
#[derive(Clone)]
pub struct Change {
    pub revision: u64,
    pub kind: Kind,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub type_: &'static str,
    pub object: Value,
}

/// Objects of a list as it stood at a revision.
pub struct Page {
    pub objects: Vec<Value>,
    pub revision: u64,
    /// The token of those that are left, and how many they are.
    pub rest: Option<(u64, usize)>,
}

/// Namespace and name; empty where there is no namespace.
type Name = (String, String);

pub struct State {
    revision: u64,
    /// Changes up to this one are forgotten.
    compacted: u64,
    objects: [BTreeMap<Name, Value>; KINDS.len()],
    log: Vec<Change>,
    /// Lists of which pages are left, by token: at which revision, and what.
    lists: BTreeMap<u64, (u64, Vec<Value>)>,
    tokens: u64,
    missing: BTreeSet<Kind>,
    forbidden: BTreeSet<Kind>,
    faults: [Faults; KINDS.len() + 1],
    requests: [(u64, u64); KINDS.len()],
    pub leases: Leases,
    pub events: Events,
}

impl Default for State {
    fn default() -> Self {
        let optional = KINDS.iter().enumerate().filter(|(_, (.., everywhere))| !everywhere);
        Self {
            revision: 1000,
            compacted: 999,
            objects: Default::default(),
            log: Vec::new(),
            lists: BTreeMap::new(),
            tokens: 0,
            missing: optional.map(|(kind, _)| kind).collect(),
            forbidden: BTreeSet::new(),
            faults: Default::default(),
            requests: Default::default(),
            leases: Leases::default(),
            events: Events::default(),
        }
    }
}

impl State {
    pub fn put(&mut self, mut object: Value) {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api, name) = (text("/apiVersion"), text("/kind"));
        let kind = kind(&name);
        assert_eq!(KINDS[kind].0, api, "version of {name}");
        let namespaced = KINDS[kind].3;
        let namespace = match text("/metadata/namespace") {
            given if !namespaced || !given.is_empty() => given,
            _ => "default".to_owned(),
        };
        let name = text("/metadata/name");
        self.revision += 1;
        let metadata = &mut object["metadata"];
        if namespaced {
            metadata["namespace"] = json!(namespace);
        }
        metadata["resourceVersion"] = json!(self.revision.to_string());
        let before = self.objects[kind].get(&(namespace.clone(), name.clone()));
        metadata["uid"] = before.map_or_else(
            || json!(format!("{kind}-{namespace}-{name}-{}", self.revision)),
            |before| before["metadata"]["uid"].clone(),
        );
        metadata["managedFields"] = json!([{"manager": "kit", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]);
        let before = self.objects[kind].insert((namespace, name), object.clone());
        let type_ = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.log.push(Change { revision: self.revision, kind, type_, object });
    }

    pub fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        let Some(mut object) = self.objects[kind].remove(&(namespace.into(), name.into())) else { return };
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.log.push(Change { revision: self.revision, kind, type_: "DELETED", object });
    }

    pub fn lose(&mut self, kind: Kind, keep: impl Fn(&str) -> bool) {
        self.objects[kind].retain(|(_, name), _| keep(name));
    }

    pub fn compact(&mut self) {
        self.revision += 1;
        self.compacted = self.revision;
        self.log.clear();
        self.lists.clear();
    }

    pub fn install(&mut self, kind: Kind, installed: bool) {
        if installed {
            self.missing.remove(&kind);
        } else {
            self.missing.insert(kind);
            self.objects[kind].clear();
        }
    }

    pub fn allow(&mut self, kind: Kind, allowed: bool) {
        if allowed {
            self.forbidden.remove(&kind);
        } else {
            self.forbidden.insert(kind);
        }
    }

    pub fn is_missing(&self, kind: Kind) -> bool {
        self.missing.contains(&kind)
    }

    pub fn is_forbidden(&self, kind: Kind) -> bool {
        self.forbidden.contains(&kind)
    }

    /// Something else is written; versions are counted over all that there is.
    pub fn write(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    pub fn faults(&mut self, kind: Kind) -> &mut Faults {
        &mut self.faults[kind]
    }

    pub fn asked(&mut self, kind: Kind, watch: bool) {
        let (lists, watches) = &mut self.requests[kind];
        *(if watch { watches } else { lists }) += 1;
    }

    pub fn requests(&self, kind: Kind) -> (u64, u64) {
        self.requests[kind]
    }

    /// The changes of a kind after a revision, in order.
    pub fn since(&self, kind: Kind, revision: u64) -> Vec<Change> {
        let later = self.log.partition_point(|change| change.revision <= revision);
        self.log[later..].iter().filter(|change| change.kind == kind).cloned().collect()
    }

    /// The changes of a kind that led to a revision, the last few.
    pub fn before(&self, kind: Kind, revision: u64) -> Vec<Change> {
        let earlier = self.log.iter().filter(|change| change.kind == kind && change.revision <= revision);
        let mut last: Vec<Change> = earlier.rev().take(3).cloned().collect();
        last.reverse();
        last
    }

    /// A page of a list. `None`: the token has expired.
    pub fn page(&mut self, kind: Kind, limit: Option<usize>, token: Option<u64>) -> Option<Page> {
        let (revision, mut objects) = match token {
            Some(token) => self.lists.remove(&token)?,
            None => (self.revision, self.objects[kind].values().cloned().collect()),
        };
        let limit = limit.unwrap_or(objects.len()).min(objects.len());
        let rest = objects.split_off(limit);
        // As the API has it: items of a typed list do not say what they are.
        for object in &mut objects {
            object.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
        }
        if rest.is_empty() {
            return Some(Page { objects, revision, rest: None });
        }
        self.tokens += 1;
        let left = rest.len();
        self.lists.insert(self.tokens, (revision, rest));
        Some(Page { objects, revision, rest: Some((self.tokens, left)) })
    }

    pub fn documents(&self) -> Vec<Value> {
        let clean = |object: &Value| {
            let mut object = object.clone();
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.retain(|key, _| !matches!(key.as_str(), "resourceVersion" | "uid" | "managedFields"));
            object
        };
        self.objects.iter().flat_map(BTreeMap::values).map(clean).collect()
    }
}
