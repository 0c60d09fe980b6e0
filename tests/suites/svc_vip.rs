//! SVC-01: does a virtual address serve, TCP and UDP, from containers and from
//! outside, with every backend in turn and the address as the only source?

use std::{
    net::{IpAddr, SocketAddr},
    thread,
};

use causeway_testkit::{
    client::requests,
    manifest::{Port, Service},
    sentinel::assert_no_netfilter,
    topology::{Cluster, outside_address, outside_address6, vip, vip6, widen},
    wire::Protocol,
};

const REQUESTS: u64 = 10_000;

#[test]
fn ten_thousand_requests_by_each_way_without_an_error() {
    let cluster = Cluster::dual(2);
    let ports = [Port::tcp(80, 8080), Port::udp(53, 8080)];
    let servers = cluster.servers(3, 8080);
    // From outside, under its own address, a node serves what it has itself.
    for (name, number, count) in [("web", 1, 6), ("local", 2, 3)] {
        let service = Service::new(name, vip(number), &ports).dual(vip6(number));
        let backends: Vec<IpAddr> = servers[..count].iter().flat_map(|(at, _)| at.addresses()).collect();
        cluster.manifests().service(&service, &service.slice(&backends));
    }
    let client = cluster.nodes[0].container("client", 100);
    widen(&cluster.outside);
    cluster.wait_converged();

    let [own, own6] = client.addresses();
    for (netns, address, from, backends) in [
        (&client.netns, vip(1).into(), own, 6),
        (&client.netns, vip6(1).into(), own6, 6),
        (&cluster.outside, vip(2).into(), outside_address().into(), 3),
        (&cluster.outside, vip6(2).into(), outside_address6().into(), 3),
    ] {
        thread::scope(|scope| {
            for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
                let (cluster, servers) = (&cluster, &servers);
                scope.spawn(move || {
                    let to = SocketAddr::new(address, port);
                    let report = requests(netns, to, REQUESTS, protocol);
                    println!("{protocol:?} to {to} from {from}: {report}");
                    if report.failed > 0 {
                        let heard: Vec<u64> = servers.iter().map(|(_, server)| server.datagrams()).collect();
                        println!("datagrams that servers have heard: {heard:?}");
                        cluster
                            .nodes
                            .iter()
                            .for_each(|node| println!("{}", node.agent().text(&["show", "counters"])));
                    }
                    report.assert_clean(REQUESTS, to);
                    assert_eq!(report.by_server.len(), backends, "a backend was never asked: {report}");
                    assert!(report.peers_seen.keys().eq([&from]), "servers saw {:?}", report.peers_seen);
                });
            }
        });
    }
    for node in &cluster.nodes {
        assert_no_netfilter(&node.netns);
    }
    assert_no_netfilter(&client.netns);
}

#[test]
fn many_ports_of_one_address_are_apart() {
    let cluster = Cluster::dual(1);
    let servers = cluster.servers(2, 8080);
    for (index, (container, _)) in (0..).zip(&servers) {
        let service =
            Service::new(&format!("port-{index}"), vip(1), &[Port::tcp(80 + index, 8080)]).dual(vip6(1));
        cluster.manifests().service(&service, &service.slice(&container.addresses()));
    }
    let client = cluster.nodes[0].container("client", 100);
    cluster.wait_converged();
    for address in [IpAddr::from(vip(1)), vip6(1).into()] {
        for (index, (container, _)) in (0..).zip(&servers) {
            let to = SocketAddr::new(address, 80 + index);
            let report = requests(&client.netns, to, 50, Protocol::Tcp);
            report.assert_clean(50, to);
            assert!(report.by_server.keys().eq([&container.name]), "{report}");
        }
    }
}
