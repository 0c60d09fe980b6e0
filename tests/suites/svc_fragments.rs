//! SVC-14: do fragments reach the backend of their datagram in whatever order
//! they come? Datagrams of 60 kB to one service, cut, shuffled, in part
//! doubled, and interleaved over 100 flows: every one arrives whole; also from
//! outside to a backend on another node, in outer headers.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_schema::checksum::fold;
use causeway_testkit::{
    cpu::stay_on,
    direct::{bytes, sink},
    hop::Hop,
    link,
    manifest::{Port, Service},
    netns::Netns,
    ping::ping,
    random::Random,
    topology::{
        Cluster, PATIENCE, node_address, node_address6, outside_address, outside_address6, vip, vip6,
    },
    udp_end::Fragments,
};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};

const FLOWS: u16 = 100;
const LENGTH: usize = 60_000;
/// Data in a fragment: what an MTU of 1500 leaves, in whole eights, with room
/// for an outer header.
const PIECE: usize = 1408;
const PORT: u16 = 5353;

/// The datagram of a flow: a UDP header, then bytes that tell flows apart.
fn datagram(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::from(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(((LENGTH + 8) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload(from.port()));
    let mut pseudo = Vec::new();
    for end in [from.ip(), to.ip()] {
        match end {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    pseudo.extend([0, 17]);
    pseudo.extend(((LENGTH + 8) as u16).to_be_bytes());
    let check = !fold(sum(&pseudo) % 0xffff + sum(&bytes) % 0xffff);
    bytes[6..8].copy_from_slice(&check.to_be_bytes());
    bytes
}

fn payload(port: u16) -> Vec<u8> {
    (0..LENGTH).map(|at| (at as u16).wrapping_mul(31).wrapping_add(port) as u8).collect()
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).fold(0, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    })
}

/// The packets that carry a datagram, IP headers and all.
fn fragments(from: SocketAddr, to: SocketAddr) -> Vec<Vec<u8>> {
    // No two alike: what came twice lingers at the receiver.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // And none of 0, for which the kernel takes a number of its own.
    let id = 1 + (NEXT.fetch_add(1, Ordering::Relaxed) % u32::from(u16::MAX)) as u16;
    let datagram = datagram(from, to);
    let pieces = datagram.chunks(PIECE).enumerate();
    pieces
        .map(|(index, piece)| {
            let (offset, more) = (index * PIECE, (index + 1) * PIECE < datagram.len());
            let mut packet = match (from.ip(), to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    let mut header = vec![0x45, 0];
                    header.extend(((20 + piece.len()) as u16).to_be_bytes());
                    header.extend(id.to_be_bytes());
                    header.extend(((offset / 8) as u16 | u16::from(more) << 13).to_be_bytes());
                    // The kernel fills in the header's checksum.
                    header.extend([64, 17, 0, 0]);
                    header.extend(from.octets());
                    header.extend(to.octets());
                    header
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    let mut header = vec![0x60, 0, 0, 0];
                    header.extend(((8 + piece.len()) as u16).to_be_bytes());
                    header.extend([44, 64]);
                    header.extend(from.octets());
                    header.extend(to.octets());
                    header.extend([17, 0]);
                    header.extend((offset as u16 | u16::from(more)).to_be_bytes());
                    header.extend(u32::from(id).to_be_bytes());
                    header
                }
                _ => panic!("{from} and {to} are of different families"),
            };
            packet.extend(piece);
            packet
        })
        .collect()
}

/// Sends packets as they are, from one CPU, as a network card brings a datagram's
/// fragments to one: two that write to a queue at a time may lose one.
fn send(packets: &[Vec<u8>], to: SocketAddr) {
    stay_on(0);
    let raw = Some(Protocol::from(libc::IPPROTO_RAW));
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, raw).unwrap();
    if to.is_ipv6() {
        socket.set_header_included_v6(true).unwrap();
    }
    for packet in packets {
        socket.send_to(packet, &SocketAddr::new(to.ip(), 0).into()).unwrap();
    }
}

/// A socket with room for all of them.
fn roomy(netns: &Netns, port: u16) -> UdpSocket {
    netns.run(|| {
        let socket = UdpSocket::bind(("::", port)).unwrap();
        setsockopt(&socket, RcvBufForce, &(64 << 20)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    })
}

fn every_datagram_arrives(client: &Netns, server: &Netns, from: IpAddr, to: SocketAddr) {
    let socket = roomy(server, PORT);
    // So many at a time would not fit where packets wait for a neighbour's address.
    assert_eq!(client.run(|| ping(to.ip(), 1, PATIENCE)).unwrap(), 1);
    Random::rounds(Duration::from_secs(2), |random| {
        let mut packets = Vec::new();
        for flow in 0..FLOWS {
            let all = fragments(SocketAddr::new(from, 20_000 + flow), to);
            // One in ten twice, somewhere.
            packets.extend(all.iter().filter(|_| random.one_in(10)).cloned().collect::<Vec<_>>());
            packets.extend(all);
        }
        random.shuffle(&mut packets);
        client.run(|| send(&packets, to));

        let (mut whole, begun) = (BTreeSet::new(), Instant::now());
        let mut buffer = vec![0; 65_536];
        while whole.len() < usize::from(FLOWS) && begun.elapsed() < Duration::from_secs(5) {
            match socket.recv_from(&mut buffer) {
                Ok((length, peer)) => {
                    assert_eq!(peer.ip().to_canonical(), from);
                    assert!(buffer[..length] == payload(peer.port()), "a datagram of {peer} was altered");
                    whole.insert(peer.port());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(
            whole.len(),
            usize::from(FLOWS),
            "datagrams to {to} that arrived, of {} packets",
            packets.len()
        );
    });
}

/// Room for the reassembly of all of them at a time, and patience with fragments
/// of others in between: that is for the receiver to decide.
fn make_patient(server: &Netns) {
    for key in ["ipv4/ipfrag_high_thresh", "ipv6/ip6frag_high_thresh"] {
        server.set_sysctl(&format!("net/{key}"), "67108864");
    }
    server.set_sysctl("net/ipv4/ipfrag_max_dist", "0");
}

/// One test at a time: how many fragments wait depends on how long they are on
/// their way.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn vips() -> [IpAddr; 2] {
    [vip(1).into(), vip6(1).into()]
}

fn outside() -> [IpAddr; 2] {
    [outside_address().into(), outside_address6().into()]
}

#[test]
fn fragments_arrive_in_any_order() {
    let _alone = alone();
    let cluster = Cluster::dual(1);
    let server = cluster.nodes[0].container("server", 2);
    let client = cluster.nodes[0].container("client", 3);
    make_patient(&server.netns);
    let service = Service::new("udp", vip(1), &[Port::udp(53, PORT)]).dual(vip6(1));
    let backends: [IpAddr; 2] = [server.address.into(), server.address6.unwrap().into()];
    cluster.manifests().service(&service, &service.slice(&backends));
    cluster.wait_converged();
    for (own, vip) in client.addresses().into_iter().zip(vips()) {
        every_datagram_arrives(&client.netns, &server.netns, own, SocketAddr::new(vip, 53));
    }
}

/// Those of answers too, of which nothing but their flow tells that they are some:
/// to a container, and to who sees a node's address instead.
#[test]
fn answers_in_fragments_arrive_in_any_order() {
    let _alone = alone();
    let cluster = Cluster::dual(2);
    let client = cluster.nodes[0].container("client", 3);
    for netns in [&client.netns, &cluster.outside] {
        make_patient(netns);
    }
    for (node, number) in cluster.nodes.iter().zip(1..) {
        let server = node.container("server", 2);
        let service = Service::new(&node.name, vip(number), &[Port::udp(53, PORT)]).dual(vip6(number));
        cluster.manifests().service(&service, &service.slice(&server.addresses()));
        cluster.wait_converged();
        let vips = [IpAddr::from(vip(number)), vip6(number).into()];
        for (own, vip) in server.addresses().into_iter().zip(vips) {
            for netns in [&client.netns, &cluster.outside] {
                every_answer_arrives(netns, &server.netns, own, SocketAddr::new(vip, 53));
            }
        }
    }
}

fn every_answer_arrives(client: &Netns, server: &Netns, own: IpAddr, vip: SocketAddr) {
    let socket = roomy(server, PORT);
    Random::rounds(Duration::from_secs(1), |random| {
        let clients: Vec<UdpSocket> = (0..20).map(|_| roomy(client, 0)).collect();
        let mut packets = Vec::new();
        for client in &clients {
            client.send_to(b"question", mapped(vip)).unwrap();
            let (_, peer) = socket.recv_from(&mut [0; 16]).unwrap();
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            let all = fragments(SocketAddr::new(own, PORT), peer);
            packets.extend(all.into_iter().map(|packet| (packet, peer)));
        }
        random.shuffle(&mut packets);
        server.run(|| packets.iter().for_each(|(packet, to)| send(std::slice::from_ref(packet), *to)));
        let mut buffer = vec![0; 65_536];
        for client in &clients {
            let (length, from) = client.recv_from(&mut buffer).unwrap_or_else(|error| {
                panic!("an answer from {vip} to {}: {error}", client.local_addr().unwrap())
            });
            assert_eq!(from, mapped(vip));
            assert!(buffer[..length] == payload(PORT), "an answer from {vip} was altered");
        }
    });
}

/// As a socket of both families has it.
fn mapped(at: SocketAddr) -> SocketAddr {
    match at.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), at.port()),
        IpAddr::V6(_) => at,
    }
}

/// To a container's own address, and to a node's, where it is served and where not.
#[test]
fn fragments_to_no_service_arrive_in_any_order() {
    let _alone = alone();
    let cluster = Cluster::dual(1);
    let (node, server) = (&cluster.nodes[0], cluster.nodes[0].container("server", 2));
    let addresses: [IpAddr; 2] = [node_address(0).into(), node_address6(0).into()];
    let given = format!("externalIPs: [\"{}\", \"{}\"]", addresses[0], addresses[1]);
    let service = Service::new("udp", vip(1), &[Port::udp(53, PORT).at_node(30_053)]).dual(vip6(1));
    cluster
        .manifests()
        .service(&service.clone().with("type: NodePort").with(&given), &service.slice(&server.addresses()));
    cluster.wait_converged();
    for netns in [&server.netns, &node.netns] {
        make_patient(netns);
    }
    for (index, own) in outside().into_iter().enumerate() {
        for (netns, to, port) in [
            (&server.netns, server.addresses()[index], PORT),
            (&node.netns, addresses[index], PORT),
            (&server.netns, addresses[index], 30_053),
        ] {
            every_datagram_arrives(&cluster.outside, netns, own, SocketAddr::new(to, port));
        }
    }
}

/// SVC-20: each fragment gets an outer header of its own, and loses it.
#[test]
fn fragments_in_outer_headers_arrive_in_any_order() {
    let _alone = alone();
    // Without XDP, whose interfaces have room for 256 frames: a first fragment
    // sends all that waited for it at once.
    let cluster = Cluster::dual(2);
    let server = cluster.nodes[1].container("server", 2);
    make_patient(&server.netns);
    let service = Service::new("udp", vip(1), &[Port::udp(53, PORT)]).dual(vip6(1));
    let service = service.annotated("causeway.io/dsr", "ipip");
    let backends: [IpAddr; 2] = [server.address.into(), server.address6.unwrap().into()];
    cluster.manifests().service(&service, &service.slice(&backends));
    cluster.wait_converged();
    for (own, vip) in outside().into_iter().zip(vips()) {
        every_datagram_arrives(&cluster.outside, &server.netns, own, SocketAddr::new(vip, 53));
    }
    let unwrapped = cluster.nodes[1].agent().counters()["decapsulated"];
    assert!(unwrapped > u64::from(FLOWS) * (LENGTH / PIECE) as u64, "{unwrapped} outer headers");
}

/// Those of TCP: what a client sends that lets routers cut its segments. (Those of
/// IPv6 do not.)
#[test]
fn segments_that_a_router_has_cut_arrive() {
    let _alone = alone();
    for mut cluster in [Cluster::xdp(2), Cluster::dual(2)] {
        let hop = Hop::behind(&mut cluster.switch, 1280);
        cluster.nodes.iter().for_each(|node| hop.reach_from(&node.netns));
        link::route(&hop.near, "10.96.0.0/16", &format!("via {}", node_address(0)));
        // Here the source is kept, there it is the node's.
        let servers = [cluster.nodes[0].container("near", 2), cluster.nodes[1].container("far", 2)];
        for (number, server) in (1..).zip(&servers) {
            let service = Service::new(&server.name, vip(number), &[Port::tcp(80, 8080)]);
            cluster.manifests().service(&service, &service.slice(&[server.address]));
        }
        cluster.wait_converged();
        let bytes = bytes(10 << 20);
        let seen = [hop.far_address(), node_address(0)];
        for ((number, server), seen) in (1..).zip(&servers).zip(seen) {
            let arrived = sink(&server.netns, 8080);
            let cut = fragments_made(&hop.beyond);
            let to = SocketAddr::new(vip(number).into(), 80);
            hop.far.run(|| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                Fragments::Allowed.set(&socket, false);
                socket.connect_timeout(&to.into(), PATIENCE).unwrap();
                let mut stream = TcpStream::from(socket);
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(&bytes).unwrap_or_else(|error| panic!("to {to}: {error}"));
            });
            let (peer, length, right) = arrived.recv_timeout(PATIENCE).unwrap();
            assert_eq!(
                (peer.ip().to_canonical(), length, right),
                (seen.into(), bytes.len(), true),
                "to {to}"
            );
            let cut = fragments_made(&hop.beyond) - cut;
            assert!(cut > 10_000, "only {cut} fragments on the way to {to}");
        }
    }
}

/// How many a router has made (RFC 4293, ipSystemStatsOutFragCreates).
fn fragments_made(router: &Netns) -> u64 {
    let text = router.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let [names, values] = [lines.next().unwrap(), lines.next().unwrap()];
    let mut of = names.split(' ').zip(values.split(' '));
    of.find(|(name, _)| *name == "FragCreates").unwrap().1.parse().unwrap()
}
