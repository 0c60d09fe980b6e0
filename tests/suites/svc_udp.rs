//! SVC-09: does a UDP client that never changes its port lose more than one
//! datagram when its backends are replaced, all gone for a while, or its
//! service is made anew? A container, and a client outside; with XDP at the
//! uplink and without.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use causeway_testkit::{
    manifest::{Port, Service},
    netns::Netns,
    topology::{Cluster, vip, vip6},
};

/// Asks until the answer comes from whom it should; how many got none, or one
/// from a server that should not be asked any more.
fn lost(netns: &Netns, socket: &UdpSocket, wanted: &[&str]) -> usize {
    netns.run(|| {
        for lost in 0..20 {
            let mut buffer = [0; 64];
            let answer = socket.send(b"who").and_then(|_| socket.recv(&mut buffer));
            match answer {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    if wanted.contains(&text.split(' ').next().unwrap_or_default()) {
                        return lost;
                    }
                }
                // An ICMP error is an answer too, but not the wanted one.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("twenty datagrams without an answer");
    })
}

#[test]
fn one_client_port_loses_at_most_one_datagram() {
    for cluster in [Cluster::xdp(1), Cluster::dual(1)] {
        backends_come_and_go(&cluster);
    }
}

fn backends_come_and_go(cluster: &Cluster) {
    let servers = cluster.servers(4, 8080);
    let names: Vec<&str> = servers.iter().map(|(container, _)| container.name.as_str()).collect();
    let client = cluster.nodes[0].container("client", 100);
    let backends = |range: std::ops::Range<usize>| -> Vec<IpAddr> {
        let chosen = servers[range].iter();
        chosen.flat_map(|(at, _)| [at.address.into(), at.address6.unwrap().into()]).collect()
    };
    let dns = Service::new("dns", vip(1), &[Port::udp(53, 8080)]).dual(vip6(1));
    let apply = |range: std::ops::Range<usize>| {
        cluster.manifests().service(&dns, &dns.slice(&backends(range)));
        cluster.nodes[0].agent().text(&["wait", "--timeout", "10s"]);
    };
    apply(0..2);
    let clients = [&client.netns, &cluster.outside];
    let addresses = [IpAddr::from(vip(1)), vip6(1).into()];
    let pairs = clients.into_iter().flat_map(|netns| addresses.map(|address| (netns, address)));
    let sockets: Vec<(&Netns, UdpSocket)> = pairs
        .map(|(netns, address)| {
            let socket = netns.run(|| {
                let own = if address.is_ipv4() { "0.0.0.0:5300" } else { "[::]:5301" };
                let socket = UdpSocket::bind(own).unwrap();
                socket.connect(SocketAddr::new(address, 53)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                socket
            });
            (netns, socket)
        })
        .collect();
    for round in 0..10 {
        let range = if round % 2 == 0 { 0..2 } else { 2..4 };
        let answered = |what: &str| {
            for (netns, socket) in &sockets {
                assert!(lost(netns, socket, &names[range.clone()]) <= 1, "{what}");
            }
        };
        apply(range.clone());
        answered("replaced as a whole");
        // None, then some: nobody answers while there is none.
        apply(0..0);
        for (netns, socket) in &sockets {
            netns.run(|| {
                socket.send(b"who").unwrap();
                assert!(socket.recv(&mut [0; 64]).is_err(), "a backend that is gone has answered");
            });
        }
        apply(range.clone());
        answered("scaled to none and back");
        cluster.manifests().remove("dns.service.yaml");
        cluster.nodes[0].agent().text(&["wait", "--timeout", "10s"]);
        apply(range.clone());
        answered("taken away and made anew");
    }
}
