//! Do the programs do what the oracle says, over random worlds and packets?
//!
//! Each packet is first traced, which must leave no trace, then run; verdict,
//! events, interface and packet must all be the oracle's. On failure the
//! CAUSEWAY_SEED printed runs it again.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use causeway_schema::{Verdict, protocol};
use causeway_testkit::{
    bed::{self, Bed, CONTAINERS, FORBIDDEN, NEIGHBOUR, NOWHERE, OWN, UPLINK_MAC},
    inspect::{describe, residuals, without_checksums},
    oracle::{Expected, Oracle, Side},
    packet::{Arp, Packet, tcp},
    parse::Parsed,
    prog::Programs,
    random::Random,
    world::{ServiceState, World},
};

/// Rounds go on until this is over; each is a fresh world.
const BUDGET: Duration = Duration::from_secs(30);
const PACKETS: usize = 400;

const PORTS: [u16; 4] = [8080, 8081, 9090, 53];
const PROTOCOLS: [u8; 2] = [protocol::TCP, protocol::UDP];

#[test]
fn the_programs_do_what_the_oracle_says() {
    let bed = Bed::new();
    bed.netns.run(|| {
        let mut programs = Programs::load().unwrap();
        let mut judged = 0;
        let rounds = Random::rounds(BUDGET, |random| judged += round(&bed, &mut programs, random));
        println!("{rounds} worlds, {judged} packets judged");
        assert!(judged > PACKETS / 2, "hardly a packet was judged");
    });
}

/// One world and its packets; returns how many the kernel took.
fn round(bed: &Bed, programs: &mut Programs, random: &mut Random) -> usize {
    let mut world = a_world(bed, random);
    let mut oracle = Oracle::default();
    programs.clear_flows();
    programs.fill(&world.image());
    let mut sent: Vec<Sent> = Vec::new();
    let mut judged = 0;
    // Few flows over and over, or many: a cache shows its faults with few.
    let recent = *random.pick(&[2, 6, 30]);
    for _ in 0..PACKETS {
        if random.one_in(12) {
            change(bed, &mut world, random, sent.last());
            programs.fill(&world.image());
        }
        let (side, packet) = a_packet(bed, &world, random, &sent[sent.len().saturating_sub(recent)..]);
        let frame = if random.one_in(25) { an_oddity(random) } else { mangled(packet.bytes(), random) };
        // Counting entries is slow: now and then will do.
        let flows = random.one_in(8).then(|| programs.flows());
        let (traced, dry) = match programs.trace(side, &frame) {
            Ok(traced) => traced,
            // Newer kernels refuse to run what is shorter than its headers;
            // the oracle must not hear of such a packet either.
            Err(_) if frame.len() < 14 + 40 => continue,
            Err(error) => panic!("{error:?}: {}", describe(&frame)),
        };
        assert!(
            dry.counters.is_empty() && flows.is_none_or(|flows| flows == programs.flows()),
            "a trace that left one: {dry:?}"
        );
        let expected = oracle.judge(&world, &|to| bed.route(to), side, &frame);
        let real = programs.run(side, &frame).unwrap();
        let context = || {
            format!(
                "{side:?}\nin   {}\nout  {}\n{expected:?}\n{real:?}\ntrace {traced:?}\n{world:?}",
                describe(&frame),
                describe(&real.packet)
            )
        };

        let names: Vec<_> = expected
            .events
            .iter()
            .map(|event| event.name())
            .chain(expected.verdict.map(Verdict::name))
            .collect();
        let counted: Vec<_> = real.counters.keys().copied().collect();
        assert!(same_names(&names, &counted), "expected {names:?}, counted {counted:?}\n{}", context());
        assert!(real.counters.values().all(|&moved| moved == 1), "counted twice\n{}", context());
        let Some(verdict) = expected.verdict else { continue };
        assert_eq!(traced.verdict, verdict as u32, "verdict of the trace\n{}", context());
        assert_eq!(traced.ifindex, expected.ifindex, "interface\n{}", context());
        assert_eq!(traced.service, expected.service, "service\n{}", context());
        same_packet(&frame, &expected, &real.packet, &context);
        same_packet(&frame, &expected, &dry.packet, &context);
        sent.push(Sent { side, packet, backend: destination(&real.packet) });
        judged += 1;
    }
    judged
}

/// A packet that was sent, and to whom it went.
struct Sent {
    side: Side,
    packet: Packet,
    backend: Option<SocketAddrV4>,
}

fn destination(frame: &[u8]) -> Option<SocketAddrV4> {
    let packet = Parsed::read(frame).ok()?;
    packet.has_ports.then_some(packet.dst)
}

fn same_names(expected: &[&str], counted: &[&str]) -> bool {
    let sorted = |names: &[&str]| {
        let mut names: Vec<_> = names.iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    sorted(expected) == sorted(counted)
}

fn same_packet(frame: &[u8], expected: &Expected, out: &[u8], context: &dyn Fn() -> String) {
    let Some(packet) = &expected.packet else { return };
    if expected.fresh {
        assert_eq!(packet, out, "packet\n{}", context());
        return;
    }
    assert_eq!(without_checksums(packet), without_checksums(out), "packet\n{}", context());
    // Right stays right, and wrong stays as wrong as it was.
    assert_eq!(residuals(frame), residuals(out), "checksums\n{}", context());
}

fn a_world(bed: &Bed, random: &mut Random) -> World {
    let mut world = World::default();
    for number in 1..=CONTAINERS {
        if !random.one_in(4) {
            world.attach(bed::address(number), number.into(), bed.link(number), bed::mac(number));
        }
    }
    for id in 1..=1 + random.below(6) as u32 {
        let count = match random.below(8) {
            0 => 0,
            1 => 33 + random.below(10),
            _ => 1 + random.below(5),
        };
        let weighted = random.one_in(2);
        let mut backends: Vec<_> = (0..count)
            .map(|_| (a_backend(random), if weighted { 1 + random.below(9) as u32 } else { 1 }))
            .collect();
        backends.sort_unstable();
        backends.dedup_by_key(|(address, _)| *address);
        let frontends = vec![(a_frontend(random), *random.pick(&PROTOCOLS))];
        let taken = world.frontend(frontends[0].0, frontends[0].1).is_some();
        if !taken {
            world.services.insert(id, ServiceState { frontends, backends, generation: id });
        }
    }
    world
}

/// Something an operator or the world might do meanwhile.
fn change(bed: &Bed, world: &mut World, random: &mut Random, last: Option<&Sent>) {
    let number = 1 + random.below(CONTAINERS.into()) as u8;
    let address = bed::address(number);
    let ids: Vec<_> = world.services.keys().copied().collect();
    match random.below(6) {
        0 => world.detach(address),
        1 if !world.attached.contains_key(&address) => {
            world.attach(address, number.into(), bed.link(number), bed::mac(number));
        }
        2 if !ids.is_empty() => {
            let service = world.services.get_mut(random.pick(&ids)).unwrap();
            if !service.backends.is_empty() {
                service.backends.remove(random.below(service.backends.len()));
                service.generation += 1;
            }
        }
        // The very backend that was just in use leaves its services.
        3 | 4 => {
            for service in world.services.values_mut() {
                let before = service.backends.len();
                service.backends.retain(|(backend, _)| last.and_then(|last| last.backend) != Some(*backend));
                service.generation += u32::from(service.backends.len() < before);
            }
        }
        _ if !ids.is_empty() => {
            let service = world.services.get_mut(random.pick(&ids)).unwrap();
            let backend = a_backend(random);
            if service.backends.iter().all(|(there, _)| *there != backend) {
                service.backends.push((backend, 1));
            }
        }
        _ => {}
    }
}

fn a_frontend(random: &mut Random) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1 + random.below(4) as u8), *random.pick(&[80, 443, 53]))
}

fn a_backend(random: &mut Random) -> SocketAddrV4 {
    let address = match random.below(12) {
        0 => FORBIDDEN,
        1 => OWN,
        2 => NOWHERE,
        3..6 => Ipv4Addr::new(10, 244, 1, 1 + random.below(40) as u8),
        _ => bed::address(1 + random.below(CONTAINERS.into()) as u8),
    };
    SocketAddrV4::new(address, *random.pick(&PORTS))
}

/// A packet by one of the hooks: a fresh one, one more of a flow, or the answer
/// of one of the backends.
fn a_packet(bed: &Bed, world: &World, random: &mut Random, sent: &[Sent]) -> (Side, Packet) {
    let number = 1 + random.below(CONTAINERS.into()) as u8;
    if !sent.is_empty() && !random.one_in(6) {
        let Sent { side, packet, backend } = random.pick(sent);
        let packet = packet.clone().flags(flags(random));
        let id = world.frontend(packet.dst, packet.protocol);
        let others = id.map_or(&[][..], |id| &world.services[&id].backends);
        // The answer of the backend that was chosen, or of one that was not.
        let answering = match backend {
            Some(backend) if !random.one_in(8) => Some(*backend),
            _ if !others.is_empty() => Some(random.pick(others).0),
            _ => None,
        };
        return match answering {
            Some(backend) if id.is_some() && random.one_in(3) => {
                let answer = packet.reply(backend).flags(flags(random));
                let here = world.attached.get(answer.src.ip()).map(|&slot| bed.from_container(slot as u8));
                (here.unwrap_or_else(|| bed.from_uplink()), answer.to_mac(UPLINK_MAC))
            }
            _ => (*side, packet),
        };
    }
    let port = *random.pick(&[1000, 1001, 1002, 1003, 0]);
    let (side, source) = if random.one_in(3) {
        let from = *random.pick(&[NEIGHBOUR, Ipv4Addr::new(10, 244, 1, 1)]);
        (bed.from_uplink(), from)
    } else {
        (bed.from_container(number), bed::address(number))
    };
    let destination = match random.below(10) {
        0 => SocketAddrV4::new(*random.pick(&[FORBIDDEN, OWN, NOWHERE, NEIGHBOUR]), 80),
        1 => SocketAddrV4::new(*random.pick(&[Ipv4Addr::new(224, 0, 0, 5), Ipv4Addr::BROADCAST]), 80),
        2 | 3 => a_backend(random),
        _ => a_frontend(random),
    };
    let proto = *random.pick(&[protocol::TCP, protocol::UDP, protocol::TCP, protocol::UDP, protocol::ICMP]);
    let mut packet = Packet::new(proto, SocketAddrV4::new(source, port), destination).to_mac(UPLINK_MAC);
    packet.tcp_flags = flags(random);
    packet.ttl = *random.pick(&[64, 64, 64, 2, 1, 0]);
    packet.udp_checksum = !random.one_in(4);
    packet.payload = vec![random.word() as u8; random.below(40)];
    packet.padding = if random.one_in(6) { random.below(20) } else { 0 };
    packet.dont_fragment = random.one_in(2);
    match random.below(14) {
        0 => packet.options = vec![1; 4 * (1 + random.below(10))],
        1 => (packet.fragment_offset, packet.more_fragments) = (0, true),
        2 => {
            (packet.fragment_offset, packet.more_fragments) = (1 + random.below(100) as u16, random.one_in(2))
        }
        3 => packet.vlan = Some(random.below(4096) as u16),
        4 => packet.eth_dst = [0x02, 9, 9, 9, 9, 9],
        _ => {}
    }
    (side, packet)
}

fn flags(random: &mut Random) -> u8 {
    *random.pick(&[
        tcp::SYN,
        tcp::ACK,
        tcp::ACK,
        tcp::ACK,
        tcp::ACK | tcp::FIN,
        tcp::RST,
        tcp::SYN | tcp::ACK,
    ])
}

/// Frames that are not IPv4, or not even frames.
fn an_oddity(random: &mut Random) -> Vec<u8> {
    let addresses = [Ipv4Addr::new(169, 254, 1, 1), bed::address(1), Ipv4Addr::new(10, 96, 0, 1)];
    let mut arp = Arp::request(*random.pick(&addresses), *random.pick(&addresses));
    arp.operation = *random.pick(&[1, 1, 1, 2, 3]);
    let mut frame = arp.bytes_to(*random.pick(&[[0xff; 6], UPLINK_MAC]));
    match random.below(6) {
        0 => frame[12..14].copy_from_slice(&[0x86, 0xdd]),
        1 => frame[12..14].copy_from_slice(&(random.word() as u16).to_be_bytes()),
        2 => frame[14 + random.below(6)] ^= 1,
        3 => frame.truncate(34 + random.below(8)),
        4 => frame.extend([0; 18]),
        _ => {}
    }
    frame
}

/// Now and then a byte is not what it should be, or the end is missing.
fn mangled(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.below(30) {
        0 => frame[14] = random.word() as u8,
        1 => frame[16..18].copy_from_slice(&(random.below(80) as u16).to_be_bytes()),
        2 => frame.truncate(14 + random.below(frame.len() - 13)),
        3 if frame.len() > 34 => {
            // Anywhere behind the addresses: checksums that do not fit.
            let at = 34 + random.below(frame.len() - 34);
            frame[at] ^= 1 << random.below(8);
        }
        4 => frame[24] ^= 0x10,
        _ => {}
    }
    frame
}
