//! SVC-20: do backends that ask for it hear who their client is, before all else,
//! wherever they and the client are?

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    sync::mpsc::Receiver,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use causeway_testkit::{
    client::{request, requests},
    direct::{self, DSR, counted, frontends, of_both},
    manifest::{Port, Service, Slice},
    netns::Netns,
    server::Server,
    told::{self, Header, PROXY, Told, carried, connect, greeted, hear_back, say, serve},
    topology::{Cluster, Container, Node, PATIENCE, UPLINK, vip, vip6, widen},
    wire::Protocol,
    xdp::Lose,
};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

const LENGTH: usize = 2 << 20;

/// A cluster of two nodes, with a server on each that is to be told, beside one
/// of datagrams.
struct Rig {
    cluster: Cluster,
    servers: Vec<(Container, Server)>,
    told: Vec<Receiver<Result<Told>>>,
}

impl Rig {
    fn new(cluster: Cluster) -> Self {
        let servers = cluster.servers(1, 8080);
        let told = servers.iter().map(|(container, _)| serve(&container.netns)).collect();
        widen(&cluster.outside);
        Self { cluster, servers, told }
    }

    /// The service has the backend of this node.
    fn served_by(&self, node: usize) {
        let service = told::service("told");
        self.cluster.manifests().service(&service, &self.slice(node));
        self.cluster.wait_converged();
    }

    fn slice(&self, node: usize) -> Slice {
        told::service("told").slice(&of_both(&[&self.servers[node].0]))
    }

    /// What the server of this node hears next.
    fn heard(&self, node: usize) -> Told {
        self.told[node].recv_timeout(PATIENCE).unwrap().unwrap()
    }

    fn is_silent(&self) {
        for told in &self.told {
            assert!(told.try_recv().is_err());
        }
    }
}

/// TCP flows of a node, as `causeway show flows` has them: their states.
fn states(node: &Node) -> Vec<String> {
    let flows = node.agent().ask(&["show", "flows"]);
    let flows = flows.as_array().unwrap().iter().filter(|flow| flow["protocol"] == "TCP");
    flows.map(|flow| flow["state"].as_str().unwrap().to_owned()).collect()
}

fn exchange(stream: &TcpStream) {
    say(stream, "after the greeting").unwrap();
    hear_back(stream, "after the greeting").unwrap();
}

fn vips() -> [SocketAddr; 2] {
    [frontends()[0], frontends()[1]]
}

#[test]
fn backends_hear_who_their_client_is() {
    // Frames as a wire brings them, with XDP; and super-packets.
    for cluster in [Cluster::xdp(2), Cluster::dual(2)] {
        let rig = Rig::new(cluster);
        let client = rig.cluster.nodes[0].container("client", 100);
        for node in [0, 1] {
            rig.served_by(node);
            let outside = frontends().map(|to| (&rig.cluster.outside, to));
            let [near, own_backend] =
                [&client.netns, &rig.servers[0].0.netns].map(|netns| vips().map(|to| (netns, to)));
            let mut open = Vec::new();
            for (netns, to) in outside.into_iter().chain(near).chain(own_backend) {
                // One waits to hear of the server, one speaks at once.
                let stream = connect(netns, to);
                greeted(&stream).unwrap_or_else(|error| panic!("{to} at node {node}: {error}"));
                exchange(&stream);
                let hasty = connect(netns, to);
                say(&hasty, "at once").unwrap();
                greeted(&hasty).unwrap_or_else(|error| panic!("{to} at node {node}, at once: {error}"));
                hear_back(&hasty, "at once").unwrap();
                for stream in [&stream, &hasty] {
                    let told = rig.heard(node);
                    let own = stream.local_addr().unwrap();
                    assert_eq!((told.header.source, told.header.destination), (own, to), "{told:?}");
                }
                open.extend([stream, hasty]);
            }
            // From now on they are flows like any.
            let states = states(&rig.cluster.nodes[0]);
            assert!(states.len() >= 2 * open.len(), "{states:?}");
            assert!(states.iter().all(|state| state == "established"), "{states:?}");
            for to in frontends() {
                requests(&rig.cluster.outside, to, 20, Protocol::Udp).assert_clean(20, to);
            }
            drop(open);
            rig.is_silent();
        }
        let shown = rig.cluster.nodes[0].agent().text(&["show", "services"]);
        assert!(shown.contains("proxy-protocol v2"), "{shown}");
        let services = rig.cluster.nodes[0].agent().ask(&["show", "services"]);
        assert!(services.as_array().unwrap().iter().all(|service| service["proxy_protocol"] == "v2"));
        assert_eq!(counted(&rig.cluster.nodes[0], "drop_expired"), 0);
    }
}

#[test]
fn streams_are_whole_both_ways() {
    for cluster in [Cluster::xdp(2), Cluster::dual(2)] {
        let rig = Rig::new(cluster);
        let client = rig.cluster.nodes[0].container("client", 100);
        for node in [0, 1] {
            rig.served_by(node);
            for netns in [&rig.cluster.outside, &client.netns] {
                for to in vips() {
                    // Close behind the header, and after it.
                    for waits in [false, true] {
                        let stream = connect(netns, to);
                        if waits {
                            greeted(&stream).unwrap();
                        }
                        assert!(carried(&stream, LENGTH), "{to}: other bytes came back");
                        assert_eq!(rig.heard(node).header.source, stream.local_addr().unwrap());
                    }
                }
            }
        }
    }
}

#[test]
fn a_header_that_was_lost_is_sent_again() {
    let rig = Rig::new(Cluster::dual(2));
    rig.served_by(1);
    // Ethernet, IP, TCP with time stamps, and the header.
    for (to, length) in vips().into_iter().zip([14 + 20 + 32 + 28, 14 + 40 + 32 + 52]) {
        for hasty in [false, true] {
            let lose = Lose::at(&rig.cluster.nodes[1].netns, UPLINK, length);
            let stream = connect(&rig.cluster.outside, to);
            let since = Instant::now();
            if hasty {
                say(&stream, "first words").unwrap();
            }
            thread::sleep(Duration::from_millis(if hasty { 20 } else { 300 }));
            assert!(states(&rig.cluster.nodes[0]).iter().any(|state| state == "header"), "it was not lost");
            rig.is_silent();
            drop(lose);
            greeted(&stream).unwrap_or_else(|error| panic!("{to}, hasty {hasty}: {error}"));
            println!("{to}, hasty {hasty}: greeted after {:?}", since.elapsed());
            if hasty {
                hear_back(&stream, "first words").unwrap();
            }
            assert!(carried(&stream, LENGTH), "{to}: other bytes came back");
            assert_eq!(rig.heard(1).header.source, stream.local_addr().unwrap());
        }
    }
}

#[test]
fn a_client_that_gives_up_before_the_header_leaves_nothing() {
    let rig = Rig::new(Cluster::dual(2));
    rig.served_by(1);
    for (to, length) in vips().into_iter().zip([14 + 20 + 32 + 28, 14 + 40 + 32 + 52]) {
        let lose = Lose::at(&rig.cluster.nodes[1].netns, UPLINK, length);
        let stream = connect(&rig.cluster.outside, to);
        let client = stream.local_addr().unwrap();
        reset_at_close(&stream);
        drop(stream);
        drop(lose);
        thread::sleep(Duration::from_millis(100));
        assert_eq!(embryos(&rig.servers[1].0.netns), 0, "{to}: the server still waits");
        rig.is_silent();
        // The same ports again, for a connection that is told of.
        let again = rig.cluster.outside.run(|| bound(client, to));
        greeted(&again).unwrap();
        assert_eq!(rig.heard(1).header.source, client);
    }
}

/// A close that resets.
fn reset_at_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    socket::setsockopt(stream, sockopt::Linger, &linger).unwrap();
}

/// Connections of which the server has heard no more than a SYN, or no header.
fn embryos(netns: &Netns) -> usize {
    let files = netns.run(|| {
        ["tcp", "tcp6"].map(|name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap())
    });
    let port = format!(":{:04X}", told::PORT);
    let lines = files.iter().flat_map(|file| file.lines().skip(1));
    let of = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) != Some("0A")
    };
    lines.filter(of).count()
}

/// A connection from an address and a port.
fn bound(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let own = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    socket::setsockopt(&own, sockopt::ReuseAddr, &true).unwrap();
    socket::bind(own.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    socket::connect(own.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    let stream = TcpStream::from(own);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn connections_outlast_the_agent_and_end_by_their_silence() {
    let mut rig = Rig::new(Cluster::dual(2));
    let service = told::service("told").annotated("causeway.io/idle-timeout", "3s");
    // Who is remembered is told of as others are.
    let service = service.with("sessionAffinity: ClientIP");
    rig.cluster.manifests().service(&service, &rig.slice(1));
    rig.cluster.wait_converged();
    let mut streams: Vec<_> = vips().map(|to| connect(&rig.cluster.outside, to)).into();
    rig.cluster.nodes[0].agent_mut().kill9();
    streams.extend(vips().map(|to| connect(&rig.cluster.outside, to)));
    streams.iter().for_each(|stream| greeted(stream).unwrap());
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    streams.iter().for_each(exchange);
    let told: BTreeSet<_> = streams.iter().map(|_| rig.heard(1).header.source).collect();
    assert_eq!(told, streams.iter().map(|stream| stream.local_addr().unwrap()).collect());
    for stream in &streams {
        let mut reader = stream;
        let error = reader.read(&mut [0; 1]).expect_err("only closed");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let deadline = Instant::now() + PATIENCE;
    while embryos(&rig.servers[1].0.netns) != 0 {
        assert!(Instant::now() < deadline, "the server has not heard of it");
        thread::sleep(Duration::from_millis(50));
    }
}

/// What else a service may have: a range, all its ports, other backends for clients
/// from outside, a policy about where they come from.
#[test]
fn whichever_way_they_are_reached_backends_hear_it() {
    let rig = Rig::new(Cluster::dual(2));
    let client = rig.cluster.nodes[0].container("client", 100);
    let service = |name: &str, host: u8, port: Port| {
        Service::new(name, vip(host), &[port])
            .dual(vip6(host))
            .annotated(PROXY.0, PROXY.1)
            .with("type: LoadBalancer")
            .with("externalTrafficPolicy: Local")
            .with("loadBalancerSourceRanges: [0.0.0.0/0, \"::/0\"]")
            .with(&format!("externalIPs: [10.96.0.10{host}, \"fd00:10:96::10{host}\"]"))
    };
    let range = service("range", 2, Port::tcp(7000, told::PORT - 5).through(7009));
    let all = service("all", 3, Port::tcp(80, 80)).annotated("causeway.io/whole-address", "true");
    for service in [&range, &all] {
        let slice = service.slice(&of_both(&[&rig.servers[0].0])).placed();
        rig.cluster.manifests().service(service, &slice);
    }
    rig.cluster.wait_converged();
    let doors = [(102, 7005), (103, told::PORT)].map(|(host, port)| {
        let addresses = [format!("10.96.0.{host}"), format!("fd00:10:96::{host}")];
        addresses.map(|address| SocketAddr::new(address.parse().unwrap(), port))
    });
    for &to in doors.as_flattened() {
        for netns in [&rig.cluster.outside, &client.netns] {
            let stream = connect(netns, to);
            greeted(&stream).unwrap_or_else(|error| panic!("{to}: {error}"));
            exchange(&stream);
            let header = rig.heard(0).header;
            assert_eq!((header.source, header.destination), (stream.local_addr().unwrap(), to));
        }
    }
}

#[test]
fn connections_stay_as_they_began_when_the_annotation_comes_and_goes() {
    let rig = Rig::new(Cluster::dual(2));
    rig.served_by(1);
    let told = vips().map(|to| connect(&rig.cluster.outside, to));
    told.iter().for_each(|stream| greeted(stream).unwrap());
    let plain = direct::service_at("told", told::PORT);
    rig.cluster.manifests().service(&plain, &rig.slice(1));
    rig.cluster.wait_converged();
    told.iter().for_each(exchange);
    // What one says here itself is the header.
    let untold = vips().map(|to| connect(&rig.cluster.outside, to));
    rig.served_by(1);
    for (stream, to) in untold.iter().zip(vips()) {
        let own = stream.local_addr().unwrap();
        let header = Header { source: own, destination: to };
        let mut writer = stream;
        writer.write_all(&header.bytes()).unwrap();
        greeted(stream).unwrap();
        exchange(stream);
    }
    told.iter().for_each(exchange);
    let heard: BTreeSet<_> = (0..4).map(|_| rig.heard(1).header.source).collect();
    assert_eq!(heard, told.iter().chain(&untold).map(|stream| stream.local_addr().unwrap()).collect());
}

#[test]
fn the_nodes_own_processes_are_refused() {
    let rig = Rig::new(Cluster::dual(2));
    rig.served_by(0);
    let node = &rig.cluster.nodes[0];
    let before = counted(node, "socket_refused");
    for to in frontends() {
        let refused = node.netns.run(|| request(to, Protocol::Tcp)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
        requests(&node.netns, to, 3, Protocol::Udp).assert_clean(3, to);
    }
    assert_eq!(counted(node, "socket_refused") - before, frontends().len() as u64);
    rig.is_silent();
}

#[test]
fn what_cannot_be_is_reported_and_the_rest_is_served() {
    let rig = Rig::new(Cluster::dual(1));
    for (annotations, says) in [
        (vec![(PROXY.0, "v1")], "use v2, or leave it out"),
        (vec![PROXY, DSR], "remove one of the two annotations"),
    ] {
        let mut service = direct::service("told");
        for (name, value) in annotations {
            service = service.annotated(name, value);
        }
        rig.cluster.manifests().service(&service, &service.slice(&of_both(&[&rig.servers[0].0])));
        rig.cluster.wait_converged();
        let status = rig.cluster.nodes[0].agent().text(&["status"]);
        assert!(status.contains("metadata.annotations[causeway.io/proxy-protocol]"), "{status}");
        assert!(status.contains(says) && status.contains("default/told"), "{status}");
        for to in frontends() {
            requests(&rig.cluster.outside, to, 3, Protocol::Tcp).assert_clean(3, to);
        }
    }
}
