//! OBS-03: is there a packet for every reason to drop one? Each row makes the
//! loaded programs drop with just that reason counted; a reason without a row
//! fails the suite.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
};

use causeway_schema::{
    Egress, Endpoint, Flow, FlowKey, Frontend, FrontendKey, NodeConfig, Port, Service, V4, Verdict, config,
    flow::flags, nat::Ports, policy::Outcome, protocol,
};
use causeway_testkit::{
    bed::{self, Bed, FORBIDDEN, OWN},
    direct,
    frame::{Body, Datagram, Extension, Frame, Message},
    link, mirror,
    oracle::Side,
    packet::Arp,
    pinned::pin_narrow,
    prog::Programs,
    scratch::PinDir,
    topology::{Cluster, PATIENCE, UPLINK},
    udp_end::{Fragments, UdpEnd},
    until::until,
    world::World,
};

/// As long as a link of pairs carries.
const JUMBO: u32 = 65_535;
const EGRESS: V4 = V4([192, 168, 77, 50]);

struct Rig<'a> {
    bed: &'a Bed,
    world: &'a World,
    programs: Programs,
}

impl Rig<'_> {
    fn client(&self) -> Side {
        self.bed.from_container(1)
    }

    fn uplink(&self) -> Side {
        self.bed.from_uplink()
    }

    /// Gives every container a policy, with one outcome for all.
    fn judge(&mut self, outcome: Outcome) {
        let mut image = self.world.image::<V4>();
        let guarded = |(slot, row): (u32, &Endpoint)| (slot, Endpoint { policy: 2, ..*row });
        let rows: Vec<(u32, Endpoint)> = image.endpoints.iter().map(guarded).collect();
        for (slot, row) in rows {
            image.endpoints.insert(slot, row);
        }
        self.programs.fill(&image);
        self.programs.judge(2, outcome);
    }

    /// A frame is dropped, and that verdict alone is counted.
    fn drops(&mut self, verdict: Verdict, (side, frame): Dropped) {
        let outcome = self.programs.run(side, &frame).unwrap();
        let verdicts = Verdict::ALL.map(Verdict::name);
        let moved = outcome.counters.iter().filter(|(name, _)| verdicts.contains(name));
        assert_eq!(moved.collect::<Vec<_>>(), [(&verdict.name(), &1)], "{:?}", Frame::read(&frame));
    }

    /// Sends a packet that only prepares the one that counts.
    fn send(&mut self, side: Side, packet: Datagram) {
        self.programs.run(side, &by(side, packet)).unwrap();
    }
}

/// Where a frame comes in, and its bytes.
type Dropped = (Side, Vec<u8>);

fn by(side: Side, packet: Datagram) -> Vec<u8> {
    match side {
        Side::Container { .. } => Frame::new(packet).bytes(),
        Side::Uplink { mac, .. } => Frame::new(packet).macs([2; 6], mac).bytes(),
    }
}

type Row = (Verdict, fn(&mut Rig) -> Dropped);

fn rows() -> Vec<Row> {
    vec![
        (Verdict::DropTruncated, |rig| {
            let mut frame = by(rig.client(), Datagram::tcp("10.244.0.1:4000", "10.96.0.1:80"));
            frame.truncate(14 + 24);
            (rig.client(), frame)
        }),
        (Verdict::DropMalformed, |rig| {
            let mut frame = by(rig.client(), Datagram::tcp("10.244.0.1:4000", "10.96.0.1:80"));
            frame[14] = 0x44;
            (rig.client(), frame)
        }),
        (Verdict::DropExtensions, |rig| {
            let packet = Datagram::tcp("[fd00::af4:1]:4000", "[fd00::a60:1]:80");
            let many = (0..7)
                .fold(packet, |packet, _| packet.extension(Extension::Destination(vec![1, 4, 0, 0, 0, 0])));
            (rig.client(), by(rig.client(), many))
        }),
        (Verdict::DropFragment, |rig| {
            // Of one datagram's fragments, so many wait and no more.
            let fragment = Datagram::udp("10.244.0.1:4000", "10.96.0.1:53", &[7; 32])
                .with_v4(|header| (header.more_fragments, header.offset) = (true, 64));
            (0..64).for_each(|_| rig.send(rig.client(), fragment.clone()));
            (rig.client(), by(rig.client(), fragment))
        }),
        (Verdict::DropTtl, |rig| {
            let packet = Datagram::tcp("10.244.0.1:4000", "10.96.0.1:80").ttl(1);
            (rig.client(), by(rig.client(), packet))
        }),
        (Verdict::DropNoBackend, |rig| {
            (rig.client(), by(rig.client(), Datagram::tcp("10.244.0.1:4000", "10.96.0.4:80")))
        }),
        (Verdict::DropNoLocalBackend, |rig| {
            let mut image = rig.world.image::<V4>();
            let key = FrontendKey::new(V4([10, 96, 0, 4]), Port::new(80), protocol::TCP);
            let id = image.frontends[&key].service;
            let row = *image.services.get(&id).unwrap();
            image.services.insert(id, Service { flags: Service::SILENT, ..row });
            rig.programs.fill(&image);
            (rig.client(), by(rig.client(), Datagram::tcp("10.244.0.1:4000", "10.96.0.4:80")))
        }),
        (Verdict::DropNoFrontend, |rig| {
            (rig.client(), by(rig.client(), Datagram::tcp("10.244.0.1:4000", "10.96.0.1:81")))
        }),
        (Verdict::DropNoPort, |rig| {
            // The node has one port, and another client has it.
            rig.programs.node(OWN, Ports { first: 5000, last: 5000 });
            rig.send(rig.uplink(), Datagram::tcp("203.0.113.1:4000", "10.96.0.3:80"));
            let packet = Datagram::tcp("203.0.113.2:4000", "10.96.0.3:80");
            (rig.uplink(), by(rig.uplink(), packet))
        }),
        (Verdict::DropNoRoute, |rig| {
            let packet = Datagram::tcp("10.244.0.1:4000", &format!("{FORBIDDEN}:80"));
            (rig.client(), by(rig.client(), packet))
        }),
        (Verdict::DropTooBig, |rig| {
            let packet = Datagram::udp("10.244.0.1:4000", "10.244.1.1:80", &[7; 1600])
                .with_v4(|header| header.dont_fragment = true);
            (rig.client(), by(rig.client(), packet))
        }),
        (Verdict::DropRemoteBackend, |rig| {
            // The node has no address that the backend could answer to.
            (rig.uplink(), by(rig.uplink(), Datagram::tcp("203.0.113.1:4000", "10.96.0.3:80")))
        }),
        (Verdict::DropInconsistent, |rig| {
            let mut image = rig.world.image::<V4>();
            // A service beyond the map.
            let rows = image.frontends.values_mut().filter(|row| row.service == 1);
            rows.for_each(|row| row.service = u32::MAX - 1);
            rig.programs.fill(&image);
            (rig.client(), by(rig.client(), Datagram::tcp("10.244.0.1:4000", "10.96.0.1:80")))
        }),
        (Verdict::DropArp, |rig| (rig.client(), Arp::request(bed::address(1), bed::address(2)).bytes())),
        (Verdict::DropNd, |rig| {
            let other = mirror::host(bed::address(2));
            let message = Message::NeighbourSolicitation { target: other, mac: Some(bed::mac(1)) };
            let packet = Datagram::icmp("fd00::af4:1", &other.to_string(), message).ttl(255);
            (rig.client(), by(rig.client(), packet))
        }),
        (Verdict::DropSpoofed, |rig| {
            (rig.client(), by(rig.client(), Datagram::tcp("10.244.0.2:4000", "10.244.0.3:80")))
        }),
        (Verdict::DropRogueServer, |rig| {
            (rig.client(), by(rig.client(), Datagram::udp("10.244.0.1:67", "10.244.0.2:68", b"offer")))
        }),
        (Verdict::DropSourceRange, |rig| {
            let mut image = rig.world.image::<V4>();
            // For those in its ranges only, and it has none.
            let rows = image.frontends.values_mut().filter(|row| row.service == 1);
            rows.for_each(|row| row.flags = Frontend::SOURCE_RANGES);
            rig.programs.fill(&image);
            (rig.client(), by(rig.client(), Datagram::tcp("10.244.0.1:4000", "10.96.0.1:80")))
        }),
        (Verdict::DropExpired, |rig| {
            let client = Datagram::udp("10.244.0.1:4000", "10.96.0.1:53", b"question");
            rig.send(rig.client(), client.clone());
            let answer = Datagram::udp("10.244.0.2:53", "10.244.0.1:4000", b"answer");
            rig.send(rig.bed.from_container(2), answer);
            rig.send(rig.client(), client.clone());
            let changed = rig.programs.change_flows::<V4>(|flow| flow.flags |= flags::EXPIRED);
            assert_eq!(changed, 2, "an established flow has two entries");
            (rig.client(), by(rig.client(), client))
        }),
        (Verdict::DropTunnelSource, |rig| {
            let mut image = rig.world.image::<V4>();
            let row = *image.services.get(&2).unwrap();
            image.services.insert(2, Service { flags: Service::DSR, ..row });
            rig.programs.fill(&image);
            let inner = Datagram::udp("203.0.113.1:4000", "10.96.0.1:53", b"question");
            let body = Body::Raw { protocol: protocol::IPV4, bytes: inner.bytes() };
            let outer = Datagram::new([203, 0, 113, 1].into(), bed::address(2).into(), body);
            (rig.uplink(), by(rig.uplink(), outer))
        }),
        (Verdict::DropNoEgress, |rig| {
            let flags = config::flags::MASQUERADE;
            rig.programs.configure(NodeConfig { node_v4: OWN.into(), flags, ..NodeConfig::new() });
            rig.programs.leaves(bed::address(1).into(), Egress { address: EGRESS, node: V4([0; 4]) });
            (rig.client(), by(rig.client(), Datagram::tcp("10.244.0.1:4000", "198.51.100.7:80")))
        }),
        (Verdict::DropEgressClosed, |rig| {
            let mut image = rig.world.image::<V4>();
            image.frontends.insert(FrontendKey::whole_address(EGRESS), Frontend::HELD);
            rig.programs.fill(&image);
            rig.programs.leaves(EGRESS, Egress::here(EGRESS));
            (rig.uplink(), by(rig.uplink(), Datagram::tcp("203.0.113.1:4000", "192.168.77.50:80")))
        }),
        (Verdict::DropPolicy, |rig| {
            rig.judge(Outcome::Deny);
            (rig.client(), by(rig.client(), Datagram::udp("10.244.0.1:4000", "10.244.0.2:53", b"question")))
        }),
        (Verdict::DropPolicyReject, |rig| {
            rig.judge(Outcome::Reject);
            (rig.uplink(), by(rig.uplink(), Datagram::tcp("203.0.113.1:4000", "10.244.0.2:80")))
        }),
    ]
}

/// By no packet of a single run: a table that takes no more, and a packet longer
/// than such a run has.
const ELSEWHERE: [Verdict; 2] = [Verdict::DropFlowTable, Verdict::DropRewrite];

fn world(bed: &Bed) -> World {
    let mut world = World::default();
    for number in 1..=3 {
        world.attach(bed::address(number), number.into(), bed.link(number), bed::mac(number));
    }
    world.service(1, "10.96.0.1:80", protocol::TCP, &["10.244.0.2:8080"]);
    world.service(2, "10.96.0.1:53", protocol::UDP, &["10.244.0.2:53"]);
    world.service(3, "10.96.0.3:80", protocol::TCP, &["10.244.1.1:8080"]);
    world.service(4, "10.96.0.4:80", protocol::TCP, &[]);
    world
}

#[test]
fn every_reason_has_a_packet() {
    let bed = Bed::new();
    let world = world(&bed);
    let rows = rows();
    let mut covered = BTreeSet::from(ELSEWHERE);
    covered.extend(rows.iter().map(|(verdict, _)| *verdict));
    for verdict in Verdict::ALL.into_iter().filter(|verdict| verdict.is_drop()) {
        assert!(covered.contains(&verdict), "no packet is dropped for {}", verdict.name());
    }
    bed.netns.run(|| {
        let mut rig = Rig { bed: &bed, world: &world, programs: Programs::load().unwrap() };
        for (verdict, prepare) in rows {
            rig.programs.clear_flows();
            rig.programs.node(Ipv4Addr::UNSPECIFIED, Ports::ALL);
            rig.programs.fill(&world.image::<V4>());
            rig.programs.fill(&mirror::image(&world));
            let dropped = prepare(&mut rig);
            rig.drops(verdict, dropped);
        }
    });
}

/// The table of embryonic flows puts the oldest out when it is full, and takes
/// no more only where the kernel has no memory: as a plain table does.
#[test]
fn a_flow_without_an_entry_is_counted() {
    let bed = Bed::new();
    let world = world(&bed);
    let pins = PinDir::new();
    fs::create_dir(pins.path()).unwrap();
    let pin = pins.path().join("EMBRYONIC_V4");
    pin_narrow(&pin, size_of::<FlowKey<V4>>(), size_of::<Flow<V4>>());
    bed.netns.run(|| {
        let programs = Programs::load_over("EMBRYONIC_V4", &pin).unwrap();
        let mut rig = Rig { bed: &bed, world: &world, programs };
        rig.programs.fill(&world.image::<V4>());
        let syn = |from: &str| (rig.client(), by(rig.client(), Datagram::tcp(from, "10.96.0.1:80")));
        let [first, second] = ["10.244.0.1:4000", "10.244.0.1:4001"].map(syn);
        // A flow has an entry for each way.
        rig.drops(Verdict::DropFlowTable, first);
        rig.drops(Verdict::DropFlowTable, second);
    });
}

/// The kernel lets no packet grow beyond four pages, unless it will be cut into
/// segments: it takes a link that carries such ones, and an outer header.
#[test]
fn a_packet_that_may_not_grow_is_counted() {
    let cluster = Cluster::dual(2);
    cluster.switch.mtu(JUMBO);
    link::mtu(&cluster.outside, "eth0", JUMBO);
    cluster.nodes.iter().for_each(|node| link::mtu(&node.netns, UPLINK, JUMBO));
    let server = cluster.nodes[1].container("server", 2);
    direct::serve(&cluster, &direct::direct("far"), &[&server]);
    let counted = |name| direct::counted(&cluster.nodes[0], name);
    for (to, refused) in direct::frontends().into_iter().zip(1..) {
        let client = UdpEnd::bind(&cluster.outside, SocketAddr::new(direct::own(to), 0), Fragments::Never);
        client.send(to, &[7; 20_000]).unwrap();
        until(&format!("a drop of what goes to {to}"), PATIENCE, || {
            (counted("drop_rewrite") == refused).then_some(())
        });
    }
    assert_eq!(counted("encapsulated"), 0);
}
