//! SVC-14: do fragments reach the backend of their datagram in whatever order
//! they come? Datagrams of 60 kB to one service, cut, shuffled, in part
//! doubled, and interleaved over 100 flows: every one arrives whole; also from
//! outside to a backend on another node, in outer headers.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use causeway_schema::checksum::fold;
use causeway_testkit::{
    manifest::{Port, Service},
    netns::Netns,
    random::Random,
    topology::{Cluster, Container, outside_address, outside_address6, vip, vip6},
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
fn fragments(from: SocketAddr, to: SocketAddr, id: u16) -> Vec<Vec<u8>> {
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

/// Sends packets as they are.
fn send(packets: &[Vec<u8>], to: SocketAddr) {
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

fn every_datagram_arrives(client: &Netns, server: &Container, from: IpAddr, to: IpAddr) {
    let socket = server.netns.run(|| {
        let socket = UdpSocket::bind(("::", PORT)).unwrap();
        setsockopt(&socket, RcvBufForce, &(64 << 20)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    });
    let (to, mut id) = (SocketAddr::new(to, 53), 0);
    Random::rounds(Duration::from_secs(2), |random| {
        let mut packets = Vec::new();
        for flow in 0..FLOWS {
            // No two of a test alike: what came twice lingers at the receiver.
            id += 1;
            let all = fragments(SocketAddr::new(from, 20_000 + flow), to, id);
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
            "datagrams of ids up to {id} that arrived, of {} packets",
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

#[test]
fn fragments_arrive_in_any_order() {
    let cluster = Cluster::dual(1);
    let server = cluster.nodes[0].container("server", 2);
    let client = cluster.nodes[0].container("client", 3);
    make_patient(&server.netns);
    let service = Service::new("udp", vip(1), &[Port::udp(53, PORT)]).dual(vip6(1));
    let backends: [IpAddr; 2] = [server.address.into(), server.address6.unwrap().into()];
    cluster.manifests().service(&service, &service.slice(&backends));
    cluster.wait_converged();
    every_datagram_arrives(&client.netns, &server, client.address.into(), vip(1).into());
    every_datagram_arrives(&client.netns, &server, client.address6.unwrap().into(), vip6(1).into());
}

/// SVC-20: each fragment gets an outer header of its own, and loses it.
#[test]
fn fragments_in_outer_headers_arrive_in_any_order() {
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
    every_datagram_arrives(&cluster.outside, &server, outside_address().into(), vip(1).into());
    every_datagram_arrives(&cluster.outside, &server, outside_address6().into(), vip6(1).into());
    let unwrapped = cluster.nodes[1].agent().counters()["decapsulated"];
    assert!(unwrapped > u64::from(FLOWS) * (LENGTH / PIECE) as u64, "{unwrapped} outer headers");
}
