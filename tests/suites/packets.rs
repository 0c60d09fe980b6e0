//! Packet in, verdict, packet and counters out, by the real programs. Every
//! counter that is not named must stand still.

use std::{collections::BTreeMap, net::SocketAddrV4};

use causeway_schema::{GATEWAY_MAC, V4, Verdict, protocol};
use causeway_testkit::{
    bed::{self, Bed, FORBIDDEN, NEIGHBOUR, NOWHERE, OWN, UPLINK_MAC},
    inspect::{describe, residuals, without_checksums},
    oracle::{Side, hash_of},
    packet::{Arp, CONTAINER_MAC, Packet, tcp},
    parse::{self, Parsed},
    prog::{Outcome, Programs},
    world::World,
};

const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
const PASS: i32 = -1;

/// Container 1 is the client, 2 serves; 10.244.1.1 serves on another node.
struct Rig {
    bed: Bed,
    world: World,
}

impl Rig {
    fn new() -> Self {
        let bed = Bed::new();
        let mut world = World::default();
        for number in 1..=3 {
            world.attach(bed::address(number), number.into(), bed.link(number), bed::mac(number));
        }
        world.service(1, "10.96.0.1:80", protocol::TCP, &["10.244.0.2:8080"]);
        world.service(2, "10.96.0.1:53", protocol::UDP, &["10.244.0.2:53"]);
        world.service(3, "10.96.0.3:80", protocol::TCP, &["10.244.1.1:8080"]);
        world.service(4, "10.96.0.4:80", protocol::TCP, &[]);
        world.service(5, "10.96.0.5:80", protocol::TCP, &["10.244.9.1:8080"]);
        Self { bed, world }
    }

    /// Runs `script` inside the bed with programs that know the world.
    fn run(&self, script: impl FnOnce(&Rig, &mut Programs) + Send) {
        self.bed.netns.run(|| {
            let mut programs = Programs::load().unwrap();
            programs.fill(&self.world.image::<V4>());
            script(self, &mut programs);
        });
    }

    fn client(&self) -> Side {
        self.bed.from_container(1)
    }
}

/// One row: what goes in, and everything that must come of it.
fn check(programs: &mut Programs, side: Side, frame: &[u8], action: i32, ledger: &[&str]) -> Outcome {
    let outcome = programs.run(side, frame).unwrap();
    let expected: BTreeMap<_, _> = ledger.iter().map(|&name| (name, 1)).collect();
    assert_eq!(outcome.counters, expected, "{}", describe(frame));
    assert_eq!(outcome.action, action, "{}", describe(frame));
    if action == PASS {
        assert_eq!(outcome.packet, frame, "a packet left to the stack was changed");
    }
    outcome
}

/// The packet that left is `expected`, with checksums as right as they were.
fn leaves(frame: &[u8], outcome: &Outcome, expected: &[u8]) {
    let (got, wanted) = (without_checksums(&outcome.packet), without_checksums(expected));
    assert!(got == wanted, "out    {}\nwanted {}", describe(&outcome.packet), describe(expected));
    assert_eq!(residuals(&outcome.packet), residuals(frame), "checksums of {}", describe(&outcome.packet));
}

fn delivered_to(number: u8, packet: &Packet) -> Packet {
    Packet { eth_src: GATEWAY_MAC, eth_dst: bed::mac(number), ttl: packet.ttl - 1, ..packet.clone() }
}

fn end(address: &str) -> SocketAddrV4 {
    address.parse().unwrap()
}

#[test]
fn a_request_goes_to_its_backend_and_the_answer_comes_from_the_frontend() {
    Rig::new().run(|rig, programs| {
        for (proto, frontend, backend) in [
            (protocol::TCP, "10.96.0.1:80", "10.244.0.2:8080"),
            (protocol::UDP, "10.96.0.1:53", "10.244.0.2:53"),
        ] {
            let request = Packet::new(proto, end("10.244.0.1:4000"), end(frontend));
            let frame = request.bytes();
            let out = check(programs, rig.client(), &frame, REDIRECT, &["delivered", "flow_created"]);
            leaves(&frame, &out, &Packet { dst: end(backend), ..delivered_to(2, &request) }.bytes());

            let reply = request.reply(end(backend));
            let frame = reply.bytes();
            let out = check(programs, rig.bed.from_container(2), &frame, REDIRECT, &["delivered"]);
            leaves(&frame, &out, &Packet { src: end(frontend), ..delivered_to(1, &reply) }.bytes());
            assert_eq!(programs.flows(), [0, 2]);

            let more = request.flags(tcp::ACK);
            let frame = more.bytes();
            let out = check(programs, rig.client(), &frame, REDIRECT, &["delivered", "flow_promoted"]);
            leaves(&frame, &out, &Packet { dst: end(backend), ..delivered_to(2, &more) }.bytes());
            assert_eq!(programs.flows(), [2, 0]);
            check(programs, rig.client(), &frame, REDIRECT, &["delivered"]);
            programs.clear_flows();
        }
    });
}

#[test]
fn a_backend_on_another_node_is_routed_to() {
    Rig::new().run(|rig, programs| {
        let request = Packet::tcp("10.244.0.1:4000", "10.96.0.3:80");
        let frame = request.bytes();
        let out = check(programs, rig.client(), &frame, REDIRECT, &["forwarded", "flow_created"]);
        leaves(&frame, &out, &Packet { dst: end("10.244.1.1:8080"), ttl: 63, ..request.clone() }.bytes());

        let reply = request.reply(end("10.244.1.1:8080")).to_mac(UPLINK_MAC);
        let frame = reply.bytes();
        let out = check(programs, rig.bed.from_uplink(), &frame, REDIRECT, &["delivered"]);
        leaves(&frame, &out, &Packet { src: end("10.96.0.3:80"), ..delivered_to(1, &reply) }.bytes());
    });
}

#[test]
fn from_outside_only_backends_of_this_node_serve() {
    Rig::new().run(|rig, programs| {
        let request = Packet::tcp("192.168.77.11:4000", "10.96.0.1:80").to_mac(UPLINK_MAC);
        let frame = request.bytes();
        let out = check(programs, rig.bed.from_uplink(), &frame, REDIRECT, &["delivered", "flow_created"]);
        leaves(&frame, &out, &Packet { dst: end("10.244.0.2:8080"), ..delivered_to(2, &request) }.bytes());
        let reply = request.reply(end("10.244.0.2:8080")).to_mac(GATEWAY_MAC);
        let frame = reply.bytes();
        let out = check(programs, rig.bed.from_container(2), &frame, REDIRECT, &["forwarded"]);
        leaves(&frame, &out, &Packet { src: end("10.96.0.1:80"), ttl: 63, ..reply }.bytes());

        let elsewhere = Packet::tcp("192.168.77.11:4000", "10.96.0.3:80").to_mac(UPLINK_MAC).bytes();
        check(programs, rig.bed.from_uplink(), &elsewhere, SHOT, &["drop_remote_backend"]);
    });
}

#[test]
fn packets_to_no_service_are_routed_as_they_are() {
    Rig::new().run(|rig, programs| {
        let rows = [
            ("10.244.0.2:9", REDIRECT, "delivered"),
            ("10.244.1.9:9", REDIRECT, "forwarded"),
            (&format!("{NEIGHBOUR}:9"), REDIRECT, "forwarded"),
            (&format!("{OWN}:9"), PASS, "stack_host"),
            (&format!("{NOWHERE}:9"), PASS, "stack_host"),
            (&format!("{FORBIDDEN}:9"), REDIRECT, "drop_no_route"),
            ("224.0.0.251:9", PASS, "stack_multicast"),
            ("255.255.255.255:9", PASS, "stack_multicast"),
        ];
        for (to, action, verdict) in rows {
            for proto in [protocol::TCP, protocol::UDP, protocol::ICMP] {
                let packet = Packet::new(proto, end("10.244.0.1:4000"), end(to));
                let frame = packet.bytes();
                let events: &[&str] = if verdict == "drop_no_route" { &["refused"] } else { &[] };
                let out = check(programs, rig.client(), &frame, action, &[&[verdict], events].concat());
                match verdict {
                    "delivered" => leaves(&frame, &out, &delivered_to(2, &packet).bytes()),
                    "forwarded" => leaves(&frame, &out, &Packet { ttl: 63, ..packet }.bytes()),
                    _ => {}
                }
            }
        }
        let inward = |to: &str| Packet::tcp("192.168.77.11:4000", to).to_mac(UPLINK_MAC).bytes();
        check(programs, rig.bed.from_uplink(), &inward("10.244.0.2:9"), REDIRECT, &["delivered"]);
        check(programs, rig.bed.from_uplink(), &inward(&format!("{OWN}:22")), PASS, &["stack_foreign"]);
        let others = Packet::tcp("192.168.77.11:4000", "10.244.0.2:9").to_mac([2, 9, 9, 9, 9, 9]).bytes();
        check(programs, rig.bed.from_uplink(), &others, PASS, &["stack_foreign"]);
    });
}

#[test]
fn what_a_service_cannot_take_is_refused_by_name() {
    Rig::new().run(|rig, programs| {
        let to = |address: &str| Packet::tcp("10.244.0.1:4000", address);
        let rows = [
            (to("10.96.0.4:80"), "drop_no_backend"),
            (to("10.96.0.1:81"), "drop_no_frontend"),
            (Packet::udp("10.244.0.1:4000", "10.96.0.1:80"), "drop_no_frontend"),
            (Packet::new(protocol::ICMP, end("10.244.0.1:0"), end("10.96.0.1:0")), "drop_no_frontend"),
        ];
        for (packet, verdict) in rows {
            check(programs, rig.client(), &packet.bytes(), REDIRECT, &[verdict, "refused"]);
        }
        let reset = to("10.96.0.4:80").flags(tcp::RST).bytes();
        check(programs, rig.client(), &reset, SHOT, &["drop_no_backend"]);
        assert_eq!(programs.flows(), [0, 0], "a refused packet began a flow");
        // The flow stands when the way is found missing, and that is all.
        let nowhere = to("10.96.0.5:80").bytes();
        check(programs, rig.client(), &nowhere, REDIRECT, &["drop_no_route", "flow_created", "refused"]);
    });
}

#[test]
fn fragments_and_options_between_containers_pass() {
    Rig::new().run(|rig, programs| {
        let plain = Packet::udp("10.244.0.1:4000", "10.244.0.2:9");
        for packet in [
            plain.clone().fragment(0, true),
            plain.clone().fragment(100, true),
            plain.clone().fragment(200, false),
            plain.options(&[1; 8]),
        ] {
            let frame = packet.bytes();
            let out = check(programs, rig.client(), &frame, REDIRECT, &["delivered"]);
            leaves(&frame, &out, &delivered_to(2, &packet).bytes());
        }
    });
}

#[test]
fn a_packet_whose_time_is_up_is_dropped() {
    Rig::new().run(|rig, programs| {
        for ttl in [0, 1] {
            for to in ["10.244.0.2:9", "10.244.1.1:9"] {
                let frame = Packet::tcp("10.244.0.1:4000", to).ttl(ttl).bytes();
                check(programs, rig.client(), &frame, REDIRECT, &["drop_ttl", "refused"]);
            }
        }
        let inward = Packet::tcp("192.168.77.11:4000", "10.244.0.2:9").to_mac(UPLINK_MAC).ttl(1).bytes();
        check(programs, rig.bed.from_uplink(), &inward, SHOT, &["drop_ttl"]);
        // For the host itself there is no further hop.
        let frame = Packet::tcp("10.244.0.1:4000", &format!("{OWN}:22")).ttl(1).bytes();
        check(programs, rig.client(), &frame, PASS, &["stack_host"]);
        let frame = Packet::tcp("10.244.0.1:4000", "10.244.0.2:9").ttl(2).bytes();
        check(programs, rig.client(), &frame, REDIRECT, &["delivered"]);
    });
}

#[test]
fn headers_that_cannot_be_are_named() {
    Rig::new().run(|rig, programs| {
        let good = Packet::tcp("10.244.0.1:4000", "10.96.0.1:80").bytes();
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = good.clone();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            frame
        };
        let rows = [
            ("version 6", with(14, &[0x65]), "drop_malformed"),
            ("header of 16 bytes", with(14, &[0x44]), "drop_malformed"),
            ("total length below the header's", with(16, &[0, 19]), "drop_malformed"),
            ("total length zero", with(16, &[0, 0]), "drop_malformed"),
            ("total length beyond the frame", with(16, &[5, 0]), "drop_truncated"),
            ("header beyond the total length", with(14, &[0x4f]), "drop_malformed"),
            ("half a TCP header", with(16, &[0, 30]), "drop_truncated"),
            ("a frame that ends too soon", good[..good.len() - 8].to_vec(), "drop_truncated"),
        ];
        for (what, frame, verdict) in rows {
            println!("{what}");
            check(programs, rig.client(), &frame, SHOT, &[verdict]);
        }
    });
}

#[test]
fn other_protocols_are_left_to_the_stack() {
    Rig::new().run(|rig, programs| {
        let mut mpls = Packet::tcp("10.244.0.1:4000", "10.96.0.1:80").payload(&[0; 60]).bytes();
        mpls[12..14].copy_from_slice(&[0x88, 0x47]);
        check(programs, rig.client(), &mpls, PASS, &["stack_not_ip"]);
        let tagged = Packet::tcp("10.244.0.1:4000", "10.96.0.1:80").vlan(7).bytes();
        check(programs, rig.client(), &tagged, PASS, &["stack_vlan"]);
        let asked = Arp::request(NEIGHBOUR, OWN).bytes_to(UPLINK_MAC);
        check(programs, rig.bed.from_uplink(), &asked, PASS, &["stack_not_ip"]);
    });
}

#[test]
fn the_gateway_answers_for_itself_alone() {
    Rig::new().run(|rig, programs| {
        let gateway = [169, 254, 1, 1].into();
        let request = Arp::request(bed::address(1), gateway);
        let out = check(programs, rig.client(), &request.bytes(), REDIRECT, &["gateway_arp"]);
        let reply = Arp {
            operation: 2,
            sender_mac: GATEWAY_MAC,
            sender: gateway,
            target_mac: CONTAINER_MAC,
            target: bed::address(1),
        };
        assert_eq!(out.packet, reply.bytes_to(CONTAINER_MAC));

        let neighbour = Arp::request(bed::address(1), bed::address(2));
        check(programs, rig.client(), &neighbour.bytes(), SHOT, &["drop_arp"]);
        let gratuitous = Arp::request(bed::address(1), bed::address(1));
        check(programs, rig.client(), &gratuitous.bytes(), PASS, &["stack_host"]);
        let probe = Arp::request([0, 0, 0, 0].into(), bed::address(1));
        check(programs, rig.client(), &probe.bytes(), SHOT, &["drop_arp"]);
        let to_the_host = Arp { operation: 2, ..request };
        check(programs, rig.client(), &to_the_host.bytes_to(GATEWAY_MAC), PASS, &["stack_host"]);
        check(programs, rig.client(), &request.bytes()[..40], SHOT, &["drop_truncated"]);
    });
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    Rig::new().run(|rig, programs| {
        for proto in [protocol::TCP, protocol::UDP] {
            let port = if proto == protocol::TCP { 80 } else { 53 };
            let packet = Packet::new(proto, end("10.244.0.1:4000"), end(&format!("10.96.0.1:{port}")));
            let mut frame = packet.bytes();
            *frame.last_mut().unwrap() ^= 0x40;
            assert_ne!(residuals(&frame)[1].residual, 0xffff);
            let out = check(programs, rig.client(), &frame, REDIRECT, &["delivered", "flow_created"]);
            assert_eq!(residuals(&out.packet), residuals(&frame));
        }
        let none = Packet { udp_checksum: false, ..Packet::udp("10.244.0.1:4001", "10.96.0.1:53") }.bytes();
        let out = check(programs, rig.client(), &none, REDIRECT, &["delivered", "flow_created"]);
        assert_eq!(out.packet[40..42], [0, 0], "a UDP packet without checksum got one");
    });
}

#[test]
fn a_connection_keeps_its_backend_and_a_datagram_finds_a_new_one() {
    let mut rig = Rig::new();
    rig.world.service(1, "10.96.0.1:80", protocol::TCP, &["10.244.0.2:8080", "10.244.0.3:8080"]);
    rig.world.service(2, "10.96.0.1:53", protocol::UDP, &["10.244.0.2:8080", "10.244.0.3:8080"]);
    rig.run(|rig, programs| {
        let mut world = rig.world.clone();
        let tcp_request = Packet::tcp("10.244.0.1:4000", "10.96.0.1:80");
        let udp_request = Packet::udp("10.244.0.1:4000", "10.96.0.1:53");
        let first = [&tcp_request, &udp_request].map(|packet| {
            let frame = packet.bytes();
            let out = check(programs, rig.client(), &frame, REDIRECT, &["delivered", "flow_created"]);
            SocketAddrV4::new([out.packet[30], out.packet[31], out.packet[32], out.packet[33]].into(), 8080)
        });
        for (service, backend) in [(1, first[0]), (2, first[1])] {
            let service = world.services.get_mut(&service).unwrap();
            service.backends.retain(|(there, _)| *there != backend.into());
            service.generation += 1;
        }
        programs.fill(&world.image::<V4>());

        let frame = tcp_request.clone().flags(tcp::ACK).bytes();
        let out = check(programs, rig.client(), &frame, REDIRECT, &["delivered"]);
        assert_eq!(out.packet[30..34], first[0].ip().octets(), "a connection changed its backend");
        let frame = tcp_request.bytes();
        let out = check(programs, rig.client(), &frame, REDIRECT, &["delivered", "flow_created"]);
        assert_ne!(out.packet[30..34], first[0].ip().octets(), "a SYN went to a backend that left");
        let frame = udp_request.bytes();
        let out =
            check(programs, rig.client(), &frame, REDIRECT, &["delivered", "flow_created", "flow_stale"]);
        assert_ne!(out.packet[30..34], first[1].ip().octets(), "a datagram went to a backend that left");
    });
}

#[test]
fn the_kernel_chooses_what_userspace_computes() {
    let mut rig = Rig::new();
    let backends: Vec<_> = (1..=100).map(|host| format!("10.244.1.{host}:8080")).collect();
    let names: Vec<_> = backends.iter().map(String::as_str).collect();
    rig.world.service(1, "10.96.0.1:80", protocol::TCP, &names);
    rig.world.service(2, "10.96.0.2:80", protocol::TCP, &names[..10]);
    rig.run(|rig, programs| {
        for (service, frontend) in [(1, "10.96.0.1:80"), (2, "10.96.0.2:80")] {
            for port in 1000..1500 {
                let from = SocketAddrV4::new(bed::address(1), port);
                let request = Packet::new(protocol::TCP, from, end(frontend));
                let hash = hash_of(&Parsed::read(&request.bytes()).unwrap());
                let out = programs.run(rig.client(), &request.bytes()).unwrap();
                let wanted = rig.world.choose::<V4>(service, hash).unwrap();
                assert_eq!(parse::address(&out.packet, 30, false), wanted.ip());
            }
        }
    });
}

#[test]
fn a_full_flow_table_keeps_what_it_has_and_still_serves() {
    let rig = Rig::new();
    rig.bed.netns.run(|| {
        let mut programs = Programs::load_with(&[("FLOWS_V4", 64)]).unwrap();
        programs.fill(&rig.world.image::<V4>());
        let connect = |programs: &mut Programs, port: u16| {
            let request =
                Packet::new(protocol::TCP, SocketAddrV4::new(bed::address(1), port), end("10.96.0.1:80"));
            programs.run(rig.client(), &request.bytes()).unwrap();
            programs.run(rig.bed.from_container(2), &request.reply(end("10.244.0.2:8080")).bytes()).unwrap();
            let more = request.flags(tcp::ACK).bytes();
            (programs.run(rig.client(), &more).unwrap(), more)
        };
        let established: Vec<_> = (1000..1032).map(|port| connect(&mut programs, port).1).collect();
        let (overflowing, _) = connect(&mut programs, 2000);
        assert_eq!(overflowing.verdict(), Some(Verdict::Delivered));
        assert_eq!(overflowing.counters.get("flow_promotion_failed"), Some(&1), "{overflowing:?}");
        for frame in &established {
            check(&mut programs, rig.client(), frame, REDIRECT, &["delivered"]);
        }
        assert_eq!(programs.flows()[0], 64);
    });
}
