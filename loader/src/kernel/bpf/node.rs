//! What are the programs told of the node they run on?

use std::{fs, io, net::IpAddr};

use causeway_schema::{Network, NodeConfig, config::flags, egress::NETWORKS, nat::Ports};
use ipnet::IpNet;

use super::{BpfError, cgroup, object::Object, sys};
use crate::plan::Family;

/// Where the kernel says which ports it gives to sockets that name none.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Of these a service may have any at every node.
pub const NODE_PORTS: (u16, u16) = (30_000, 32_767);

/// A node, as far as its programs need to know it.
pub struct Node<'a> {
    /// Of its uplink; the first of each family counts.
    pub addresses: &'a [IpNet],
    /// Networks that see containers' own addresses, if the others are to see
    /// the node's.
    pub masquerade: Option<&'a [IpNet]>,
}

/// Tells the programs.
///
/// # Errors
/// When the kernel does not say its ports, or the map cannot be written.
pub(super) fn describe(object: &Object, node: &Node) -> Result<(), BpfError> {
    let ports = ports().map_err(BpfError::call("read", EPHEMERAL))?;
    let map = object.map("CONFIG")?;
    let there: Option<NodeConfig> =
        sys::map_lookup(&map, &0_u32).map_err(BpfError::call("read map", "CONFIG"))?;
    let mut config = NodeConfig {
        trace_mark: there.map_or(0, |there| there.trace_mark),
        node_v4: node_address(node.addresses),
        node_v6: node_address(node.addresses),
        ports,
        // Unknown, it is nobody's: the sockets are left alone.
        netns: cgroup::netns_cookie().map_or([0; 2], |cookie| [cookie as u32, (cookie >> 32) as u32]),
        ..NodeConfig::new()
    };
    if let Some(native) = node.masquerade {
        config.flags |= flags::MASQUERADE;
        fill(&mut config.native_v4, native);
        fill(&mut config.native_v6, native);
    }
    sys::map_update(&map, &0_u32, &config).map_err(BpfError::call("write to map", "CONFIG"))
}

/// The first address of a family that others can answer to.
pub fn node_address<A: Family>(networks: &[IpNet]) -> A {
    let local = |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let mut addresses = networks.iter().map(IpNet::addr).filter(|address| !local(address));
    addresses.find_map(A::from_ip).unwrap_or(A::UNSPECIFIED)
}

fn fill<A: Family>(rows: &mut [Network<A>; NETWORKS], networks: &[IpNet]) {
    let of_family = networks.iter().filter_map(|network| {
        let network = network.trunc();
        Some(Network { addr: A::from_ip(network.network())?, mask: A::from_ip(network.netmask())? })
    });
    for (row, network) in rows.iter_mut().zip(of_family) {
        *row = network;
    }
}

/// The widest range that is neither for the host's own connections nor for
/// node ports: a flow's answers are never mistaken for a socket's of the host.
fn ports() -> io::Result<Ports> {
    let text = fs::read_to_string(EPHEMERAL)?;
    let mut ends = text.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return Err(io::Error::other(format!("{text:?} are no two ports")));
    };
    // A host that keeps all to itself shares them.
    Ok(widest([(first, last), NODE_PORTS]).unwrap_or(Ports::ALL))
}

/// The widest range that others leave, from 1024 on.
pub fn widest(mut taken: [(u16, u16); 2]) -> Option<Ports> {
    taken.sort_unstable();
    let mut best = None;
    let mut first = u32::from(Ports::ALL.first);
    for (from, to) in taken.into_iter().chain([(u16::MAX, u16::MAX)]) {
        // The highest port of all is nobody's, which costs nothing.
        let last = u32::from(from).saturating_sub(1);
        let most = best.map_or(0, |best: Ports| u32::from(best.last - best.first));
        if last.saturating_sub(first) > most {
            best = Some(Ports { first: first as u16, last: last as u16 });
        }
        first = first.max(u32::from(to) + 1);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_schema::{Addr, V4, V6};

    #[test]
    fn the_hosts_own_ports_are_left_to_it() {
        let range = |first, last| widest([(first, last), NODE_PORTS]).map(|ports| (ports.first, ports.last));
        assert_eq!(range(32_768, 60_999), Some((1024, 29_999)));
        assert_eq!(range(10_000, 65_535), Some((1024, 9999)));
        assert_eq!(range(1024, 32_000), Some((32_768, 65_534)));
        assert_eq!(range(1024, 65_535), None);
        assert_eq!(range(31_000, 50_000), Some((1024, 29_999)));
    }

    #[test]
    fn networks_are_prefixes() {
        let mut rows = [Network::NONE; NETWORKS];
        fill::<V4>(&mut rows, &["10.1.2.3/8".parse().unwrap(), "fc00::/7".parse().unwrap()]);
        assert!(rows[0].contains(&V4([10, 200, 0, 1])) && !rows[0].contains(&V4([11, 0, 0, 1])));
        assert_eq!(rows[1], Network::NONE);
        let link_local: [IpNet; 2] = ["fe80::1/64".parse().unwrap(), "2001:db8::5/64".parse().unwrap()];
        assert_eq!(node_address::<V6>(&link_local), V6::from_ip("2001:db8::5".parse().unwrap()).unwrap());
        assert_eq!(node_address::<V4>(&link_local), V4::UNSPECIFIED);
    }
}
