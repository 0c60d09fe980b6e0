//! SVC-09: does a UDP client that never changes its port lose more than one
//! datagram when its backends are replaced, all gone for a while, or its
//! service is made anew? A container, and a client outside; with XDP at the
//! uplink and without. And a process of the node, whose socket was given a backend.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::Range,
    time::{Duration, Instant},
};

use causeway_testkit::{
    manifest::{Port, Service},
    netns::Netns,
    topology::{Cluster, node_address, vip, vip6},
};

const NODE_PORT: u16 = 30_053;
/// Until a process of the node hears that its backend has gone.
const HEARD: Duration = Duration::from_secs(1);

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

/// One socket of the node, connected to a service.
struct Own<'a> {
    host: &'a Netns,
    to: SocketAddr,
    socket: UdpSocket,
}

impl<'a> Own<'a> {
    fn new(host: &'a Netns, any: &str, to: SocketAddr) -> Self {
        let socket = host.run(|| UdpSocket::bind((any, 0))).unwrap();
        socket.set_read_timeout(Some(HEARD)).unwrap();
        let own = Self { host, to, socket };
        own.connect().unwrap_or_else(|error| panic!("connect to {to}: {error}"));
        own
    }

    fn connect(&self) -> io::Result<()> {
        self.host.run(|| self.socket.connect(self.to))
    }

    fn ask(&self) -> io::Result<String> {
        self.host.run(|| {
            let mut buffer = [0; 64];
            self.socket.send(b"who")?;
            let length = self.socket.recv(&mut buffer)?;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            Ok(text.split(' ').next().unwrap_or_default().to_owned())
        })
    }

    /// Whoever waits for an answer hears of it.
    fn hears(&self) {
        let (begun, heard) = (Instant::now(), self.host.run(|| self.socket.recv(&mut [0; 64])));
        let error = heard.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{} after {:?}", self.to, begun.elapsed());
        assert!(self.socket.peer_addr().is_err(), "still connected");
    }
}

#[test]
fn a_process_of_the_node_hears_that_its_backend_has_gone() {
    let mut cluster = Cluster::dual(2);
    let servers = cluster.servers(4, 8080);
    let backends = |range: Range<usize>| -> Vec<IpAddr> {
        servers[range].iter().flat_map(|(at, _)| [at.address.into(), at.address6.unwrap().into()]).collect()
    };
    let ports = [Port::udp(53, 8080).at_node(NODE_PORT), Port::udp(9100, 8080).through(9109).named("range")];
    let dns = Service::new("dns", vip(1), &ports).dual(vip6(1)).with("type: NodePort");
    // It shares a backend, and keeps it.
    let other = Service::new("other", vip(2), &[Port::udp(53, 8080)]).dual(vip6(2));
    cluster.manifests().service(&other, &other.slice(&backends(0..1)));
    let apply = |range: Range<usize>| {
        cluster.manifests().service(&dns, &dns.slice(&backends(range)));
        cluster.wait_converged();
    };
    apply(0..2);
    // A handle beside the node's, whose agent is started anew below.
    let host = &Netns::at(cluster.nodes[0].netns.path());
    let by = |own: &Own, range: &Range<usize>| {
        let server = own.ask().unwrap_or_else(|error| panic!("{} of {range:?}: {error}", own.to));
        assert!(servers[range.clone()].iter().any(|(at, _)| at.name == server), "{} by {server}", own.to);
        server
    };
    let open = |range: &Range<usize>| -> Vec<(String, Own<'_>)> {
        let named = [
            ("0.0.0.0", IpAddr::from(vip(1)), 53),
            ("::", vip6(1).into(), 53),
            ("::", vip(1).to_ipv6_mapped().into(), 53),
            ("0.0.0.0", vip(1).into(), 9100),
            ("0.0.0.0", Ipv4Addr::LOCALHOST.into(), NODE_PORT),
            ("::", Ipv6Addr::LOCALHOST.into(), NODE_PORT),
            ("0.0.0.0", node_address(0).into(), NODE_PORT),
        ];
        let own = named.map(|(any, address, port)| Own::new(host, any, SocketAddr::new(address, port)));
        own.into_iter().map(|own| (by(&own, range), own)).collect()
    };
    // They name no service that changes, or none at all.
    let others = [(IpAddr::from(vip(2)), 53), (vip6(2).into(), 53), (servers[0].0.address.into(), 8080)].map(
        |(address, port)| {
            let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            Own::new(host, any, SocketAddr::new(address, port))
        },
    );
    let mut wanted = 0;
    for (round, range) in [2..4, 0..2, 2..4].into_iter().enumerate() {
        let before = if round % 2 == 0 { 0..2 } else { 2..4 };
        for what in ["replaced", "none", "made anew"] {
            let asking = open(&if what == "replaced" { before.clone() } else { range.clone() });
            match what {
                "replaced" => apply(range.clone()),
                "none" => apply(0..0),
                _ => {
                    cluster.manifests().remove("dns.service.yaml");
                    cluster.wait_converged();
                }
            }
            // Whoever has a backend that another service has too may keep it.
            let keeps = |server: &str| server == servers[0].0.name && what != "made anew";
            let gone = || asking.iter().filter(|(server, _)| !keeps(server)).map(|(_, own)| own);
            gone().for_each(Own::hears);
            wanted += gone().count() as u64;
            if what == "none" {
                assert!(gone().all(|own| own.connect().is_err()), "there is nobody");
            }
            apply(range.clone());
            for own in gone() {
                own.connect().unwrap();
                by(own, &range);
            }
            for own in &others {
                assert_eq!(own.ask().unwrap(), servers[0].0.name, "{what}: {}", own.to);
            }
        }
    }
    let agent = cluster.nodes[0].agent();
    assert_eq!(agent.status().sockets_ended, wanted);
    assert!(agent.get("/metrics").contains(&format!("causeway_sockets_ended_total {wanted}\n")));

    // While no agent was there to see it.
    let asking = open(&(2..4));
    cluster.nodes[0].agent_mut().kill9();
    cluster.manifests().service(&dns, &dns.slice(&backends(0..2)));
    cluster.nodes[0].agent_mut().restart();
    cluster.wait_converged();
    asking.iter().for_each(|(_, own)| own.hears());
}
