//! SVC-20: who may send in an outer header, and who may take it off? Nodes;
//! and any host that knows IP-in-IP.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    thread,
    time::Instant,
};

use causeway_schema::protocol;
use causeway_testkit::{
    capture::Capture,
    client::{request, requests},
    direct::{DSR, counted, direct, frontends, of_both, own},
    frame::{Body, Datagram, Frame, Message, fragment},
    link,
    manifest::{Port, Service},
    netns::Netns,
    offload,
    raw::Raw,
    server::Server,
    topology::{
        Cluster, Container, PATIENCE, UPLINK, node_address, node_address6, outside_address, outside_address6,
        vip, vip6,
    },
    tunnel_end::TunnelEnd,
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
};

#[test]
fn only_nodes_may_send_in_an_outer_header() {
    let cluster = Cluster::dual(2);
    let (server, other) = (cluster.nodes[1].container("server", 2), cluster.nodes[1].container("other", 3));
    let _server = Server::start(&server.netns, "server", 8080);
    let service = direct("far");
    cluster.manifests().service(&service, &service.slice(&of_both(&[&server])));
    cluster.wait_converged();
    let node = &cluster.nodes[1];
    let (here, there) = (link::mac(&cluster.outside, "eth0"), link::mac(&node.netns, UPLINK));
    let [by_client, by_node] =
        [(&cluster.outside, "eth0"), (&cluster.nodes[0].netns, UPLINK)].map(|(at, link)| Raw::open(at, link));
    for six in [false, true] {
        let (nodes, client): (IpAddr, IpAddr) = match six {
            false => (node_address(0).into(), outside_address().into()),
            true => (node_address6(0).into(), outside_address6().into()),
        };
        let at = |container: &Container| -> IpAddr {
            if six { container.address6.unwrap().into() } else { container.address.into() }
        };
        let frontend = frontends()[usize::from(six)];
        let inner = |port: u16, to: SocketAddr| {
            Datagram::udp(&SocketAddr::new(client, port).to_string(), &to.to_string(), b"hi")
        };
        let outer = |from: IpAddr, to: IpAddr, inner: &Datagram| {
            let protocol = if six { protocol::IPV6 } else { protocol::IPV4 };
            let body = Body::Raw { protocol, bytes: inner.bytes() };
            let by = if from == client { here } else { link::mac(&cluster.nodes[0].netns, UPLINK) };
            Frame::new(Datagram::new(from, to, body)).macs(by, there)
        };
        let elsewhere = SocketAddr::new(frontend.ip(), 81);
        for (from, to, inner, counter) in [
            (client, &server, inner(5000, frontend), "drop_tunnel_source"),
            (nodes, &server, inner(5000, frontend), "decapsulated"),
            // To a container that is no backend of the service.
            (nodes, &other, inner(5001, frontend), "drop_no_backend"),
            // None of ours: the container may know what it is.
            (client, &server, inner(5002, elsewhere), "delivered"),
            (client, &other, inner(5003, SocketAddr::new(client, 80)), "delivered"),
        ] {
            let seen = Capture::start(&to.netns, "eth0");
            let before = counted(node, counter);
            let sent = outer(from, at(to), &inner);
            let told = Capture::start(&cluster.outside, "eth0");
            if from == client { &by_client } else { &by_node }.send(&sent.bytes());
            let end = Instant::now() + PATIENCE;
            while counted(node, counter) == before {
                assert!(Instant::now() < end, "{counter}: not counted for {sent:?}");
            }
            assert_eq!(counted(node, counter) - before, 1, "{counter}");
            if counter == "delivered" {
                let good = |frame: &Frame| frame.packet.body == sent.packet.body;
                assert!(seen.wait_packet(PATIENCE, good).is_some(), "the container did not get {sent:?}");
            }
            if counter == "drop_no_backend" {
                // From the node itself, not by the one that had sent the packet.
                let good =
                    |frame: &Frame| frame.eth_src == there && frame.eth_dst == here && is_refusal(frame);
                assert!(told.wait_packet(PATIENCE, good).is_some(), "the client was not told of {sent:?}");
            }
        }
    }
}

fn is_refusal(frame: &Frame) -> bool {
    matches!(&frame.packet.body, Body::Icmp(icmp) if matches!(icmp.message, Message::Unreachable { .. }))
}

#[test]
fn the_outer_header_is_around_the_whole_packet() {
    let cluster = Cluster::xdp(2);
    let server = cluster.nodes[1].container("server", 2);
    let service = direct("far");
    cluster.manifests().service(&service, &service.slice(&of_both(&[&server])));
    cluster.wait_converged();
    let [by, to] = [(&cluster.outside, "eth0"), (&cluster.nodes[0].netns, UPLINK)]
        .map(|(netns, link)| link::mac(netns, link));
    let raw = Raw::open(&cluster.outside, "eth0");
    for six in [0, 1] {
        let frontend = frontends()[six];
        let client = SocketAddr::new(own(frontend), 5000).to_string();
        let sent = Datagram::tcp(&client, &frontend.to_string()).ttl(7);
        let within = [protocol::IPV4, protocol::IPV6][six];
        let capture = Capture::start(&cluster.nodes[1].netns, UPLINK);
        raw.send(&Frame::new(sent.clone()).macs(by, to).bytes());
        let good = |frame: &Frame| frame.packet.body.protocol(six == 1) == within;
        let seen = capture.wait_packet(PATIENCE, good).unwrap_or_else(|| panic!("{sent} did not go on"));
        seen.packet.verify().unwrap();
        let nodes: [IpAddr; 2] = [node_address(0).into(), node_address6(0).into()];
        let backends: [IpAddr; 2] = [server.address.into(), server.address6.unwrap().into()];
        let outer = (seen.packet.src, seen.packet.dst, seen.packet.ttl);
        assert_eq!(outer, (nodes[six], backends[six], 64));
        // One hop further, and else as it was.
        assert_eq!(seen.packet.body, Body::Raw { protocol: within, bytes: sent.ttl(6).bytes() });
    }
}

#[test]
fn fragments_wait_for_the_first_behind_their_outer_headers() {
    let cluster = Cluster::dual(2);
    let server = cluster.nodes[1].container("server", 2);
    let _server = Server::start(&server.netns, "server", 8080);
    let service = direct("far");
    cluster.manifests().service(&service, &service.slice(&of_both(&[&server])));
    cluster.wait_converged();
    let [from, to] = [0, 1].map(|node: usize| link::mac(&cluster.nodes[node].netns, UPLINK));
    let raw = Raw::open(&cluster.nodes[0].netns, UPLINK);
    let nodes: [IpAddr; 2] = [node_address(0).into(), node_address6(0).into()];
    let backends: [IpAddr; 2] = [server.address.into(), server.address6.unwrap().into()];
    for six in [0, 1] {
        let frontend = frontends()[six];
        let own = SocketAddr::new(own(frontend), 5000);
        let client = UdpEnd::bind(&cluster.outside, own, Fragments::Never);
        let mut text = vec![b'x'; 3000];
        text.push(b'\n');
        let whole = Datagram::udp(&own.to_string(), &frontend.to_string(), &text);
        for piece in fragment(&whole, 1400, 77).into_iter().rev() {
            let protocol = [protocol::IPV4, protocol::IPV6][six];
            let body = Body::Raw { protocol, bytes: piece.bytes() };
            raw.send(&Frame::new(Datagram::new(nodes[six], backends[six], body)).macs(from, to).bytes());
        }
        assert_eq!(client.receive(PATIENCE).unwrap(), (text, frontend));
    }
}

#[test]
fn a_host_that_knows_ip_in_ip_can_be_a_backend() {
    let mut cluster = Cluster::dual(1);
    let host = Netns::new();
    link::no_address_detection(&host);
    let addresses: [IpAddr; 2] = ["192.168.77.50".parse().unwrap(), "fd00:77::50".parse().unwrap()];
    cluster.switch.plug(&host, "eth0", addresses[0], 24);
    link::address(&host, "eth0", &format!("{}/64", addresses[1]));
    let mut to: Vec<SocketAddr> = Vec::new();
    for vip in [IpAddr::from(vip(1)), vip6(1).into()] {
        link::address(&host, "lo", &format!("{vip}/{}", if vip.is_ipv4() { 32 } else { 128 }));
        to.push(SocketAddr::new(vip, 80));
    }
    // A raw socket shows frames as they are, finished or not.
    offload::off(&cluster.outside, "eth0");
    let tunnel = TunnelEnd::open(&host);
    // At the ports that clients ask for: nobody rewrites their packets.
    let _server = Server::start(&host, "host", 80);
    for to in &to {
        let end = UdpEnd::bind(&host, SocketAddr::new(to.ip(), 53), Fragments::Never);
        thread::spawn(move || {
            while let Ok((text, from)) = end.receive(PATIENCE) {
                end.send(from, &text).unwrap();
            }
        });
    }
    let ports = [Port::tcp(80, 80), Port::udp(53, 53)];
    let service = Service::new("hosts", vip(1), &ports).dual(vip6(1)).annotated(DSR.0, DSR.1);
    cluster.manifests().service(&service, &service.slice(&addresses));
    cluster.wait_converged();
    let before = counted(&cluster.nodes[0], "encapsulated");
    for to in to {
        let report = requests(&cluster.outside, to, 50, Protocol::Tcp);
        report.assert_clean(50, to);
        assert!(report.peers_seen.keys().eq([&own(to)]), "{to}: {report}");
        let to = SocketAddr::new(to.ip(), 53);
        let client = UdpEnd::bind(&cluster.outside, SocketAddr::new(own(to), 0), Fragments::Never);
        for number in 0..50 {
            client.send(to, &[number]).unwrap();
            assert_eq!(client.receive(PATIENCE).unwrap(), (vec![number], to));
        }
    }
    assert!(counted(&cluster.nodes[0], "encapsulated") - before > 200);
    // One that does not says so, and the client hears of it.
    drop(tunnel);
    for vip in [IpAddr::from(vip(1)), vip6(1).into()] {
        let refused = cluster.outside.run(|| request(SocketAddr::new(vip, 80), Protocol::Tcp)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NetworkUnreachable, "{vip}");
    }
}
