//! Full maps: what does not fit waits, all else is served.

use proptest::prelude::*;

use super::world::*;
use crate::plan::Capacity;

fn tight() -> impl Strategy<Value = Capacity> {
    let sizes = (2..12u32, 1..6u32, 1..12u32, 1..12u32, 1..4u32);
    sizes.prop_map(|(frontends, services, backends, arena, port_ranges)| Capacity {
        frontends,
        services,
        backends,
        arena,
        port_ranges,
        ..small()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn full_maps_refuse_no_planned_write_and_serve_the_rest(capacity in tight(), batches in batches()) {
        let mut node = Node::new(capacity);
        for (index, batch) in batches.iter().enumerate() {
            node.change(batch);
            if index % 3 == 0 {
                node.rest();
            }
        }
        for (map, used, rows) in node.planner.usage() {
            prop_assert!(used <= rows, "{map}");
        }
        // With one service left, there is room for it if there is any.
        let names: Vec<_> = node.desired.keys().cloned().collect();
        node.change(&names.into_iter().map(|name| (name, None)).collect::<Vec<_>>());
        node.change(&[(id("last"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
        node.rest();
        node.rest();
        check_against_desired(&node);
        prop_assert_eq!(node.planner.problems().count(), 0);
    }
}

#[test]
fn a_service_that_did_not_fit_is_served_when_another_goes() {
    let mut node = Node::new(Capacity { services: 2, ..small() });
    for (name, vip) in [("a", 1), ("b", 2), ("c", 3)] {
        node.change(&[(id(name), Some(service(&[(vip, 80)], &[(u16::from(vip), 80, 1)])))]);
    }
    let problems: Vec<String> = node.planner.problems().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["test:a.yaml#1: Service default/c: map services is full (2 rows): raise capacity.services"]
    );
    node.change(&[(id("a"), None)]);
    assert_eq!(node.planner.problems().count(), 1, "the id rests first");
    node.rest();
    assert_eq!(node.planner.problems().count(), 0);
    check_against_desired(&node);
}

#[test]
fn a_table_that_does_not_fit_leaves_the_old_one() {
    let mut node = Node::new(Capacity { arena: 2, ..small() });
    node.change(&[(id("a"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    let wide: Vec<_> = (0..12).map(|number| (number, 80, 1)).collect();
    node.change(&[(id("a"), Some(service(&[(1, 80), (2, 80)], &wide)))]);
    let problem = node.planner.problems().next().unwrap().to_string();
    assert!(problem.contains("map arena is full (2 rows): raise capacity.arena"), "{problem}");
    let answers = all_answers(node.tables.contents());
    assert_eq!(answers.len(), 2, "the new frontend is served, too");
    assert!(answers.values().flatten().all(Option::is_some));
}

#[test]
fn hundreds_that_wait_all_get_their_turn() {
    let mut node = Node::new(Capacity { frontends: 2_000, services: 300, ..small() });
    let batch = |names: std::ops::Range<u16>, wanted: bool| -> Vec<Change> {
        let web = |number: u16| service(&[(number as u8, 80 + number / 256)], &[(1, 80, 1)]);
        names.map(|number| (id(&format!("s{number:03}")), wanted.then(|| web(number)))).collect()
    };
    let steps = node.update(&batch(0..600, true));
    node.apply(&steps);
    assert_eq!(node.planner.problems().count(), 300);
    let steps = node.update(&batch(0..290, false));
    node.apply(&steps);
    for _ in 0..2 {
        node.now += crate::plan::GRACE;
        let steps = node.planner.release(node.now);
        node.apply(&steps);
    }
    assert_eq!(node.planner.problems().count(), 10);
    assert_eq!(node.planner.image().services.len(), 300);
}
