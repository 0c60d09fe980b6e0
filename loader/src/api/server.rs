//! Who answers? The loop's snapshot, where it is enough; else the loop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::oneshot,
    time::{Instant, timeout},
};

pub use super::socket::bind;
use super::{
    policy_inputs::PolicyInputs,
    refusal::{Body, Params, Refused, unknown_path, wrong_method},
    selection_view::{self, SelectionReply},
    view::{self, DesiredView, DetachView, EndpointView, ReleaseView, UninstallView, WaitView},
    wait,
};
use crate::{
    metrics,
    model::desired::DesiredState,
    snapshot::{
        AttachRequest, COMMAND_TIMEOUT, ClusterView, Command, Counter, ExplainReply, ExplainRequest,
        FlowView, Handle, RecordedFlows, Reply, SelectionRequest, TraceReply, TraceRequest,
    },
};

/// Longest that `wait` waits when the client does not say.
const WAIT: u64 = 30_000;
/// Most flows in one answer unless the client says otherwise.
const FLOWS: usize = 1000;
/// Longest that a scrape, or a question that must be quick, waits for the loop.
const QUICK: Duration = Duration::from_secs(5);

/// Answers until the task is aborted.
pub async fn serve(listener: UnixListener, handle: Handle) {
    let router = watching()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/backends", get(backends))
        .route("/v1/nodes", get(nodes))
        .route("/v1/policies", get(policies))
        .route("/v1/egress", get(egress))
        .route("/v1/policy-inputs", get(policy_inputs))
        .route("/v1/recorded-flows", get(recorded_flows))
        .route("/v1/desired", get(whole))
        .route("/v1/endpoints", get(endpoints).post(attach).delete(detach))
        .route("/v1/endpoints/{*name}", delete(detach_path))
        .route("/v1/flows", get(flows))
        .route("/v1/counters", get(counters))
        .route("/v1/wait", get(waited))
        .route("/v1/converged", get(converged))
        .route("/v1/cluster", get(cluster))
        .route("/v1/sources/release", post(release))
        .route("/v1/trace", post(trace))
        .route("/v1/explain", post(explain))
        .route("/v1/selection", get(selection))
        .route("/v1/uninstall", post(uninstall))
        .merge(super::attachments::routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
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

/// The probes of a node that has nothing of ours any more, as is wanted.
pub async fn serve_uninstalled(address: SocketAddr) {
    let router = Router::new()
        .route("/healthz", get(async || "uninstalled\n"))
        .route("/readyz", get(async || "uninstalled\n"));
    let served = async { axum::serve(TcpListener::bind(address).await?, router).await };
    if let Err(error) = served.await {
        tracing::error!(%error, %address, "probes are not answered");
    }
}

fn watching() -> Router<Handle> {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
}

pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// Sends a command and waits for its answer.
pub(super) async fn ask<T>(handle: &Handle, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refused> {
    timeout(COMMAND_TIMEOUT, ask_patiently(handle, command)).await.map_err(|_| Refused::busy())?
}

/// As [`ask`], for as long as the caller waits.
pub(super) async fn ask_patiently<T>(
    handle: &Handle,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Refused> {
    let (reply, answer) = oneshot::channel();
    handle.commands.send(command(reply)).await.map_err(|_| Refused::ending())?;
    let answer = answer.await.map_err(|_| Refused::ending())?;
    answer.map_err(|error| Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error))
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

async fn policies(State(handle): State<Handle>) -> Answer<Vec<view::PolicyView>> {
    Ok(Json(view::policies(&*desired(&handle).await?)))
}

async fn egress(State(handle): State<Handle>) -> Answer<Vec<view::EgressView>> {
    let desired = desired(&handle).await?;
    Ok(Json(view::egresses(&desired, &handle.snapshot.load().egress)))
}

async fn policy_inputs(State(handle): State<Handle>) -> Answer<PolicyInputs> {
    Ok(Json(PolicyInputs::from(&ask(&handle, Command::PolicyGround).await?)))
}

async fn recorded_flows(State(handle): State<Handle>) -> Answer<Vec<RecordedFlows>> {
    ask(&handle, Command::RecordedFlows).await.map(Json)
}

async fn whole(State(handle): State<Handle>) -> Answer<DesiredView> {
    Ok(Json(view::desired(&*desired(&handle).await?)))
}

async fn endpoints(State(handle): State<Handle>) -> impl IntoResponse {
    let snapshot = handle.snapshot.load();
    Json(snapshot.endpoints.iter().map(|(name, endpoint)| view::endpoint(name, endpoint)).collect::<Vec<_>>())
}

async fn attach(State(handle): State<Handle>, Body(request): Body<AttachRequest>) -> Answer<EndpointView> {
    let name = request.name.clone();
    let attached = ask(&handle, |reply| Command::Attach(request, reply)).await?;
    Ok(Json(view::endpoint(&name, &attached)))
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

async fn detach(State(handle): State<Handle>, Params(named): Params<Named>) -> Answer<DetachView> {
    let detached = ask(&handle, |reply| Command::Detach(named.name, reply)).await?;
    Ok(Json(DetachView { detached }))
}

/// For `curl`: the name as the rest of the path, its `/` escaped or not.
async fn detach_path(State(handle): State<Handle>, Path(name): Path<String>) -> Answer<DetachView> {
    detach(State(handle), Params(Named { name })).await
}

async fn release(State(handle): State<Handle>, Params(Named { name }): Params<Named>) -> Answer<ReleaseView> {
    let released = ask(&handle, |reply| Command::Release(name.clone(), reply)).await?;
    Ok(Json(ReleaseView { source: name, released }))
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn flows(State(handle): State<Handle>, Params(query): Params<Limit>) -> Answer<Vec<FlowView>> {
    let limit = query.limit.unwrap_or(FLOWS);
    ask(&handle, |reply| Command::Flows { limit, reply }).await.map(Json)
}

async fn counters(State(handle): State<Handle>) -> Answer<Vec<Counter>> {
    ask(&handle, Command::Counters).await.map(Json)
}

async fn explain(State(handle): State<Handle>, Body(request): Body<ExplainRequest>) -> Answer<ExplainReply> {
    ask(&handle, |reply| Command::Explain(request, reply)).await.map(Json)
}

async fn selection(
    State(handle): State<Handle>,
    Params(request): Params<SelectionRequest>,
) -> Answer<SelectionReply> {
    let selection = ask(&handle, |reply| Command::Selection(request, reply)).await?;
    Ok(Json(selection_view::selection(selection)))
}

async fn trace(State(handle): State<Handle>, Body(request): Body<TraceRequest>) -> Answer<TraceReply> {
    ask(&handle, |reply| Command::Trace(request, reply)).await.map(Json)
}

async fn uninstall(State(handle): State<Handle>) -> Answer<UninstallView> {
    ask(&handle, Command::Uninstall).await?;
    Ok(Json(UninstallView { uninstalled: true }))
}

#[derive(Deserialize)]
struct Wait {
    /// Unless given: everything that the sources hold now.
    revision: Option<u64>,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Patience {
    timeout_ms: Option<u64>,
}

async fn waited(State(mut handle): State<Handle>, Params(query): Params<Wait>) -> Answer<WaitView> {
    let deadline = Instant::now() + Duration::from_millis(query.timeout_ms.unwrap_or(WAIT));
    wait::until(&mut handle, query.revision, deadline).await.map(Json)
}

/// Yes or no, at once: what the sources hold now either stands or does not.
async fn converged(State(mut handle): State<Handle>) -> Answer<WaitView> {
    wait::now(&mut handle, Instant::now() + QUICK).await.map(Json)
}

/// The same of all nodes: at once, or when they do.
async fn cluster(State(handle): State<Handle>, Params(query): Params<Patience>) -> Answer<ClusterView> {
    let patience = Duration::from_millis(query.timeout_ms.unwrap_or(0));
    let asked = ask_patiently(&handle, |reply| Command::Cluster(patience, reply));
    let answer = timeout(patience + COMMAND_TIMEOUT, asked).await;
    answer.map_err(|_| Refused::busy())?.map(Json)
}

async fn ready(State(handle): State<Handle>) -> Response {
    let status = handle.snapshot.load().status.clone();
    if status.converged {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", status.reasons.join("\n"))).into_response()
}

async fn metrics_text(State(handle): State<Handle>) -> Result<Response, Refused> {
    // The counters may fail to be read; the rest is told all the same.
    let counters = timeout(QUICK, ask_patiently(&handle, Command::Counters)).await;
    let counters = counters.ok().and_then(Result::ok).unwrap_or_default();
    let text = metrics::text(&handle.snapshot.load().status, &counters, &handle.latency)
        .map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(axum::http::header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
