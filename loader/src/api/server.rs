//! Who may ask, and who answers? The socket is for root and the group of its
//! directory; answers come from the loop's snapshot, requests go to the loop.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use super::view::{self, EndpointView, WaitView};
use crate::{
    metrics,
    model::desired::DesiredState,
    snapshot::{AttachRequest, COMMAND_TIMEOUT, Command, Handle, Reply, TraceRequest},
};

/// Longest that `wait` waits when the client does not say.
const WAIT: u64 = 30_000;
/// Most flows in one answer unless the client says otherwise.
const FLOWS: usize = 1000;

/// Takes the socket. A stale one is replaced, a live one is not.
///
/// # Errors
/// When another agent answers there, or the directory cannot be used.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        fs::set_permissions(parent, fs::Permissions::from_mode(0o750))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        anyhow::bail!("another agent answers at {}: stop it, or give --socket", path.display());
    }
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("remove the stale socket {}", path.display()))?;
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Answers until the task is aborted.
pub async fn serve(listener: UnixListener, handle: Handle) {
    let router = watching()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/backends", get(backends))
        .route("/v1/nodes", get(nodes))
        .route("/v1/desired", get(services))
        .route("/v1/endpoints", get(endpoints).post(attach).delete(detach))
        .route("/v1/flows", get(flows))
        .route("/v1/counters", get(counters))
        .route("/v1/wait", get(wait))
        .route("/v1/trace", post(trace))
        .route("/v1/uninstall", post(uninstall))
        .with_state(handle);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the local API has ended");
    }
}

/// `/metrics` and the probes over TCP.
pub async fn serve_metrics(address: SocketAddr, handle: Handle) {
    let served = async {
        let listener = TcpListener::bind(address).await?;
        axum::serve(listener, watching().with_state(handle)).await
    };
    if let Err(error) = served.await {
        tracing::error!(%error, %address, "metrics are not served over TCP");
    }
}

fn watching() -> Router<Handle> {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
}

/// An error as the client gets it.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}

type Answer<T> = Result<Json<T>, Refused>;

/// Sends a command and waits for its answer.
async fn ask<T>(handle: &Handle, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refused> {
    let (reply, answer) = oneshot::channel();
    let busy = || Refused(StatusCode::SERVICE_UNAVAILABLE, "the agent is busy or ending: try again".into());
    handle.commands.send(command(reply)).await.map_err(|_| busy())?;
    let answer = timeout(COMMAND_TIMEOUT, answer).await.map_err(|_| busy())?.map_err(|_| busy())?;
    answer.map_err(|error| Refused(StatusCode::UNPROCESSABLE_ENTITY, error))
}

async fn desired(handle: &Handle) -> Result<Arc<DesiredState>, Refused> {
    ask(handle, Command::Desired).await
}

async fn status(State(handle): State<Handle>) -> impl IntoResponse {
    Json(handle.snapshot.load().status.clone())
}

async fn services(State(handle): State<Handle>) -> Answer<Vec<view::ServiceView>> {
    Ok(Json(view::services(&*desired(&handle).await?)))
}

async fn backends(State(handle): State<Handle>) -> Answer<Vec<view::BackendView>> {
    Ok(Json(view::backends(&*desired(&handle).await?)))
}

async fn nodes(State(handle): State<Handle>) -> Answer<Vec<view::NodeView>> {
    Ok(Json(view::nodes(&*desired(&handle).await?)))
}

async fn endpoints(State(handle): State<Handle>) -> impl IntoResponse {
    let snapshot = handle.snapshot.load();
    Json(snapshot.endpoints.iter().map(|(name, endpoint)| view::endpoint(name, endpoint)).collect::<Vec<_>>())
}

async fn attach(State(handle): State<Handle>, Json(request): Json<AttachRequest>) -> Answer<EndpointView> {
    let name = request.name.clone();
    let attached = ask(&handle, |reply| Command::Attach(request, reply)).await?;
    Ok(Json(view::endpoint(&name, &attached)))
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

async fn detach(State(handle): State<Handle>, Query(named): Query<Named>) -> Answer<serde_json::Value> {
    let detached = ask(&handle, |reply| Command::Detach(named.name, reply)).await?;
    Ok(Json(serde_json::json!({ "detached": detached })))
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn flows(
    State(handle): State<Handle>,
    Query(query): Query<Limit>,
) -> Answer<Vec<crate::snapshot::FlowView>> {
    let limit = query.limit.unwrap_or(FLOWS);
    ask(&handle, |reply| Command::Flows { limit, reply }).await.map(Json)
}

async fn counters(State(handle): State<Handle>) -> Answer<Vec<crate::snapshot::Counter>> {
    ask(&handle, Command::Counters).await.map(Json)
}

async fn trace(
    State(handle): State<Handle>,
    Json(request): Json<TraceRequest>,
) -> Answer<crate::snapshot::TraceReply> {
    ask(&handle, |reply| Command::Trace(request, reply)).await.map(Json)
}

async fn uninstall(State(handle): State<Handle>) -> Answer<serde_json::Value> {
    ask(&handle, Command::Uninstall).await?;
    Ok(Json(serde_json::json!({ "uninstalled": true })))
}

#[derive(Deserialize)]
struct Wait {
    /// Unless given: everything that the sources hold now.
    revision: Option<u64>,
    timeout_ms: Option<u64>,
}

/// Answers when the revision stands in the kernel, read back, or when the time
/// is up; `converged` says which.
async fn wait(State(mut handle): State<Handle>, Query(query): Query<Wait>) -> Answer<WaitView> {
    let deadline = Instant::now() + Duration::from_millis(query.timeout_ms.unwrap_or(WAIT));
    // Every wait begins with a look at the sources and a full read-back: an
    // older answer would not know of a change that was made meanwhile.
    let mut reasons = Vec::new();
    let seen = match timeout_at(deadline, ask(&handle, Command::Fence)).await {
        Ok(seen) => seen?,
        Err(_) => {
            reasons.push("a source does not answer".to_owned());
            u64::MAX
        }
    };
    let wanted = query.revision.unwrap_or(seen);
    loop {
        handle.changed.mark_unchanged();
        let status = handle.snapshot.load().status.clone();
        let there = status.converged && status.applied_revision >= wanted && reasons.is_empty();
        let over = Instant::now() >= deadline || !reasons.is_empty();
        if there || over {
            reasons.extend(status.reasons);
            if !there && reasons.is_empty() {
                reasons.push(format!("revision {} is the newest, {wanted} is waited for", status.revision));
            }
            let (revision, applied_revision) = (status.revision, status.applied_revision);
            return Ok(Json(WaitView { converged: there, revision, applied_revision, reasons }));
        }
        // Time up, or news: look again either way.
        let _ = timeout_at(deadline, handle.changed.changed()).await;
    }
}

async fn ready(State(handle): State<Handle>) -> Response {
    let status = handle.snapshot.load().status.clone();
    if status.converged {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, status.reasons.join("\n")).into_response()
}

async fn metrics_text(State(handle): State<Handle>) -> Result<String, Refused> {
    // The counters may fail to be read; the rest is told all the same.
    let counters = ask(&handle, Command::Counters).await.unwrap_or_default();
    metrics::text(&handle.snapshot.load().status, &counters)
        .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
