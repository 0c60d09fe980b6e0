//! SVC-20: direct return without an outer header. Requests go on as they are,
//! to the hardware address of the next hop; no answer passes the node that
//! chose the backend.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use causeway_testkit::{
    client::requests,
    direct::{L2, answers, bytes, counted, frontends, own, serve, service, sink},
    link,
    manifest::{Port, Service},
    netns::Netns,
    ping::ping,
    server::Server,
    streams::Streams,
    topology::{Cluster, Container, PATIENCE, node_address, node_address6, vip, vip6, widen},
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
};

const REQUESTS: u64 = 300;

/// Those of [`frontends`] that are a node's own.
fn is_node_port(to: &SocketAddr) -> bool {
    [IpAddr::from(node_address(0)), node_address6(0).into()].contains(&to.ip())
}

#[test]
fn the_backend_answers_its_client_itself() {
    for cluster in [Cluster::xdp(3), Cluster::forwarding(3)] {
        let servers = cluster.servers(2, 8080);
        widen(&cluster.outside);
        let far: Vec<&Container> = servers[2..].iter().map(|(container, _)| container).collect();
        let service = service("far").annotated(L2.0, L2.1);
        serve(&cluster, &service, &far);
        let chooser = &cluster.nodes[0];
        assert!(chooser.agent().text(&["show", "services"]).contains("dsr l2"));
        assert_eq!(chooser.agent().status().problems, []);
        let (direct, ported): (Vec<_>, Vec<_>) = frontends().into_iter().partition(|to| !is_node_port(to));
        let capture = answers(chooser);
        for to in direct {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let report = requests(&cluster.outside, to, REQUESTS, protocol);
                report.assert_clean(REQUESTS, to);
                assert_eq!(report.by_server.len(), far.len(), "{to}: {report}");
                assert!(report.peers_seen.keys().eq([&own(to)]), "{to}: {:?}", report.peers_seen);
            }
            assert_eq!(cluster.outside.run(|| ping(to.ip(), 5, PATIENCE)).unwrap(), 5, "pings of {to}");
        }
        let through = capture.stop();
        assert_eq!(through.len(), 0, "answers by the node that chose: {:?}", through.first());
        assert_eq!(counted(chooser, "encapsulated"), 0);
        // A node's own address is nobody else's.
        for to in ported {
            requests(&cluster.outside, to, REQUESTS, Protocol::Tcp).assert_clean(REQUESTS, to);
        }
    }
}

/// Streams of many megabytes, datagrams of any length and in fragments: nothing
/// is shorter than without direct return.
#[test]
fn the_mtu_stays_what_it_is() {
    let cluster = Cluster::xdp(2);
    let server = cluster.nodes[1].container("server", 2);
    let service = service("far").annotated(L2.0, L2.1);
    serve(&cluster, &service, &[&server]);
    let received = sink(&server.netns, 8080);
    let data = bytes(3_000_000);
    for (index, to) in frontends().into_iter().take(2).enumerate() {
        let mut stream = cluster.outside.run(|| std::net::TcpStream::connect(to)).unwrap();
        std::io::Write::write_all(&mut stream, &data).unwrap();
        drop(stream);
        let (peer, length, right) = received.recv_timeout(PATIENCE).unwrap();
        // As a socket of both families has it.
        assert_eq!((peer.ip().to_canonical(), length, right), (own(to), data.len(), true));
        let local = SocketAddr::new(server.addresses()[index], 8080);
        let end = UdpEnd::bind(&server.netns, local, Fragments::Allowed);
        for (port, length, fragments) in
            [(6000, 1500 - [28, 48][index], Fragments::Never), (6001, 9000, Fragments::Allowed)]
        {
            let client = UdpEnd::bind(&cluster.outside, SocketAddr::new(own(to), port), fragments);
            client.send(to, &bytes(length)).unwrap();
            let (payload, from) = end.receive(PATIENCE).unwrap();
            assert_eq!((payload.len(), from), (length, SocketAddr::new(own(to), port)));
            end.send(from, b"yes").unwrap();
            assert_eq!(client.receive(PATIENCE).unwrap(), (b"yes".to_vec(), to));
        }
    }
}

/// Its kernel has the service's address, and knows nothing of us.
#[test]
fn any_host_with_the_address_may_serve() {
    let mut cluster = Cluster::forwarding(1);
    let host = Netns::new();
    let addresses: [IpAddr; 2] = ["192.168.77.120".parse().unwrap(), "fd00:77::120".parse().unwrap()];
    cluster.switch.plug(&host, "eth0", addresses[0], 24);
    link::address(&host, "eth0", &format!("{}/64", addresses[1]));
    host.set_sysctl("net/ipv4/conf/all/arp_ignore", "1");
    host.ip("link set lo up");
    let service = Service::new("host", vip(1), &[Port::tcp(80, 80), Port::udp(53, 53)])
        .dual(vip6(1))
        .annotated(L2.0, L2.1);
    for frontend in [format!("{}/32", vip(1)), format!("{}/128", vip6(1))] {
        link::address(&host, "lo", &frontend);
    }
    let _server = Server::start(&host, "host", 80);
    cluster.manifests().service(&service, &service.slice(&addresses));
    cluster.wait_converged();
    let capture = answers(&cluster.nodes[0]);
    for address in [IpAddr::from(vip(1)), vip6(1).into()] {
        let to = SocketAddr::new(address, 80);
        let report = requests(&cluster.outside, to, REQUESTS, Protocol::Tcp);
        report.assert_clean(REQUESTS, to);
        assert!(report.peers_seen.keys().eq([&own(to)]), "{to}: {:?}", report.peers_seen);
        let to = SocketAddr::new(address, 53);
        // It answers from the address that was asked.
        let server = UdpEnd::bind(&host, to, Fragments::Never);
        let client = UdpEnd::bind(&cluster.outside, SocketAddr::new(own(to), 0), Fragments::Never);
        for _ in 0..20 {
            client.send(to, b"who?").unwrap();
            let (asked, from) = server.receive(PATIENCE).unwrap();
            assert_eq!((asked, from.ip()), (b"who?".to_vec(), own(to)));
            server.send(from, b"me").unwrap();
            assert_eq!(client.receive(PATIENCE).unwrap(), (b"me".to_vec(), to));
        }
    }
    assert_eq!(capture.stop().len(), 0);
}

/// Connections stay where they are while backends come and go, and new ones
/// find those that are there.
#[test]
fn backends_come_and_go() {
    let cluster = Cluster::forwarding(3);
    let servers = cluster.servers(2, 8080);
    widen(&cluster.outside);
    let far: Vec<&Container> = servers[2..].iter().map(|(container, _)| container).collect();
    let service = service("far").annotated(L2.0, L2.1);
    let back = |some: &[&Container]| serve(&cluster, &service, some);
    back(&far[1..]);
    let to = frontends();
    let streams: Vec<Streams> = to[..2]
        .iter()
        .map(|to| Streams::open(&cluster.outside, *to, 20, Duration::from_millis(10)))
        .collect();
    for round in 0..6 {
        back(if round % 2 == 0 { &far } else { &far[1..] });
        for to in &to[..2] {
            let report = requests(&cluster.outside, *to, 100, Protocol::Tcp);
            report.assert_clean(100, *to);
            let names: BTreeSet<_> = report.by_server.keys().collect();
            assert!(names.len() >= far.len() - 1, "{names:?}");
        }
    }
    streams.into_iter().for_each(|streams| streams.close().assert_clean(20));
}

/// By one node's table the backend is at the other, and the other way round: each
/// would send the packet to the other, until its TTL is spent.
#[test]
fn two_nodes_that_disagree_do_not_toss_packets() {
    for mut cluster in [Cluster::forwarding(2), Cluster::xdp(2)] {
        // What is refused goes back to the node that sent it here, whose stack forwards it.
        cluster.nodes[0].netns.set_sysctl("net/ipv6/conf/all/forwarding", "1");
        let servers = cluster.servers(1, 8080);
        let service = service("far").annotated(L2.0, L2.1);
        serve(&cluster, &service, &[&servers[0].0]);
        cluster.nodes[1].agent_mut().kill9();
        cluster.manifests().service(&service, &service.slice(&servers[1].0.addresses()));
        cluster.nodes[0].agent().wait_converged(PATIENCE);
        let count = |name| counted(&cluster.nodes[0], name);
        for to in &frontends()[..2] {
            let before = count("forwarded") + count("xdp_forwarded");
            let client = UdpEnd::bind(&cluster.outside, SocketAddr::new(own(*to), 0), Fragments::Never);
            for _ in 0..10 {
                client.send(*to, b"who?").unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
            let sent = count("forwarded") + count("xdp_forwarded") - before;
            assert!((1..=30).contains(&sent), "10 datagrams to {to} were sent on {sent} times");
            let refused = cluster.outside.run(|| std::net::TcpStream::connect_timeout(to, PATIENCE));
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        }
        // They agree again.
        cluster.nodes[1].agent_mut().restart();
        cluster.wait_converged();
        // But for those that its kernel had no neighbour for yet.
        let refused = counted(&cluster.nodes[1], "drop_no_backend");
        assert!((11..=22).contains(&refused), "{refused}");
        for to in &frontends()[..2] {
            requests(&cluster.outside, *to, 20, Protocol::Tcp).assert_clean(20, *to);
        }
    }
}

#[test]
fn affinity_is_not_for_these() {
    let cluster = Cluster::forwarding(2);
    let servers = cluster.servers(2, 8080);
    let service = service("far").annotated(L2.0, L2.1).with("sessionAffinity: ClientIP");
    serve(&cluster, &service, &[&servers[2].0, &servers[3].0]);
    let problems = cluster.nodes[0].agent().status().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].message.starts_with("l2: not with sessionAffinity"), "{problems:?}");
    assert_eq!(problems[0].field, "metadata.annotations[causeway.io/dsr]");
    for to in frontends() {
        let report = requests(&cluster.outside, to, 50, Protocol::Tcp);
        report.assert_clean(50, to);
        assert_eq!(report.by_server.len(), 1, "{to}: {report}");
    }
}

/// The lookup of the way asks for it.
#[test]
fn an_uplink_that_does_not_forward_is_named() {
    let cluster = Cluster::dual(2);
    let server = cluster.nodes[1].container("server", 2);
    let _server = Server::start(&server.netns, "server", 8080);
    let service = service("far").annotated(L2.0, L2.1);
    serve(&cluster, &service, &[&server]);
    let problems = cluster.nodes[0].agent().status().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].object, "Service default/far");
    assert!(problems[0].message.contains("set net.ipv4.conf.UPLINK.forwarding=1"), "{problems:?}");
    for to in frontends() {
        requests(&cluster.outside, to, 50, Protocol::Tcp).assert_clean(50, to);
    }
}
