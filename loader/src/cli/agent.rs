//! `causeway agent`: settings put together, namespace entered, loop started.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;

use crate::{
    attach::Netns,
    config::{AgentConfig, ConfigFile, DEFAULT_SOCKET, check_capacity},
    plan::Capacity,
    reconcile,
};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// This node's name, as the manifests have it; the host name unless given.
    #[arg(long, env = "CAUSEWAY_NODE")]
    node: Option<String>,
    /// Directory of Kubernetes YAML or JSON: Service, EndpointSlice, Endpoints, Pod, Node. Watched.
    #[arg(long, env = "CAUSEWAY_MANIFESTS")]
    manifests: Option<PathBuf>,
    /// Interface that leads to the other nodes; that of the default route unless given.
    #[arg(long, env = "CAUSEWAY_UPLINK")]
    uplink: Option<String>,
    /// Network namespace of the node; the one the agent is started in unless given.
    #[arg(long, env = "CAUSEWAY_NETNS")]
    netns: Option<PathBuf>,
    /// Where the endpoints are remembered.
    #[arg(long, env = "CAUSEWAY_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Directory of a BPF file system, for the pins.
    #[arg(long, env = "CAUSEWAY_BPFFS")]
    bpffs: Option<PathBuf>,
    /// Serve metrics and probes over TCP too, e.g. 127.0.0.1:9102.
    #[arg(long, env = "CAUSEWAY_METRICS")]
    metrics: Option<SocketAddr>,
    /// A TOML file with the same settings; the environment and flags win.
    #[arg(long, env = "CAUSEWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Replace pinned maps of another size or version; open connections are lost.
    #[arg(long)]
    recreate_maps: bool,
    /// Attach as on a kernel before 6.6.
    #[arg(long, hide = true)]
    force_clsact: bool,
}

/// Runs until told to stop.
///
/// # Errors
/// Names the setting, or the step that failed.
pub fn run(arguments: Arguments, socket: PathBuf) -> anyhow::Result<bool> {
    let config = resolve(arguments, socket)?;
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "the agent loads BPF programs and makes interfaces: run it as root"
    );
    log();
    if let Some(netns) = &config.netns {
        // Before any thread starts: threads inherit the namespace.
        let opened = Netns::open(netns).with_context(|| format!("netns {}", netns.display()))?;
        opened.enter().with_context(|| format!("enter netns {}", netns.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(reconcile::run(config))?;
    Ok(true)
}

/// Text for people, JSON for collectors.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CAUSEWAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { subscriber.init() } else { subscriber.json().init() }
}

/// File, then environment and flags, then defaults.
fn resolve(arguments: Arguments, socket: PathBuf) -> anyhow::Result<AgentConfig> {
    let file = arguments.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    let node = match arguments.node.or(file.node) {
        Some(node) => node,
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    let manifests = arguments.manifests.or(file.manifests);
    let capacity = file.capacity.unwrap_or_else(Capacity::default);
    check_capacity(&capacity)?;
    let given = socket.as_os_str() != DEFAULT_SOCKET;
    Ok(AgentConfig {
        node,
        manifests: manifests.context("no source of services: give --manifests DIR")?,
        uplink: arguments.uplink.or(file.uplink),
        netns: arguments.netns.or(file.netns),
        state_dir: arguments.state_dir.or(file.state_dir).unwrap_or_else(|| "/var/lib/causeway".into()),
        bpffs: arguments.bpffs.or(file.bpffs).unwrap_or_else(|| "/sys/fs/bpf/causeway".into()),
        socket: if given { socket } else { file.socket.unwrap_or(socket) },
        metrics: arguments.metrics.or(file.metrics),
        capacity,
        resync: Duration::from_millis(file.resync_ms.unwrap_or(500)),
        recreate_maps: arguments.recreate_maps,
        force_clsact: arguments.force_clsact,
    })
}
