//! Ranges of ports: who has them, at every step, and what an operator hears.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_schema::{FrontendKey, PORT_RANGES, Port, V4};

use super::world::*;
use crate::model::desired::{Clients, Frontend, Service};
use crate::plan::{Capacity, Digest, Planner, Step};

/// Gives every port that is no frontend of its own to whom it belongs: to the
/// smallest service with a range of some ports, or else of all.
pub fn add_owners<'a>(desired: &'a Services, owners: &mut BTreeMap<FrontendKey<V4>, &'a Service>) {
    let is_own = |frontend: &&Frontend| frontend.is_range() && frontend.clients != Clients::Outside;
    let ranges = |service: &'a Service| service.frontends.iter().filter(is_own);
    let overlap =
        |a: &Frontend, b: &Frontend| a.address == b.address && a.port <= b.end_port && b.port <= a.end_port;
    let whole = |range: &Frontend| (range.port, range.end_port) == (1, u16::MAX);
    let mut taken: Vec<(&Frontend, &Service)> = Vec::new();
    for service in desired.values() {
        for range in ranges(service) {
            if !taken.iter().any(|(other, _)| overlap(range, other) && whole(range) == whole(other)) {
                taken.push((range, service));
            }
        }
    }
    taken.sort_by_key(|(range, _)| whole(range));
    for (range, service) in taken {
        let IpAddr::V4(address) = range.address else { continue };
        let holds = |key: &FrontendKey<V4>| (range.port..=range.end_port).contains(&key.port.get());
        for key in probes([address.into()].into_iter()).filter(holds) {
            owners.entry(key).or_insert(service);
        }
    }
}

fn media(vips: &[u8], span: (u16, u16), base: u16) -> Service {
    ranged(service(&[], &[(1, base, 1)]), vips, span)
}

#[test]
fn fifty_thousand_ports_are_one_row() {
    let mut node = Node::new(small());
    let steps = node.update(&[(id("media"), Some(media(&[1], (10_000, 60_000), 10_000)))]);
    let hashes =
        steps.iter().filter(|step| matches!(step, Step::PutFrontend { .. } | Step::PutPortRanges { .. }));
    assert_eq!(hashes.count(), 2, "the row and the address's marker: {steps:?}");
    node.apply_carefully(&steps);
    let rows = node.tables.contents();
    for (port, expected) in [(9_999, None), (10_000, Some(10_000)), (60_000, Some(60_000)), (60_001, None)] {
        let seen = answers(rows, &key(1, port)).map(|answers| answers[0].unwrap().1);
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_range_keeps_its_place_when_the_backends_begin_elsewhere() {
    let mut node = Node::new(small());
    node.change(&[(id("media"), Some(media(&[1], (7000, 7010), 9000)))]);
    assert_eq!(answers(node.tables.contents(), &key(1, 7003)).unwrap()[0], Some((V4([10, 244, 0, 1]), 9003)));
    // Each by its own port where they differ.
    let apart = ranged(service(&[], &[(1, 9000, 1), (2, 9500, 1)]), &[1], (7000, 7010));
    node.change(&[(id("media"), Some(apart))]);
    let seen: BTreeSet<_> =
        answers(node.tables.contents(), &key(1, 7003)).unwrap().into_iter().flatten().collect();
    let expected = [(V4([10, 244, 0, 1]), 9003), (V4([10, 244, 0, 2]), 9503)];
    assert_eq!(seen, BTreeSet::from(expected));
    // Counted from elsewhere, it is another row; the clients' backends are not.
    let before = node.planner.service_id(&id("media"));
    node.change(&[(id("media"), Some(media(&[1], (7001, 7010), 9001)))]);
    assert_ne!(node.planner.service_id(&id("media")), before);
    assert_eq!(answers(node.tables.contents(), &key(1, 7003)).unwrap()[0], Some((V4([10, 244, 0, 1]), 9003)));
}

#[test]
fn the_smaller_name_has_an_overlap_and_the_other_waits() {
    let (a, b) = (media(&[1], (70, 80), 70), media(&[1, 2], (80, 99), 80));
    for order in [["a", "b"], ["b", "a"]] {
        let mut node = Node::new(small());
        for name in order {
            node.change(&[(id(name), Some(if name == "a" { a.clone() } else { b.clone() }))]);
        }
        check_against_desired(&node);
        let problems: Vec<String> = node.planner.problems().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "test:a.yaml#1: Service default/b: spec.ports: 10.96.0.1:80-99/TCP overlaps 10.96.0.1:70-80/TCP of \
              service default/a: give one of them another address or other ports"
            ]
        );
        node.change(&[(id("a"), Some(media(&[1], (70, 79), 70)))]);
        check_against_desired(&node);
        assert_eq!(node.planner.problems().count(), 0);
    }
}

#[test]
fn what_a_row_has_no_room_for_waits() {
    let mut node = Node::new(small());
    let last = PORT_RANGES as u16;
    let nth = |number: u16| media(&[1], (100 * number + 100, 100 * number + 199), 1000);
    for number in 0..=last {
        node.change(&[(id(&format!("s{number}")), Some(nth(number)))]);
    }
    let problems: Vec<String> = node.planner.problems().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("default/s8: spec.ports: 10.96.0.1:900-999/TCP is one too many"),
        "{problems:?}"
    );
    assert_eq!(answers(node.tables.contents(), &key(1, 899)).unwrap()[0], Some((V4([10, 244, 0, 1]), 1099)));
    node.change(&[(id("s3"), None)]);
    assert_eq!(node.planner.problems().count(), 0);
    assert!(
        answers(node.tables.contents(), &key(1, 950)).is_some()
            && answers(node.tables.contents(), &key(1, 450)).is_none()
    );
}

#[test]
fn a_full_map_leaves_the_rest_and_is_tried_again() {
    let mut node = Node::new(Capacity { port_ranges: 1, ..small() });
    node.change(&[(id("a"), Some(media(&[1], (70, 80), 70)))]);
    node.change(&[(id("b"), Some(ranged(service(&[(3, 80)], &[(2, 70, 1)]), &[1, 2], (81, 90))))]);
    let messages: Vec<_> = node.planner.waiting().map(|problem| problem.message.clone()).collect();
    assert_eq!(messages, ["map port_ranges is full (1 rows): raise capacity.port_ranges"]);
    let served = |node: &Node, vip, port| answers(node.tables.contents(), &key(vip, port)).is_some();
    assert!(served(&node, 3, 80) && served(&node, 1, 81) && !served(&node, 2, 81));
    node.change(&[(id("a"), None), (id("b"), Some(media(&[2], (81, 90), 70)))]);
    node.rest();
    assert!(served(&node, 2, 81));
    assert_eq!(node.planner.problems().count(), 0);
}

#[test]
fn a_backend_whose_ports_end_too_soon_is_named_and_left_out() {
    let mut node = Node::new(small());
    let backends = [(1, 65_525, 1), (2, 65_526, 1)];
    node.change(&[(id("media"), Some(ranged(service(&[], &backends), &[1], (7000, 7010))))]);
    let problems: Vec<String> = node.planner.problems().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "test:a.yaml#1: Service default/media: endpoints: backend 10.244.0.2:65526 has no room for the 11 ports of \
             the range above 65526: it gets no packets; let it listen from port 65525 or below"
        ]
    );
    let seen = answers(node.tables.contents(), &key(1, 7010)).unwrap();
    assert!(seen.iter().all(|answer| *answer == Some((V4([10, 244, 0, 1]), 65_535))));
}

#[test]
fn every_difference_shows_in_the_digest() {
    let digest = |vips: &[u8], span, base| {
        let mut node = Node::new(small());
        node.change(&[(id("media"), Some(media(vips, span, base)))]);
        assert_eq!(Digest::of_image(node.planner.image()), Digest::of_rows(&node.tables).unwrap());
        let mut tables = node.tables.clone();
        tables.edit().port_ranges.values_mut().for_each(|row| row.0[0].last = Port::new(9));
        assert_ne!(
            Digest::of_rows(&tables).unwrap(),
            Digest::of_image(node.planner.image()),
            "a foreign edit"
        );
        Digest::of_image(node.planner.image()).0
    };
    let digests = [
        digest(&[1], (70, 80), 70),
        digest(&[2], (70, 80), 70),
        digest(&[1, 2], (70, 80), 70),
        digest(&[1], (71, 80), 70),
        digest(&[1], (70, 81), 70),
        digest(&[1], (70, 80), 71),
    ];
    assert_eq!(BTreeSet::from(digests).len(), digests.len());
}

#[test]
fn a_new_agent_keeps_the_ids_of_ranges_and_what_others_have() {
    let mut node = Node::new(small());
    let world = [(id("a"), Some(media(&[1], (70, 80), 70))), (id("b"), Some(media(&[1, 2], (81, 99), 81)))];
    node.change(&world);
    let ids = ["a", "b"].map(|name| node.planner.service_id(&id(name)));
    node.planner = Planner::adopt(small(), &node.tables).unwrap();
    // Nothing of b is lost while only a has spoken.
    assert_eq!(node.update(&world[..1]), []);
    assert_eq!(node.update(&world[1..]), []);
    assert_eq!(node.planner.prune(), []);
    assert_eq!(["a", "b"].map(|name| node.planner.service_id(&id(name))), ids);
    // What nobody wants any more goes when all have spoken.
    node.planner = Planner::adopt(small(), &node.tables).unwrap();
    node.desired.remove(&id("b"));
    assert_eq!(node.update(&world[..1]), []);
    let steps = node.planner.prune();
    node.apply_carefully(&steps);
    node.settled();
    check_against_desired(&node);
}
