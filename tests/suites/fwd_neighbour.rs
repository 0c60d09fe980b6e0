//! FWD-06: does traffic go on within a second when the host next to this node
//! gets another hardware address, whether that host says so or not? And is
//! nobody asked who is not in use?

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use causeway_testkit::{
    capture::Capture,
    frame::{Datagram, Frame, Message},
    link,
    manifest::{Port, Service},
    netns::Netns,
    offload,
    packet::Arp,
    ping::ping,
    raw::Raw,
    server::Server,
    talk::Talk,
    topology::{
        Cluster, Container, Node, PATIENCE, UPLINK, node_address, node_address6, outside_address,
        outside_address6, vip, vip6,
    },
};

/// Until everything talks, and until everything talks again.
const WHILE: Duration = Duration::from_secs(2);
/// The agent's own: after this time of silence a neighbour is left alone.
const REST: Duration = Duration::from_secs(15);

/// Gives the host outside another interface to send by, under the addresses
/// that it has: it has nothing to say on the first one, and so never tells by
/// the way where it is now.
fn send_elsewhere(cluster: &mut Cluster) {
    let outside = &cluster.outside;
    cluster.switch.plug(outside, "eth1", Ipv4Addr::new(192, 168, 77, 201), 24);
    offload::off(outside, "eth1");
    link::address(outside, "eth1", "fd00:77::201/64");
    outside.set_sysctl("net/ipv4/conf/all/arp_ignore", "1");
    let node = &cluster.nodes[0];
    for (destinations, via, own) in [
        (
            [node.pod_cidr(), "10.96.0.0/16".into()],
            IpAddr::from(node_address(0)),
            IpAddr::from(outside_address()),
        ),
        ([node.pod_cidr6(), "fd00:10:96::/112".into()], node_address6(0).into(), outside_address6().into()),
    ] {
        for destination in destinations {
            link::route(outside, &destination, &format!("via {via} dev eth1 src {own}"));
        }
    }
}

fn change(outside: &Netns, last: u8) -> [u8; 6] {
    outside.ip(&format!("link set eth0 address 02:00:00:00:99:{last:02x}"));
    [2, 0, 0, 0, 0x99, last]
}

/// Says what address it has now, as a host that takes over does.
fn announce(outside: &Netns, mac: [u8; 6]) {
    let raw = Raw::open(outside, "eth0");
    let own = outside_address();
    raw.send(&Arp { sender_mac: mac, ..Arp::request(own, own) }.bytes());
    let told = Message::NeighbourAdvertisement { flags: 0x20, target: outside_address6(), mac: Some(mac) };
    let packet = Datagram::icmp(&outside_address6().to_string(), "ff02::1", told).ttl(255);
    raw.send(&Frame::new(packet).macs(mac, [0x33, 0x33, 0, 0, 0, 1]).bytes());
}

/// The container and the host outside, by family; from now on the node's kernel
/// knows where that host is.
fn meet(client: &Container) -> [(IpAddr, IpAddr); 2] {
    let hosts: [(IpAddr, IpAddr); 2] = [
        (client.address.into(), outside_address().into()),
        (client.address6.unwrap().into(), outside_address6().into()),
    ];
    for (_, to) in hosts {
        assert_eq!(client.netns.run(|| ping(to, 1, PATIENCE)).unwrap(), 1, "{to}");
    }
    hosts
}

/// The kernel takes the host outside for one that nothing is sent to.
fn make_idle(node: &Node) {
    for address in [IpAddr::from(outside_address()), outside_address6().into()] {
        node.netns.ip(&format!("neigh change {address} dev {UPLINK} nud stale"));
    }
}

/// What the node asks about the host outside: at its own address, or everybody.
fn questions(cluster: &Cluster) -> Capture {
    Capture::start_where(&cluster.outside, "eth0", |frame| {
        let asks = match frame.bytes.get(12..14) {
            Some([0x08, 0x06]) => {
                frame.bytes[20..22] == [0, 1] && frame.bytes[38..42] == outside_address().octets()
            }
            Some([0x86, 0xdd]) => {
                frame.bytes[54] == 135 && frame.bytes[62..78] == outside_address6().octets()
            }
            _ => false,
        };
        asks && !frame.outgoing
    })
}

#[test]
fn traffic_goes_on_at_another_hardware_address() {
    let mut cluster = Cluster::dual(1);
    send_elsewhere(&mut cluster);
    let outside = &cluster.outside;
    let _world = Server::start(outside, "world", 8000);
    let client = cluster.nodes[0].container("client", 2);
    let hosts = meet(&client);
    for (round, announced) in [true, false].into_iter().enumerate() {
        let mut talk = Talk::default();
        for (own, to) in hosts {
            talk.one_way((&client.netns, own), (outside, SocketAddr::new(to, 9000)));
            talk.both_ways(&client.netns, SocketAddr::new(to, 8000));
        }
        thread::sleep(WHILE);
        let mac = change(outside, round as u8);
        if announced {
            announce(outside, mac);
        }
        thread::sleep(WHILE);
        talk.assert_uninterrupted(if announced { "announced" } else { "silent" });
    }
}

#[test]
fn traffic_begins_at_another_hardware_address() {
    let mut cluster = Cluster::dual(1);
    send_elsewhere(&mut cluster);
    let client = cluster.nodes[0].container("client", 2);
    let hosts = meet(&client);
    for round in 0..3 {
        make_idle(&cluster.nodes[0]);
        change(&cluster.outside, round);
        let mut talk = Talk::default();
        for (own, to) in hosts {
            talk.one_way((&client.netns, own), (&cluster.outside, SocketAddr::new(to, 9000)));
        }
        thread::sleep(WHILE);
        talk.assert_uninterrupted("moved while idle");
    }
}

#[test]
fn what_xdp_carries_goes_on_at_another_hardware_address() {
    let mut cluster = Cluster::xdp(2);
    send_elsewhere(&mut cluster);
    let (node, outside) = (&cluster.nodes[0], &cluster.outside);
    let backend = cluster.nodes[1].container("backend", 2);
    let _server = Server::start(&backend.netns, "backend", 8080);
    let service = Service::new("far", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1));
    cluster.manifests().service(
        &service,
        &service.slice(&[IpAddr::from(backend.address), backend.address6.unwrap().into()]),
    );
    cluster.wait_converged();
    for (round, announced) in [true, false].into_iter().enumerate() {
        let mut talk = Talk::default();
        talk.both_ways(outside, SocketAddr::new(vip(1).into(), 80));
        talk.both_ways(outside, SocketAddr::new(vip6(1).into(), 80));
        thread::sleep(WHILE);
        let before = node.agent().counters()["xdp_forwarded"];
        make_idle(node);
        let mac = change(outside, 0x10 + round as u8);
        if announced {
            announce(outside, mac);
        }
        thread::sleep(WHILE);
        talk.assert_uninterrupted(if announced { "XDP, announced" } else { "XDP, silent" });
        let carried = node.agent().counters()["xdp_forwarded"] - before;
        assert!(carried > 500, "{carried} packets by XDP");
    }
}

#[test]
fn only_who_is_in_use_is_asked() {
    let cluster = Cluster::dual(1);
    let client = cluster.nodes[0].container("client", 2);
    let mut talk = Talk::default();
    for (own, to) in meet(&client) {
        talk.one_way((&client.netns, own), (&cluster.outside, SocketAddr::new(to, 9000)));
    }
    // Longer than a rest, which changes nothing for one in use.
    thread::sleep(REST + WHILE);
    let asked = questions(&cluster);
    thread::sleep(WHILE);
    let asked = asked.stop();
    talk.assert_uninterrupted("nothing happens");
    let mac = link::mac(&cluster.outside, "eth0");
    assert!(asked.iter().all(|frame| frame.bytes[..6] == mac), "everybody was asked");
    for (family, kind) in [("IPv4", [0x08, 0x06]), ("IPv6", [0x86, 0xdd])] {
        let count = asked.iter().filter(|frame| frame.bytes[12..14] == kind).count();
        println!("{family}: asked {count} times in {WHILE:?}");
        assert!((8..=11).contains(&count), "{family}: asked {count} times in {WHILE:?}");
    }
    thread::sleep(REST + WHILE);
    let asked = questions(&cluster);
    thread::sleep(WHILE);
    let asked = asked.stop();
    assert!(asked.is_empty(), "asked {} times though idle", asked.len());
    let known = cluster.nodes[0].netns.ip(&format!("neigh show {} dev {UPLINK}", outside_address()));
    assert!(known.contains("lladdr"), "forgotten: {known}");
}
