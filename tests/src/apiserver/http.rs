//! How does the server answer? Requests for lists, watches and discovery, as
//! documented under "Kubernetes API Concepts".

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State as Extract},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{sync::watch, time};

use super::{
    Shared, events,
    faults::{Fault, Point},
    leases,
    state::{Change, DISCOVERY, KINDS, Kind, Page, State},
};

/// What somebody in between has for people; each line would be an event.
const PAGE: &str = "<html>\n<body>a proxy would like to see a password</body>\n</html>\n";

/// A watch that has nothing to tell says so after this time.
const BOOKMARK: Duration = Duration::from_millis(300);

type Parameters = Query<BTreeMap<String, String>>;

pub fn app(shared: Arc<Shared>) -> Router {
    Router::new().fallback(answer).with_state(shared)
}

async fn answer(
    Extract(shared): Extract<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Query(given): Parameters,
    body: Bytes,
) -> Response {
    let wanted = shared.token.lock().unwrap().clone().map(|token| format!("Bearer {token}"));
    let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if wanted.is_some_and(|wanted| said != Some(&wanted)) {
        return status(401, "Unauthorized", "Unauthorized");
    }
    let path = uri.path();
    if path == "/version" {
        return json_of(&json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0-kit"}));
    }
    if path == "/apis" {
        return discovery(&shared, None).await;
    }
    let path = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/")).unwrap_or_default();
    if let Some(path) = path.strip_prefix("coordination.k8s.io/v1/namespaces/") {
        return leases::answer(&shared, &method, path, &given, &headers, &body);
    }
    if let Some(path) = path.strip_prefix("events.k8s.io/v1/namespaces/") {
        return events::answer(&shared, &method, path, &body);
    }
    // Names and versions alone, where that is asked for.
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let bare = accepted.contains("as=PartialObjectMetadataList");
    let of_path = |kind: &Kind| path == format!("{}/{}", KINDS[*kind].0, KINDS[*kind].2);
    match (0..KINDS.len()).find(of_path) {
        Some(kind) => objects(&shared, kind, &given, bare).await,
        None => discovery(&shared, Some(path)).await,
    }
}

/// The groups, or the kinds of a group and version.
async fn discovery(shared: &Shared, api: Option<&str>) -> Response {
    if let Some(fault) = fault(shared, DISCOVERY, Point::Discovery).await {
        return fault;
    }
    match api {
        None => groups(&shared.state()),
        Some(api) => resources(&shared.state(), api),
    }
}

fn groups(state: &State) -> Response {
    let mut groups: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for kind in (0..KINDS.len()).filter(|kind| !state.is_missing(*kind)) {
        let Some((group, version)) = KINDS[kind].0.split_once('/') else { continue };
        let version = json!({"groupVersion": KINDS[kind].0, "version": version});
        let versions = groups.entry(group).or_default();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let group = |(name, versions): (&str, Vec<Value>)| json!({"name": name, "preferredVersion": versions[0], "versions": versions});
    let groups: Vec<Value> = groups.into_iter().map(group).collect();
    json_of(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

fn resources(state: &State, api: &str) -> Response {
    let of_api = |kind: &Kind| KINDS[*kind].0 == api && !state.is_missing(*kind);
    let resource = |kind: Kind| {
        let (_, name, plural, namespaced, _) = KINDS[kind];
        json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": name, "verbs": ["list", "watch"]})
    };
    let resources: Vec<Value> = (0..KINDS.len()).filter(of_api).map(resource).collect();
    if resources.is_empty() {
        return not_found();
    }
    json_of(
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": resources}),
    )
}

async fn objects(shared: &Arc<Shared>, kind: Kind, given: &BTreeMap<String, String>, bare: bool) -> Response {
    let is_watch = given.get("watch").is_some_and(|watch| watch == "true");
    let token = given.get("continue").and_then(|token| token.parse().ok());
    let point = match (is_watch, token) {
        (true, _) => Point::Watch,
        (false, None) => Point::List,
        (false, Some(_)) => Point::Page,
    };
    {
        let mut state = shared.state();
        state.asked(kind, is_watch);
        if state.is_missing(kind) {
            return not_found();
        }
    }
    if let Some(answer) = fault(shared, kind, point).await {
        return answer;
    }
    if !is_watch {
        if let Some(selector) = given.get("fieldSelector") {
            return selected(shared, kind, selector, bare);
        }
        let limit = given.get("limit").and_then(|limit| limit.parse().ok());
        return list(shared, kind, limit, token, bare);
    }
    let from = given.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    watch_from(shared.clone(), kind, from)
}

/// What is answered when something goes wrong.
async fn fault(shared: &Shared, kind: Kind, point: Point) -> Option<Response> {
    let fault = {
        let mut state = shared.state();
        if state.is_forbidden(kind) {
            let message = format!("forbidden: User \"kit\" cannot {point:?} this");
            return Some(status(403, "Forbidden", &message));
        }
        state.faults(kind).next(point)?
    };
    Some(match fault {
        Fault::Busy(seconds) => {
            // Not even an API server has a Status for everything that it refuses.
            let text = "Too many requests, please try again later.\n";
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds.to_string())], text)
                .into_response()
        }
        Fault::Broken => status(500, "InternalError", "etcdserver: request timed out"),
        Fault::Foreign => PAGE.into_response(),
        Fault::Stranger(code) => (StatusCode::from_u16(code).unwrap(), PAGE).into_response(),
        Fault::Stall => {
            let half = stream::iter([io::Result::Ok("{\"kind\": \"List\",")]);
            Body::from_stream(half.chain(stream::pending())).into_response()
        }
        Fault::Expired | Fault::GoneStatus => expired(),
        Fault::Gone => error_event(410, "Expired", "too old resource version").into_response(),
        Fault::Late(millis) => {
            time::sleep(Duration::from_millis(millis)).await;
            return None;
        }
        fault => unreachable!("{fault:?} at {point:?}"),
    })
}

fn list(shared: &Shared, kind: Kind, limit: Option<usize>, token: Option<u64>, bare: bool) -> Response {
    match shared.state().page(kind, limit, token) {
        Some(page) => page_of(kind, page, bare),
        None => expired(),
    }
}

/// The objects whose fields are such, all on one page.
fn selected(shared: &Shared, kind: Kind, selector: &str, bare: bool) -> Response {
    let Some(mut page) = shared.state().page(kind, None, None) else { return expired() };
    page.objects.retain(|object| {
        selector.split(',').all(|term| {
            let (field, value) = term.split_once('=').unwrap_or_default();
            object.pointer(&format!("/{}", field.replace('.', "/"))).and_then(Value::as_str) == Some(value)
        })
    });
    page_of(kind, page, bare)
}

fn page_of(kind: Kind, Page { mut objects, revision, rest }: Page, bare: bool) -> Response {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some((token, left)) = rest {
        metadata["continue"] = json!(token.to_string());
        metadata["remainingItemCount"] = json!(left);
    }
    let (mut api, name, ..) = KINDS[kind];
    let mut name = format!("{name}List");
    if bare {
        (api, name) = ("meta.k8s.io/v1", "PartialObjectMetadataList".into());
        for object in &mut objects {
            let metadata = object["metadata"].take();
            *object = json!({"kind": "PartialObjectMetadata", "apiVersion": api, "metadata": metadata});
        }
    }
    json_of(&json!({"kind": name, "apiVersion": api, "metadata": metadata, "items": objects}))
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

fn watch_from(shared: Arc<Shared>, kind: Kind, cursor: u64) -> Response {
    let changed = shared.changed.subscribe();
    let watch = Watch { shared, kind, cursor, changed, end: None, over: false };
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
                Some(Fault::Failed) => {
                    self.end = Some(Ok(error_event(500, "InternalError", "etcd is gone")));
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
    error_event(410, "Expired", &format!("too old resource version: {revision}"))
}

fn error_event(code: u16, reason: &str, message: &str) -> String {
    format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", failure(code, reason, message))
}

pub fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
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

pub fn status(code: u16, reason: &str, message: &str) -> Response {
    let mut response = json_of(&failure(code, reason, message));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

pub fn json_of(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
