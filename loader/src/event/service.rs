//! What is said of a service, but for its backends?

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::Protocol;

/// The frontends of a service. Headless services have no address, hence none.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceObject {
    /// Virtual addresses: cluster IPs first, then external ones.
    pub addresses: Vec<IpAddr>,
    /// How many of them are the cluster's.
    pub cluster: usize,
    pub ports: Vec<ServicePort>,
    /// Boxed, because few services have any and there may be many services.
    pub options: Option<Box<ServiceOptions>>,
}

/// What few services ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// `sessionAffinity: ClientIP`: seconds after which a client that opens no
    /// new connection is forgotten, 1 to 86400.
    pub affinity: Option<u32>,
    /// Seconds that a flow may be silent, 1 to 604800.
    pub idle_timeout: Option<u32>,
    /// `causeway.io/dsr`: backends on other nodes answer clients from outside
    /// themselves.
    pub dsr: Option<Dsr>,
    /// `causeway.io/proxy-protocol`: backends hear first on each TCP connection
    /// who the client is. Never together with `dsr`.
    pub proxy: bool,
    pub source_ranges: Option<SourceRanges>,
    pub traffic: Traffic,
    pub table: Table,
}

/// How a service's backends are chosen, where that is not left to their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By Maglev, however few they are.
    pub maglev: bool,
    /// Slots of a Maglev table, at least; `None`: as the backends' number has it.
    pub slots: Option<u32>,
}

/// Which of a service's endpoints may have which of its traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// `internalTrafficPolicy`: what comes by the cluster's addresses.
    pub internal: TrafficPolicy,
    /// `externalTrafficPolicy`: what comes from outside by external addresses and
    /// node ports.
    pub external: TrafficPolicy,
    /// `trafficDistribution`, for endpoints without hints.
    pub distribution: Option<Distribution>,
    /// `healthCheckNodePort`, where a node tells how many endpoints it has; or 0.
    pub health_check: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    /// Those of the node alone, and none if it has none.
    Local,
}

/// Which endpoints are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    SameZone,
    /// Then those of the zone.
    SameNode,
}

/// How a packet reaches a backend that answers its client itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dsr {
    /// In an outer IP header.
    Ipip,
    /// As it is, by the hardware address of the next hop.
    L2,
}

impl fmt::Display for Dsr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dsr::Ipip => "ipip",
            Dsr::L2 => "l2",
        })
    }
}

/// `loadBalancerSourceRanges`: who may come to the addresses that a load
/// balancer has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRanges {
    /// Of the service's addresses, those that are not for all; sorted.
    pub addresses: Vec<IpAddr>,
    /// Sorted, without bits beyond the prefix; empty: nobody.
    pub clients: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// The name that slices refer to; empty for a lone unnamed port.
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// 1 to 65535.
    pub port: u16,
    /// The last of a range of ports that begins with `port`; `port` itself
    /// where there is no range.
    pub end_port: u16,
    /// The port at every node's own address, 0 for none; of a range, the first's.
    pub node_port: u16,
    /// Of an annotation: no slice lists it, every endpoint serves it, at the
    /// port that the client asks for.
    pub unlisted: bool,
}
