//! Random packets as a node sees them: most of flows that go on, some first
//! ones, answers, fragments and errors about what has just left; then bytes
//! that are not what they should be.

use std::net::{Ipv4Addr, SocketAddr};

use causeway_schema::{GATEWAY_V4, GATEWAY_V6};

use crate::{
    bed::{
        self, Bed, CONTAINERS, FORBIDDEN, NARROW, NEIGHBOUR, NEIGHBOUR_MAC, NOWHERE, OWN, UPLINK_MAC, WORLD,
    },
    frame::{Body, Checksum, Datagram, Extension, Frame, Header, Message, Piece, Tcp, Udp},
    mirror::{self, of_family},
    oracle::Side,
    packet::{Arp, tcp},
    random::Random,
    scenery::{self, NODE_PORT, RANGES},
    world::World,
};

/// A packet that was sent, and what became of it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub packet: Datagram,
    pub left: Option<Datagram>,
}

/// A packet by one of the hooks. `passing`: most clients are outside.
pub fn packet(
    bed: &Bed,
    world: &World,
    random: &mut Random,
    recent: &[Sent],
    passing: bool,
) -> (Side, Datagram) {
    let packet = if recent.is_empty() || random.one_in(4) {
        fresh(world, random, passing)
    } else {
        next(random, recent)
    };
    let packet = varied(packet, random);
    let side = match mirror::back(packet.src).map(|address| address.octets()) {
        _ if random.one_in(30) => bed.from_container(1 + random.below(CONTAINERS.into()) as u8),
        _ if random.one_in(30) => bed.from_uplink(),
        Some([10, 244, 0, number @ 1..=CONTAINERS]) => bed.from_container(number),
        // Of no host on the uplink.
        None => bed.from_container(1 + random.below(CONTAINERS.into()) as u8),
        _ => bed.from_uplink(),
    };
    (side, packet)
}

/// What comes after a packet that was sent.
fn next(random: &mut Random, recent: &[Sent]) -> Datagram {
    let Sent { packet, left } = random.pick(recent);
    let left = left.as_ref().unwrap_or(packet);
    let next = match random.below(12) {
        0..4 => answer(left),
        4 => error(random, left),
        5 => piece_of(random, packet),
        // Somebody else's answer.
        6 => answer(packet),
        // The same client's at another service.
        7 => Datagram { dst: random.pick(recent).packet.dst, ..packet.clone() },
        _ => packet.clone(),
    };
    if next.src.is_ipv6() == next.dst.is_ipv6() { next } else { packet.clone() }
}

/// From whom a packet was sent to, back.
fn answer(packet: &Datagram) -> Datagram {
    let body = match &packet.body {
        Body::Tcp(segment) => Body::Tcp(Tcp::new(segment.dst, segment.src)),
        Body::Udp(datagram) => Body::Udp(Udp::new(datagram.dst, datagram.src, b"answer")),
        Body::Icmp(icmp) => match &icmp.message {
            Message::EchoRequest { id, seq, data } => {
                Body::icmp(Message::EchoReply { id: *id, seq: *seq, data: data.clone() })
            }
            message => Body::icmp(message.clone()),
        },
        raw => raw.clone(),
    };
    Datagram::new(packet.dst, packet.src, body)
}

/// What its receiver, or a router on the way, says of a packet.
fn error(random: &mut Random, packet: &Datagram) -> Datagram {
    let whole = packet.bytes().len();
    let short = if packet.is_v6() { 48 } else { 28 };
    // At the ports, within the transport header, all of it.
    let original = packet.head(*random.pick(&[short, short + 3, short + 12, whole, whole]));
    let message = match random.below(3) {
        0 => Message::Unreachable { code: random.below(5) as u8, original },
        1 => Message::TooBig { mtu: 1280, original },
        _ => Message::TimeExceeded { code: 0, original },
    };
    let router = of_family(NEIGHBOUR, packet.is_v6());
    let from = if random.one_in(4) { router } else { packet.dst };
    Datagram::new(from, packet.src, Body::icmp(message))
}

/// A fragment of the datagram that a packet could have been.
fn piece_of(random: &mut Random, packet: &Datagram) -> Datagram {
    let mut piece = packet.clone();
    if random.one_in(3) {
        return fragment(piece, random, 0, true);
    }
    let offset = 8 * (1 + random.below(100));
    piece.body =
        Body::Raw { protocol: packet.protocol(), bytes: vec![random.word() as u8; random.below(60)] };
    let more = random.one_in(2);
    fragment(piece, random, offset, more)
}

/// With a number that datagrams soon share.
fn fragment(mut packet: Datagram, random: &mut Random, offset: usize, more: bool) -> Datagram {
    let id = 0x1234 + random.below(2) as u16;
    match &mut packet.header {
        Header::V4(header) => (header.id, header.offset, header.more_fragments) = (id, offset, more),
        Header::V6(header) => {
            header.extensions.retain(|extension| !matches!(extension, Extension::Fragment(_)));
            header.extensions.push(Extension::Fragment(Piece { id: id.into(), offset, more }));
        }
    }
    packet
}

/// The first packet of something.
fn fresh(world: &World, random: &mut Random, passing: bool) -> Datagram {
    let six = random.one_in(2);
    let source = match if passing { 11 + random.below(9) } else { random.below(20) } {
        0..11 => bed::address(1 + random.below(CONTAINERS.into()) as u8),
        11..14 => NEIGHBOUR,
        14..17 => WORLD,
        17 => Ipv4Addr::new(10, 244, 1, 1),
        18 => NARROW,
        _ => *random.pick(&[NOWHERE, Ipv4Addr::UNSPECIFIED, OWN, Ipv4Addr::new(224, 0, 0, 1)]),
    };
    let mut source = of_family(source, six);
    let destination = destination(world, random, six);
    if six && random.one_in(20) {
        source = "fe80::5".parse().unwrap();
    }
    let from = *random.pick(&[1000, 1001, 1002, 1003, 5000, 40_000, 1000, 1001, 67, 547, 0]);
    let to = destination.port();
    let body = match random.below(20) {
        0..9 => Body::Tcp(Tcp::new(from, to)),
        9..17 => Body::Udp(Udp::new(from, to, b"datagram")),
        17 | 18 => {
            let (id, data) = (1 + random.below(3) as u16, vec![7; random.below(30)]);
            Body::icmp(match random.below(12) {
                0 => Message::EchoReply { id, seq: 1, data },
                1 if six => Message::RouterSolicitation { mac: Some(bed::mac(1)) },
                2..5 if six => return discovery(random),
                _ => Message::EchoRequest { id, seq: 1, data },
            })
        }
        _ => Body::Raw { protocol: *random.pick(&[132, 47, 59]), bytes: vec![1; 8 + random.below(20)] },
    };
    Datagram::new(source, destination.ip(), body)
}

/// What a container asks its neighbours, or tells them.
fn discovery(random: &mut Random) -> Datagram {
    let source = mirror::host(bed::address(1 + random.below(CONTAINERS.into()) as u8)).into();
    let gateway = std::net::Ipv6Addr::from(GATEWAY_V6);
    let target = if random.one_in(3) { mirror::host(bed::address(1)) } else { gateway };
    let mac = (!random.one_in(5)).then_some(bed::mac(1));
    let to = "ff02::1:ff00:1".parse().unwrap();
    let message = match random.below(4) {
        0 => Message::NeighbourAdvertisement { flags: 0x60, target, mac },
        1 => Message::Other { kind: 134, code: 0, rest: vec![0; 12] },
        _ => Message::NeighbourSolicitation { target, mac },
    };
    Datagram::new(source, to, Body::icmp(message)).ttl(255)
}

fn destination(world: &World, random: &mut Random, six: bool) -> SocketAddr {
    let of_family = |address| of_family(address, six);
    let port = *random.pick(&[80, 443, 53, 8080, NODE_PORT, RANGES[0], RANGES[0] + 7, RANGES[1] + 99, 7000]);
    let address = match random.below(16) {
        0 => of_family(*random.pick(&[FORBIDDEN, OWN, NOWHERE, NEIGHBOUR, WORLD, NARROW, WORLD])),
        1 if six => random.pick(&["ff02::5", "fe80::1", "::1", "fd00::ac4:1"]).parse().unwrap(),
        1 => (*random.pick(&[Ipv4Addr::new(224, 0, 0, 5), Ipv4Addr::BROADCAST])).into(),
        2 | 3 => return scenery::backend(random, six),
        4 => of_family(OWN),
        5 => scenery::vip(random, six),
        _ => {
            let doors: Vec<_> = doors(world, random).filter(|door| door.is_ipv6() == six).collect();
            if doors.is_empty() { scenery::vip(random, six) } else { return *random.pick(&doors) }
        }
    };
    SocketAddr::new(address, port)
}

/// Where services are: each frontend, each node port at the node, and a port of
/// each range.
fn doors(world: &World, random: &mut Random) -> impl Iterator<Item = SocketAddr> {
    let mut doors = Vec::new();
    for service in world.services.values() {
        for (frontend, _) in &service.frontends {
            let at = frontend.ip();
            let address = if at.is_unspecified() { of_family(OWN, at.is_ipv6()) } else { at };
            doors.push(SocketAddr::new(address, frontend.port()));
        }
        for range in &service.ranges {
            let width = usize::from(range.last - range.first) + 1;
            doors.push(SocketAddr::new(range.address, range.first + random.below(width) as u16));
        }
    }
    doors.into_iter()
}

/// Another packet of the same flow.
fn varied(mut packet: Datagram, random: &mut Random) -> Datagram {
    let long = random.one_in(50).then(|| 1230 + random.below(320));
    let payload = vec![random.word() as u8; long.unwrap_or(random.below(60))];
    match &mut packet.body {
        Body::Tcp(segment) => {
            segment.flags = *random.pick(&[
                tcp::SYN,
                tcp::ACK,
                tcp::ACK,
                tcp::ACK,
                tcp::ACK,
                tcp::ACK | tcp::FIN,
                tcp::RST,
                tcp::SYN | tcp::ACK,
            ]);
            segment.payload = payload;
            segment.options = vec![1; 4 * random.below(4)];
        }
        Body::Udp(datagram) => {
            datagram.payload = payload;
            datagram.checksum = if random.one_in(5) { Checksum::Absent } else { Checksum::Right };
        }
        _ => {}
    }
    if packet.ttl != 255 {
        packet.ttl = if random.one_in(20) { random.below(4) as u8 } else { 64 };
    }
    packet.traffic_class = random.word() as u8;
    let eights = |random: &mut Random| 6 + 8 * random.below(3);
    match (&mut packet.header, random.below(40)) {
        (Header::V4(header), 0..2) => header.options = vec![1; 4 * (1 + random.below(10))],
        (Header::V4(header), _) => header.dont_fragment = random.one_in(2),
        (Header::V6(header), 0) => header.extensions.insert(0, Extension::HopByHop(vec![0; eights(random)])),
        (Header::V6(header), 1) => header.extensions.push(Extension::Destination(vec![0; eights(random)])),
        (Header::V6(header), 2) => header.extensions.push(Extension::Routing(vec![4, 0, 0, 0, 0, 0])),
        (Header::V6(header), 3) => {
            header.extensions = vec![Extension::Destination(vec![0; 6]); 5 + random.below(3)]
        }
        (Header::V6(header), 4) => header.extensions.clear(),
        (Header::V6(header), _) => header.flow_label = random.word() as u32 & 0xf_ffff,
    }
    match random.below(40) {
        0 => fragment(packet, random, 0, true),
        // An atomic fragment, or as good as one.
        1 => fragment(packet, random, 0, false),
        _ => packet,
    }
}

/// A frame that comes by a hook, most as it was meant.
pub fn frame(side: Side, packet: Datagram, random: &mut Random) -> Vec<u8> {
    let mut frame = Frame::new(packet);
    if let Side::Uplink { .. } = side {
        frame = frame.macs(NEIGHBOUR_MAC, UPLINK_MAC);
    }
    match random.below(60) {
        0 => frame.vlan = Some(random.below(4096) as u16),
        1 => frame.eth_dst = [2, 9, 9, 9, 9, 9],
        2 => frame.eth_dst = [0xff; 6],
        3..8 => frame.padding = random.below(40),
        _ => {}
    }
    mangled(frame.bytes(), random)
}

/// Now and then bytes are not what they should be, or the end is missing.
fn mangled(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.below(40) {
        0 => frame.truncate(14 + random.below(frame.len() - 13)),
        1 | 2 => {
            let at = random.below(frame.len());
            frame[at] ^= 1 << random.below(8);
        }
        // In the headers, where it matters.
        3 => {
            let at = 12 + random.below(frame.len().min(80) - 12);
            frame[at] = random.word() as u8;
        }
        // Lengths.
        4 => frame[16..20].copy_from_slice(&(random.below(120) as u32).to_be_bytes()),
        5 => {
            let at = 14 + random.below(frame.len() - 14);
            frame[at..].iter_mut().for_each(|byte| *byte = random.word() as u8);
        }
        6 => frame.extend(vec![random.word() as u8; random.below(30)]),
        _ => {}
    }
    frame
}

/// Frames that are not IP, or not even frames.
pub fn oddity(bed: &Bed, random: &mut Random) -> (Side, Vec<u8>) {
    let number = 1 + random.below(CONTAINERS.into()) as u8;
    let (gateway, own) = (GATEWAY_V4.into(), bed::address(number));
    let others = [gateway, bed::address(1), Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 96, 0, 1)];
    let or_other =
        |address, random: &mut Random| if random.one_in(3) { *random.pick(&others) } else { address };
    let mut arp = Arp::request(or_other(own, random), or_other(gateway, random));
    arp.operation = *random.pick(&[1, 1, 1, 2, 3]);
    let mut frame = arp.bytes_to(*random.pick(&[[0xff; 6], UPLINK_MAC]));
    match random.below(12) {
        0 => frame[12..14].copy_from_slice(&[0x86, 0xdd]),
        1 => frame[12..14].copy_from_slice(&(random.word() as u16).to_be_bytes()),
        2 => frame[14 + random.below(6)] ^= 1,
        3 => frame.truncate(34 + random.below(8)),
        4 => frame.extend([0; 18]),
        _ => {}
    }
    let side = if random.one_in(6) { bed.from_uplink() } else { bed.from_container(number) };
    (side, frame)
}
