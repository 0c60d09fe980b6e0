//! A node of a cluster as a value: its namespace, its agent, and its containers.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    addresses::{node_address, node_address6},
    agent::{Agent, Setup},
    apiserver::ApiServer,
    container::{Container, widen},
    link::{self, Switch, address},
    manifest::{self, Manifests},
    netns::Netns,
};

/// Name of each node's uplink.
pub const UPLINK: &str = "up0";

pub struct Node {
    pub name: String,
    pub address: Ipv4Addr,
    families: Families,
    pub(crate) index: u8,
    agent: Option<Agent>,
    pub manifests: Arc<Manifests>,
    pub netns: Netns,
}

/// Which addresses everything has.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Families {
    V4,
    Dual,
    /// Nothing but IPv6.
    V6,
}

impl Families {
    pub(crate) fn v4(self) -> bool {
        self != Self::V6
    }

    pub(crate) fn v6(self) -> bool {
        self != Self::V4
    }

    pub(crate) fn of<T>(self, v4: T, v6: T) -> Vec<T> {
        [self.v4().then_some(v4), self.v6().then_some(v6)].into_iter().flatten().collect()
    }

    /// Plugs a host in, with an address of each.
    pub(crate) fn plug(self, switch: &mut Switch, netns: &Netns, link: &str, v4: Ipv4Addr, v6: Ipv6Addr) {
        let addresses = self.of((IpAddr::from(v4), 24), (v6.into(), 64));
        switch.plug(netns, link, addresses[0].0, addresses[0].1);
        for (more, length) in &addresses[1..] {
            address(netns, link, &format!("{more}/{length}"));
        }
    }
}

impl Node {
    pub(crate) fn new(index: u8, families: Families, manifests: Arc<Manifests>, switch: &mut Switch) -> Self {
        let netns = Netns::new();
        let address = node_address(index);
        // Nodes have done with that long before they run containers.
        link::no_address_detection(&netns);
        families.plug(switch, &netns, UPLINK, address, node_address6(index));
        if families.v6() {
            netns.set_sysctl(&format!("net/ipv6/conf/{UPLINK}/forwarding"), "1");
        }
        Self { name: format!("n{index}"), address, families, index, agent: None, manifests, netns }
    }

    /// Starts the agent without waiting for anything.
    pub fn start(&mut self) {
        self.start_with(None);
    }

    /// The FIB helper asks for it.
    pub(crate) fn forward(&self) {
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

    pub(crate) fn start_from(
        &mut self,
        manifests: Option<PathBuf>,
        config: Option<&str>,
        arguments: &[&str],
    ) {
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
        self.families.v6().then(|| self.pod_address6(host))
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
        let cidrs = self.families.of(self.pod_cidr(), self.pod_cidr6());
        manifest::node(&self.name, &self.addresses(), &cidrs)
    }

    /// Of its uplink.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.families.of(self.address.into(), node_address6(self.index).into())
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
        let addresses = [
            self.families.v4().then(|| address.to_string()),
            self.address6(address).map(|six| six.to_string()),
        ];
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
