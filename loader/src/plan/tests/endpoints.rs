//! Slots of this node's workloads.

use std::collections::BTreeMap;

use causeway_schema::{EndpointKey, Hop, V4};
use proptest::prelude::*;

use super::world::*;
use crate::model::desired::Endpoint;
use crate::plan::{Capacity, Planner};

type Desired = BTreeMap<String, Endpoint>;

fn endpoint(addresses: &[u8], ifindex: u32) -> Endpoint {
    let addresses = addresses.iter().map(|&byte| [10, 244, 0, byte].into()).collect();
    Endpoint {
        addresses,
        interface: format!("cw{ifindex}"),
        ifindex,
        mac: [2, 0, 0, 0, 0, ifindex as u8],
        policy: None,
    }
}

fn set(node: &mut Node, desired: &Desired) {
    let steps = node.planner.set_endpoints(desired);
    node.apply_carefully(&steps);
    node.settled();
}

/// The interface that an address leads to.
fn interface(node: &Node, byte: u8) -> Option<u32> {
    let rows = node.tables.contents();
    let hop = *rows.endpoint_keys.get(&EndpointKey(V4([10, 244, 0, byte])))?;
    let row = rows.endpoints[hop.slot() as usize];
    assert_eq!(row.generation, hop.generation());
    Some(row.ifindex)
}

fn hop(node: &Node, byte: u8) -> Hop {
    node.tables.contents().endpoint_keys[&EndpointKey(V4([10, 244, 0, byte]))]
}

#[test]
fn a_slot_stays_and_its_generation_tells_tenants_apart() {
    let mut node = Node::new(small());
    let mut desired = Desired::from([("a".into(), endpoint(&[1], 5)), ("b".into(), endpoint(&[2], 6))]);
    set(&mut node, &desired);
    let before = hop(&node, 1);
    assert_eq!((before.slot(), interface(&node, 1)), (1, Some(5)));
    desired.insert("a".into(), endpoint(&[1, 3], 5));
    set(&mut node, &desired);
    assert_eq!((hop(&node, 1), hop(&node, 3)), (before, before));
    desired.insert("a".into(), endpoint(&[3], 9));
    set(&mut node, &desired);
    assert_eq!((interface(&node, 1), interface(&node, 3)), (None, Some(9)));
    assert_eq!(hop(&node, 3), Hop::new(1, 1));
    desired.remove("a");
    set(&mut node, &desired);
    node.rest();
    desired.insert("c".into(), endpoint(&[4], 10));
    set(&mut node, &desired);
    assert_eq!(hop(&node, 4), Hop::new(1, 2));
}

#[test]
fn an_address_of_two_endpoints_belongs_to_the_smaller_name() {
    let mut node = Node::new(small());
    let mut desired = Desired::from([("b".into(), endpoint(&[1, 2], 6))]);
    set(&mut node, &desired);
    desired.insert("a".into(), endpoint(&[1], 5));
    set(&mut node, &desired);
    assert_eq!((interface(&node, 1), interface(&node, 2)), (Some(5), Some(6)));
    let problems: Vec<String> = node.planner.problems().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["endpoint b: addresses: 10.244.0.1 already belongs to endpoint a: detach one of them"]
    );
}

#[test]
fn endpoints_that_do_not_fit_get_their_turn() {
    let mut node = Node::new(Capacity { endpoints: 2, ..small() });
    let mut desired: Desired =
        (1..=3).map(|number| (format!("e{number}"), endpoint(&[number], number.into()))).collect();
    set(&mut node, &desired);
    let problem = node.planner.problems().next().unwrap().to_string();
    assert_eq!(problem, "endpoint e3: map endpoint_keys is full (2 rows): raise capacity.endpoints");
    desired.remove("e1");
    set(&mut node, &desired);
    node.rest();
    assert_eq!((interface(&node, 2), interface(&node, 3)), (Some(2), Some(3)));
    assert_eq!(node.planner.problems().count(), 0);
}

proptest! {
    #[test]
    fn every_endpoint_is_reached_and_a_restart_changes_nothing(
        rounds in proptest::collection::vec(
            proptest::collection::btree_map("[a-d]", (proptest::collection::vec(1..6u8, 1..3), 1..4u32), 0..4), 1..6),
    ) {
        let mut node = Node::new(small());
        for round in rounds {
            let desired: Desired =
                round.iter().map(|(name, (bytes, ifindex))| (name.clone(), endpoint(bytes, *ifindex))).collect();
            set(&mut node, &desired);
            let mut owners = BTreeMap::new();
            for (bytes, ifindex) in round.values() {
                for byte in bytes {
                    owners.entry(*byte).or_insert(*ifindex);
                }
            }
            for byte in 1..6 {
                prop_assert_eq!(interface(&node, byte), owners.get(&byte).copied());
            }
            node.planner = Planner::adopt(small(), &node.tables).unwrap();
            prop_assert_eq!(node.planner.set_endpoints(&desired), []);
            prop_assert_eq!(node.planner.prune(), []);
        }
    }
}
