//! The command line. Exit codes: 0 yes or done, 1 no or failed, 2 usage.

mod agent;
mod plan;
mod render;
mod show;
mod trace;

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand};
use hyper::Method;

use crate::{
    api::{
        client::{ask, escape, get},
        view::{EndpointView, WaitView},
    },
    config::DEFAULT_SOCKET,
    snapshot::{AttachRequest, Status},
};

pub use render::Output;

/// The container dataplane without iptables: services and /32 forwarding in
/// BPF, filled by one agent per node.
#[derive(Parser, Debug)]
#[command(name = "causeway", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The agent's socket.
    #[arg(long, global = true, env = "CAUSEWAY_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the agent of this node.
    Agent(Box<agent::Arguments>),
    /// How the node stands: revision, read-back, problems, alarms, drift.
    Status,
    /// List what the agent knows.
    Show {
        #[command(subcommand)]
        what: show::What,
    },
    /// What would change, and why, if the manifests were those of a directory.
    Plan {
        /// The directory.
        #[arg(long)]
        manifests: PathBuf,
    },
    /// Return when a revision stands in the kernel, read back; exit 1 if it does not.
    Wait {
        /// Everything that the sources hold now, unless given.
        #[arg(long)]
        revision: Option<u64>,
        /// How long to wait, e.g. 500ms, 30s, 2m.
        #[arg(long, default_value = "30s", value_parser = duration)]
        timeout: Duration,
    },
    /// Exit 0 if the kernel reads back as wanted, 1 if not.
    Converged,
    /// Attach network namespaces to this node, and detach them.
    Endpoint {
        #[command(subcommand)]
        action: Endpoint,
    },
    /// Run the loaded program over a packet, without any effect.
    Trace(trace::Arguments),
    /// Take everything off this node: links, maps, pins, routes, interfaces.
    /// Traffic of containers ends; the agent ends too.
    Uninstall,
    /// Print a completion script.
    Completion { shell: clap_complete::Shell },
}

#[derive(Subcommand, Debug)]
enum Endpoint {
    /// Give a network namespace an interface, its addresses and the gateway.
    Attach {
        /// Unique on this node, e.g. default/web-1.
        name: String,
        /// Path of the namespace, e.g. /run/netns/x or /proc/PID/ns/net.
        #[arg(long)]
        netns: PathBuf,
        /// The endpoint's addresses.
        #[arg(long, required = true, value_delimiter = ',')]
        address: Vec<IpAddr>,
        /// The interface's name inside.
        #[arg(long, default_value = "eth0")]
        interface: String,
        /// The uplink's MTU unless given.
        #[arg(long)]
        mtu: Option<u32>,
    },
    /// Take the interface away; detaching what is not there succeeds.
    Detach { name: String },
    /// List the endpoints, as `show endpoints`.
    List,
}

/// Parses, runs, prints; the process's exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Agent(arguments) => agent::run(*arguments, cli.socket),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "causeway", &mut std::io::stdout());
            Ok(true)
        }
        command => runtime().and_then(|runtime| runtime.block_on(run(command, &cli.socket, cli.output))),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// True: yes, or done.
async fn run(command: Command, socket: &std::path::Path, output: Output) -> anyhow::Result<bool> {
    match command {
        Command::Agent(_) | Command::Completion { .. } => {}
        Command::Status => {
            let status: Status = get(socket, "/v1/status").await?;
            output.print(&status, render::status)?;
        }
        Command::Show { what } => show::run(what, socket, output).await?,
        Command::Plan { manifests } => return plan::run(&manifests, socket, output).await,
        Command::Wait { revision, timeout } => {
            let revision = revision.map(|revision| format!("&revision={revision}")).unwrap_or_default();
            let path = format!("/v1/wait?timeout_ms={}{revision}", timeout.as_millis());
            return answer(get(socket, &path).await?, output);
        }
        Command::Converged => {
            let status: Status = get(socket, "/v1/status").await?;
            let Status { converged, revision, applied_revision, reasons, .. } = status;
            return answer(WaitView { converged, revision, applied_revision, reasons }, output);
        }
        Command::Endpoint { action } => endpoint(action, socket, output).await?,
        Command::Trace(arguments) => trace::run(arguments, socket, output).await?,
        Command::Uninstall => {
            let _: serde_json::Value = ask(socket, Method::POST, "/v1/uninstall", None::<&()>).await?;
            output.print(&serde_json::json!({ "uninstalled": true }), |_| "uninstalled".into())?;
        }
    }
    Ok(true)
}

async fn endpoint(action: Endpoint, socket: &std::path::Path, output: Output) -> anyhow::Result<()> {
    match action {
        Endpoint::Attach { name, netns, address, interface, mtu } => {
            // The agent's working directory is not ours.
            let netns = std::path::absolute(netns)?;
            let request = AttachRequest { name, netns, addresses: address, interface: Some(interface), mtu };
            let attached: EndpointView = ask(socket, Method::POST, "/v1/endpoints", Some(&request)).await?;
            output.print(&attached, |view| render::endpoints(std::slice::from_ref(view)))
        }
        Endpoint::Detach { name } => {
            let path = format!("/v1/endpoints?name={}", escape(&name));
            let answer: serde_json::Value = ask(socket, Method::DELETE, &path, None::<&()>).await?;
            output.print(&answer, |answer| {
                let was = answer["detached"] == serde_json::Value::Bool(true);
                format!("{name}: {}", if was { "detached" } else { "was not attached" })
            })
        }
        Endpoint::List => show::run(show::What::Endpoints, socket, output).await,
    }
}

fn answer(view: WaitView, output: Output) -> anyhow::Result<bool> {
    output.print(&view, render::wait)?;
    Ok(view.converged)
}

/// `500ms`, `30s`, `2m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("{text:?}: use e.g. 500ms, 30s or 2m"))?;
    match &text[digits..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => Err(format!("{text:?}: use e.g. 500ms, 30s or 2m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("soon").is_err());
    }

    #[test]
    fn every_shell_gets_a_completion() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "causeway", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("endpoint"));
        }
    }
}
