//! A cluster as a value: nodes with agents, containers, a switch between the
//! nodes and a client outside.
//!
//! Nodes are 192.168.77.10 and up, their pod CIDRs 10.244.N.0/24, virtual
//! addresses 10.96.0.0/16, the outside client 192.168.77.200. In a dual cluster
//! everything has an IPv6 address beside: fd00:77::/64 between the nodes,
//! fd00:10:244:N::/64 for pods, virtual addresses fd00:10:96::/112. Each cluster
//! has namespaces of its own, so many run side by side.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    agent::{Agent, Setup},
    apiserver::ApiServer,
    link::{self, Switch, address, route},
    manifest::{self, Manifests, Service},
    netns::Netns,
    offload,
    server::Server,
};

pub use crate::{
    addresses::{node_address, node_address6, outside_address, outside_address6, vip, vip6},
    container::{Container, widen},
};

/// Name of each node's uplink.
pub const UPLINK: &str = "up0";
/// Where an API server listens, as kubeadm sets it up.
pub const API_PORT: u16 = 6443;
/// How long an agent may take for what takes it milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(10);

// Fields are dropped in this order: agents before their namespaces.
pub struct Cluster {
    pub nodes: Vec<Node>,
    /// A host that knows nothing of Causeway; reaches virtual addresses
    /// through the first node.
    pub outside: Netns,
    pub switch: Switch,
}

pub struct Node {
    pub name: String,
    pub address: Ipv4Addr,
    /// With IPv6 beside IPv4.
    dual: bool,
    index: u8,
    agent: Option<Agent>,
    pub manifests: Arc<Manifests>,
    pub netns: Netns,
}

impl Cluster {
    /// Nodes that read one manifest directory. No agent runs yet.
    pub fn new(nodes: u8) -> Self {
        let shared = Arc::<Manifests>::default();
        Self::build(nodes, false, |_| shared.clone())
    }

    /// As [`Cluster::new`], of both families.
    pub fn idle(nodes: u8) -> Self {
        let shared = Arc::<Manifests>::default();
        Self::build(nodes, true, |_| shared.clone())
    }

    /// As [`Cluster::running`], of both families.
    pub fn dual(nodes: u8) -> Self {
        let mut cluster = Self::idle(nodes);
        cluster.start();
        cluster
    }

    /// As [`Cluster::dual`], with uplinks that forward, as on every node of
    /// Kubernetes.
    pub fn forwarding(nodes: u8) -> Self {
        let mut cluster = Self::idle(nodes);
        cluster.nodes.iter().for_each(Node::forward);
        cluster.start();
        cluster
    }

    /// Of both families, with an API server on the outside host that knows the
    /// nodes. No agent runs yet.
    pub fn beside_api(nodes: u8) -> (Self, ApiServer) {
        let cluster = Self::idle(nodes);
        let api = ApiServer::start(&cluster.outside, (outside_address(), API_PORT));
        cluster.nodes.iter().for_each(|node| api.apply(&node.yaml()));
        (cluster, api)
    }

    /// As [`Cluster::dual`], but the agents take everything from an API server.
    pub fn watching(nodes: u8) -> (Self, ApiServer) {
        let (mut cluster, api) = Self::beside_api(nodes);
        for node in &mut cluster.nodes {
            node.start_watching(&api, false);
        }
        cluster.wait_converged();
        (cluster, api)
    }

    /// As [`Cluster::dual`], with a configuration file for each agent.
    pub fn configured(nodes: u8, config: &str) -> Self {
        let mut cluster = Self::idle(nodes);
        for node in &mut cluster.nodes {
            node.start_with(Some(config));
        }
        cluster.wait_converged();
        cluster
    }

    /// As [`Cluster::dual`], attached as on kernels before 6.6.
    pub fn clsact(nodes: u8) -> Self {
        let mut cluster = Self::idle(nodes);
        for node in &mut cluster.nodes {
            node.start_from(Some(node.manifests.path().to_owned()), None, &["--force-clsact"]);
        }
        cluster.wait_converged();
        cluster
    }

    /// As [`Cluster::dual`], with nodes that masquerade, and a world that knows
    /// the way to them alone.
    pub fn masquerading(nodes: u8) -> Self {
        let config = "masquerade = true\nnative = [\"10.0.0.0/8\", \"fd00:10::/32\"]\n";
        let cluster = Self::configured(nodes, config);
        for node in &cluster.nodes {
            cluster.outside.ip(&format!("route del {}", node.pod_cidr()));
            cluster.outside.ip(&format!("-6 route del {}", node.pod_cidr6()));
        }
        cluster
    }

    /// As [`Cluster::dual`], with a program in the driver of each uplink, and
    /// frames between the hosts as a wire would bring them.
    pub fn xdp(nodes: u8) -> Self {
        let mut cluster = Self::idle(nodes);
        cluster.start_with_xdp(|node, config| node.start_with(Some(config)));
        cluster
    }

    /// As [`Cluster::xdp`], but the agents take everything from an API server.
    pub fn xdp_watching(nodes: u8) -> (Self, ApiServer) {
        let (mut cluster, api) = Self::beside_api(nodes);
        cluster.start_with_xdp(|node, config| node.start_watching_with(&api, config));
        (cluster, api)
    }

    fn start_with_xdp(&mut self, start: impl Fn(&mut Node, &str)) {
        offload::off(&self.outside, "eth0");
        for node in &mut self.nodes {
            offload::off(&node.netns, UPLINK);
            node.forward();
            start(node, "xdp = true\n");
        }
        self.switch.take_xdp();
        self.wait_converged();
    }

    /// Nodes that read a directory each.
    pub fn with_own_manifests(nodes: u8) -> Self {
        Self::build(nodes, false, |_| Arc::default())
    }

    /// A cluster whose agents run and have converged.
    pub fn running(nodes: u8) -> Self {
        let mut cluster = Self::new(nodes);
        cluster.start();
        cluster
    }

    fn build(nodes: u8, dual: bool, manifests: impl Fn(u8) -> Arc<Manifests>) -> Self {
        let mut switch = Switch::new();
        let outside = Netns::new();
        switch.plug(&outside, "eth0", outside_address(), 24);
        if dual {
            address(&outside, "eth0", &format!("{}/64", outside_address6()));
        }
        let nodes: Vec<_> =
            (0..nodes).map(|index| Node::new(index, dual, manifests(index), &mut switch)).collect();
        for node in &nodes {
            let via = format!("via {}", node.address);
            route(&outside, &node.pod_cidr(), &via);
            if dual {
                let via = format!("via {}", node_address6(node.index));
                route(&outside, &node.pod_cidr6(), &via);
            }
            for reader in &nodes {
                reader.manifests.write(&format!("{}.yaml", node.name), &node.yaml());
            }
        }
        route(&outside, "10.96.0.0/16", &format!("via {}", nodes[0].address));
        if dual {
            route(&outside, "fd00:10:96::/112", &format!("via {}", node_address6(0)));
        }
        Self { nodes, outside, switch }
    }

    /// Starts every agent and waits until all have converged.
    pub fn start(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
        self.wait_converged();
    }

    pub fn wait_converged(&self) {
        for node in &self.nodes {
            node.agent().wait_up(PATIENCE);
            node.agent().wait_converged(PATIENCE);
        }
    }

    /// The manifests, when the nodes share them.
    pub fn manifests(&self) -> &Manifests {
        &self.nodes[0].manifests
    }

    /// `count` containers per node, each with a server on `port` named as it is.
    pub fn servers(&self, count: u8, port: u16) -> Vec<(Container, Server)> {
        let nodes = self.nodes.iter().flat_map(|node| (0..count).map(move |index| (node, index)));
        nodes
            .map(|(node, index)| {
                let container = node.container(&format!("web-{}-{index}", node.name), 10 + index);
                let server = Server::start(&container.netns, &container.name, port);
                (container, server)
            })
            .collect()
    }

    /// As [`Cluster::servers`] on port 8080, at their IPv4 addresses the backends
    /// of a service.
    pub fn serve(&self, service: &Service, count: u8) -> Vec<(Container, Server)> {
        let servers = self.servers(count, 8080);
        let addresses: Vec<_> = servers.iter().map(|(container, _)| container.address).collect();
        self.manifests().service(service, &service.slice(&addresses));
        servers
    }
}

impl Node {
    fn new(index: u8, dual: bool, manifests: Arc<Manifests>, switch: &mut Switch) -> Self {
        let netns = Netns::new();
        let address = node_address(index);
        // Nodes have done with that long before they run containers.
        link::no_address_detection(&netns);
        switch.plug(&netns, UPLINK, address, 24);
        if dual {
            self::address(&netns, UPLINK, &format!("{}/64", node_address6(index)));
            netns.set_sysctl(&format!("net/ipv6/conf/{UPLINK}/forwarding"), "1");
        }
        Self { name: format!("n{index}"), address, dual, index, agent: None, manifests, netns }
    }

    /// Starts the agent without waiting for anything.
    pub fn start(&mut self) {
        self.start_with(None);
    }

    /// The FIB helper asks for it.
    fn forward(&self) {
        self.netns.set_sysctl(&format!("net/ipv4/conf/{UPLINK}/forwarding"), "1");
    }

    /// As [`Node::start`], with a configuration file.
    pub fn start_with(&mut self, config: Option<&str>) {
        self.start_from(Some(self.manifests.path().to_owned()), config, &[]);
    }

    /// Starts the agent with an API server as a source, and the manifests as
    /// another one if they are wanted.
    pub fn start_watching(&mut self, api: &ApiServer, with_manifests: bool) {
        let manifests = with_manifests.then(|| self.manifests.path().to_owned());
        self.start_from(manifests, Some(&format!("kubernetes_server = \"{}\"\n", api.url())), &[]);
    }

    /// As [`Node::start_watching`] the API server alone, with more lines of
    /// configuration.
    pub fn start_watching_with(&mut self, api: &ApiServer, config: &str) {
        self.start_from(None, Some(&format!("kubernetes_server = \"{}\"\n{config}", api.url())), &[]);
    }

    fn start_from(&mut self, manifests: Option<PathBuf>, config: Option<&str>, arguments: &[&str]) {
        self.agent = Some(Agent::start(Setup {
            node: self.name.clone(),
            manifests,
            netns: self.netns.path().to_owned(),
            uplink: Some(UPLINK.into()),
            config: config.map(Into::into),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            pod: None,
        }));
    }

    /// Has an agent that was started in another way.
    pub fn hold(&mut self, agent: Agent) {
        self.agent = Some(agent);
    }

    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap_or_else(|| panic!("the agent of {} was never started", self.name))
    }

    pub fn agent_mut(&mut self) -> &mut Agent {
        self.agent.as_mut().unwrap_or_else(|| panic!("the agent of {} was never started", self.name))
    }

    /// The node's pod network.
    pub fn pod_cidr(&self) -> String {
        format!("10.244.{}.0/24", self.index)
    }

    pub fn pod_cidr6(&self) -> String {
        format!("fd00:10:244:{}::/64", self.index)
    }

    /// The IPv6 address of the container that has this IPv4 address.
    fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let [.., host] = address.octets();
        self.dual.then(|| self.pod_address6(host))
    }

    /// The address of a container by its last byte.
    pub fn pod_address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.index, host)
    }

    /// And its IPv6 address, in a dual cluster.
    pub fn pod_address6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, self.index.into(), 0, 0, 0, host.into())
    }

    /// The node's own manifest.
    pub fn yaml(&self) -> String {
        let mut addresses: Vec<IpAddr> = vec![self.address.into()];
        let mut cidrs = vec![self.pod_cidr()];
        if self.dual {
            addresses.push(node_address6(self.index).into());
            cidrs.push(self.pod_cidr6());
        }
        manifest::node(&self.name, &addresses, &cidrs)
    }

    /// A new container with the address that ends in `host`.
    pub fn container(&self, name: &str, host: u8) -> Container {
        self.container_at(name, self.pod_address(host))
    }

    /// A new container with any address.
    pub fn container_at(&self, name: &str, address: Ipv4Addr) -> Container {
        let netns = Netns::new();
        self.attach(name, netns.path(), address);
        // The suites open more connections to one virtual address than the default
        // range has.
        widen(&netns);
        Container { name: name.into(), address, address6: self.address6(address), netns }
    }

    pub fn attach(&self, name: &str, netns: &Path, address: Ipv4Addr) {
        let netns = netns.to_str().unwrap();
        let addresses =
            [Some(address.to_string()), self.address6(address).map(|address| address.to_string())];
        let mut words = vec!["endpoint", "attach", name, "--netns", netns];
        for address in addresses.iter().flatten() {
            words.extend(["--address", address]);
        }
        self.agent().ask(&words);
    }

    /// Attaches, or says why not.
    pub fn try_container(&self, name: &str, host: u8) -> Result<Container, String> {
        let netns = Netns::new();
        let address = self.pod_address(host);
        let path = netns.path().to_str().unwrap();
        let text = address.to_string();
        let said = self.agent().cli(&["endpoint", "attach", name, "--netns", path, "--address", &text]);
        if said.code == 0 {
            Ok(Container { name: name.into(), address, address6: None, netns })
        } else {
            Err(said.stderr)
        }
    }

    pub fn detach(&self, name: &str) {
        self.agent().ask(&["endpoint", "detach", name]);
    }
}
