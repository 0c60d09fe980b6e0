//! `causeway agent`: settings put together, namespace entered, loop started.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use ipnet::IpNet;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    attach::Netns,
    config::{AgentConfig, LogFormat, Settings, Size},
    heap,
    ipam::Pool,
    providers::docker::DEFAULT_HOST,
    reconcile,
};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// This node's name, as the manifests have it; the host name unless given.
    #[arg(long, env = "CAUSEWAY_NODE")]
    node: Option<String>,
    /// Directory of Kubernetes YAML or JSON: Service, EndpointSlice, Endpoints, Pod, Node. Watched.
    #[arg(long, env = "CAUSEWAY_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Take services, endpoints, nodes, pods and policies from the API server of Kubernetes, as the
    /// service account of the pod that the agent runs in. May stand beside --manifests.
    #[arg(long, env = "CAUSEWAY_KUBERNETES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    kubernetes: Option<bool>,
    /// The same, with the address and the credentials of this file.
    #[arg(long, env = "CAUSEWAY_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The same, at this address, which is reached before any service is set up; e.g.
    /// https://192.168.0.10:6443.
    #[arg(long, env = "CAUSEWAY_KUBERNETES_SERVER", value_name = "URL")]
    kubernetes_server: Option<String>,
    /// Take services and the labels of containers from the Docker engine of this node; at
    /// unix:///var/run/docker.sock unless given. May stand beside other sources.
    #[arg(long, env = "CAUSEWAY_DOCKER", num_args = 0..=1, default_missing_value = DEFAULT_HOST, value_name = "URL")]
    docker: Option<String>,
    /// Namespace of the Leases by which agents tell one another how far they are; kube-system unless
    /// given, and none if empty.
    #[arg(long, env = "CAUSEWAY_LEASE_NAMESPACE", value_name = "NAME")]
    lease_namespace: Option<String>,
    /// Tell of objects of the API server that cannot be served by Events on them (the default).
    #[arg(long, env = "CAUSEWAY_EVENTS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    events: Option<bool>,
    /// Interface that leads to the other nodes; that of the default route unless given.
    #[arg(long, env = "CAUSEWAY_UPLINK", value_name = "INTERFACE")]
    uplink: Option<String>,
    /// Network namespace of the node; the one the agent is started in unless given.
    #[arg(long, env = "CAUSEWAY_NETNS", value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Where the endpoints are remembered; /var/lib/causeway unless given.
    #[arg(long, env = "CAUSEWAY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Directory of a BPF file system, for the pins; /sys/fs/bpf/causeway unless given.
    #[arg(long, env = "CAUSEWAY_BPFFS", value_name = "DIR")]
    bpffs: Option<PathBuf>,
    /// Serve metrics and probes over TCP too, e.g. 127.0.0.1:9102.
    #[arg(long, env = "CAUSEWAY_METRICS", value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Tell load balancers whether to send to this node, as kube-proxy does: /healthz and /livez,
    /// e.g. at 0.0.0.0:10256.
    #[arg(long, env = "CAUSEWAY_HEALTHZ", value_name = "ADDRESS")]
    healthz: Option<SocketAddr>,
    /// Rows of the maps, e.g. flows=1000000,services=20000.
    #[arg(long, env = "CAUSEWAY_CAPACITY", value_name = "KEY=ROWS", value_delimiter = ',')]
    capacity: Vec<Size>,
    /// How often everything is read back when nothing changes; 500ms unless given.
    #[arg(long, env = "CAUSEWAY_RESYNC", value_name = "DURATION", value_parser = super::duration)]
    resync: Option<Duration>,
    /// A source that loses so many percent of its objects of a kind at once (and had 10 or more) is
    /// not believed before it has said so twice: they are served on. 90 unless given; 0 turns it off.
    #[arg(long, env = "CAUSEWAY_SHRINK_GUARD", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    shrink_guard: Option<u8>,
    /// How long after such a loss the source is asked again, to be believed then; 30s unless given.
    #[arg(long, env = "CAUSEWAY_SECOND_LOOK", value_name = "DURATION", value_parser = super::duration)]
    second_look: Option<Duration>,
    /// What to log: error, warn, info, debug, trace, also by module (info,causeway::plan=debug).
    #[arg(long, env = "CAUSEWAY_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How to log: text or JSON; auto is text on a terminal.
    #[arg(long, env = "CAUSEWAY_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// A TOML file with the same settings; the environment and flags win.
    #[arg(long, env = "CAUSEWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Carry packets that leave again by the uplink in its driver (native XDP). Drivers without
    /// it, and packets that are more than plain, go by tc as they would otherwise.
    #[arg(long, env = "CAUSEWAY_XDP", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    xdp: Option<bool>,
    /// Let processes of the node itself call services, node ports at 127.0.0.1 and ::1 too; on
    /// unless given as false. Needs cgroup2 mounted.
    #[arg(long, env = "CAUSEWAY_HOST_SERVICES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    host_services: Option<bool>,
    /// Let containers go by the node's address to all but the native networks.
    #[arg(long, env = "CAUSEWAY_MASQUERADE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    masquerade: Option<bool>,
    /// Networks that know the way to containers and see their own addresses; the private ones
    /// (RFC 1918, 6598, 3927, 4193) unless given. At most 16 a family.
    #[arg(long, env = "CAUSEWAY_NATIVE", value_name = "CIDR", value_delimiter = ',')]
    native: Option<Vec<IpNet>>,
    /// Networks that containers get addresses of from a container runtime (CNI): this node's alone. Those
    /// of its Node's spec.podCIDRs unless given; several pools by the configuration file.
    #[arg(long, env = "CAUSEWAY_POOL", value_name = "CIDR", value_delimiter = ',')]
    pool: Vec<IpNet>,
    /// Put the plugin of container runtimes, causeway-cni, into this directory, e.g. /opt/cni/bin; it has to
    /// be beside this program.
    #[arg(long, env = "CAUSEWAY_CNI_BIN", value_name = "DIR")]
    cni_bin: Option<PathBuf>,
    /// Once everything stands, put a configuration of the plugin into this directory, e.g. /etc/cni/net.d:
    /// the node is then ready for pods.
    #[arg(long, env = "CAUSEWAY_CNI_CONF", value_name = "DIR")]
    cni_conf: Option<PathBuf>,
    /// Ask the hosts next to this node a few times a second whether they still have the hardware
    /// address that we send to; on unless false is given.
    #[arg(long, env = "CAUSEWAY_WATCH_NEIGHBOURS", value_name = "BOOL")]
    watch_neighbours: Option<bool>,
    /// Replace pinned maps of another size or version; open connections are lost.
    #[arg(long)]
    recreate_maps: bool,
    /// Take everything off this node instead, as `causeway uninstall` does; with --metrics, answer the
    /// probes from then on, so that a DaemonSet can do it on every node.
    #[arg(long)]
    uninstall: bool,
    /// Attach as on a kernel before 6.6.
    #[arg(long, hide = true)]
    force_clsact: bool,
}

/// Runs until told to stop.
///
/// # Errors
/// Names the setting, or the step that failed.
pub fn run(arguments: Arguments, socket: Option<PathBuf>) -> anyhow::Result<bool> {
    heap::keep_small();
    let uninstall = arguments.uninstall;
    let config = resolve(arguments, socket)?;
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "the agent loads BPF programs and makes interfaces: run it as root"
    );
    log(&config)?;
    if let Some(netns) = &config.netns {
        // Before any thread starts: threads inherit the namespace.
        let opened = Netns::open(netns).with_context(|| format!("netns {}", netns.display()))?;
        opened.enter().with_context(|| format!("enter netns {}", netns.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(async {
        if uninstall { reconcile::uninstall(config).await } else { reconcile::run(config).await }
    });
    // Work that blocks may hang: a name that nobody resolves, a plugin that
    // gives no credentials.
    runtime.shutdown_background();
    ended.map(|()| true)
}

fn log(config: &AgentConfig) -> anyhow::Result<()> {
    let filter: Targets = config.log.parse().with_context(|| {
        format!("log: {:?} is no filter: use e.g. info or info,causeway::plan=debug", config.log)
    })?;
    let json = match config.log_format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let filtered = tracing_subscriber::registry().with(filter);
    if json {
        filtered.with(lines.json()).init();
    } else {
        filtered.with(lines.with_ansi(std::io::stderr().is_terminal())).init();
    }
    Ok(())
}

/// File, then environment and flags; clap has put flags before the environment.
fn resolve(arguments: Arguments, socket: Option<PathBuf>) -> anyhow::Result<AgentConfig> {
    let file = arguments.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
    let given = Settings {
        node: arguments.node,
        manifests: arguments.manifests,
        kubernetes: arguments.kubernetes,
        kubeconfig: arguments.kubeconfig,
        kubernetes_server: arguments.kubernetes_server,
        docker: arguments.docker,
        lease_namespace: arguments.lease_namespace,
        events: arguments.events,
        uplink: arguments.uplink,
        netns: arguments.netns,
        state_dir: arguments.state_dir,
        bpffs: arguments.bpffs,
        socket,
        metrics: arguments.metrics,
        healthz: arguments.healthz,
        capacity: None,
        resync_ms: arguments.resync.map(|resync| resync.as_millis() as u64),
        shrink_guard: arguments.shrink_guard,
        second_look_ms: arguments.second_look.map(|time| time.as_millis() as u64),
        log: arguments.log,
        log_format: arguments.log_format,
        xdp: arguments.xdp,
        host_services: arguments.host_services,
        masquerade: arguments.masquerade,
        native: arguments.native,
        pools: (!arguments.pool.is_empty()).then(|| vec![Pool::of(arguments.pool)]),
        cni_bin: arguments.cni_bin,
        cni_conf: arguments.cni_conf,
        watch_neighbours: arguments.watch_neighbours,
    };
    let config = given.resolve(file, &arguments.capacity)?;
    anyhow::ensure!(
        arguments.uninstall || config.manifests.is_some() || config.kubernetes.is_some(),
        "manifests: no source of services: give --manifests DIR, --kubernetes, or both"
    );
    Ok(AgentConfig { recreate_maps: arguments.recreate_maps, force_clsact: arguments.force_clsact, ..config })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Limits;
    use clap::{Args, FromArgMatches};

    fn command() -> clap::Command {
        Arguments::augment_args(clap::Command::new("agent"))
    }

    #[test]
    fn every_lasting_setting_has_a_variable_of_its_name() {
        for argument in command().get_arguments().filter(|argument| argument.get_action().takes_values()) {
            let name = argument.get_long().unwrap().replace('-', "_").to_uppercase();
            assert_eq!(argument.get_env().unwrap().to_str().unwrap(), format!("CAUSEWAY_{name}"));
        }
    }

    #[test]
    fn flags_reach_the_configuration() {
        let line = "agent --node n1 --manifests /m --capacity flows=7,services=9 --resync 2s --log debug \
                    --metrics 127.0.0.1:9102 --healthz [::]:10256 --xdp --recreate-maps --shrink-guard 75 --second-look 1m";
        let matches = command().try_get_matches_from(line.split_whitespace()).unwrap();
        let arguments = Arguments::from_arg_matches(&matches).unwrap();
        let config = resolve(arguments, Some("/run/a.sock".into())).unwrap();
        assert_eq!((config.capacity.flows, config.capacity.services), (7, 9));
        assert_eq!((config.resync, config.log.as_str()), (Duration::from_secs(2), "debug"));
        assert_eq!((config.socket, config.metrics), ("/run/a.sock".into(), "127.0.0.1:9102".parse().ok()));
        assert_eq!(config.healthz, "[::]:10256".parse().ok());
        let limits = Limits { percent: 75, patience: Duration::from_secs(60) };
        assert_eq!(config.shrink_guard, limits);
        assert!(config.xdp && config.recreate_maps && !config.force_clsact);
    }

    #[test]
    fn only_who_uninstalls_needs_no_source() {
        let resolve = |line: &str| {
            let matches = command().try_get_matches_from(line.split(' ')).unwrap();
            resolve(Arguments::from_arg_matches(&matches).unwrap(), None)
        };
        assert!(resolve("agent --node n1").unwrap_err().to_string().contains("--manifests"));
        assert!(resolve("agent --node n1 --kubernetes=false").is_err());
        assert!(resolve("agent --node n1 --uninstall").is_ok());
    }

    #[test]
    fn a_wrong_size_is_a_usage_error() {
        let error = command().try_get_matches_from(["agent", "--capacity", "flws=7"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("flws"), "{error}");
    }
}
