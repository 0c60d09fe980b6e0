//! The command line. Exit codes: 0 yes or done, 1 no or failed, 2 usage.

mod agent;
mod connectivity;
mod doctor;
mod endpoint;
mod explain;
mod flow_lines;
mod ground;
mod plan;
mod rehearse;
mod render;
mod show;
mod source;
mod trace;
mod wait;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, Parser, Subcommand};
use hyper::Method;
use serde::Serialize;

use crate::{
    api::{
        client::{ask, get},
        view::UninstallView,
    },
    config::DEFAULT_SOCKET,
    snapshot::Status,
};

pub use render::Output;

/// The container dataplane without iptables: services and /32 forwarding in
/// BPF, filled by one agent per node.
#[derive(Parser, Debug)]
#[command(name = "causeway", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The agent's socket; /run/causeway/agent.sock unless given.
    #[arg(long, global = true, env = "CAUSEWAY_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the agent of this node.
    Agent(Box<agent::Arguments>),
    /// What is wrong with this node, and what mends it, with or without an agent: kernel, settings,
    /// networks that overlap, strangers. Changes nothing. Exit 0 without faults, 1 with any.
    Doctor(doctor::Arguments),
    /// Does traffic reach the services, their backends and the other nodes, by real packets? From the
    /// node and from a container. Exit 0 if nothing failed, 1 if something did.
    ConnectivityTest(connectivity::Arguments),
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
        #[arg(long, env = "CAUSEWAY_MANIFESTS", value_name = "DIR")]
        manifests: PathBuf,
    },
    /// Return when a revision stands in the kernel, read back; exit 1 if it does not.
    Wait {
        /// Everything that the sources hold now, unless given.
        #[arg(long)]
        revision: Option<u64>,
        /// How long to wait, e.g. 500ms, 30s, 2m.
        #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
        timeout: Duration,
        /// Return when all that the API server has stands on every Node.
        #[arg(long, conflicts_with = "revision")]
        cluster: bool,
    },
    /// Exit 0 if all that the sources hold now stands in the kernel, read back; 1 if not.
    Converged {
        /// Whether all that the API server has stands on every Node.
        #[arg(long)]
        cluster: bool,
    },
    /// Attach network namespaces to this node, and detach them.
    Endpoint {
        #[command(subcommand)]
        action: endpoint::Action,
    },
    /// May these two talk, which rule says so, and does the loaded program agree? Or: who serves a
    /// service? Exit 0 if they may, or somebody does; 1 if not.
    Explain(explain::Arguments),
    /// Ask about policies that do not stand yet.
    Policy {
        #[command(subcommand)]
        action: Policy,
    },
    /// Decide about what a source says.
    Source {
        #[command(subcommand)]
        action: source::Action,
    },
    /// Run the loaded program over a packet, without any effect.
    Trace(trace::Arguments),
    /// Take everything off this node: links, maps, pins, routes, interfaces.
    /// Traffic of containers ends; the agent ends too.
    Uninstall,
    /// Print the version.
    Version,
    /// Print a completion script.
    Completion { shell: clap_complete::Shell },
}

#[derive(Subcommand, Debug)]
enum Policy {
    /// Which flows would a directory's policies treat differently? Nothing is changed. Exit 0 if
    /// none, 1 if some.
    Rehearse(rehearse::Arguments),
}

/// What `version -o json` prints.
#[derive(Serialize)]
struct Version {
    version: &'static str,
    /// Raised when the layout of the maps changes.
    schema: u32,
}

/// The exit code of what cannot be meant.
const USAGE: u8 = 2;

/// Parses, runs, prints; the process's exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Agent(arguments) => agent::run(*arguments, cli.socket),
        Command::Completion { shell } => completion(shell).map(|()| true),
        Command::Version => version(cli.output).map(|()| true),
        command => {
            let socket = cli.socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
            runtime().and_then(|runtime| runtime.block_on(run(command, &socket, cli.output)))
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<rehearse::BadLines>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// True: yes, or done.
async fn run(command: Command, socket: &Path, output: Output) -> anyhow::Result<bool> {
    match command {
        Command::Agent(_) | Command::Completion { .. } | Command::Version => {}
        Command::Status => {
            let status: Status = get(socket, "/v1/status").await?;
            output.print(&status, render::status)?;
        }
        Command::ConnectivityTest(arguments) => return connectivity::run(arguments, socket, output).await,
        Command::Doctor(arguments) => return doctor::run(arguments, socket, output).await,
        Command::Show { what } => show::run(what, socket, output).await?,
        Command::Plan { manifests } => return plan::run(&manifests, socket, output).await,
        Command::Wait { timeout, cluster: true, .. } => {
            return wait::everywhere(timeout, socket, output).await;
        }
        Command::Wait { revision, timeout, .. } => {
            return wait::here(revision, timeout, socket, output).await;
        }
        Command::Converged { cluster: true } => {
            return wait::everywhere(Duration::ZERO, socket, output).await;
        }
        Command::Converged { cluster: false } => return wait::now(socket, output).await,
        Command::Endpoint { action } => endpoint::run(action, socket, output).await?,
        Command::Explain(arguments) => return explain::run(arguments, socket, output).await,
        Command::Policy { action: Policy::Rehearse(arguments) } => {
            return rehearse::run(arguments, socket, output).await;
        }
        Command::Source { action } => source::run(action, socket, output).await?,
        Command::Trace(arguments) => trace::run(arguments, socket, output).await?,
        Command::Uninstall => {
            let done: UninstallView = ask(socket, Method::POST, "/v1/uninstall", None::<&()>).await?;
            output.print(&done, |_| "uninstalled".into())?;
        }
    }
    Ok(true)
}

fn version(output: Output) -> anyhow::Result<()> {
    let version =
        Version { version: env!("CARGO_PKG_VERSION"), schema: causeway_schema::config::SCHEMA_VERSION };
    output.print(&version, |version| format!("causeway {} (maps {})", version.version, version.schema))
}

fn completion(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "causeway", &mut script);
    Ok(render::write(&mut io::stdout().lock(), &script)?)
}

/// `500ms`, `30s`, `2m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "use e.g. 500ms, 30s or 2m".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    let millis = number.checked_mul(unit).filter(|millis| *millis <= LONGEST);
    millis.map(Duration::from_millis).ok_or_else(|| "at most a day".into())
}

/// A day, in milliseconds.
const LONGEST: u64 = 24 * 60 * 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn output_and_socket_may_stand_anywhere() {
        for line in [
            "causeway -o json --socket /s show flows --limit 3",
            "causeway show flows --limit 3 -o json --socket /s",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!((cli.output, cli.socket), (Output::Json, Some("/s".into())));
            assert!(matches!(cli.command, Command::Show { what: show::What::Flows { limit: 3 } }));
        }
    }

    #[test]
    fn usage_errors_exit_with_2() {
        for line in [
            "causeway",
            "causeway nonsense",
            "causeway show",
            "causeway wait --timeout soon",
            "causeway wait --revision -1",
            "causeway status -o xml",
            "causeway endpoint attach x --netns /n",
            "causeway endpoint attach x --netns /n --address 10.0.0.300",
            "causeway endpoint attach x --netns /n --address 10.0.0.3 --label app",
            "causeway endpoint attach x --netns /n --address 10.0.0.3 --label =web",
            "causeway endpoint attach x --netns /n --address 10.0.0.3 --label app=a/b",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn every_command_and_option_is_documented() {
        let docs = include_str!("../../../docs/cli.md");
        let mut left = vec![Cli::command()];
        while let Some(command) = left.pop() {
            let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
            for option in shown.filter_map(|argument| argument.get_long()) {
                assert!(docs.contains(&format!("--{option}")), "docs/cli.md does not name --{option}");
            }
            for name in command.get_subcommands().map(clap::Command::get_name) {
                assert!(docs.contains(name), "docs/cli.md does not name the command {name}");
            }
            left.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["soon", "", "5h", "-1s", "99999999999999999999s", "18446744073709551615m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
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
