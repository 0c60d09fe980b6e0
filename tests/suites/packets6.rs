//! IPv6 packet in, verdict, packet and counters out, by the real programs: the
//! world of the IPv4 rows with each address a.b.c.d become fd00::a.b.c.d.

use std::{collections::BTreeMap, net::Ipv6Addr};

use causeway_schema::{GATEWAY_MAC, protocol};
use causeway_testkit::{
    bed::{self, Bed},
    frame::{Body, Datagram, Extension, Frame, Message},
    mirror,
    oracle::Side,
    packet::tcp,
    prog::{Outcome, Programs},
    world::World,
};

const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
const PASS: i32 = -1;
const CONTAINER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

/// `10.96.0.1:80` as `[fd00::a60:1]:80`.
fn end(text: &str) -> String {
    let (address, port) = text.rsplit_once(':').unwrap();
    format!("[{}]:{port}", host(address))
}

fn host(text: &str) -> Ipv6Addr {
    mirror::host(text.parse().unwrap())
}

/// Container 1 is the client, 2 serves.
fn run(script: impl FnOnce(&Bed, &mut Programs) + Send) {
    let bed = Bed::new();
    let mut world = World::default();
    for number in 1..=3 {
        world.attach(bed::address(number), number.into(), bed.link(number), bed::mac(number));
    }
    world.service(1, "10.96.0.1:80", protocol::TCP, &["10.244.0.2:8080"]);
    world.service(2, "10.96.0.1:53", protocol::UDP, &["10.244.0.2:5353"]);
    world.service(4, "10.96.0.4:80", protocol::TCP, &[]);
    world.service(5, "10.96.0.5:80", protocol::TCP, &["10.244.0.1:8080"]);
    bed.netns.run(|| {
        let mut programs = Programs::load().unwrap();
        programs.fill(&mirror::image(&world));
        script(&bed, &mut programs);
    });
}

fn framed(packet: &Datagram) -> Vec<u8> {
    Frame::new(packet.clone()).macs(CONTAINER_MAC, GATEWAY_MAC).bytes()
}

fn check(programs: &mut Programs, side: Side, frame: &[u8], action: i32, ledger: &[&str]) -> Outcome {
    let outcome = programs.run(side, frame).unwrap();
    let expected: BTreeMap<_, _> = ledger.iter().map(|&name| (name, 1)).collect();
    assert_eq!(outcome.counters, expected, "{:?}", Frame::read(frame));
    assert_eq!(outcome.action, action, "{:?}", Frame::read(frame));
    if action == PASS {
        assert_eq!(outcome.packet, frame, "a packet left to the stack was changed");
    }
    outcome
}

/// What left, right in all its checksums.
fn left(outcome: &Outcome) -> Frame {
    Frame::read_right(&outcome.packet).unwrap()
}

#[test]
fn requests_and_replies_are_translated_with_any_headers_before_them() {
    run(|bed, programs| {
        let extensions: [&[Extension]; 4] = [
            &[],
            &[Extension::HopByHop(vec![1, 4, 0, 0, 0, 0])],
            &[
                Extension::HopByHop(vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                Extension::Destination(vec![1, 4, 0, 0, 0, 0]),
            ],
            &[
                Extension::Destination(vec![1, 4, 0, 0, 0, 0]),
                Extension::Destination(vec![1, 4, 0, 0, 0, 0]),
                Extension::Destination(vec![1, 4, 0, 0, 0, 0]),
            ],
        ];
        for extensions in extensions {
            for (request, backend) in [
                (Datagram::tcp(&end("10.244.0.1:4000"), &end("10.96.0.1:80")), 8080),
                (Datagram::udp(&end("10.244.0.1:4000"), &end("10.96.0.1:53"), b"odd"), 5353),
            ] {
                let request =
                    extensions.iter().fold(request, |packet, extension| packet.extension(extension.clone()));
                let out = check(
                    programs,
                    bed.from_container(1),
                    &framed(&request),
                    REDIRECT,
                    &["delivered", "flow_created"],
                );
                let seen = left(&out);
                assert_eq!(seen.eth_dst, bed::mac(2));
                assert_eq!(
                    (seen.packet.src, seen.packet.dst),
                    (host("10.244.0.1").into(), host("10.244.0.2").into())
                );
                assert_eq!((seen.packet.ports(), seen.packet.ttl), (Some((4000, backend)), 63));
                assert_eq!(seen.packet.header, request.header, "extension headers");

                let frontend = request.ports().unwrap().1;
                let [server, client] =
                    [format!("10.244.0.2:{backend}"), "10.244.0.1:4000".to_owned()].map(|text| end(&text));
                let reply = match request.protocol() {
                    protocol::TCP => Datagram::tcp(&server, &client)
                        .with_tcp(|segment| segment.flags = tcp::SYN | tcp::ACK),
                    _ => Datagram::udp(&server, &client, b"even"),
                };
                let out = check(programs, bed.from_container(2), &framed(&reply), REDIRECT, &["delivered"]);
                let seen = left(&out);
                assert_eq!(
                    (seen.packet.src, seen.packet.ports()),
                    (host("10.96.0.1").into(), Some((frontend, 4000)))
                );
                programs.clear_flows();
            }
        }
        let many = (0..7).fold(Datagram::tcp(&end("10.244.0.1:4000"), &end("10.96.0.1:80")), |packet, _| {
            packet.extension(Extension::Destination(vec![1, 4, 0, 0, 0, 0]))
        });
        check(programs, bed.from_container(1), &framed(&many), SHOT, &["drop_extensions"]);
    });
}

#[test]
fn a_refusal_is_a_reset_or_an_error_about_the_packet() {
    run(|bed, programs| {
        let [from, to] = ["10.244.0.1:4000", "10.96.0.1:81"].map(end);
        let knock =
            Datagram::tcp(&from, &to).with_tcp(|segment| (segment.seq, segment.flags) = (77, tcp::SYN));
        for address in [&to, &end("10.96.0.4:80")] {
            let verdict = if *address == to { "drop_no_frontend" } else { "drop_no_backend" };
            let knock = Datagram::tcp(&from, address)
                .with_tcp(|segment| (segment.seq, segment.flags) = (77, tcp::SYN));
            let out =
                check(programs, bed.from_container(1), &framed(&knock), REDIRECT, &[verdict, "refused"]);
            let answer = left(&out);
            assert_eq!(
                (answer.eth_dst, answer.packet.src, answer.packet.dst),
                (CONTAINER_MAC, knock.dst, knock.src)
            );
            let Body::Tcp(segment) = answer.packet.body else { panic!("no reset: {answer}") };
            assert_eq!((segment.flags, segment.seq, segment.ack), (tcp::RST | tcp::ACK, 0, 78));
        }
        let late = knock.clone().with_tcp(|segment| (segment.ack, segment.flags) = (99, tcp::ACK));
        let out = check(
            programs,
            bed.from_container(1),
            &framed(&late),
            REDIRECT,
            &["drop_no_frontend", "refused"],
        );
        let Body::Tcp(segment) = left(&out).packet.body else { panic!("no reset") };
        assert_eq!((segment.flags, segment.seq), (tcp::RST, 99));

        let asked = Datagram::udp(&from, &to, b"anybody there?");
        let out = check(
            programs,
            bed.from_container(1),
            &framed(&asked),
            REDIRECT,
            &["drop_no_frontend", "refused"],
        );
        told(&left(&out), &asked, |message| matches!(message, Message::Unreachable { code: 4, .. }));
        let spent = Datagram::udp(&from, &end("10.244.0.2:9"), b"x").ttl(1);
        let out = check(programs, bed.from_container(1), &framed(&spent), REDIRECT, &["drop_ttl", "refused"]);
        told(&left(&out), &spent, |message| matches!(message, Message::TimeExceeded { code: 0, .. }));
        // No error about an error.
        let error = Message::Unreachable { code: 0, original: asked.head(48) };
        let error = Datagram::icmp(&host("10.244.0.1").to_string(), &host("10.96.0.1").to_string(), error);
        check(programs, bed.from_container(1), &framed(&error), SHOT, &["drop_no_frontend"]);
    });
}

/// An error to the sender, about its own packet.
fn told(frame: &Frame, about: &Datagram, right: impl Fn(&Message) -> bool) {
    let Body::Icmp(icmp) = &frame.packet.body else { panic!("no error: {frame}") };
    assert!(right(&icmp.message), "{frame}");
    let quote = icmp.message.quote().unwrap().unwrap();
    assert_eq!(
        (quote.packet.src, quote.packet.dst, quote.packet.ports()),
        (about.src, about.dst, about.ports())
    );
    assert_eq!(frame.packet.dst, about.src);
}

#[test]
fn errors_about_a_services_packets_are_translated_inside_and_out() {
    run(|bed, programs| {
        for (request, backend) in [
            (Datagram::tcp(&end("10.244.0.1:4000"), &end("10.96.0.1:80")), 8080),
            (Datagram::udp(&end("10.244.0.1:4000"), &end("10.96.0.1:53"), b"question"), 5353),
        ] {
            let out = check(
                programs,
                bed.from_container(1),
                &framed(&request),
                REDIRECT,
                &["delivered", "flow_created"],
            );
            let seen = left(&out).packet;
            // By the backend itself, and by a router on the way: of all of the
            // packet, and of the least there may be.
            for (speaker, shown) in [("10.244.0.2", 200), ("10.244.0.2", 48), ("10.244.0.3", 60)] {
                let error = Message::TooBig { mtu: 1280, original: seen.head(shown) };
                let [from, to] = [host(speaker), host("10.244.0.1")].map(|address| address.to_string());
                let number = if speaker == "10.244.0.2" { 2 } else { 3 };
                let error = framed(&Datagram::icmp(&from, &to, error));
                let out = check(
                    programs,
                    bed.from_container(number),
                    &error,
                    REDIRECT,
                    &["delivered", "icmp_translated"],
                );
                let answer = left(&out);
                let speaks = if number == 2 { "10.96.0.1" } else { speaker };
                assert_eq!((answer.eth_dst, answer.packet.src), (bed::mac(1), host(speaks).into()));
                told(&answer, &request, |message| matches!(message, Message::TooBig { mtu: 1280, .. }));
                let Body::Icmp(icmp) = answer.packet.body else { panic!() };
                let whole = icmp.message.quote().unwrap().unwrap();
                if whole.missing == 0 {
                    whole.packet.verify().unwrap();
                }
            }
            assert_eq!(seen.ports().unwrap().1, backend);
            programs.clear_flows();
        }
        // About no flow of ours: it passes as it is.
        let strange = Datagram::udp(&end("10.244.0.2:1"), &end("10.244.0.1:2"), b"x");
        let error = Message::Unreachable { code: 4, original: strange.head(48) };
        let [from, to] = ["10.244.0.1", "10.244.0.2"].map(|address| host(address).to_string());
        check(
            programs,
            bed.from_container(1),
            &framed(&Datagram::icmp(&from, &to, error)),
            REDIRECT,
            &["delivered"],
        );
    });
}

#[test]
fn the_gateway_is_found_and_services_answer_a_ping() {
    run(|bed, programs| {
        let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
        let own = host("10.244.0.1").to_string();
        let ask = |target: Ipv6Addr| {
            let message = Message::NeighbourSolicitation { target, mac: Some(CONTAINER_MAC) };
            framed(&Datagram::icmp(&own, "ff02::1:ff00:1", message).ttl(255))
        };
        let out = check(programs, bed.from_container(1), &ask(gateway), REDIRECT, &["gateway_nd"]);
        let answer = left(&out);
        assert_eq!((answer.eth_src, answer.eth_dst, answer.packet.ttl), (GATEWAY_MAC, CONTAINER_MAC, 255));
        let Body::Icmp(icmp) = answer.packet.body else { panic!("no answer") };
        let told = Message::NeighbourAdvertisement { flags: 0xe0, target: gateway, mac: Some(GATEWAY_MAC) };
        assert_eq!(icmp.message, told);
        check(programs, bed.from_container(1), &ask(host("10.244.0.2")), SHOT, &["drop_nd"]);

        let ping = |to: &str, id| {
            Datagram::icmp(
                &own,
                &host(to).to_string(),
                Message::EchoRequest { id, seq: 1, data: b"abc".to_vec() },
            )
        };
        for service in ["10.96.0.1", "10.96.0.4"] {
            let out =
                check(programs, bed.from_container(1), &framed(&ping(service, 7)), REDIRECT, &["echo_reply"]);
            let answer = left(&out);
            assert_eq!((answer.packet.src, answer.packet.ttl), (host(service).into(), 64));
            let Body::Icmp(icmp) = answer.packet.body else { panic!("no answer") };
            assert_eq!(icmp.message, Message::EchoReply { id: 7, seq: 1, data: b"abc".to_vec() });
        }
        check(programs, bed.from_container(1), &framed(&ping("10.244.0.2", 8)), REDIRECT, &["delivered"]);
    });
}

#[test]
fn a_container_reaches_itself_and_headers_that_cannot_be_are_named() {
    run(|bed, programs| {
        let request = Datagram::tcp(&end("10.244.0.1:4000"), &end("10.96.0.5:80"));
        let out = check(
            programs,
            bed.from_container(1),
            &framed(&request),
            REDIRECT,
            &["delivered", "flow_created", "flow_translated"],
        );
        let seen = left(&out);
        let hairpin: Ipv6Addr = causeway_schema::HAIRPIN_V6.into();
        assert_eq!(
            (seen.eth_dst, seen.packet.src, seen.packet.ports()),
            (bed::mac(1), hairpin.into(), Some((4000, 8080)))
        );

        let good = framed(&Datagram::tcp(&end("10.244.0.1:4001"), &end("10.96.0.1:80")));
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = good.clone();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            frame
        };
        for (frame, verdict) in [
            (with(14, &[0x45]), "drop_malformed"),
            (with(18, &[0, 0]), "drop_malformed"),
            (with(18, &[9, 0]), "drop_truncated"),
            (with(18, &[0, 12]), "drop_truncated"),
            (good[..good.len() - 4].to_vec(), "drop_truncated"),
        ] {
            check(programs, bed.from_container(1), &frame, SHOT, &[verdict]);
        }
        let spoofed = framed(&Datagram::tcp(&end("10.244.0.2:4001"), &end("10.96.0.1:80")));
        check(programs, bed.from_container(1), &spoofed, SHOT, &["drop_spoofed"]);
    });
}
