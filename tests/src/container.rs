//! A container as a value: a namespace that is attached to a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netns::Netns;

pub struct Container {
    /// Of its endpoint.
    pub name: String,
    pub address: Ipv4Addr,
    /// In a dual cluster.
    pub address6: Option<Ipv6Addr>,
    pub netns: Netns,
}

impl Container {
    /// Of a dual cluster: its IPv4 address, and its IPv6 address.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.address.into(), self.address6.unwrap().into()]
    }

    /// The manifest of the pod that it is; `labels`: `key: value, ...`.
    pub fn pod(&self, labels: &str) -> String {
        let addresses: Vec<IpAddr> =
            std::iter::once(self.address.into()).chain(self.address6.map(IpAddr::from)).collect();
        pod(&self.name, &addresses, labels)
    }
}

/// The manifest of a pod wherever it is.
pub fn pod(name: &str, addresses: &[IpAddr], labels: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let addresses: Vec<String> = addresses.iter().map(|address| format!("{{ip: \"{address}\"}}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{labels}}}}}\n\
         status: {{podIPs: [{}]}}\n",
        addresses.join(", ")
    )
}

/// As many ports as a busy client sets.
pub fn widen(netns: &Netns) {
    netns.set_sysctl("net/ipv4/ip_local_port_range", "10000 65535");
    netns.set_sysctl("net/ipv4/tcp_tw_reuse", "1");
}
