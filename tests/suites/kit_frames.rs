//! Do the kit's frames and a real kernel understand each other? What the
//! kernel sends is read, judged and written again; what the kit makes, the
//! kernel takes or refuses as it should.

use std::{
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, SystemTime},
};

use causeway_schema::protocol;
use causeway_testkit::{
    cable::{Cable, END, LEFT, LEFT_MAC, RIGHT, RIGHT_MAC},
    capture::{Capture, Captured},
    client::requests,
    frame::{Body, Checksum, Datagram, Extension, Frame, Header, Message, fragment, reassemble},
    link,
    packet::tcp,
    raw::Raw,
    server::Server,
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
};

const PATIENCE: Duration = Duration::from_secs(3);
const QUIET: Duration = Duration::from_millis(200);
const PORT: u16 = 7000;
/// Nobody listens there.
const CLOSED: u16 = 9;

fn end(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn udp(family: usize, from: u16, to: u16, payload: &[u8]) -> Datagram {
    Datagram::udp(&end(LEFT[family], from), &end(RIGHT[family], to), payload)
}

/// The IP frames among them; each right, and the same when written again.
fn sound(captured: &[Captured]) -> Vec<Frame> {
    let is_ip = |seen: &&Captured| matches!(seen.bytes[12..14], [0x08, 0x00] | [0x86, 0xdd]);
    let frames = captured.iter().filter(is_ip).map(|seen| {
        assert!(!seen.unfinished, "the kernel left a checksum to the device");
        let frame =
            Frame::read_right(&seen.bytes).unwrap_or_else(|error| panic!("{error:#}: {:02x?}", seen.bytes));
        assert_eq!(frame.bytes(), seen.bytes, "{frame}");
        frame
    });
    frames.collect()
}

#[test]
fn what_the_kernel_sends_is_read_and_right() {
    let cable = Cable::new();
    let begun = SystemTime::now();
    let capture = Capture::start(&cable.left, END);
    let _server = Server::start(&cable.right, "right", PORT);
    let long: Vec<u8> = (0..4000).map(|index| index as u8).collect();
    for family in [0, 1] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let to = SocketAddr::new(RIGHT[family], PORT);
            requests(&cable.left, to, 3, protocol).assert_clean(3, to);
        }
        let socket = UdpEnd::bind(&cable.left, SocketAddr::new(LEFT[family], 5000), Fragments::Allowed);
        socket.send((RIGHT[family], CLOSED), b"anybody there?").unwrap();
        // An echo server: what comes back is as long.
        socket.send((RIGHT[family], PORT), &long[..2000]).unwrap();
        assert_eq!(
            socket.receive(PATIENCE).unwrap(),
            (long[..2000].to_vec(), SocketAddr::new(RIGHT[family], PORT))
        );
    }
    let captured = capture.stop();
    let frames = sound(&captured);
    let mut kinds: Vec<_> = frames
        .iter()
        .map(|Frame { packet, .. }| {
            let family = if packet.is_v6() { 6 } else { 4 };
            let kind = match (&packet.body, packet.piece()) {
                (_, Some(_)) => "fragment",
                (Body::Tcp(_), _) => "tcp",
                (Body::Udp(_), _) => "udp",
                (Body::Icmp(icmp), _) => match icmp.message {
                    Message::Unreachable { .. } => "unreachable",
                    Message::NeighbourSolicitation { .. } => "solicitation",
                    Message::NeighbourAdvertisement { .. } => "advertisement",
                    _ => "icmp",
                },
                _ => "other",
            };
            (family, kind)
        })
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    let of_both = ["tcp", "udp", "fragment", "unreachable"].map(|kind| [(4, kind), (6, kind)]);
    let discovery = [(6, "solicitation"), (6, "advertisement")];
    for kind in of_both.into_iter().flatten().chain(discovery) {
        assert!(kinds.contains(&kind), "no {kind:?} in {kinds:?}");
    }
    for family in [0, 1] {
        let mut sent: Vec<Datagram> = frames.iter().map(|frame| frame.packet.clone()).collect();
        sent.retain(|packet| packet.src == LEFT[family] && packet.piece().is_some());
        let Body::Udp(whole) = reassemble(&sent).unwrap().body else { panic!() };
        assert_eq!((whole.payload, whole.checksum), (long[..2000].to_vec(), Checksum::Right));
        let refusal = frames.iter().find_map(|frame| match &frame.packet.body {
            Body::Icmp(icmp) if frame.packet.src == RIGHT[family] => match &icmp.message {
                Message::Unreachable { code, .. } => Some((*code, icmp.message.quote()?.unwrap())),
                _ => None,
            },
            _ => None,
        });
        let (code, quote) = refusal.unwrap();
        assert_eq!((code, quote.packet.ports()), ([3, 4][family], Some((5000, CLOSED))));
    }
    let now = SystemTime::now();
    assert!(captured.iter().all(|seen| (begun..now).contains(&seen.at)));
    assert!(captured.iter().any(|seen| seen.outgoing) && captured.iter().any(|seen| !seen.outgoing));
}

#[test]
fn the_kernel_takes_what_is_right_and_refuses_what_is_wrong() {
    let cable = Cable::new();
    let send = cable.left_sends();
    for family in [0, 1] {
        let socket = UdpEnd::bind(&cable.right, SocketAddr::new(RIGHT[family], PORT), Fragments::Allowed);
        let plain = udp(family, 1000, PORT, b"plain");
        let mut good = vec![plain.clone()];
        let mut bad =
            vec![plain.clone().checksum(Checksum::Off(1)), plain.clone().checksum(Checksum::Off(0x8000))];
        if family == 0 {
            good.push(plain.clone().checksum(Checksum::Absent));
            good.push(plain.clone().with_v4(|v4| v4.options = vec![1; 12]));
            bad.push(plain.clone().with_v4(|v4| v4.checksum = Checksum::Off(1)));
        } else {
            bad.push(plain.clone().checksum(Checksum::Absent));
            good.push(plain.clone().extension(Extension::hop_by_hop(&[])));
            good.push(plain.clone().extension(Extension::destination(&[1, 2, 0, 0])));
            // All stops visited: to be ignored, whatever its type (RFC 8200, 4.4).
            let visited = Extension::routing(0, 0, &[]);
            good.push(plain.extension(Extension::hop_by_hop(&[])).extension(visited));
        }
        for packet in good {
            send(packet.clone());
            let received = socket.receive(PATIENCE).unwrap_or_else(|error| panic!("{packet}: {error}"));
            assert_eq!(received, (b"plain".to_vec(), SocketAddr::new(LEFT[family], 1000)), "{packet}");
        }
        for packet in bad {
            assert!(packet.verify().is_err());
            send(packet.clone());
            let error = socket.receive(QUIET).expect_err("a wrong packet was taken");
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{packet}");
        }
    }
}

#[test]
fn the_kernel_puts_our_fragments_together() {
    let cable = Cable::new();
    let send = cable.left_sends();
    let text: Vec<u8> = (0..5000).map(|index| index as u8).collect();
    for family in [0, 1] {
        let socket = UdpEnd::bind(&cable.right, SocketAddr::new(RIGHT[family], PORT), Fragments::Allowed);
        let mut whole = udp(family, 1000, PORT, &text);
        if family == 1 {
            whole = whole.extension(Extension::hop_by_hop(&[])).extension(Extension::destination(&[]));
        }
        for (id, mtu) in [(1, 1500), (2, 600)] {
            let mut pieces = fragment(&whole, mtu, id);
            pieces.rotate_left(1);
            pieces.into_iter().for_each(&send);
            assert_eq!(socket.receive(PATIENCE).unwrap().0, text, "IPv{} in {mtu}", [4, 6][family]);
        }
    }
}

#[test]
fn the_kernel_answers() {
    let cable = Cable::new();
    let send = cable.left_sends();
    let capture = Capture::start_where(&cable.left, END, |seen| !seen.outgoing);
    let answer = |what: &str, good: &dyn Fn(&Datagram) -> bool| {
        let found = capture.wait_packet(PATIENCE, |frame| good(&frame.packet));
        let frame = found.unwrap_or_else(|| panic!("no {what}"));
        frame.packet.verify().unwrap();
        frame.packet
    };
    for family in [0, 1] {
        let [from, to] = [LEFT[family].to_string(), RIGHT[family].to_string()];
        let data = b"to and fro".to_vec();
        send(Datagram::icmp(&from, &to, Message::EchoRequest { id: 7, seq: 8, data: data.clone() }));
        let echo = Body::icmp(Message::EchoReply { id: 7, seq: 8, data });
        answer("echo", &|packet| packet.src == RIGHT[family] && packet.body == echo);

        send(Datagram::tcp(&end(LEFT[family], 1000), &end(RIGHT[family], CLOSED)));
        let refusal = Datagram::rst(&end(RIGHT[family], CLOSED), &end(LEFT[family], 1000), 0)
            .with_tcp(|segment| (segment.flags, segment.ack, segment.window) = (tcp::RST | tcp::ACK, 2, 0));
        let refused =
            answer("refusal", &|packet| packet.src == RIGHT[family] && packet.protocol() == protocol::TCP);
        assert_eq!(refused.body, refusal.body);
    }
    let (Some(IpAddr::V6(target)), from) = (RIGHT.last().copied(), LEFT[1].to_string()) else { panic!() };
    let ask = Message::NeighbourSolicitation { target, mac: Some(LEFT_MAC) };
    // Asked of the group: who is asked alone says less (RFC 4861, 7.2.4).
    send(Datagram::icmp(&from, "ff02::1:ff00:2", ask).ttl(255));
    let told = Message::NeighbourAdvertisement { flags: 0x60, target, mac: Some(RIGHT_MAC) };
    answer("advertisement", &|packet| packet.body == Body::icmp(told.clone()));

    // What asks for a router asks with this; a host listens to no answer, so
    // the kernel's own question is held against ours.
    cable.right.ip(&format!("link set {END} down"));
    cable.right.ip(&format!("link set {END} up"));
    let question = Body::icmp(Message::RouterSolicitation { mac: Some(RIGHT_MAC) });
    let asked = answer("solicitation of a router", &|packet| packet.body == question);
    assert_eq!((asked.ttl, asked.header), (255, Header::V6(Default::default())));
}

#[test]
fn the_kernel_believes_our_errors() {
    let cable = Cable::new();
    let send = cable.left_sends();
    for family in [0, 1] {
        let local = SocketAddr::new(RIGHT[family], PORT);
        let socket = UdpEnd::bind(&cable.right, local, Fragments::Never);
        socket.send((LEFT[family], 4000), b"once").unwrap();
        let sent = Datagram::udp(&local.to_string(), &end(LEFT[family], 4000), &[0; 1400]);
        let [from, to] = [LEFT[family].to_string(), RIGHT[family].to_string()];
        assert_eq!(link::path_mtu(&cable.right, LEFT[family]), None);
        send(Datagram::icmp(
            &from,
            &to,
            Message::TooBig { mtu: 1350, original: sent.head([28, 48][family]) },
        ));
        let learned = (0..300).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            link::path_mtu(&cable.right, LEFT[family]) == Some(1350)
        });
        assert!(learned, "{}", cable.right.ip(&format!("route get {}", LEFT[family])));
        let refused = socket.send((LEFT[family], 4000), &[0; 1400]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
    }
}

#[test]
fn a_reset_of_ours_ends_a_connection() {
    let cable = Cable::new();
    let send = cable.left_sends();
    for family in [0, 1] {
        let at = SocketAddr::new(LEFT[family], PORT);
        let listener = cable.left.run(|| TcpListener::bind(at).unwrap());
        let capture = Capture::start_where(&cable.left, END, |seen| !seen.outgoing);
        let mut stream = cable.right.run(|| TcpStream::connect(at).unwrap());
        let _accepted = listener.accept().unwrap();
        let established =
            |frame: &Frame| matches!(&frame.packet.body, Body::Tcp(tcp) if tcp.flags == tcp::ACK);
        let Some(Body::Tcp(acked)) =
            capture.wait_packet(PATIENCE, established).map(|frame| frame.packet.body)
        else {
            panic!("no connection")
        };
        send(Datagram::rst(&at.to_string(), &stream.local_addr().unwrap().to_string(), acked.ack));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_tag_is_seen_though_the_kernel_takes_it_out() {
    let cable = Cable::new();
    let capture = Capture::start(&cable.right, END);
    let tagged = Frame::new(udp(0, 1, 2, b"tagged")).vlan(42);
    Raw::open(&cable.left, END).send(&tagged.bytes());
    let seen = capture.wait_packet(PATIENCE, |frame| frame.vlan.is_some()).expect("no tagged frame");
    assert_eq!(seen, tagged);
}
