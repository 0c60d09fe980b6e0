//! What is known of a node before it is judged?

use std::path::PathBuf;

use ipnet::IpNet;

use crate::{
    api::view::{EndpointView, NodeView, ServiceView},
    kernel::{bpf::Hooks, netfilter::Rules},
    netlink::{Seen, SeenRoute},
    snapshot::Status,
};

#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub kernel: Kernel,
    pub network: Network,
    pub settings: Settings,
    pub strangers: Strangers,
    pub agent: Agent,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Kernel {
    pub release: String,
    /// Bits of `CapEff` (capabilities(7)).
    pub capabilities: u64,
    /// The agent's directory for pins, and whether it is in a BPF file system.
    pub bpffs: (PathBuf, bool),
    /// Whether the unified hierarchy is mounted.
    pub cgroups: bool,
    /// `None`: only the first network namespace says.
    pub jit: Option<bool>,
    /// As the kernel module probes them.
    pub features: Vec<(&'static str, bool)>,
}

#[derive(Clone, Debug, Default)]
pub struct Network {
    pub links: Vec<Seen>,
    pub routes: Vec<SeenRoute>,
    /// The uplink's name, where the agent or the operator has given it.
    pub named: Option<String>,
    /// Whether the uplink's driver runs XDP programs; `None`: unknown.
    pub native_xdp: Option<bool>,
}

impl Network {
    /// As the agent takes it: the named interface, or that of the first default
    /// route.
    pub fn uplink(&self) -> Option<&Seen> {
        match &self.named {
            Some(name) => self.links.iter().find(|seen| seen.link.name == *name),
            None => {
                let first = self.defaults().next()?;
                self.links.iter().find(|seen| seen.link.index == first)
            }
        }
    }

    /// Interfaces of default routes.
    pub fn defaults(&self) -> impl Iterator<Item = u32> {
        let defaults = self.routes.iter().filter(|seen| seen.route.destination.prefix_len() == 0);
        defaults.map(|seen| seen.route.ifindex)
    }

    pub fn name(&self, ifindex: u32) -> String {
        let link = self.links.iter().find(|seen| seen.link.index == ifindex);
        link.map_or_else(|| format!("interface {ifindex}"), |seen| seen.link.name.clone())
    }

    /// Networks that the host is connected to, with their interfaces.
    pub fn connected(&self) -> impl Iterator<Item = (&Seen, IpNet)> {
        let others = self.links.iter().filter(|seen| !seen.is_loopback);
        let networks = others.flat_map(|seen| seen.addresses.iter().map(move |network| (seen, *network)));
        networks.filter(|(_, network)| !is_link_local(network))
    }
}

pub fn is_link_local(network: &IpNet) -> bool {
    match network {
        IpNet::V4(v4) => v4.addr().is_link_local(),
        IpNet::V6(v6) => v6.addr().is_unicast_link_local(),
    }
}

/// Of `/proc/sys`, `None` where there is no such file.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub rp_filter_all: Option<u64>,
    /// This and the next three are the uplink's.
    pub rp_filter: Option<u64>,
    pub forwarding_v4: Option<u64>,
    pub forwarding_v6: Option<u64>,
    pub accept_ra: Option<u64>,
    /// Also 1 where the kernel has no IPv6.
    pub ipv6_disabled: Option<u64>,
    /// Ports of the host's own connections, first and last.
    pub local_ports: Option<(u16, u16)>,
    /// Those that it leaves alone all the same.
    pub reserved_ports: Vec<(u16, u16)>,
    /// Connections that netfilter follows, and how many it can.
    pub conntrack: Option<(u64, u64)>,
}

#[derive(Clone, Debug, Default)]
pub struct Strangers {
    /// At the uplink.
    pub hooks: Option<Hooks>,
    pub rules: Vec<Rules>,
    /// Tables of iptables-legacy, as `ip_tables nat`.
    pub legacy: Vec<String>,
    /// Other dataplanes that run in this network namespace: pid and name.
    pub processes: Vec<(u32, String)>,
}

#[derive(Clone, Debug, Default)]
pub struct Agent {
    pub socket: PathBuf,
    pub answer: Answer,
    /// Programs of pinned links, and the interfaces where they are.
    pub pins: Vec<(String, u32)>,
}

impl Agent {
    pub fn said(&self) -> Option<&Said> {
        match &self.answer {
            Answer::Said(said) => Some(said),
            Answer::Absent | Answer::Silent(_) => None,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub enum Answer {
    /// There is no socket.
    #[default]
    Absent,
    /// There is one, and nobody who answers: why.
    Silent(String),
    Said(Box<Said>),
}

#[derive(Clone, Debug, Default)]
pub struct Said {
    pub status: Status,
    pub nodes: Vec<NodeView>,
    pub services: Vec<ServiceView>,
    pub endpoints: Vec<EndpointView>,
}
