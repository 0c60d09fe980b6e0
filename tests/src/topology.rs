//! A cluster as a value: nodes with agents, containers, a switch between the
//! nodes and a client outside.
//!
//! Nodes are 192.168.77.10 and up, their pod CIDRs 10.244.N.0/24, virtual
//! addresses 10.96.0.0/16, the outside client 192.168.77.200. In a dual cluster
//! everything has an IPv6 address beside: fd00:77::/64 between the nodes,
//! fd00:10:244:N::/64 for pods, virtual addresses fd00:10:96::/112. Each cluster
//! has namespaces of its own, so many run side by side.

use std::{sync::Arc, time::Duration};

use crate::{
    apiserver::ApiServer,
    link::{Switch, route},
    manifest::{Manifests, Service},
    netns::Netns,
    node::Families,
    offload,
    server::Server,
};

pub use crate::{
    addresses::{node_address, node_address6, outside_address, outside_address6, vip, vip6},
    container::{Container, widen},
    node::{Node, UPLINK},
};

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

impl Cluster {
    /// Nodes that read one manifest directory. No agent runs yet.
    pub fn new(nodes: u8) -> Self {
        let shared = Arc::<Manifests>::default();
        Self::build(nodes, Families::V4, |_| shared.clone())
    }

    /// As [`Cluster::new`], of both families.
    pub fn idle(nodes: u8) -> Self {
        let shared = Arc::<Manifests>::default();
        Self::build(nodes, Families::Dual, |_| shared.clone())
    }

    /// As [`Cluster::idle`], without any IPv4 address.
    pub fn idle6(nodes: u8) -> Self {
        let shared = Arc::<Manifests>::default();
        Self::build(nodes, Families::V6, |_| shared.clone())
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
        cluster.start_xdp();
        cluster
    }

    /// Starts the agents of an idle cluster as those of [`Cluster::xdp`].
    pub fn start_xdp(&mut self) {
        self.start_xdp_with("");
    }

    /// As [`Cluster::start_xdp`], with more lines of configuration.
    pub fn start_xdp_with(&mut self, more: &str) {
        self.start_with_xdp(|node, config| node.start_with(Some(&format!("{config}{more}"))));
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
        Self::build(nodes, Families::V4, |_| Arc::default())
    }

    /// A cluster whose agents run and have converged.
    pub fn running(nodes: u8) -> Self {
        let mut cluster = Self::new(nodes);
        cluster.start();
        cluster
    }

    fn build(nodes: u8, families: Families, manifests: impl Fn(u8) -> Arc<Manifests>) -> Self {
        let mut switch = Switch::new();
        let outside = Netns::new();
        families.plug(&mut switch, &outside, "eth0", outside_address(), outside_address6());
        let nodes: Vec<_> =
            (0..nodes).map(|index| Node::new(index, families, manifests(index), &mut switch)).collect();
        for node in &nodes {
            for (cidr, via) in
                families.of(node.pod_cidr(), node.pod_cidr6()).into_iter().zip(node.addresses())
            {
                route(&outside, &cidr, &format!("via {via}"));
            }
            for reader in &nodes {
                reader.manifests.write(&format!("{}.yaml", node.name), &node.yaml());
            }
        }
        let services = families.of("10.96.0.0/16", "fd00:10:96::/112");
        for (cidr, via) in services.into_iter().zip(nodes[0].addresses()) {
            route(&outside, cidr, &format!("via {via}"));
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
