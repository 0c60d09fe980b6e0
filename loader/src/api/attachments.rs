//! What container runtimes ask, by way of `causeway-cni`.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    refusal::{Body, Params, Refused},
    server::{Answer, ask},
    view::{DetachView, KeptView},
};
use crate::snapshot::{Attachment, COMMAND_TIMEOUT, Command, Handle, JoinRequest, JoinView, KeepRequest};

pub fn routes() -> Router<Handle> {
    Router::new()
        .route("/v1/attachments", get(look).post(join).delete(leave))
        .route("/v1/attachments/keep", post(keep))
        .route("/v1/attachments/ready", get(ready))
}

async fn join(State(handle): State<Handle>, Body(request): Body<JoinRequest>) -> Answer<JoinView> {
    let (reply, answer) = oneshot::channel();
    handle.commands.send(Command::Join(request, reply)).await.map_err(|_| Refused::ending())?;
    let answer = timeout(COMMAND_TIMEOUT, answer).await.map_err(|_| Refused::busy())?;
    let status = |passes| {
        if passes { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNPROCESSABLE_ENTITY }
    };
    let refused = answer.map_err(|_| Refused::ending())?;
    refused.map(Json).map_err(|refused| Refused::new(status(refused.passes), refused.message))
}

async fn leave(State(handle): State<Handle>, Params(attachment): Params<Attachment>) -> Answer<DetachView> {
    let detached = ask(&handle, |reply| Command::Leave(attachment, reply)).await?;
    Ok(Json(DetachView { detached }))
}

async fn look(State(handle): State<Handle>, Params(attachment): Params<Attachment>) -> Answer<JoinView> {
    let found = ask(&handle, |reply| Command::Look(attachment, reply)).await?;
    let unknown = || Refused::new(StatusCode::NOT_FOUND, "no container is attached by that name");
    found.map(Json).ok_or_else(unknown)
}

async fn keep(State(handle): State<Handle>, Body(request): Body<KeepRequest>) -> Answer<KeptView> {
    let detached = ask(&handle, |reply| Command::Keep(request, reply)).await?;
    Ok(Json(KeptView { detached }))
}

async fn ready(State(handle): State<Handle>) -> Answer<bool> {
    ask(&handle, Command::Ready).await?;
    Ok(Json(true))
}
