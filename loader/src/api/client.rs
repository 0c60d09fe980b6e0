//! How does the CLI reach the agent? HTTP over the UNIX socket.

use std::path::Path;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

/// Asks the agent; the answer as JSON.
///
/// # Errors
/// When no agent answers at the socket, or it refuses; the message is for the
/// one who typed the command.
pub async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> anyhow::Result<T> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("no agent answers at {}: start `causeway agent`, or give --socket", socket.display())
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let running = tokio::spawn(connection);
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "causeway")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await.context("the agent went away while it was asked")?;
    let status = response.status();
    let bytes = response.into_body().collect().await.context("the agent went away in its answer")?.to_bytes();
    drop(sender);
    running.abort();
    if !status.is_success() {
        let error: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = error.get("error").and_then(serde_json::Value::as_str);
        anyhow::bail!("{}", text.map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), str::to_owned));
    }
    serde_json::from_slice(&bytes).context("the agent's answer is no JSON that this version knows")
}

/// As [`ask`], without a body.
///
/// # Errors
/// As [`ask`].
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    ask(socket, Method::GET, path, None::<&()>).await
}

/// A value as part of a query.
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
