//! What container runtimes ask, by way of `causeway-cni` and `causeway-docker`.

use std::net::IpAddr;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serde::Deserialize;
use tokio::{sync::oneshot, time::timeout};

use super::{
    refusal::{Body, Params, Refused},
    server::{Answer, ask},
    view::{DetachView, KeptView},
};
use crate::{
    ipam::{AddressRequest, Pool},
    snapshot::{
        Attachment, COMMAND_TIMEOUT, Command, Handle, JoinRefused, JoinRequest, JoinView, KeepRequest, Reply,
        RuntimeCommand,
    },
};

pub fn routes() -> Router<Handle> {
    Router::new()
        .route("/v1/attachments", get(look).post(join).delete(leave))
        .route("/v1/attachments/keep", post(keep))
        .route("/v1/attachments/ready", get(ready))
        .route("/v1/pools", get(pools))
        .route("/v1/addresses", post(reserve).delete(release))
}

async fn join(State(handle): State<Handle>, Body(request): Body<JoinRequest>) -> Answer<JoinView> {
    refusable(&handle, |reply| RuntimeCommand::Join(request, reply)).await
}

async fn leave(State(handle): State<Handle>, Params(attachment): Params<Attachment>) -> Answer<DetachView> {
    let detached = put(&handle, |reply| RuntimeCommand::Leave(attachment, reply)).await?;
    Ok(Json(DetachView { detached }))
}

async fn look(State(handle): State<Handle>, Params(attachment): Params<Attachment>) -> Answer<JoinView> {
    let found = put(&handle, |reply| RuntimeCommand::Look(attachment, reply)).await?;
    let unknown = || Refused::new(StatusCode::NOT_FOUND, "no container is attached by that name");
    found.map(Json).ok_or_else(unknown)
}

async fn keep(State(handle): State<Handle>, Body(request): Body<KeepRequest>) -> Answer<KeptView> {
    let detached = put(&handle, |reply| RuntimeCommand::Keep(request, reply)).await?;
    Ok(Json(KeptView { detached }))
}

async fn ready(State(handle): State<Handle>) -> Answer<bool> {
    put(&handle, RuntimeCommand::Ready).await?;
    Ok(Json(true))
}

async fn pools(State(handle): State<Handle>) -> Answer<Vec<Pool>> {
    Ok(Json(put(&handle, RuntimeCommand::Pools).await?))
}

async fn reserve(State(handle): State<Handle>, Body(request): Body<AddressRequest>) -> Answer<IpAddr> {
    refusable(&handle, |reply| RuntimeCommand::Reserve(request, reply)).await
}

#[derive(Deserialize)]
struct Released {
    address: IpAddr,
}

async fn release(State(handle): State<Handle>, Params(released): Params<Released>) -> Answer<bool> {
    put(&handle, |reply| RuntimeCommand::Release(released.address, reply)).await?;
    Ok(Json(true))
}

async fn put<T>(handle: &Handle, command: impl FnOnce(Reply<T>) -> RuntimeCommand) -> Result<T, Refused> {
    ask(handle, |reply| Command::Runtime(command(reply))).await
}

/// What may be refused for now, or for good.
async fn refusable<T>(
    handle: &Handle,
    command: impl FnOnce(oneshot::Sender<Result<T, JoinRefused>>) -> RuntimeCommand,
) -> Answer<T> {
    let (reply, answer) = oneshot::channel();
    handle.commands.send(Command::Runtime(command(reply))).await.map_err(|_| Refused::ending())?;
    let answer = timeout(COMMAND_TIMEOUT, answer).await.map_err(|_| Refused::busy())?;
    let status = |passes| {
        if passes { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNPROCESSABLE_ENTITY }
    };
    let refused = answer.map_err(|_| Refused::ending())?;
    refused.map(Json).map_err(|refused| Refused::new(status(refused.passes), refused.message))
}
