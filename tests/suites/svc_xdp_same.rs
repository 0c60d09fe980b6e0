//! SVC-22: do XDP and TC decide alike? Two sets of programs see the same
//! packets at the uplink, one with XDP before it: random ones, of both
//! families, of flows in every state, mangled in every way. What leaves must
//! be the same, byte for byte, and so must every counter be.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use causeway_schema::{Event, V4, nat::Ports, protocol};
use causeway_testkit::{
    bed::{self, Bed, NEIGHBOUR, NEIGHBOUR_MAC, OWN, UPLINK_MAC, WORLD},
    frame::{Body, Datagram, Extension, Frame, Header},
    mirror::{self, of_family},
    oracle::Side,
    packet::tcp,
    prog::Programs,
    random::Random,
    world::World,
};

/// `CAUSEWAY_PACKETS` has another number.
const PACKETS: u64 = 1_000_000;
const PER_WORLD: u64 = 2000;
const NODE_PORT: u16 = 30_080;
/// Frontends of the worlds: address, port, protocol.
const FRONTENDS: [(Ipv4Addr, u16, u8); 4] = [
    (OWN, NODE_PORT, protocol::TCP),
    (OWN, NODE_PORT, protocol::UDP),
    (Ipv4Addr::new(10, 96, 0, 1), 80, protocol::TCP),
    (Ipv4Addr::new(10, 96, 0, 1), 53, protocol::UDP),
];
/// What `enum xdp_action` calls them, and TC's redirection.
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;
const TC_REDIRECT: i32 = 7;

#[test]
fn xdp_and_tc_decide_alike() {
    let bed = Bed::new();
    let wanted = std::env::var("CAUSEWAY_PACKETS").map_or(PACKETS, |text| text.parse().unwrap());
    bed.netns.run(|| {
        let mut twins = Twins { tc: Programs::load().unwrap(), xdp: Programs::load().unwrap(), turned: 0 };
        twins.xdp.attach_xdp("up0");
        let mut packets = 0;
        let worlds = Random::rounds_while(|random| {
            if packets < wanted {
                packets += round(&bed, &mut twins, random);
            }
            packets < wanted
        });
        println!("{worlds} worlds, {packets} packets, {} turned around by XDP", twins.turned);
        assert!(twins.turned * 20 > packets, "XDP hardly carried a packet");
    });
}

/// The same maps and packets for both.
struct Twins {
    tc: Programs,
    xdp: Programs,
    turned: u64,
}

impl Twins {
    fn each(&mut self, mut work: impl FnMut(&mut Programs)) {
        work(&mut self.tc);
        work(&mut self.xdp);
    }

    fn fill(&mut self, world: &World) {
        let (image, image6) = (world.image::<V4>(), mirror::image(world));
        self.each(|programs| {
            programs.fill(&image);
            programs.fill(&image6);
        });
    }

    /// The packet that left, the same from both; `None` for a frame that the
    /// kernel does not take.
    fn run(&mut self, side: Side, frame: &[u8]) -> Option<(i32, Vec<u8>)> {
        let (action, packet) = self.tc.run_quietly(side, frame).ok()?;
        let Side::Uplink { ifindex, .. } = side else {
            assert_eq!(self.xdp.run_quietly(side, frame).unwrap(), (action, packet.clone()));
            return Some((action, packet));
        };
        let (early, out) = self.xdp.run_xdp(ifindex, frame).unwrap();
        let context = || {
            let [came, tc, xdp] = [frame, &packet, &out].map(|bytes| format!("{:?}", Frame::read(bytes)));
            format!("came {came}\nTC {action} {tc}\nXDP {early} {xdp}")
        };
        match early {
            XDP_PASS => {
                assert_eq!(out, frame, "XDP touched what it passed\n{}", context());
                let late = self.xdp.run_quietly(side, frame).unwrap();
                assert_eq!(late, (action, packet.clone()), "behind XDP\n{}", context());
            }
            XDP_TX => {
                self.turned += 1;
                assert_eq!(action, TC_REDIRECT, "{}", context());
                // TC leaves the neighbour's address to the kernel.
                assert_eq!(out[12..], packet[12..], "{}", context());
                assert_eq!((&out[..6], &out[6..12]), (&NEIGHBOUR_MAC[..], &UPLINK_MAC[..]), "{}", context());
                if Frame::read_right(frame).is_ok() {
                    Frame::read_right(&out).unwrap_or_else(|error| panic!("{error:#}\n{}", context()));
                }
            }
            other => panic!("XDP action {other}\n{}", context()),
        }
        Some((action, packet))
    }

    /// Both have counted alike, but for what XDP did itself.
    fn compare_counters(&self) {
        let (tc, mut xdp) = (self.tc.counters(), self.xdp.counters());
        assert_eq!(xdp.insert(Event::XdpForwarded.name(), 0), Some(self.turned));
        assert_eq!(tc, xdp);
    }
}

/// One world and its packets; how many the kernel took.
fn round(bed: &Bed, twins: &mut Twins, random: &mut Random) -> u64 {
    let mut world = World::default();
    world.attach(bed::address(1), 1, bed.link(1), bed::mac(1));
    for (id, (address, port, protocol)) in (1..).zip(FRONTENDS) {
        // Node ports stand without an address.
        let address = if address == OWN { Ipv4Addr::UNSPECIFIED } else { address };
        let far = ["10.244.1.1:8080", "10.244.1.2:80"];
        let backends = if random.one_in(4) { vec![far[0], "10.244.0.1:8080"] } else { far.to_vec() };
        world.service(id, &format!("{address}:{port}"), protocol, &backends);
    }
    twins.each(|programs| {
        programs.clear_flows();
        programs.node(OWN, Ports { first: 1024, last: 29_999 });
    });
    twins.fill(&world);
    let mut requests: Vec<Datagram> = Vec::new();
    let mut answers: Vec<Datagram> = Vec::new();
    let mut taken = 0;
    for _ in 0..PER_WORLD {
        if random.one_in(300) {
            // A backend leaves: datagrams of its flows begin anew.
            let id = 1 + random.below(FRONTENDS.len()) as u32;
            let service = world.services.get_mut(&id).unwrap();
            service.backends.pop();
            service.generation += 1;
            twins.fill(&world);
        }
        let (packet, is_answer) = match random.below(8) {
            0..3 if !answers.is_empty() => (random.pick(&answers).clone(), true),
            3..7 if !requests.is_empty() => (random.pick(&requests).clone(), false),
            _ => (a_request(random), false),
        };
        let packet = varied(packet, random);
        let near = is_answer && packet.src == of_family(bed::address(1), packet.is_v6());
        let side = if near { bed.from_container(1) } else { bed.from_uplink() };
        let mut frame = Frame::new(packet.clone()).macs(NEIGHBOUR_MAC, UPLINK_MAC);
        match random.below(40) {
            0 => frame = frame.vlan(7),
            1 => frame.eth_dst = [2, 9, 9, 9, 9, 9],
            2 => frame.eth_dst = [0xff; 6],
            3 => frame.padding = random.below(30),
            _ => {}
        }
        let bytes = mangled(frame.bytes(), random);
        let Some((action, out)) = twins.run(side, &bytes) else { continue };
        taken += 1;
        if !is_answer && !requests.contains(&packet) {
            requests.push(packet);
        }
        if !is_answer
            && action == TC_REDIRECT
            && let Ok(left) = Frame::read_right(&out)
            && let Some(answer) = answer(&left.packet)
        {
            answers.push(answer);
        }
        // The newest few: flows shall live.
        requests.drain(..requests.len().saturating_sub(20));
        answers.drain(..answers.len().saturating_sub(20));
    }
    twins.compare_counters();
    taken
}

fn a_request(random: &mut Random) -> Datagram {
    let six = random.one_in(2);
    let client = *random.pick(&[NEIGHBOUR, WORLD]);
    let (address, port, protocol) = *random.pick(&FRONTENDS);
    let end = |address, port| SocketAddr::new(of_family(address, six), port).to_string();
    let [from, to] = [end(client, 2000 + random.below(6) as u16), end(address, port)];
    if protocol == protocol::TCP { Datagram::tcp(&from, &to) } else { Datagram::udp(&from, &to, b"datagram") }
}

/// From whom a packet was sent to, back.
fn answer(packet: &Datagram) -> Option<Datagram> {
    let (from, to) = packet.ports()?;
    let end = |address: IpAddr, port| SocketAddr::new(address, port).to_string();
    let [from, to] = [end(packet.dst, to), end(packet.src, from)];
    match packet.body {
        Body::Tcp(_) => Some(Datagram::tcp(&from, &to).with_tcp(|tcp| tcp.flags = tcp::SYN | tcp::ACK)),
        Body::Udp(_) => Some(Datagram::udp(&from, &to, b"answer")),
        _ => None,
    }
}

/// Another packet of the same flow.
fn varied(packet: Datagram, random: &mut Random) -> Datagram {
    let mut packet = packet;
    if let Body::Tcp(tcp) = &mut packet.body {
        tcp.flags = *random.pick(&[
            tcp::SYN,
            tcp::SYN | tcp::ACK,
            tcp::ACK,
            tcp::ACK,
            tcp::ACK,
            tcp::ACK,
            tcp::ACK,
            tcp::ACK,
            tcp::ACK | tcp::FIN,
            tcp::RST,
        ]);
        tcp.payload = vec![random.word() as u8; random.below(60)];
        tcp.options = vec![1; 4 * random.below(4)];
    }
    packet.ttl = *random.pick(&[64, 64, 64, 64, 64, 64, 64, 2, 1, 0]);
    packet.traffic_class = random.word() as u8;
    match (&mut packet.header, random.below(30)) {
        (Header::V4(header), 0) => header.options = vec![1; 4 * (1 + random.below(10))],
        (Header::V4(header), 1) => header.more_fragments = true,
        (Header::V4(header), _) => header.dont_fragment = random.one_in(2),
        (Header::V6(header), 0) => header.extensions.push(Extension::Destination(vec![1, 4, 0, 0, 0, 0])),
        (Header::V6(header), _) => header.flow_label = random.word() as u32 & 0xf_ffff,
    }
    packet
}

/// One frame in four is not as it was meant.
fn mangled(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.below(16) {
        0 => frame.truncate(14 + random.below(frame.len() - 13)),
        1 | 2 => {
            let at = random.below(frame.len());
            frame[at] ^= 1 << random.below(8);
        }
        3 => {
            let at = 14 + random.below(frame.len() - 14);
            frame[at..].iter_mut().for_each(|byte| *byte = random.word() as u8);
        }
        _ => {}
    }
    frame
}
