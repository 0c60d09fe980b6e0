//! How does the server answer? Requests for lists, watches and discovery, as
//! documented under "Kubernetes API Concepts".

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Query, State as Extract},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{sync::watch, time};

use super::{
    Shared,
    faults::{Fault, Point},
    state::{Change, KINDS, Kind, Page},
};

/// A watch that has nothing to tell says so after this time.
const BOOKMARK: Duration = Duration::from_millis(300);

type Parameters = Query<BTreeMap<String, String>>;

pub fn app(shared: Arc<Shared>) -> Router {
    Router::new().fallback(answer).with_state(shared)
}

async fn answer(Extract(shared): Extract<Arc<Shared>>, uri: Uri, Query(given): Parameters) -> Response {
    let path = uri.path();
    if path == "/version" {
        return json_of(&json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0-kit"}));
    }
    let path = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/")).unwrap_or_default();
    let of_path = |kind: &Kind| path == format!("{}/{}", KINDS[*kind].0, KINDS[*kind].2);
    match (0..KINDS.len()).find(of_path) {
        Some(kind) => objects(&shared, kind, &given).await,
        None => discovery(&shared, path),
    }
}

/// The kinds of a group and version.
fn discovery(shared: &Shared, api: &str) -> Response {
    let state = shared.state();
    let of_api = |kind: &Kind| KINDS[*kind].0 == api && !state.is_missing(*kind);
    let resource = |kind: Kind| {
        let (_, name, plural, namespaced, _) = KINDS[kind];
        json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": name, "verbs": ["list", "watch"]})
    };
    let resources: Vec<Value> = (0..KINDS.len()).filter(of_api).map(resource).collect();
    if resources.is_empty() {
        return status(404, "NotFound", "the server could not find the requested resource");
    }
    json_of(
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": resources}),
    )
}

async fn objects(shared: &Arc<Shared>, kind: Kind, given: &BTreeMap<String, String>) -> Response {
    let is_watch = given.get("watch").is_some_and(|watch| watch == "true");
    let token = given.get("continue").and_then(|token| token.parse().ok());
    let point = match (is_watch, token) {
        (true, _) => Point::Watch,
        (false, None) => Point::List,
        (false, Some(_)) => Point::Page,
    };
    let fault = {
        let mut state = shared.state();
        state.asked(kind, is_watch);
        if state.is_missing(kind) {
            return status(404, "NotFound", "the server could not find the requested resource");
        }
        if state.is_forbidden(kind) {
            let message = format!("{} is forbidden: User \"kit\" cannot list it", KINDS[kind].2);
            return status(403, "Forbidden", &message);
        }
        state.faults(kind).next(point)
    };
    match fault {
        Some(Fault::Busy(seconds)) => {
            let mut busy = status(429, "TooManyRequests", "the server is busy");
            busy.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            return busy;
        }
        Some(Fault::Broken) => return status(500, "InternalError", "etcdserver: request timed out"),
        Some(Fault::Foreign) => return "<html>a proxy would like to see a password</html>".into_response(),
        Some(Fault::Expired) => return expired(),
        Some(Fault::GoneStatus) => return expired(),
        Some(Fault::Late(millis)) => time::sleep(Duration::from_millis(millis)).await,
        _ => {}
    }
    if !is_watch {
        let limit = given.get("limit").and_then(|limit| limit.parse().ok());
        return list(shared, kind, limit, token);
    }
    let from = given.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    watch_from(shared.clone(), kind, from, fault == Some(Fault::Gone))
}

fn list(shared: &Shared, kind: Kind, limit: Option<usize>, token: Option<u64>) -> Response {
    let Some(Page { objects, revision, rest }) = shared.state().page(kind, limit, token) else {
        return expired();
    };
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some((token, left)) = rest {
        metadata["continue"] = json!(token.to_string());
        metadata["remainingItemCount"] = json!(left);
    }
    let (api, name, ..) = KINDS[kind];
    json_of(
        &json!({"kind": format!("{name}List"), "apiVersion": api, "metadata": metadata, "items": objects}),
    )
}

/// A watch under way.
struct Watch {
    shared: Arc<Shared>,
    kind: Kind,
    /// Everything up to here has been told.
    cursor: u64,
    changed: watch::Receiver<u64>,
    /// What ends it: a clean end, or a broken connection.
    end: Option<io::Result<String>>,
    over: bool,
}

fn watch_from(shared: Arc<Shared>, kind: Kind, cursor: u64, gone: bool) -> Response {
    let changed = shared.changed.subscribe();
    let end = gone.then(|| Ok(too_old(cursor)));
    let watch = Watch { shared, kind, cursor, changed, end, over: false };
    let lines = stream::unfold(watch, |mut watch| async {
        let line = watch.next().await?;
        Some((line, watch))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

impl Watch {
    /// The next lines; `None`: it is over.
    async fn next(&mut self) -> Option<io::Result<String>> {
        loop {
            if let Some(end) = self.end.take() {
                self.over = true;
                return Some(end);
            }
            if self.over {
                return None;
            }
            self.changed.mark_unchanged();
            let (changes, head, fault) = {
                let mut state = self.shared.state();
                if state.is_missing(self.kind) {
                    return None;
                }
                if self.cursor < state.compacted() {
                    // The past is gone while there was something to tell of it.
                    self.end = Some(Ok(too_old(self.cursor)));
                    continue;
                }
                let fault = state.faults(self.kind).next(Point::Tell);
                (state.since(self.kind, self.cursor), state.revision(), fault)
            };
            match fault {
                Some(Fault::GoneLater) => {
                    self.end = Some(Ok(too_old(self.cursor)));
                    continue;
                }
                Some(Fault::End) => return None,
                Some(Fault::Cut) => {
                    let text = changes.first().map_or_else(|| bookmark(self.kind, head), line);
                    let half = text[..text.len() / 2].to_owned();
                    self.end = Some(Err(io::ErrorKind::ConnectionReset.into()));
                    return Some(Ok(half));
                }
                Some(Fault::Repeat) => {
                    let again = self.shared.state().before(self.kind, self.cursor);
                    if !again.is_empty() {
                        return Some(Ok(again.iter().map(line).collect()));
                    }
                }
                Some(Fault::Late(millis)) => {
                    time::sleep(Duration::from_millis(millis)).await;
                    continue;
                }
                Some(Fault::Bookmark) => {
                    // Of what was told, and not of what is to come.
                    return Some(Ok(bookmark(self.kind, self.cursor)));
                }
                _ => {}
            }
            if let Some(last) = changes.last() {
                self.cursor = last.revision;
                return Some(Ok(changes.iter().map(line).collect()));
            }
            if time::timeout(BOOKMARK, self.changed.changed()).await.is_err() {
                self.cursor = head;
                return Some(Ok(bookmark(self.kind, head)));
            }
        }
    }
}

fn line(change: &Change) -> String {
    // The type first, as a server has it.
    format!("{{\"type\":\"{}\",\"object\":{}}}\n", change.type_, change.object)
}

fn bookmark(kind: Kind, revision: u64) -> String {
    let (api, name, ..) = KINDS[kind];
    let object =
        json!({"kind": name, "apiVersion": api, "metadata": {"resourceVersion": revision.to_string()}});
    format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n")
}

fn too_old(revision: u64) -> String {
    let message = format!("too old resource version: {revision}");
    format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", failure(410, "Expired", &message))
}

fn expired() -> Response {
    status(410, "Expired", "The provided continue parameter is too old")
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn status(code: u16, reason: &str, message: &str) -> Response {
    let mut response = json_of(&failure(code, reason, message));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn json_of(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
