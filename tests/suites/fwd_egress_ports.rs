//! FWD-04: whose is a port of an egress address that two containers send from?
//! A node that takes the address over has seen neither: a connection that goes on
//! keeps its port, and who only asks for it tries another.

use causeway_schema::{Egress, Frontend, FrontendKey, NodeConfig, V4, Verdict, config::flags, protocol};
use causeway_testkit::{
    bed::{self, Bed, OWN},
    frame::{Datagram, Frame},
    oracle::Side,
    packet::tcp,
    prog::Programs,
    world::World,
};

const ADDRESS: V4 = V4([192, 168, 77, 50]);
const WORLD: &str = "198.51.100.7:80";

/// Containers that leave under one address, which their node holds.
struct Rig<'a> {
    bed: &'a Bed,
    programs: Programs,
}

impl Rig<'_> {
    /// What becomes of a packet: its verdict, and both its ends as it leaves.
    fn send(&mut self, side: Side, packet: Datagram) -> (Verdict, [String; 2]) {
        let frame = match side {
            Side::Container { .. } => Frame::new(packet),
            Side::Uplink { mac, .. } => Frame::new(packet).macs([2; 6], mac),
        };
        let outcome = self.programs.run(side, &frame.bytes()).unwrap();
        let verdict = outcome.verdict().unwrap();
        let left = Frame::read_right(&outcome.packet).unwrap().packet;
        let (src, dst) = left.ports().unwrap();
        (verdict, [format!("{}:{src}", left.src), format!("{}:{dst}", left.dst)])
    }

    /// A container says something from port 4000; the port that it leaves by.
    fn says(&mut self, container: u8, flags: u8) -> u16 {
        let packet = Datagram::tcp(&format!("{}:4000", bed::address(container)), WORLD)
            .with_tcp(|header| header.flags = flags);
        let (verdict, [src, dst]) = self.send(self.bed.from_container(container), packet);
        assert_eq!((verdict, dst.as_str()), (Verdict::Forwarded, WORLD));
        src.strip_prefix("192.168.77.50:").expect("under the egress address").parse().unwrap()
    }

    /// The world says something to the address's port.
    fn hears(&mut self, port: u16, flags: u8) -> (Verdict, [String; 2]) {
        let packet = Datagram::tcp(WORLD, &format!("192.168.77.50:{port}"))
            .with_tcp(|header| (header.flags, header.ack) = (flags, 7));
        self.send(self.bed.from_uplink(), packet)
    }

    fn is_heard_by(&mut self, container: u8, port: u16, flags: u8) {
        let ends = [WORLD.to_owned(), format!("{}:4000", bed::address(container))];
        assert_eq!(self.hears(port, flags), (Verdict::Delivered, ends));
    }

    fn is_heard_by_nobody(&mut self, port: u16, flags: u8) {
        assert_eq!(self.hears(port, flags).0, Verdict::DropEgressClosed);
    }
}

/// Runs `script` on a node that has seen nothing.
fn afresh(script: impl FnOnce(&mut Rig) + Send) {
    let bed = Bed::new();
    let mut world = World::default();
    for number in 1..=2 {
        world.attach(bed::address(number), number.into(), bed.link(number), bed::mac(number));
    }
    world.service(1, "10.96.0.1:80", protocol::TCP, &["10.244.0.2:8080"]);
    let mut image = world.image::<V4>();
    image.frontends.insert(FrontendKey::whole_address(ADDRESS), Frontend::HELD);
    bed.netns.run(|| {
        let mut programs = Programs::load().unwrap();
        programs.fill(&image);
        programs.configure(NodeConfig { node_v4: OWN.into(), flags: flags::MASQUERADE, ..NodeConfig::new() });
        programs.leaves(ADDRESS, Egress::here(ADDRESS));
        for number in 1..=2 {
            programs.leaves(bed::address(number).into(), Egress::here(ADDRESS));
        }
        script(&mut Rig { bed: &bed, programs });
    });
}

#[test]
fn who_only_asks_gives_way_to_a_container_that_goes_on() {
    afresh(|rig| {
        assert_eq!(rig.says(2, tcp::SYN), 4000);
        assert_eq!(rig.says(1, tcp::ACK), 4000);
        rig.is_heard_by(1, 4000, tcp::ACK);
        let other = rig.says(2, tcp::SYN);
        assert_ne!(other, 4000);
        rig.is_heard_by(2, other, tcp::SYN | tcp::ACK);
        rig.is_heard_by(1, 4000, tcp::ACK);
    });
}

#[test]
fn who_only_asks_gives_way_to_what_the_world_goes_on_with() {
    afresh(|rig| {
        assert_eq!(rig.says(2, tcp::SYN), 4000);
        rig.is_heard_by_nobody(4000, tcp::ACK);
        // Whoever has the port, it is not the one who asked.
        rig.is_heard_by_nobody(4000, tcp::SYN | tcp::ACK);
        let other = rig.says(2, tcp::SYN);
        assert_ne!(other, 4000);
        assert_eq!(rig.says(1, tcp::ACK), 4000);
        rig.is_heard_by(1, 4000, tcp::ACK);
        rig.is_heard_by(2, other, tcp::SYN | tcp::ACK);
    });
}

#[test]
fn who_is_answered_keeps_the_port() {
    for answer in [tcp::SYN | tcp::ACK, tcp::RST | tcp::ACK] {
        afresh(|rig| {
            assert_eq!(rig.says(2, tcp::SYN), 4000);
            rig.is_heard_by(2, 4000, answer);
            assert_ne!(rig.says(1, tcp::ACK), 4000);
        });
    }
}
