//! What does Docker ask for a container, and what is it told? A small program that
//! is always there: Docker waits long for a driver that does not answer, so this
//! one does, within a second where the agent is dead or stopped; one that answers and
//! is busy is waited for. It keeps no more than which networks there are; addresses
//! and endpoints are the agent's.

mod driver;
mod networks;
mod ports;
mod words;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri},
};
use clap::Parser;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    api::server::bind,
    config::{DEFAULT_SOCKET, DEFAULT_STATE_DIR},
    event::container::DRIVER,
    runtime::Agent,
    snapshot::COMMAND_TIMEOUT,
};
use driver::Driver;

/// How long it takes to find out that nobody is there.
const BRIEFLY: Duration = Duration::from_millis(400);

/// The network and IPAM driver of Docker: asks the agent of this node.
#[derive(Parser)]
#[command(name = "causeway-docker", version)]
struct Arguments {
    /// Where Docker finds it; called causeway.sock, for a driver is called as its socket.
    #[arg(
        long,
        env = "CAUSEWAY_DOCKER_PLUGIN",
        value_name = "FILE",
        default_value = "/run/docker/plugins/causeway.sock"
    )]
    plugin: PathBuf,
    /// The agent's.
    #[arg(long, env = "CAUSEWAY_SOCKET", value_name = "FILE", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// The agent's, in which Docker's networks are remembered as well.
    #[arg(long, env = "CAUSEWAY_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

/// Runs until told to stop.
pub fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let is_named = arguments.plugin.file_stem().is_some_and(|name| name == DRIVER);
    anyhow::ensure!(is_named, "--plugin {}: call it {DRIVER}.sock", arguments.plugin.display());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let agent = Agent::new(arguments.socket.clone(), COMMAND_TIMEOUT, BRIEFLY);
    let state_dir = &arguments.state_dir;
    let driver = Driver::new(agent, state_dir)
        .with_context(|| format!("{}: the networks that Docker has made", state_dir.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(&arguments.plugin, Arc::new(driver)));
    // Answers that are still under way are to nobody.
    runtime.shutdown_background();
    ended
}

async fn serve(plugin: &Path, driver: Arc<Driver>) -> anyhow::Result<()> {
    let listener = bind(plugin)?;
    let router = Router::new().fallback(call).with_state(driver);
    let (mut terminated, mut interrupted) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = async move {
        tokio::select! { _ = terminated.recv() => (), _ = interrupted.recv() => () }
    };
    tracing::info!(plugin = %plugin.display(), "Docker is answered");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served?,
        () = told => {}
    }
    // Nobody is to wait for an answer from it.
    let _ = fs::remove_file(plugin);
    Ok(())
}

async fn call(State(driver): State<Arc<Driver>>, uri: Uri, body: Bytes) -> (StatusCode, Json<Value>) {
    let method = uri.path().trim_start_matches('/').to_owned();
    let name = method.clone();
    // It waits for the agent; others are answered meanwhile.
    let answer = tokio::task::spawn_blocking(move || driver.call(&method, &body)).await;
    match answer.unwrap_or_else(|error| Err(format!("the answer was lost: {error}"))) {
        Ok(answer) => (StatusCode::OK, Json(answer)),
        Err(message) => {
            tracing::warn!(call = %name, %message, "refused");
            (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"Err": message})))
        }
    }
}
