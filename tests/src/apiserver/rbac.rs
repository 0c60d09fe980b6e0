//! What may a service account do, by the manifests of its roles? As the
//! documentation has it under "Using RBAC Authorization".

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{ApiServer, DISCOVERY, KINDS, Kind, documents};

/// Rules of the roles that are bound to one account: everywhere, and in its
/// own namespace.
#[derive(Clone)]
pub struct Rules {
    namespace: String,
    everywhere: Vec<Value>,
    inside: Vec<Value>,
}

/// What the rules may speak of: a group and a resource, or a path of none; and a
/// verb.
pub type Right = (String, String, String);

impl Rules {
    /// Of an account `(namespace, name)`, by the documents of a text. The
    /// account itself has to be among them.
    pub fn of(yaml: &str, namespace: &str, name: &str) -> Self {
        let all = documents(yaml);
        let of_kind = |kind: &'static str| all.iter().filter(move |document| document["kind"] == kind);
        let account = json!({"name": name, "namespace": namespace});
        let is_account = |document: &Value| document["metadata"] == account;
        assert!(of_kind("ServiceAccount").any(is_account), "no ServiceAccount {namespace}/{name}");
        let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": namespace});
        let bound = |binding: &'static str, role: &'static str, at: Value| -> Vec<Value> {
            let is_ours = |binding: &&Value| {
                let subjects = binding["subjects"].as_array();
                binding["metadata"]["namespace"] == at && subjects.is_some_and(|all| all.contains(&subject))
            };
            let rules = |binding: &Value| -> Vec<Value> {
                let wanted = &binding["roleRef"];
                let group = (&wanted["apiGroup"], &wanted["kind"]);
                assert_eq!(group, (&json!("rbac.authorization.k8s.io"), &json!(role)));
                let is_it = |role: &&Value| {
                    role["metadata"]["name"] == wanted["name"] && role["metadata"]["namespace"] == at
                };
                let found = of_kind(role).find(is_it).unwrap_or_else(|| panic!("no {role} {wanted}"));
                found["rules"].as_array().cloned().unwrap_or_default()
            };
            of_kind(binding).filter(is_ours).flat_map(rules).collect()
        };
        Self {
            namespace: namespace.to_owned(),
            everywhere: bound("ClusterRoleBinding", "ClusterRole", Value::Null),
            inside: bound("RoleBinding", "Role", json!(namespace)),
        }
    }

    /// A kind is read by lists and watches.
    pub fn may_read(&self, kind: Kind) -> bool {
        if kind == DISCOVERY {
            let get = |path: &str| allow(&self.everywhere, [("nonResourceURLs", path), ("verbs", "get")]);
            return get("/apis") && get("/apis/*");
        }
        let (api, _, resource, ..) = KINDS[kind];
        let group = api.split_once('/').map_or("", |(group, _)| group);
        let may =
            |verb| allow(&self.everywhere, [("apiGroups", group), ("resources", resource), ("verbs", verb)]);
        may("list") && may("watch")
    }

    /// Whether a verb is allowed for Leases of a namespace.
    pub fn may_lease(&self, verb: &str, namespace: &str) -> bool {
        let asked = [("apiGroups", "coordination.k8s.io"), ("resources", "leases"), ("verbs", verb)];
        allow(&self.everywhere, asked) || namespace == self.namespace && allow(&self.inside, asked)
    }

    /// Whether Events on any object may be created.
    pub fn may_tell(&self) -> bool {
        allow(
            &self.everywhere,
            [("apiGroups", "events.k8s.io"), ("resources", "events"), ("verbs", "create")],
        )
    }

    /// All that is allowed everywhere, and all that is in the account's namespace.
    pub fn granted(&self) -> [BTreeSet<Right>; 2] {
        [&self.everywhere, &self.inside].map(|rules| rules.iter().flat_map(rights).collect())
    }
}

/// What a rule allows, each combination by itself. One for objects of certain
/// names is not known here.
fn rights(rule: &Value) -> Vec<Right> {
    assert_eq!(rule["resourceNames"], Value::Null, "{rule}");
    let list = |key: &str| -> Vec<String> {
        let items = rule[key].as_array().into_iter().flatten();
        items.map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let of_groups = list("apiGroups").into_iter().flat_map(|group| {
        let resources = list("resources").into_iter();
        resources.map(move |resource| (group.clone(), resource)).collect::<Vec<_>>()
    });
    let of_paths = list("nonResourceURLs").into_iter().map(|path| (String::new(), path));
    let things: Vec<_> = of_groups.chain(of_paths).collect();
    let verbs = list("verbs");
    let each = things.into_iter().flat_map(|(group, thing)| {
        verbs.iter().map(move |verb| (group.clone(), thing.clone(), verb.clone())).collect::<Vec<_>>()
    });
    each.collect()
}

/// Whether one rule has all that is asked.
fn allow<const N: usize>(rules: &[Value], asked: [(&str, &str); N]) -> bool {
    let has = |rule: &Value, (list, name): (&str, &str)| {
        rule[list].as_array().is_some_and(|all| all.iter().any(|one| one == name || one == "*"))
    };
    rules.iter().any(|rule| asked.iter().all(|part| has(rule, *part)))
}

impl ApiServer {
    /// Refuses from now on (403) what the rules do not allow.
    pub fn authorise(&self, rules: &Rules) {
        (0..=DISCOVERY).for_each(|kind| self.allow(kind, rules.may_read(kind)));
        self.allow_events(rules.may_tell());
        self.shared.state().leases.rules = Some(rules.clone());
    }
}
