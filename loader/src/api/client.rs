//! How does the CLI reach the agent? HTTP over the UNIX socket.

use std::{io::ErrorKind, path::Path, time::Duration};

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::refusal::ErrorView;
use crate::snapshot::COMMAND_TIMEOUT;

/// Beyond what the agent itself allows an answer to take.
const MARGIN: Duration = Duration::from_secs(5);

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
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    within(COMMAND_TIMEOUT + MARGIN, socket, method, path, body).await
}

/// As [`ask`], without a body.
///
/// # Errors
/// As [`ask`].
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    within(COMMAND_TIMEOUT + MARGIN, socket, Method::GET, path, Vec::new()).await
}

/// As [`get`], for an answer that may take so long.
///
/// # Errors
/// As [`ask`].
pub async fn get_within<T: DeserializeOwned>(
    patience: Duration,
    socket: &Path,
    path: &str,
) -> anyhow::Result<T> {
    within(patience.saturating_add(MARGIN), socket, Method::GET, path, Vec::new()).await
}

/// A value as part of a query.
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

async fn within<T: DeserializeOwned>(
    patience: Duration,
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<T> {
    // A stopped agent still accepts.
    let answer = timeout(patience, exchange(socket, method, path, body)).await;
    let silent =
        || format!("the agent at {} took the question and does not answer: see its log", socket.display());
    let (status, bytes) = answer.with_context(silent)??;
    if !status.is_success() {
        let error: ErrorView = serde_json::from_slice(&bytes).unwrap_or_else(|_| ErrorView {
            error: format!("the agent says {status}: {}", String::from_utf8_lossy(&bytes).trim()),
            remedy: None,
        });
        let remedy = error.remedy.map(|remedy| format!(": {remedy}")).unwrap_or_default();
        anyhow::bail!("{}{remedy}", error.error);
    }
    serde_json::from_slice(&bytes).context("the agent's answer is no JSON that this version knows")
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<(hyper::StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let running = tokio::spawn(connection);
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
    Ok((status, bytes))
}

fn unreachable(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    let socket = socket.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            anyhow::anyhow!("no agent answers at {socket}: start `causeway agent`, or give --socket")
        }
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{socket} is not yours to use: run this as root, or join the socket's group")
        }
        _ => anyhow::anyhow!("{socket}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_query() {
        assert_eq!(escape("default/web-1 & ü"), "default%2Fweb-1%20%26%20%C3%BC");
    }

    #[tokio::test]
    async fn who_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let error = get::<serde_json::Value>(&socket, "/v1/status").await.unwrap_err().to_string();
        let expected =
            format!("no agent answers at {}: start `causeway agent`, or give --socket", socket.display());
        assert_eq!(error, expected);
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert_eq!(get::<serde_json::Value>(&socket, "/v1/status").await.unwrap_err().to_string(), expected);
    }

    #[tokio::test]
    async fn an_agent_that_is_stopped_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let asked = within::<()>(Duration::from_millis(20), &socket, Method::GET, "/v1/status", Vec::new());
        let error = asked.await.unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
    }
}
