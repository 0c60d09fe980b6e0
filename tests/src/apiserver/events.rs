//! Events, as far as agents write them: created once, by their names.

use std::collections::BTreeMap;

use axum::{http::Method, response::Response};
use serde_json::Value;

use super::{
    Shared,
    http::{json_of, not_found, status},
};

/// By namespace and name.
#[derive(Default)]
pub struct Events {
    pub objects: BTreeMap<(String, String), Value>,
    /// How often somebody wanted to create one.
    pub asked: u64,
    pub forbidden: bool,
}

/// `NAMESPACE/events`.
pub(super) fn answer(shared: &Shared, method: &Method, path: &str, body: &[u8]) -> Response {
    let (&Method::POST, Some(namespace)) = (method, path.strip_suffix("/events")) else { return not_found() };
    let mut state = shared.state();
    state.events.asked += 1;
    if state.events.forbidden {
        return status(403, "Forbidden", "events.events.k8s.io is forbidden: User \"kit\"");
    }
    let Ok(event) = serde_json::from_slice::<Value>(body) else {
        return status(400, "BadRequest", "no JSON");
    };
    if let Some(wrong) = wrong(namespace, &event) {
        return status(422, "Invalid", wrong);
    }
    let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let key = (namespace.to_owned(), name);
    if state.events.objects.contains_key(&key) {
        return status(409, "AlreadyExists", "events already exists");
    }
    state.write();
    state.events.objects.insert(key, event.clone());
    json_of(&event)
}

/// What the server refuses, as k8s.io/kubernetes/pkg/apis/core/validation has it
/// for `events.k8s.io/v1`.
fn wrong(namespace: &str, event: &Value) -> Option<&'static str> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let within = |path: &str, most: usize| (1..=most).contains(&text(path).len());
    let about = match text("/regarding/namespace") {
        "" => "default",
        namespace => namespace,
    };
    let instant = text("/eventTime").strip_suffix('Z').and_then(|time| time.split_once('.'));
    let is_name = |name: &str| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        let label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
        name.len() <= 253 && name.chars().all(good) && name.split('.').all(label)
    };
    let rules = [
        (text("/metadata/namespace") == namespace && about == namespace, "namespace: not the object's"),
        (is_name(text("/metadata/name")), "metadata.name: no name"),
        (instant.is_some_and(|(_, micros)| micros.len() == 6), "eventTime: no MicroTime"),
        (within("/reportingController", 63), "reportingController: will be empty"),
        (within("/reportingInstance", 128), "reportingInstance: up to 128"),
        (within("/action", 128), "action: up to 128"),
        (within("/reason", 128), "reason: up to 128"),
        (text("/note").len() <= 1024, "note: up to 1024"),
        (["Normal", "Warning"].contains(&text("/type")), "type: Normal or Warning"),
    ];
    rules.into_iter().find(|(good, _)| !good).map(|(_, wrong)| wrong)
}
