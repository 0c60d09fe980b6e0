//! Are idle flows found and removed, busy ones left, and traces free of effect?

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use causeway_schema::{Flow, FlowKey, NodeConfig, Port, V4, Verdict, flow::flags, protocol};

use super::{super::sys, *};
use crate::kernel::bpf::{Expired, Timeouts, features};

const CLIENT: V4 = V4([10, 1, 0, 1]);
const FRONTEND: V4 = V4([10, 96, 0, 1]);
const BACKEND: V4 = V4([10, 1, 0, 2]);

struct Flows {
    table: std::os::fd::OwnedFd,
    now: u32,
    second: u32,
}

impl Flows {
    /// A flow of client port `port`, whose requests and replies were last seen
    /// so many seconds ago.
    fn put(&self, protocol: u8, port: u16, request: (u32, u16), reply: (u32, u16)) {
        let key = FlowKey::new(CLIENT, FRONTEND, Port::new(port), Port::new(80), protocol);
        let after = FlowKey::new(CLIENT, BACKEND, Port::new(port), Port::new(8080), protocol);
        let seen = |idle: u32| self.now.wrapping_sub(idle * self.second);
        let there = Flow { flags: request.1, last_seen: seen(request.0), ..Flow::translating(&key, &after) };
        let back = Flow {
            flags: reply.1 | flags::REPLY,
            last_seen: seen(reply.0),
            ..Flow::translating(&after.reversed(), &key.reversed())
        };
        let back_key = there.twin(protocol);
        assert_eq!(back.twin(protocol), key);
        sys::map_update(&self.table, &key, &there).unwrap();
        sys::map_update(&self.table, &back_key, &back).unwrap();
    }
}

#[test]
fn flows_go_when_both_directions_were_silent_for_long() {
    let place = Place::new();
    let mut of_v4 = place.open().flows::<V4>().unwrap();
    let flows = Flows {
        table: sys::open(&place.0.join("maps/FLOWS_V4")).unwrap(),
        now: of_v4.now().unwrap(),
        second: super::super::object::ticks_per_second(),
    };
    let (tcp, udp, closing) = (protocol::TCP, protocol::UDP, flags::CLOSING);
    // Kept: one direction busy, half closed, simply young.
    flows.put(tcp, 1, (4000, 0), (3000, 0));
    flows.put(tcp, 2, (60, closing), (60, 0));
    flows.put(tcp, 3, (60, 0), (60, closing));
    flows.put(udp, 4, (30, 0), (30, 0));
    flows.put(tcp, 5, (2, closing), (200, closing));
    // Gone.
    flows.put(tcp, 11, (4000, 0), (3700, 0));
    flows.put(tcp, 12, (130, closing), (130, 0));
    flows.put(udp, 13, (70, 0), (70, 0));
    flows.put(tcp, 14, (15, closing), (15, closing));
    for port in 100..120 {
        flows.put(udp, port, (70, 0), (90, 0));
    }
    let mut expire = |timeouts: &Timeouts| {
        let Expired { removed, left, told } = of_v4.expire(timeouts, &HashMap::new()).unwrap();
        (removed, left, told)
    };
    // The one that nobody has closed is declared ended, to both sides.
    let told = vec![
        (SocketAddr::from((FRONTEND.0, 80)), SocketAddr::from((CLIENT.0, 11))),
        (SocketAddr::from((CLIENT.0, 11)), SocketAddr::from((BACKEND.0, 8080))),
    ];
    assert_eq!(expire(&Timeouts::default()), (23, 12, told));
    assert_eq!(expire(&Timeouts::default()), (0, 12, vec![]));
    assert_eq!(expire(&Timeouts { closing: Duration::ZERO, ..Timeouts::default() }).0, 2);
    let (established, embryonic) = of_v4.entries().unwrap();
    assert_eq!((established.len(), embryonic.len()), (8, 0));
    assert!(established.iter().all(|(key, _)| key.src_port.get().min(key.dst_port.get()) <= 5));

    // A reply entry whose request entry is missing goes by itself.
    let (request, _) = established.iter().find(|(key, _)| key.src_port == Port::new(4)).unwrap();
    sys::map_delete(&flows.table, request).unwrap();
    let soon = Timeouts { udp: Duration::from_secs(10), ..Timeouts::default() };
    assert_eq!(of_v4.expire(&soon, &HashMap::new()).unwrap().removed, 1);
    assert_eq!(of_v4.entries().unwrap().0.len(), 6);

    // A service may have a time of its own; these flows are of service 0.
    let own = HashMap::from([(0, Duration::from_secs(50))]);
    assert_eq!(of_v4.expire(&Timeouts::default(), &own).unwrap().told.len(), 2);
}

#[test]
fn the_clock_ticks() {
    let place = Place::new();
    let mut of_v4 = place.open().flows::<V4>().unwrap();
    let before = of_v4.now().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let passed = of_v4.now().unwrap().wrapping_sub(before);
    let half = super::super::object::ticks_per_second() / 2;
    assert!((half * 9 / 10..half * 3).contains(&passed), "{passed} of {half}");
}

#[test]
fn a_trace_says_what_would_be_and_moves_nothing() {
    in_netns(|| {
        let place = Place::new();
        let mut dataplane = place.open();
        dataplane.attach(at("v0")).unwrap();
        let ifindex = at("v0").ifindex;
        let program = dataplane.program_at(ifindex).unwrap().unwrap();
        assert!(dataplane.program_at(at("v1").ifindex).unwrap().is_none());
        let mut packet = vec![2_u8; 60];
        packet[12..14].copy_from_slice(&[0x88, 0xb5]);
        let before = dataplane.tracer.counters().unwrap();
        let (_, record, out) = dataplane.tracer.trace(&program, ifindex, &packet).unwrap();
        // For a hardware address that is not this host's.
        assert_eq!(Verdict::from_number(record.verdict), Some(Verdict::StackForeign));
        assert_eq!(out, packet);
        assert_eq!(dataplane.tracer.counters().unwrap(), before);

        // Too short to be run: an error, and the mark is cleared all the same.
        assert!(dataplane.tracer.trace(&program, ifindex, &[0; 5]).is_err());
        let config = sys::open(&place.0.join("maps/CONFIG")).unwrap();
        let row: NodeConfig = sys::map_lookup(&config, &0_u32).unwrap().unwrap();
        assert_eq!(row.trace_mark, 0);
    });
}

#[test]
fn features_are_probed() {
    drop(Place::new().open());
    let features = features();
    assert!(features.iter().all(|(_, there)| *there), "{features:?}");
}
