//! `causeway wait` and `converged`: does it stand, here or everywhere?

use std::{path::Path, time::Duration};

use super::{Output, render};
use crate::{
    api::{
        client::{get, get_within},
        view::WaitView,
    },
    snapshot::{COMMAND_TIMEOUT, ClusterView},
};

/// True when the revision stands on this node, or all that the sources hold now.
pub async fn here(
    revision: Option<u64>,
    patience: Duration,
    socket: &Path,
    output: Output,
) -> anyhow::Result<bool> {
    let revision = revision.map(|revision| format!("&revision={revision}")).unwrap_or_default();
    let path = format!("/v1/wait?timeout_ms={}{revision}", patience.as_millis());
    answer(get_within(patience, socket, &path).await?, output)
}

/// The same, at once.
pub async fn now(socket: &Path, output: Output) -> anyhow::Result<bool> {
    answer(get(socket, "/v1/converged").await?, output)
}

/// True when every node has what the API server has.
pub async fn everywhere(patience: Duration, socket: &Path, output: Output) -> anyhow::Result<bool> {
    let path = format!("/v1/cluster?timeout_ms={}", patience.as_millis());
    let view: ClusterView = get_within(patience + COMMAND_TIMEOUT, socket, &path).await?;
    output.print(&view, render::cluster)?;
    Ok(view.converged)
}

fn answer(view: WaitView, output: Output) -> anyhow::Result<bool> {
    output.print(&view, render::wait)?;
    Ok(view.converged)
}
