//! SVC-16, in part: are services served at nodes' own ports, at external
//! addresses and at those of a load balancer, with backends on this node or
//! on another? The source is kept where the answer comes back this way.

use std::net::{IpAddr, SocketAddr};

use causeway_testkit::{
    client::requests,
    manifest::{Port, Service},
    ping::ping,
    sentinel::assert_no_netfilter,
    server::Server,
    topology::{
        Cluster, PATIENCE, node_address, node_address6, outside_address, outside_address6, vip, vip6, widen,
    },
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
        here.iter().flat_map(|(at, _)| at.addresses()).collect()
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
    let own = Server::start(&cluster.nodes[0].netns, "node", 7000);
    let to = SocketAddr::new(node_address(0).into(), 7000);
    requests(&cluster.outside, to, 20, Protocol::Tcp).assert_clean(20, to);
    drop(own);
    for node in &cluster.nodes {
        assert_no_netfilter(&node.netns);
    }
}

/// As load balancers do that have no other addresses to give.
#[test]
fn a_service_at_the_nodes_own_addresses_takes_its_ports_and_no_others() {
    takes_its_ports_alone(&Cluster::dual(2));
}

/// The world knows no way to containers, and sees nodes in their place; nodes
/// see them as they are.
#[test]
fn and_so_it_does_where_containers_leave_under_those_addresses() {
    takes_its_ports_alone(&Cluster::masquerading(2));
}

fn takes_its_ports_alone(cluster: &Cluster) {
    let servers = cluster.servers(2, 8080);
    let _media: Vec<Server> =
        servers.iter().map(|(at, _)| Server::start_on(&at.netns, &at.name, &[9100, 9104])).collect();
    let [near, far] = [0, 1].map(|at| cluster.nodes[at].container(&format!("client-{at}"), 100));
    let _world = Server::start(&cluster.outside, "world", 7000);
    let _hosts: Vec<Server> =
        cluster.nodes.iter().map(|node| Server::start(&node.netns, &node.name, 7000)).collect();
    let backends: Vec<IpAddr> = servers.iter().flat_map(|(at, _)| at.addresses()).collect();
    let nodes = [0, 1].map(|at| [IpAddr::from(node_address(at)), node_address6(at).into()]);
    let given = nodes.as_flattened().iter().map(|at| format!("\"{at}\"")).collect::<Vec<_>>().join(", ");
    let ports = [Port::tcp(80, 8080), Port::udp(10_000, 9100).through(10_009)];
    let service = Service::new("web", vip(1), &ports).dual(vip6(1)).with(&format!("externalIPs: [{given}]"));
    cluster.manifests().service(&service, &service.slice(&backends));
    cluster.wait_converged();
    let clients =
        [&cluster.outside, &near.netns, &far.netns, &cluster.nodes[0].netns, &cluster.nodes[1].netns];
    for (at, address) in (0..2).flat_map(|at| nodes[at].map(|address| (at, address))) {
        for from in clients {
            for (port, protocol) in [(80, Protocol::Tcp), (10_004, Protocol::Udp)] {
                let to = SocketAddr::new(address, port);
                let report = requests(from, to, 20, protocol);
                report.assert_clean(20, to);
                assert!(report.by_server.keys().all(|name| name.starts_with("web-")), "{report}");
            }
            let to = SocketAddr::new(address, 7000);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let report = requests(from, to, 5, protocol);
                report.assert_clean(5, to);
                assert!(report.by_server.keys().eq([&cluster.nodes[at].name]), "{report}");
            }
            assert_eq!(from.run(|| ping(address, 3, PATIENCE)).unwrap(), 3, "{address}");
        }
        // The node's own connections have their answers.
        let world = if address.is_ipv4() { outside_address().into() } else { outside_address6().into() };
        let to = SocketAddr::new(world, 7000);
        requests(&cluster.nodes[at].netns, to, 20, Protocol::Tcp).assert_clean(20, to);
    }
}
