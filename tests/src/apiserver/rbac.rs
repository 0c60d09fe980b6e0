//! What may a service account read, by the manifests of its roles? As the
//! documentation has it under "Using RBAC Authorization".

use serde_json::{Value, json};

use super::{ApiServer, DISCOVERY, KINDS, Kind, documents};

/// Rules of the roles that are bound to one account: everywhere, and in its
/// own namespace.
pub struct Rules {
    everywhere: Vec<Value>,
    inside: Vec<Value>,
}

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

    /// Leases of the account's namespace.
    pub fn may_keep_leases(&self) -> bool {
        let asked = |verb| [("apiGroups", "coordination.k8s.io"), ("resources", "leases"), ("verbs", verb)];
        ["list", "create", "patch"].iter().all(|verb| allow(&self.inside, asked(verb)))
    }
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
        self.allow_leases(rules.may_keep_leases());
    }
}
