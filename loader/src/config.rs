//! How is the agent configured? By a file, then the environment, then flags,
//! the later winning.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::Context;
use causeway_schema::egress::NETWORKS;
use ipnet::IpNet;
use serde::Deserialize;

use crate::{
    guard::Limits,
    ipam::{self, Pool},
    plan::Capacity,
    providers::kubernetes::Access,
};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/causeway/agent.sock";
/// Where it keeps what the next agent has to know, unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/causeway";
/// Where a DaemonSet of the system has its Leases.
const LEASE_NAMESPACE: &str = "kube-system";
/// How often everything is read back, in milliseconds.
const RESYNC: u64 = 500;
const RESYNC_LIMITS: std::ops::RangeInclusive<u64> = 10..=3_600_000;
/// When a source that has shrunk may be asked again, in milliseconds.
const SECOND_LOOK_LIMITS: std::ops::RangeInclusive<u64> = 100..=86_400_000;

/// Everything the agent needs to know, resolved.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// This node's name, as the sources have it.
    pub node: String,
    pub manifests: Option<PathBuf>,
    /// The API server, where it is a source.
    pub kubernetes: Option<Access>,
    /// Where the Docker engine answers, where it is a source.
    pub docker: Option<String>,
    /// Of the Leases by which agents tell one another how far they are; `None`: they
    /// do not.
    pub lease_namespace: Option<String>,
    /// Objects that cannot be served are told of by Events on them.
    pub events: bool,
    /// `None`: the interface of the default route.
    pub uplink: Option<String>,
    /// `None`: the namespace the agent was started in.
    pub netns: Option<PathBuf>,
    pub state_dir: PathBuf,
    /// A directory of a BPF file system, for the pins.
    pub bpffs: PathBuf,
    pub socket: PathBuf,
    /// Serves `/metrics`, `/healthz` and `/readyz` over TCP as well.
    pub metrics: Option<SocketAddr>,
    /// Tells load balancers whether to send to this node, as kube-proxy does.
    pub healthz: Option<SocketAddr>,
    pub capacity: Capacity,
    /// How often everything is read back when nothing changes.
    pub resync: Duration,
    /// When a source that shrinks is not believed at once.
    pub shrink_guard: Limits,
    /// Which messages are logged, e.g. `info,causeway::plan=debug`.
    pub log: String,
    pub log_format: LogFormat,
    /// Take packets at the uplink's driver as well.
    pub xdp: bool,
    /// Processes of the host itself may call services.
    pub host_services: bool,
    /// Containers go by the node's address to all but the native networks.
    pub masquerade: bool,
    /// Networks where containers' own addresses are known.
    pub native: Vec<IpNet>,
    /// Where containers that ask for no address get theirs; empty: in the networks that
    /// the cluster gives this node.
    pub pools: Vec<Pool>,
    /// Where container runtimes look for plugins, and for configurations of them.
    pub cni_bin: Option<PathBuf>,
    pub cni_conf: Option<PathBuf>,
    /// Ask hosts next to this node whether they are still where we send to.
    pub watch_neighbours: bool,
    pub recreate_maps: bool,
    pub force_clsact: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Text,
    Json,
}

/// What a configuration file, or the environment and flags, may say; every
/// key is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub node: Option<String>,
    pub manifests: Option<PathBuf>,
    pub kubernetes: Option<bool>,
    pub kubeconfig: Option<PathBuf>,
    pub kubernetes_server: Option<String>,
    pub docker: Option<String>,
    pub lease_namespace: Option<String>,
    pub events: Option<bool>,
    pub uplink: Option<String>,
    pub netns: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub bpffs: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub metrics: Option<SocketAddr>,
    pub healthz: Option<SocketAddr>,
    pub capacity: Option<Capacity>,
    pub resync_ms: Option<u64>,
    pub shrink_guard: Option<u8>,
    pub second_look_ms: Option<u64>,
    pub log: Option<String>,
    pub log_format: Option<LogFormat>,
    pub xdp: Option<bool>,
    pub host_services: Option<bool>,
    pub masquerade: Option<bool>,
    pub native: Option<Vec<IpNet>>,
    pub pools: Option<Vec<Pool>>,
    pub cni_bin: Option<PathBuf>,
    pub cni_conf: Option<PathBuf>,
    pub watch_neighbours: Option<bool>,
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file, and the line and key that cannot be.
    pub fn read(path: &std::path::Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let settings = Self::parse(&text).with_context(|| path.display().to_string())?;
        if let Some(capacity) = settings.capacity {
            check_capacity(capacity).with_context(|| path.display().to_string())?;
        }
        Ok(settings)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let wrong = |key: &str, error: &toml::de::Error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            anyhow::anyhow!("line {line}: {key}{}", error.message().trim().replace('\n', ", "))
        };
        let document = toml::Deserializer::parse(text).map_err(|error| wrong("", &error))?;
        serde_path_to_error::deserialize(document)
            .map_err(|error| wrong(&format!("{}: ", error.path()), error.inner()))
    }

    /// These settings, over those of a file, over the defaults.
    ///
    /// # Errors
    /// Names the setting that is missing or cannot be.
    pub fn resolve(self, file: Settings, sizes: &[Size]) -> anyhow::Result<AgentConfig> {
        let node = match self.node.or(file.node) {
            Some(node) => node,
            None => nix::unistd::gethostname().context("node")?.to_string_lossy().into_owned(),
        };
        anyhow::ensure!(!node.is_empty(), "node: the name is empty: give --node NAME");
        let resync = self.resync_ms.or(file.resync_ms).unwrap_or(RESYNC);
        anyhow::ensure!(RESYNC_LIMITS.contains(&resync), "resync: {resync} ms: use 10 ms to 1 hour");
        let shrink_guard =
            limits(self.shrink_guard.or(file.shrink_guard), self.second_look_ms.or(file.second_look_ms))?;
        let mut capacity = self.capacity.or(file.capacity).unwrap_or_default();
        sizes.iter().for_each(|size| size.set(&mut capacity));
        let native = self.native.or(file.native).unwrap_or_else(private);
        for (family, count) in [
            ("IPv4", native.iter().filter(|network| network.addr().is_ipv4()).count()),
            ("IPv6", native.iter().filter(|network| network.addr().is_ipv6()).count()),
        ] {
            anyhow::ensure!(
                count <= NETWORKS,
                "native: {count} networks of {family}: use at most {NETWORKS}, joining neighbours"
            );
        }
        let pools = self.pools.or(file.pools).unwrap_or_default();
        ipam::check(&pools).context("pools")?;
        let manifests = self.manifests.or(file.manifests);
        let docker = self.docker.or(file.docker).filter(|host| !host.is_empty());
        if let Some(host) = &docker {
            anyhow::ensure!(
                host.starts_with("unix:///"),
                "docker: {host:?} is no engine of this node: use unix:///var/run/docker.sock or the like"
            );
        }
        let access = Access {
            kubeconfig: self.kubeconfig.or(file.kubeconfig),
            server: self.kubernetes_server.or(file.kubernetes_server),
        };
        // Who says where the API server is wants it to be asked.
        let kubernetes = self.kubernetes.or(file.kubernetes).unwrap_or(access != Access::default());
        let kubernetes = kubernetes.then_some(access);
        let namespace = self.lease_namespace.or(file.lease_namespace);
        let namespace = namespace.unwrap_or_else(|| LEASE_NAMESPACE.into());
        Ok(AgentConfig {
            node,
            manifests,
            kubernetes,
            docker,
            lease_namespace: (!namespace.is_empty()).then_some(namespace),
            events: self.events.or(file.events).unwrap_or(true),
            uplink: self.uplink.or(file.uplink),
            netns: self.netns.or(file.netns),
            state_dir: self.state_dir.or(file.state_dir).unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            bpffs: self.bpffs.or(file.bpffs).unwrap_or_else(|| "/sys/fs/bpf/causeway".into()),
            socket: self.socket.or(file.socket).unwrap_or_else(|| DEFAULT_SOCKET.into()),
            metrics: self.metrics.or(file.metrics),
            healthz: self.healthz.or(file.healthz),
            capacity,
            resync: Duration::from_millis(resync),
            shrink_guard,
            log: self.log.or(file.log).unwrap_or_else(|| "info".into()),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
            xdp: self.xdp.or(file.xdp).unwrap_or_default(),
            host_services: self.host_services.or(file.host_services).unwrap_or(true),
            masquerade: self.masquerade.or(file.masquerade).unwrap_or_default(),
            native,
            pools,
            cni_bin: self.cni_bin.or(file.cni_bin),
            cni_conf: self.cni_conf.or(file.cni_conf),
            watch_neighbours: self.watch_neighbours.or(file.watch_neighbours).unwrap_or(true),
            recreate_maps: false,
            force_clsact: false,
        })
    }
}

fn limits(percent: Option<u8>, second_look: Option<u64>) -> anyhow::Result<Limits> {
    let Limits { percent: usual, patience } = Limits::default();
    let percent = percent.unwrap_or(usual);
    anyhow::ensure!(percent <= 100, "shrink_guard: {percent} percent: use 1 to 100, or 0 to turn it off");
    let millis = second_look.unwrap_or(patience.as_millis() as u64);
    anyhow::ensure!(SECOND_LOOK_LIMITS.contains(&millis), "second_look: {millis} ms: use 100 ms to 1 day");
    Ok(Limits { percent, patience: Duration::from_millis(millis) })
}

/// Networks that are nobody's on the Internet (RFC 1918, 6598, 3927, 4193).
fn private() -> Vec<IpNet> {
    let all =
        ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7"];
    all.iter().filter_map(|network| network.parse().ok()).collect()
}

/// One size of [`Capacity`], as `--capacity` gives it: `flows=1000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    key: String,
    rows: u32,
}

impl Size {
    fn set(&self, capacity: &mut Capacity) {
        for (key, rows, _) in sizes(capacity) {
            if key == self.key {
                *rows = self.rows;
            }
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut known = Capacity::default();
        let keys = sizes(&mut known).map(|(key, ..)| key).join(", ");
        let (key, rows) =
            text.split_once('=').ok_or_else(|| format!("{text:?}: use KEY=ROWS, KEY one of {keys}"))?;
        let rows = rows.parse().map_err(|_| format!("{key}: {rows:?} is no number of rows"))?;
        if !sizes(&mut known).iter().any(|(known, ..)| *known == key) {
            return Err(format!("there is no capacity {key:?}: use one of {keys}"));
        }
        let size = Size { key: key.to_owned(), rows };
        size.set(&mut known);
        check_capacity(known).map_err(|error| error.to_string())?;
        Ok(size)
    }
}

/// Refuses sizes that the maps cannot have.
fn check_capacity(mut capacity: Capacity) -> anyhow::Result<()> {
    for (key, rows, limit) in sizes(&mut capacity) {
        anyhow::ensure!((1..=limit).contains(rows), "capacity.{key} = {rows}: use 1 to {limit}");
    }
    Ok(())
}

/// Key, value and largest value of each size.
fn sizes(capacity: &mut Capacity) -> [(&'static str, &mut u32, u32); 11] {
    [
        ("frontends", &mut capacity.frontends, 1 << 24),
        ("services", &mut capacity.services, 1 << 22),
        ("backends", &mut capacity.backends, 1 << 24),
        ("arena", &mut capacity.arena, causeway_schema::Target::MAX_BASE),
        ("endpoints", &mut capacity.endpoints, 65_535),
        ("flows", &mut capacity.flows, 1 << 26),
        ("embryonic", &mut capacity.embryonic, 1 << 26),
        ("affinity", &mut capacity.affinity, 1 << 26),
        ("members", &mut capacity.members, 1 << 24),
        ("source_ranges", &mut capacity.source_ranges, 1 << 24),
        ("port_ranges", &mut capacity.port_ranges, 1 << 20),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> anyhow::Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("causeway.toml");
        std::fs::write(&path, text).unwrap();
        Settings::read(&path)
    }

    #[track_caller]
    fn refused(text: &str, words: &[&str]) {
        let error = format!("{:#}", file(text).unwrap_err());
        assert!(!error.contains('\n'), "more than a line: {error}");
        for word in ["causeway.toml"].iter().chain(words) {
            assert!(error.contains(word), "{word} in {error}");
        }
    }

    #[test]
    fn what_a_file_has_wrong_is_named() {
        refused("node = \"n1\"\n[capacity]\nflws = 3\n", &["line 3", "flws", "expected one of"]);
        refused("node = \"n1\"\nresync_ms = \"soon\"\n", &["line 2", "resync_ms", "invalid type"]);
        refused("[capacity]\nendpoints = 70000\n", &["capacity.endpoints", "65535"]);
        refused("node = \n", &["line 1"]);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Settings::read("/nowhere/causeway.toml".as_ref()).unwrap_err();
        assert!(format!("{error:#}").starts_with("read /nowhere/causeway.toml: "), "{error:#}");
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = file("node = \"file\"\nmanifests = \"/file\"\nsocket = \"/file.sock\"\nlog_format = \"json\"\nresync_ms = 100\n[capacity]\nflows = 1000\nservices = 10\n")
            .unwrap();
        let flags = Settings { node: Some("flag".into()), ..Settings::default() };
        let config = flags.resolve(file, &["flows=2000".parse().unwrap()]).unwrap();
        assert_eq!((config.node.as_str(), config.manifests), ("flag", Some("/file".into())));
        assert_eq!((config.socket, config.state_dir), ("/file.sock".into(), "/var/lib/causeway".into()));
        assert_eq!((config.resync, config.log_format), (Duration::from_millis(100), LogFormat::Json));
        let expected = Capacity { flows: 2000, services: 10, ..Capacity::default() };
        assert_eq!(config.capacity, expected);
    }

    #[test]
    fn an_api_server_is_a_source_of_its_own() {
        let resolve = |settings: Settings| settings.resolve(Settings::default(), &[]).unwrap().kubernetes;
        let server = || Some("https://192.168.0.10:6443".to_owned());
        let access = Access { kubeconfig: None, server: server() };
        assert_eq!(
            resolve(Settings { kubernetes: Some(true), ..Settings::default() }),
            Some(Access::default())
        );
        assert_eq!(resolve(Settings { kubernetes_server: server(), ..Settings::default() }), Some(access));
        let off = Settings { kubernetes: Some(false), kubernetes_server: server(), ..Settings::default() };
        assert_eq!(resolve(Settings { manifests: Some("/m".into()), ..off }), None);
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let resolve =
            |settings: Settings| settings.resolve(Settings::default(), &[]).unwrap_err().to_string();
        let settings = Settings { manifests: Some("/m".into()), resync_ms: Some(0), ..Settings::default() };
        assert!(resolve(settings).contains("resync: 0 ms"));
        let settings =
            Settings { manifests: Some("/m".into()), shrink_guard: Some(101), ..Settings::default() };
        assert!(resolve(settings).contains("shrink_guard: 101 percent"));
        let settings =
            Settings { manifests: Some("/m".into()), second_look_ms: Some(1), ..Settings::default() };
        assert!(resolve(settings).contains("second_look: 1 ms"));
        let settings = Settings { docker: Some("tcp://10.0.0.1:2375".into()), ..Settings::default() };
        assert!(resolve(settings).contains("no engine of this node"));
        let settings = Settings { node: Some(String::new()), ..Settings::default() };
        assert!(resolve(settings).contains("--node"));
    }

    #[test]
    fn a_size_names_its_key_and_range() {
        let refused = |text: &str| text.parse::<Size>().unwrap_err();
        assert!(refused("flows").contains("KEY=ROWS"));
        assert!(refused("flws=3").contains("one of frontends, "));
        assert!(refused("endpoints=0").contains("capacity.endpoints = 0: use 1 to 65535"));
        assert!(refused("flows=many").contains("no number"));
    }
}
