//! SVC-16, in part: 60,000 connections to a node port at a time, all to
//! backends on another node, each with a source port of its own per backend
//! and none of the host's own.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use causeway_schema::{NodeConfig, V4, nat::Ports, protocol};
use causeway_testkit::{
    bed::{Bed, OWN, UPLINK_MAC},
    frame::{Datagram, Frame},
    mirror,
    prog::Programs,
    world::World,
};

const CLIENTS: u16 = 20;
const EACH: u16 = 3000;
const NODE_PORT: u16 = 30_080;
/// What is left beside the host's own ports and the node ports.
const PORTS: Ports = Ports { first: 1024, last: 29_999 };

#[test]
fn sixty_thousand_connections_have_a_port_each() {
    let bed = Bed::new();
    let mut world = World::default();
    let backends = ["10.244.1.1:8080", "10.244.1.2:8080", "10.244.1.3:8080"];
    world.service(1, &format!("0.0.0.0:{NODE_PORT}"), protocol::TCP, &backends);
    bed.netns.run(|| {
        let sizes = [("EMBRYONIC_V4", 200_000), ("EMBRYONIC_V6", 200_000)];
        let mut programs = Programs::load_with(&sizes).unwrap();
        programs.fill(&world.image::<V4>());
        programs.fill(&mirror::image(&world));
        programs.configure(NodeConfig {
            node_v4: OWN.into(),
            node_v6: mirror::v6(OWN.into()),
            ports: PORTS,
            ..NodeConfig::new()
        });
        [false, true].into_iter().for_each(|six| have_a_port_each(&bed, &mut programs, six));
    });
}

fn have_a_port_each(bed: &Bed, programs: &mut Programs, six: bool) {
    let at = |address, port| SocketAddr::new(mirror::of_family(address, six), port).to_string();
    let (own, to) = (mirror::of_family(OWN, six), at(OWN, NODE_PORT));
    let before = programs.counters();
    let mut seen = HashSet::new();
    let mut per_backend: HashMap<IpAddr, u32> = HashMap::new();
    let mut kept = 0;
    for client in 0..CLIENTS {
        for number in 0..EACH {
            // As clients choose them: one after the other.
            let port = 20_000 + number;
            let from = at(Ipv4Addr::new(203, 0, 113, client as u8), port);
            let frame = Frame::new(Datagram::tcp(&from, &to)).macs([2; 6], UPLINK_MAC).bytes();
            let (_, out) = programs.run_quietly(bed.from_uplink(), &frame).unwrap();
            let out = Frame::read_right(&out).unwrap().packet;
            let (source, _) = out.ports().unwrap();
            assert_eq!(out.src, own, "{from}");
            assert!((PORTS.first..=PORTS.last).contains(&source), "{from} goes by port {source}");
            assert!(seen.insert((out.dst, source)), "{from}: {}:{source} is another's", out.dst);
            *per_backend.entry(out.dst).or_default() += 1;
            kept += u32::from(source == port);
        }
    }
    let after = programs.counters();
    let all = u64::from(CLIENTS) * u64::from(EACH);
    assert_eq!(after["forwarded"] - before["forwarded"], all);
    assert_eq!(after["flow_created"] - before["flow_created"], all);
    println!("{all} connections to {to}, {kept} with the client's own port, per backend {per_backend:?}");
}
