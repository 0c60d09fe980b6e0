//! SVC-16, in part: are services served at nodes' own ports, at external
//! addresses and at those of a load balancer, with backends on this node or
//! on another? The source is kept where the answer comes back this way.

use std::net::{IpAddr, SocketAddr};

use causeway_testkit::{
    client::requests,
    manifest::{Port, Service},
    sentinel::assert_no_netfilter,
    topology::{Cluster, node_address, node_address6, outside_address, outside_address6, vip, vip6, widen},
    wire::Protocol,
};

const REQUESTS: u64 = 2000;
const NODE_PORT: u16 = 30_080;

#[test]
fn the_outside_is_served_by_every_address_and_from_every_node() {
    let cluster = Cluster::dual(2);
    let servers = cluster.servers(2, 8080);
    widen(&cluster.outside);
    let addresses = |node: usize| -> Vec<IpAddr> {
        let here = &servers[node * 2..node * 2 + 2];
        here.iter().flat_map(|(at, _)| [at.address.into(), at.address6.unwrap().into()]).collect()
    };
    // All backends on one node, so that it is plain whose source is kept.
    for (name, number, node) in [("near", 1, 0), ("far", 2, 1)] {
        let ports = [
            Port::tcp(80, 8080).at_node(NODE_PORT + number),
            Port::udp(53, 8080).at_node(NODE_PORT + number),
        ];
        let service = Service::new(name, vip(number as u8), &ports)
            .dual(vip6(number as u8))
            .with("type: NodePort")
            .with(&format!("externalIPs: [10.96.0.{}, \"fd00:10:96::{}\"]", 100 + number, 100 + number));
        cluster.manifests().service(&service, &service.slice(&addresses(node)));
    }
    cluster.wait_converged();

    for (number, kept) in [(1, true), (2, false)] {
        let node_port = NODE_PORT + number;
        let external6: IpAddr = format!("fd00:10:96::{}", 100 + number).parse().unwrap();
        // By the first node, which has the backends of the one and not of the other.
        let ways = [
            (SocketAddr::new(node_address(0).into(), node_port), None),
            (SocketAddr::new(node_address6(0).into(), node_port), None),
            (SocketAddr::new(IpAddr::from([10, 96, 0, 100 + number as u8]), 80), Some(53)),
            (SocketAddr::new(external6, 80), Some(53)),
            (SocketAddr::new(vip(number as u8).into(), 80), Some(53)),
            (SocketAddr::new(vip6(number as u8).into(), 80), Some(53)),
        ];
        for (to, udp) in ways {
            let (own, node): (IpAddr, IpAddr) = match to {
                SocketAddr::V4(_) => (outside_address().into(), node_address(0).into()),
                SocketAddr::V6(_) => (outside_address6().into(), node_address6(0).into()),
            };
            let seen = if kept { own } else { node };
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let port = if protocol == Protocol::Udp { udp.unwrap_or(to.port()) } else { to.port() };
                let to = SocketAddr::new(to.ip(), port);
                let report = requests(&cluster.outside, to, REQUESTS, protocol);
                println!("{protocol:?} to {to}: {report}");
                report.assert_clean(REQUESTS, to);
                assert_eq!(report.by_server.len(), 2, "{to}: {report}");
                assert!(report.peers_seen.keys().eq([&seen]), "{to}: servers saw {:?}", report.peers_seen);
            }
        }
    }
    // The node's other ports are its own.
    let own = causeway_testkit::server::Server::start(&cluster.nodes[0].netns, "node", 7000);
    let to = SocketAddr::new(node_address(0).into(), 7000);
    requests(&cluster.outside, to, 20, Protocol::Tcp).assert_clean(20, to);
    drop(own);
    for node in &cluster.nodes {
        assert_no_netfilter(&node.netns);
    }
}
