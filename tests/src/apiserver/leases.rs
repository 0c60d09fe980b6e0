//! Leases, as far as agents write and read them: server-side apply, and lists by a
//! label.

use std::collections::BTreeMap;

use axum::{
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    Shared,
    http::{json_of, not_found, status},
    rbac::Rules,
};

/// Of one namespace, by name.
#[derive(Default)]
pub struct Leases {
    objects: BTreeMap<(String, String), Value>,
    pub writes: u64,
    pub forbidden: bool,
    /// Who asks has what these allow; all, where there are none.
    pub rules: Option<Rules>,
}

impl Leases {
    /// Whether a request is allowed. One that applies may create.
    fn allows(&self, method: &Method, namespace: &str) -> bool {
        let verbs: &[&str] = if method == Method::PATCH { &["patch", "create"] } else { &["list"] };
        let may = |rules: &Rules| verbs.iter().all(|verb| rules.may_lease(verb, namespace));
        !self.forbidden && self.rules.as_ref().is_none_or(may)
    }

    /// Who applies is the only one that ever writes it: what he says is all of it.
    fn apply(&mut self, namespace: &str, name: &str, mut lease: Value, revision: u64) -> Value {
        self.writes += 1;
        lease["metadata"]["namespace"] = json!(namespace);
        lease["metadata"]["resourceVersion"] = json!(revision.to_string());
        self.objects.insert((namespace.to_owned(), name.to_owned()), lease.clone());
        lease
    }

    /// As somebody would who tidies up.
    pub fn remove(&mut self, name: &str) {
        self.objects.retain(|(_, of), _| of != name);
    }

    fn labelled(&self, namespace: &str, label: (&str, &str)) -> Vec<Value> {
        let of = self.objects.iter().filter(|((of, _), _)| of == namespace).map(|(_, lease)| lease);
        of.filter(|lease| lease["metadata"]["labels"][label.0] == label.1).cloned().collect()
    }
}

/// `NAMESPACE/leases` or `NAMESPACE/leases/NAME`.
pub(super) fn answer(
    shared: &Shared,
    method: &Method,
    path: &str,
    given: &BTreeMap<String, String>,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let parts: Vec<&str> = path.split('/').collect();
    if !shared.state().leases.allows(method, parts[0]) {
        return status(403, "Forbidden", "leases.coordination.k8s.io is forbidden: User \"kit\"");
    }
    match (method, parts.as_slice()) {
        (&Method::PATCH, &[namespace, "leases", name]) => {
            let type_ = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            if type_ != Some("application/apply-patch+yaml") {
                return status(415, "UnsupportedMediaType", "only applied");
            }
            let Ok(lease) = serde_json::from_slice::<Value>(body) else {
                return status(400, "BadRequest", "no JSON");
            };
            let is_given = |name, good: fn(&str) -> bool| given.get(name).is_some_and(|value| good(value));
            let is_forced = is_given("force", |value| value == "true");
            if !is_forced
                || !is_given("fieldManager", |value| !value.is_empty())
                || lease["metadata"]["name"] != name
            {
                return status(400, "BadRequest", "PatchOptions: fieldManager or force, or another name");
            }
            let applied = {
                let mut state = shared.state();
                let revision = state.write();
                state.leases.apply(namespace, name, lease, revision)
            };
            json_of(&applied)
        }
        (&Method::GET, &[namespace, "leases"]) => {
            let label = given.get("labelSelector").and_then(|label| label.split_once('='));
            let state = shared.state();
            let items = state.leases.labelled(namespace, label.unwrap_or_default());
            json_of(&json!({
                "kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1",
                "metadata": {"resourceVersion": state.revision().to_string()}, "items": items,
            }))
        }
        (_, &[_, "leases", ..]) => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        _ => not_found(),
    }
}
