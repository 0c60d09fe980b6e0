//! One rule of the planner a test.

use causeway_schema::{Algorithm, Port};

use super::world::*;
use crate::event::Table;
use crate::model::desired::Clients;
use crate::plan::{Capacity, Step};

fn generation(node: &Node, name: &str) -> u32 {
    let id = node.planner.service_id(&id(name)).unwrap();
    node.planner.image().services.get(&id).unwrap().generation
}

#[test]
fn the_generation_rises_when_a_backend_leaves_and_only_then() {
    let mut node = Node::new(small());
    let mut set = |backends: &[(u16, u16, u32)]| {
        node.change(&[(id("web"), Some(service(&[(1, 80)], backends)))]);
        generation(&node, "web")
    };
    assert_eq!(set(&[(1, 80, 1)]), 0);
    assert_eq!(set(&[(1, 80, 1), (2, 80, 1)]), 0, "one came");
    assert_eq!(set(&[(1, 80, 3), (2, 80, 1)]), 0, "weights changed");
    assert_eq!(set(&[(2, 80, 1)]), 1, "one left");
    assert_eq!(set(&[(2, 80, 1), (3, 81, 1)]), 1, "ports differ from now on");
    assert_eq!(set(&[(2, 81, 1), (3, 81, 1)]), 2, "2:80 left, 2:81 came");
    assert_eq!(set(&[]), 3, "all left");
    assert_eq!(set(&[(2, 81, 1)]), 3, "one came");
    node.change(&[(id("web"), None)]);
    node.rest();
    node.change(&[(id("other"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    assert_eq!(node.planner.service_id(&id("other")), Some(0), "the id is used again");
    assert_eq!(generation(&node, "other"), 4, "and its generation continues");
}

#[test]
fn another_common_port_is_one_store() {
    let mut node = Node::new(small());
    node.change(&[(id("web"), Some(service(&[(1, 80)], &[(1, 80, 1), (2, 80, 1)])))]);
    let steps = node.update(&[(id("web"), Some(service(&[(1, 80)], &[(1, 81, 1), (2, 81, 1)])))]);
    let [Step::PutService { row, .. }] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(row.target.port(), Port::new(81));
}

#[test]
fn services_with_the_same_backends_share_rows_and_table() {
    let mut node = Node::new(small());
    node.change(&[(id("a"), Some(service(&[(1, 80)], &[(1, 8080, 1), (2, 8080, 1)])))]);
    let steps = node.update(&[(id("b"), Some(service(&[(1, 81)], &[(1, 9090, 7), (2, 9090, 7)])))]);
    assert!(matches!(&steps[..], [Step::PutService { .. }, Step::PutFrontend { .. }]), "{steps:?}");
    node.apply_carefully(&steps);
    node.change(&[(id("a"), None)]);
    assert_eq!(node.planner.image().tables.len(), 1);
    check_against_desired(&node);
}

#[test]
fn a_table_is_what_the_service_asks_for() {
    let mut node = Node::new(Capacity { arena: 8192, ..small() });
    let mut set = |count: u16, table: Table| {
        let backends: Vec<_> = (0..count).map(|number| (number, 8080, 1)).collect();
        let mut wanted = service(&[(1, 80)], &backends);
        wanted.options.table = table;
        node.change(&[(id("web"), Some(wanted))]);
        check_against_desired(&node);
        let service = node.planner.service_id(&id("web")).unwrap();
        let target = node.planner.image().services.get(&service).unwrap().target;
        (target.algorithm(), target.len())
    };
    let maglev = |slots| Table { maglev: true, slots };
    let sized = |slots| Table { maglev: false, slots: Some(slots) };
    assert_eq!(set(3, Table::default()), (Algorithm::Rendezvous, 3));
    assert_eq!(set(3, maglev(None)), (Algorithm::Maglev, 16_381));
    assert_eq!(set(3, maglev(Some(16_382))), (Algorithm::Maglev, 32_749), "the next size there is");
    assert_eq!(set(3, sized(16_382)), (Algorithm::Rendezvous, 3), "which has no size");
    assert_eq!(set(70, sized(1)), (Algorithm::Maglev, 16_381), "less than is usual");
    assert_eq!(set(70, Table::default()), (Algorithm::Maglev, 65_521));
    node.rest();
    assert_eq!(node.planner.image().tables.len(), 1, "the others are gone");
}

#[test]
fn a_backend_that_moves_between_services_keeps_its_id() {
    let mut node = Node::new(small());
    node.change(&[(id("a"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    let steps = node.update(&[(id("a"), None), (id("b"), Some(service(&[(2, 80)], &[(1, 80, 1)])))]);
    assert!(!steps.iter().any(|step| matches!(step, Step::PutBackend { .. } | Step::ClearBackend { .. })));
    node.apply_carefully(&steps);
}

#[test]
fn the_smaller_name_has_a_contested_frontend_and_the_other_waits() {
    let (a, b) = (service(&[(2, 80)], &[(1, 80, 1)]), service(&[(2, 80), (3, 80)], &[(2, 80, 1)]));
    let cases = [["a", "b"], ["b", "a"]].map(|order| [(order, Clients::All), (order, Clients::Outside)]);
    for (order, whom) in cases.concat() {
        let mut node = Node::new(small());
        let [a, b] = [&a, &b].map(|service| clients(service.clone(), whom));
        let from = if whom == Clients::Outside { " from outside" } else { "" };
        for name in order {
            node.change(&[(id(name), Some(if name == "a" { a.clone() } else { b.clone() }))]);
        }
        check_against_desired(&node);
        let problems: Vec<String> = node.planner.problems().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [format!(
                "test:a.yaml#1: Service default/b: spec.clusterIP: 10.96.0.2:80/TCP{from} already belongs to service \
              default/a: give one of them another address or port"
            )]
        );
        node.change(&[(id("a"), None)]);
        check_against_desired(&node);
        assert_eq!(node.planner.problems().count(), 0);
    }
}

#[test]
fn a_service_without_a_frontend_of_its_own_takes_no_row() {
    let mut node = Node::new(small());
    node.change(&[(id("a"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    node.change(&[(id("b"), Some(service(&[(1, 80)], &[(2, 80, 1)])))]);
    assert_eq!(node.planner.service_id(&id("b")), None);
    assert_eq!(node.planner.image().services.len(), 1);
    let a = node.planner.service_id(&id("a")).unwrap();
    assert_eq!(node.planner.service_of(a), Some(&id("a")));
}

#[test]
fn too_many_backends_leave_the_service_as_it_was() {
    let mut node = Node::new(crate::plan::Capacity::default());
    node.change(&[(id("web"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    let many: Vec<_> = (0..10_001).map(|number| (number, 80, 1)).collect();
    assert_eq!(node.update(&[(id("web"), Some(service(&[(1, 80)], &many)))]), []);
    let problem = node.planner.problems().next().unwrap().to_string();
    assert!(problem.contains("10001 backends, but a service has room for 10000"), "{problem}");
    node.change(&[(id("web"), Some(service(&[(1, 80)], &many[..10_000])))]);
    assert_eq!(node.planner.problems().count(), 0);
    check_against_desired(&node);
}

#[test]
fn the_other_family_is_left_out() {
    let mut node = Node::new(small());
    let mut mixed = service(&[(1, 80)], &[(1, 80, 1)]);
    mixed
        .frontends
        .push(crate::model::desired::Frontend { address: "fd00::1".parse().unwrap(), ..mixed.frontends[0] });
    mixed.backends.push(crate::model::desired::Backend {
        address: "fd00::2".parse().unwrap(),
        port: 99,
        ..mixed.backends[0].clone()
    });
    node.change(&[(id("web"), Some(mixed))]);
    assert_eq!(node.planner.image().frontends.len(), 2);
    assert_eq!(node.planner.image().backends.len(), 1);
    assert_eq!(node.planner.image().services.get(&0).unwrap().target.port(), Port::new(80));
}
