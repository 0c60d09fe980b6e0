//! Bytes that others made, and what comes back of what we make.

use proptest::prelude::*;

use super::*;
use crate::packet::tcp;

const A4: &str = "10.0.0.1:1000";
const B4: &str = "10.96.0.1:80";
const A6: &str = "[fd00::1]:1000";
const B6: &str = "[fd00:10:96::1]:80";

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn discovery(message: Message) -> Datagram {
    Datagram::icmp("fe80::1", "ff02::1", message).ttl(255)
}

/// One of every kind.
fn everything() -> Vec<Datagram> {
    let chain = |packet: Datagram| {
        packet
            .extension(Extension::hop_by_hop(&[5, 2, 0, 0]))
            .extension(Extension::routing(0, 1, &["fd00::7".parse().unwrap(), "fd00::8".parse().unwrap()]))
            .extension(Extension::destination(&[1, 3, 0, 0, 0]))
    };
    let (target, mac) = ("fe80::2".parse().unwrap(), Some([2, 0, 0, 0, 0, 1]));
    let udp = [Datagram::udp(A4, B4, b"payload"), Datagram::udp(A6, B6, b"payload")];
    let mut all = vec![
        Datagram::tcp(A4, B4).with_v4(|v4| v4.options = vec![1; 8]),
        Datagram::rst(A4, B4, 7),
        Datagram::tcp(A6, B6)
            .with_tcp(|tcp| (tcp.options, tcp.payload) = (vec![2, 4, 5, 0xb4], b"odd".to_vec())),
        chain(Datagram::tcp(A6, B6)),
        chain(udp[1].clone()),
        udp[0].clone().checksum(Checksum::Absent),
        udp[0].clone().checksum(Checksum::Off(3)).with_v4(|v4| v4.checksum = Checksum::Off(9)),
        udp[1].clone().checksum(Checksum::Off(0x1234)),
        discovery(Message::RouterSolicitation { mac }),
        discovery(Message::NeighbourSolicitation { target, mac }),
        discovery(Message::NeighbourAdvertisement { flags: 0x60, target, mac: None }),
        Datagram::new(
            [10, 0, 0, 1].into(),
            [10, 0, 0, 2].into(),
            Body::Raw { protocol: 47, bytes: vec![1; 9] },
        ),
    ];
    for (packet, from) in udp.iter().zip(["10.9.9.9", "fd00::9"]) {
        let to = packet.src.to_string();
        for original in [packet.bytes(), packet.head(28), packet.head(48)] {
            all.push(Datagram::icmp(from, &to, Message::Unreachable { code: 3, original: original.clone() }));
            all.push(Datagram::icmp(from, &to, Message::TooBig { mtu: 1400, original: original.clone() }));
            all.push(Datagram::icmp(from, &to, Message::TimeExceeded { code: 0, original }));
        }
        all.push(Datagram::icmp(from, &to, Message::EchoRequest { id: 1, seq: 2, data: b"ping".to_vec() }));
        all.push(Datagram::icmp(from, &to, Message::EchoReply { id: 1, seq: 2, data: vec![] }));
        all.push(Datagram::icmp(from, &to, Message::Other { kind: 200, code: 1, rest: vec![1, 2, 3, 4, 5] }));
    }
    all.extend(udp);
    all
}

#[test]
fn what_was_written_is_read() {
    for packet in everything() {
        let mut frame = Frame::new(packet).vlan(42);
        frame.padding = 3;
        assert_eq!(Frame::read(&frame.bytes()).unwrap(), frame);
    }
}

/// RFC 1071 and the RFCs of each protocol, in somebody else's hands.
#[test]
fn another_parser_finds_the_same_checksums() {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let mut judged = 0;
    let plain = |packet: &Datagram| {
        // It takes the destination in the header for the pseudo-header's.
        packet.cover(true).dst == packet.dst
    };
    for packet in everything().into_iter().filter(|packet| packet.verify().is_ok()).filter(plain) {
        let bytes = packet.bytes();
        let sliced = SlicedPacket::from_ip(&bytes).unwrap_or_else(|error| panic!("{packet}: {error}"));
        let (is, should) = match (&sliced.net, &sliced.transport) {
            (Some(NetSlice::Ipv4(ip)), transport) => {
                let header = ip.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum, "{packet}");
                let (src, dst) = (header.source, header.destination);
                match transport {
                    Some(TransportSlice::Tcp(tcp)) => {
                        (tcp.checksum(), tcp.calc_checksum_ipv4(src, dst).unwrap())
                    }
                    Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
                        let header = udp.to_header();
                        (header.checksum, header.calc_checksum_ipv4_raw(src, dst, udp.payload()).unwrap())
                    }
                    Some(TransportSlice::Icmpv4(icmp)) => {
                        (icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()))
                    }
                    _ => continue,
                }
            }
            (Some(NetSlice::Ipv6(ip)), transport) => {
                let (src, dst) = (ip.header().source(), ip.header().destination());
                match transport {
                    Some(TransportSlice::Tcp(tcp)) => {
                        (tcp.checksum(), tcp.calc_checksum_ipv6(src, dst).unwrap())
                    }
                    Some(TransportSlice::Udp(udp)) => {
                        let header = udp.to_header();
                        (header.checksum, header.calc_checksum_ipv6_raw(src, dst, udp.payload()).unwrap())
                    }
                    Some(TransportSlice::Icmpv6(icmp)) => {
                        (icmp.checksum(), icmp.icmp_type().calc_checksum(src, dst, icmp.payload()).unwrap())
                    }
                    _ => continue,
                }
            }
            other => panic!("{packet}: {other:?}"),
        };
        assert_eq!(is, should, "{packet}");
        judged += 1;
    }
    assert!(judged > 20, "only {judged} packets were judged");
}

/// The header that texts on RFC 791's checksum work through: sum 0xb861.
#[test]
fn a_header_from_the_books() {
    let bytes = hex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7");
    let quote = Datagram::read_quote(&bytes).unwrap();
    quote.packet.verify().unwrap();
    assert_eq!((quote.missing, quote.packet.dst), (95, [192, 168, 0, 199].into()));
    let Header::V4(header) = &quote.packet.header else { panic!() };
    assert!(header.dont_fragment && header.checksum == Checksum::Right);
}

#[test]
fn each_wrong_checksum_is_named() {
    let quoted = Datagram::udp(A4, B4, b"x").with_v4(|v4| v4.checksum = Checksum::Off(1)).bytes();
    for (packet, words) in [
        (Datagram::tcp(A4, B4).with_v4(|v4| v4.checksum = Checksum::Off(1)), "IPv4 header checksum is off"),
        (Datagram::tcp(A6, B6).checksum(Checksum::Off(1)), "TCP checksum is off by 0x0001"),
        (Datagram::udp(A4, B4, b"").checksum(Checksum::Off(0xfffe)), "UDP checksum is off by 0xfffe"),
        (Datagram::udp(A6, B6, b"").checksum(Checksum::Absent), "UDP over IPv6 without"),
        (discovery(Message::RouterSolicitation { mac: None }).checksum(Checksum::Off(8)), "ICMP checksum"),
        (
            Datagram::icmp("10.0.0.9", "10.0.0.1", Message::TooBig { mtu: 1, original: quoted }),
            "in the quoted packet",
        ),
    ] {
        let frame = Frame::new(packet).bytes();
        let error = Frame::read_right(&frame).expect_err(words);
        assert!(format!("{error:#}").contains(words), "{words} in {error:#}");
        Frame::read(&frame).unwrap();
    }
    Datagram::udp(A4, B4, b"").checksum(Checksum::Absent).verify().unwrap();
}

/// RFC 768: a computed zero is sent as 0xffff, and is right.
#[test]
fn no_udp_checksum_is_zero_by_chance() {
    let rest = |word: u16| {
        let packet = Datagram::udp(A6, B6, &word.to_be_bytes());
        let bytes = packet.bytes();
        (u16::from_be_bytes([bytes[46], bytes[47]]), packet)
    };
    let (_, packet) = (0..=u16::MAX).map(rest).find(|(field, _)| *field == 0xffff).unwrap();
    assert_eq!(Datagram::read(&packet.bytes()).unwrap().0, packet);
}

#[test]
fn a_quotation_shows_what_is_there() {
    let segment = Datagram::tcp(A4, B4);
    let quote = Datagram::read_quote(&segment.head(28)).unwrap();
    assert_eq!((quote.packet.ports(), quote.missing), (Some((1000, 80)), 12));
    let quote = Datagram::read_quote(&segment.bytes()).unwrap();
    assert_eq!((quote.packet, quote.missing), (segment, 0));
    let long = Datagram::udp(A6, B6, &[7; 100]).extension(Extension::hop_by_hop(&[]));
    let quote = Datagram::read_quote(&long.head(60)).unwrap();
    let Body::Udp(udp) = &quote.packet.body else { panic!("{quote}") };
    assert_eq!((udp.length, udp.payload.len(), quote.missing), (Some(108), 4, 96));
    // Cut within the chain.
    let quote = Datagram::read_quote(&long.head(44)).unwrap();
    assert_eq!((quote.packet.ports(), quote.packet.protocol()), (None, 0));
}

#[test]
fn fragments_are_put_together_again() {
    let text: Vec<u8> = (0..2999).map(|index| index as u8).collect();
    let options = vec![0x07, 3, 4, 1, 0x94, 4, 0, 0];
    for whole in [
        Datagram::udp(A4, B4, &text).with_v4(|v4| (v4.options, v4.id) = (options, 77)),
        Datagram::udp(A6, B6, &text)
            .extension(Extension::hop_by_hop(&[]))
            .extension(Extension::destination(&[1, 2, 0, 0])),
        Datagram::icmp("fd00::1", "fd00::2", Message::EchoRequest { id: 1, seq: 1, data: text.clone() }),
        Datagram::tcp(A6, B6).with_tcp(|tcp| (tcp.flags, tcp.payload) = (tcp::ACK, text.clone())),
    ] {
        for mtu in [96, 576, 1280, 1500] {
            let mut pieces = fragment(&whole, mtu, 77);
            assert!(pieces.len() >= 3);
            for piece in &pieces {
                let bytes = piece.bytes();
                assert!(bytes.len() <= mtu);
                assert_eq!(Datagram::read(&bytes).unwrap(), (piece.clone(), 0));
                piece.verify().unwrap();
            }
            assert_eq!(pieces[0].ports(), whole.ports());
            assert!(pieces[1..].iter().all(|piece| piece.ports().is_none()));
            pieces.reverse();
            assert_eq!(reassemble(&pieces).unwrap(), whole);
            pieces.remove(1);
            assert!(reassemble(&pieces).is_err());
        }
        assert_eq!(fragment(&whole, 9000, 1), [whole]);
    }
}

/// RFC 791: "router alert" (0x94) goes with every fragment, "record route" with the first.
#[test]
fn later_fragments_have_the_options_they_must() {
    let whole =
        Datagram::udp(A4, B4, &[0; 100]).with_v4(|v4| v4.options = vec![0x07, 3, 4, 1, 0x94, 4, 0, 0]);
    let options = fragment(&whole, 96, 1).into_iter().map(|piece| match piece.header {
        Header::V4(header) => header.options.len(),
        Header::V6(_) => 0,
    });
    assert_eq!(options.collect::<Vec<_>>(), [8, 4]);
}

/// RFC 8200, 4.5: hop-by-hop options and routing go with each, the rest is cut up.
#[test]
fn later_fragments_have_the_extension_headers_they_must() {
    let whole = Datagram::udp(A6, B6, &[0; 2000])
        .extension(Extension::hop_by_hop(&[]))
        .extension(Extension::destination(&[]));
    let kinds = |piece: &Datagram| match &piece.header {
        Header::V6(header) => header.extensions.iter().map(Extension::kind).collect(),
        Header::V4(_) => Vec::new(),
    };
    let pieces = fragment(&whole, 1280, 1);
    assert_eq!((kinds(&pieces[0]), kinds(&pieces[1])), (vec![0, 44, 60], vec![0, 44]));
}

#[test]
fn what_is_no_packet_is_said_to_be_none() {
    let v6 = Frame::new(Datagram::tcp(A6, B6)).bytes();
    let mut chain = Frame::new(Datagram::udp(A6, B6, &[]).extension(Extension::hop_by_hop(&[]))).bytes();
    chain[55] = 9;
    for (bytes, words) in [
        (vec![0; 5], "a frame of 5 bytes"),
        ([&v6[..12], &[8, 6], &v6[14..]].concat(), "not IP"),
        ([&v6[..12], &[8, 0], &v6[14..]].concat(), "other family"),
        (v6[..60].to_vec(), "6 bytes behind an IP header that says 20"),
        (chain, "extension header 0 is cut short"),
    ] {
        let error = Frame::read(&bytes).expect_err(words);
        assert!(format!("{error:#}").contains(words), "{words} in {error:#}");
    }
}

#[test]
fn a_person_can_read_it() {
    let error = Message::TooBig { mtu: 1400, original: Datagram::udp(A6, B6, &[0; 9]).head(50) };
    let frame = Frame::new(Datagram::icmp("fd00::9", "fd00::1", error).checksum(Checksum::Off(3))).vlan(7);
    assert_eq!(
        frame.to_string(),
        "02:00:00:00:00:11 -> 02:ca:05:e0:0a:01 VLAN 7 fd00::9 -> fd00::1 too big for 1400, about \
         [[fd00::1]:1000 -> [fd00:10:96::1]:80 UDP, 2 bytes, ttl 64, 7 bytes cut off], \
         ttl 64, checksum Off(3)"
    );
}

proptest! {
    /// Whatever a program makes of a packet can be looked at.
    #[test]
    fn nothing_is_too_strange_to_be_read(
        which: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length: prop::sample::Index,
    ) {
        let mut bytes = Frame::new(which.get(&everything()).clone()).bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(14 + length.index(bytes.len() - 13));
        if let Ok(frame) = Frame::read(&bytes) {
            let _ = frame.packet.verify();
            // What cannot be said is left out, so the second reading is the first.
            prop_assert_eq!(Frame::read(&frame.bytes()).unwrap(), frame, "{:02x?}", bytes);
        }
        let _ = Datagram::read_quote(&bytes[14..]).map(|quote| quote.to_string());
    }
}
