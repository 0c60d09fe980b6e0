//! Who joins the stages? One loop: it takes what the sources say, plans,
//! writes, reads back, repairs, and tells the edges how things stand.
//!
//! Only this module imports all others.

mod agent;
mod apply;
mod attachments;
mod audit;
mod cluster;
mod commands;
mod egress;
mod endpoints;
mod events;
mod explain;
mod guard;
mod health_checks;
mod heartbeat;
mod host_ports;
mod links;
mod neighbours;
mod networks;
mod plane;
mod policies;
mod probe;
mod selection;
mod sockets;
mod sources;
mod status;
mod subjects;
mod wiring;

use std::time::{Duration, Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::config::AgentConfig;

use agent::Agent;
use sources::Sources;

/// Batches and commands that may wait for the loop.
const QUEUE: usize = 64;
/// Batches taken in one round, so that a busy source never starves the rest.
const ROUND: usize = 32;

/// Runs the agent until it is told to stop. The dataplane goes on without it.
///
/// # Errors
/// When the dataplane cannot be set up; later trouble is reported in the status.
pub async fn run(config: AgentConfig) -> anyhow::Result<()> {
    let started = Instant::now();
    let (commands, mut asked) = mpsc::channel(QUEUE);
    let (batches, mut said) = mpsc::channel(QUEUE);
    // Bound first: a second agent on the same socket must find out before it
    // touches the first one's maps.
    let listener = crate::api::server::bind(&config.socket)?;
    let sources = Sources::spawn(&config, batches).await?;
    let mut agent = Agent::start(config.clone(), sources, started).await?;
    let handle = agent.handle(commands);
    let mut report = agent.egress.report();
    agent.watch_nodes();
    let mut servers = vec![tokio::spawn(crate::api::server::serve(listener, handle.clone()))];
    servers
        .extend(config.metrics.map(|at| tokio::spawn(crate::api::server::serve_metrics(at, handle.clone()))));
    servers.extend(config.healthz.map(|at| tokio::spawn(crate::api::proxy_health::serve(at, handle))));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Absent outside systemd.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let ended = loop {
        let pause = agent.audits.until(Instant::now());
        let look = agent.guarded.until_look(Instant::now());
        let walk = agent.policies.until_walk(Instant::now());
        let judgement = agent.policies.until_judgement(Instant::now());
        tokio::select! {
            batch = said.recv() => {
                let Some(first) = batch else { break Err(anyhow::anyhow!("the sources died")) };
                let mut round = vec![first];
                while round.len() < ROUND && let Ok(batch) = said.try_recv() {
                    round.push(batch);
                }
                agent.take(round).await;
            }
            command = asked.recv() => match command {
                Some(command) => {
                    if agent.obey(command).await.is_break() {
                        break Ok(());
                    }
                }
                None => break Ok(()),
            },
            done = agent.wiring.next() => agent.go_on(done).await,
            // Started again, an agent hears everything; this one would miss it.
            error = agent.sources.died() => break Err(error),
            () = tokio::time::sleep(pause), if !agent.audits.is_under_way() => { agent.audit_next(false).await; }
            // As likely as what else is there to do.
            () = std::future::ready(()), if agent.audits.is_under_way() => {
                agent.audit_next(false).await;
                tokio::task::yield_now().await;
            }
            () = tokio::time::sleep(walk) => agent.walk_policies(false),
            () = tokio::time::sleep(judgement) => agent.judge_flows(),
            () = tokio::time::sleep(look) => agent.look_again().await,
            // The agent holds the sender.
            Ok(()) = report.changed() => agent.settle_egress().await,
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
        }
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if agent.dataplane.is_some() {
        agent.guarded.remember(true);
    }
    // Answers that are on their way get a moment.
    tokio::time::sleep(Duration::from_millis(20)).await;
    servers.iter().for_each(tokio::task::JoinHandle::abort);
    let _ = std::fs::remove_file(&config.socket);
    ended
}

/// Takes everything off the node, whichever agent has left it; then, if there is an
/// address for them, tells those who probe it so until it is told to stop: whoever
/// started it would start it again.
///
/// # Errors
/// Names what could not be taken off.
pub async fn uninstall(config: AgentConfig) -> anyhow::Result<()> {
    // An agent that runs would put back what is taken away.
    let listener = crate::api::server::bind(&config.socket)?;
    // Maps of another version go as well.
    let config = AgentConfig { recreate_maps: true, ..config };
    let sources = Sources::silent(&config).await;
    let mut agent = Agent::start(config.clone(), sources, Instant::now()).await?;
    agent.uninstall().await.map_err(anyhow::Error::msg)?;
    drop(listener);
    let _ = std::fs::remove_file(&config.socket);
    tracing::info!("everything is taken off this node");
    let Some(address) = config.metrics else { return Ok(()) };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = crate::api::server::serve_uninstalled(address) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
