//! A new agent takes over what the last one left.

use proptest::prelude::*;

use super::audits::{Edit, edits};
use super::world::*;
use crate::plan::{Digest, Planner, audit};

/// A new agent at the same maps that has heard nothing yet.
fn restart(node: Node) -> Node {
    let planner = Planner::adopt(small(), &node.tables).unwrap();
    Node { planner, tables: node.tables, desired: Services::new(), now: node.now }
}

fn world(node: &Node) -> Vec<Change> {
    node.desired.clone().into_iter().map(|(name, service)| (name, Some(service))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_same_world_after_a_restart_plans_nothing(batches in batches(), halves in any::<bool>()) {
        let mut node = Node::new(small());
        batches.iter().for_each(|batch| node.change(batch));
        let (before, world) = (node.planner.image().clone(), world(&node));
        let mut node = restart(node);
        prop_assert_eq!(node.planner.image(), &before);
        if halves {
            let (first, second) = world.split_at(world.len() / 2);
            prop_assert_eq!(node.update(first), []);
            prop_assert_eq!(node.update(second), []);
        } else {
            prop_assert_eq!(node.update(&world), []);
        }
        prop_assert_eq!(node.planner.prune(), []);
        prop_assert_eq!(node.planner.image(), &before);
    }

    #[test]
    fn another_world_after_a_restart_is_reached_safely(old in batches(), new in batches()) {
        let mut node = Node::new(small());
        old.iter().for_each(|batch| node.change(batch));
        let served = all_answers(node.tables.contents());
        let generations: Vec<u32> = node.tables.contents().services.iter().map(|row| row.generation).collect();
        let mut node = restart(node);
        for batch in &new {
            node.change(batch);
        }
        for key in served.keys() {
            let gone = !node.tables.contents().frontends.contains_key(key);
            prop_assert!(!gone || node.planner.service_of(0).is_some() || !new.is_empty());
        }
        let steps = node.planner.prune();
        node.apply_carefully(&steps);
        node.settled();
        check_against_desired(&node);
        let now = node.tables.contents().services.iter().map(|row| row.generation);
        prop_assert!(now.zip(generations).all(|(now, before)| now >= before));

        let mut fresh = Node::new(small());
        fresh.change(&world(&node));
        prop_assert_eq!(Digest::of_image(fresh.planner.image()), Digest::of_image(node.planner.image()));
    }

    #[test]
    fn damaged_maps_are_not_trusted(batches in batches(), edits in edits()) {
        let mut node = Node::new(small());
        batches.iter().for_each(|batch| node.change(batch));
        let world = world(&node);
        edits.iter().for_each(|edit: &Edit| edit.apply(node.tables.edit()));
        let mut node = restart(node);
        let steps = node.update(&world);
        crate::kernel::Tables::apply(&mut node.tables, &steps);
        let steps = node.planner.prune();
        crate::kernel::Tables::apply(&mut node.tables, &steps);
        let repairs: Vec<_> =
            audit(node.planner.image(), &node.tables).unwrap().into_iter().map(|repair| repair.step).collect();
        crate::kernel::Tables::apply(&mut node.tables, &repairs);
        node.settled();
        check_against_desired(&node);
        node.rest();
        node.change(&[(id("s9"), Some(service(&[(77, 80)], &[(77, 80, 1)])))]);
        check_against_desired(&node);
    }
}

#[test]
fn nothing_is_deleted_before_every_source_has_spoken() {
    let mut node = Node::new(small());
    node.change(&[(id("a"), Some(service(&[(1, 80), (2, 80)], &[(1, 80, 1)])))]);
    node.change(&[(id("b"), Some(service(&[(3, 80)], &[(2, 80, 1)])))]);
    let mut node = restart(node);
    node.change(&[(id("a"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    assert_eq!(all_answers(node.tables.contents()).len(), 3);
    // Another service may still take what the first no longer wants.
    node.change(&[(id("c"), Some(service(&[(2, 80)], &[(3, 80, 1)])))]);
    let steps = node.planner.prune();
    node.apply_carefully(&steps);
    check_against_desired(&node);
}

#[test]
fn a_light_backend_without_a_slot_survives_a_restart() {
    let mut node = Node::new(small());
    let mut backends: Vec<_> = (0..40).map(|number| (number, 80, 1000)).collect();
    (40..80).for_each(|number| backends.push((number, 80, 1)));
    let change = [(id("a"), Some(service(&[(1, 80)], &backends)))];
    let mut node2 = Node::new(crate::plan::Capacity { arena: 100_000, ..small() });
    node2.change(&change);
    node.tables = node2.tables;
    let mut node = restart(node);
    assert_eq!(node.update(&change), []);
    assert_eq!(node.planner.prune(), []);
}

#[test]
fn a_damaged_service_is_left_out_with_all_that_leads_to_it() {
    let mut node = Node::new(small());
    node.change(&[(id("a"), Some(service(&[(1, 80)], &[(1, 80, 1), (2, 80, 1)])))]);
    node.change(&[(id("b"), Some(service(&[(2, 80)], &[(3, 80, 1)])))]);
    type Damage = fn(&mut crate::kernel::memory::Contents<causeway_schema::V4>);
    let damages: [Damage; 6] = [
        |rows| rows.backends[0].addr.0[3] = 99,
        |rows| rows.backends[1] = bytemuck::Zeroable::zeroed(),
        |rows| rows.arena[0].0[1] ^= 1,
        |rows| rows.services[0].flags = 1 << 7,
        |rows| rows.services[0].target.0 |= 0xffff << 38,
        |rows| rows.services[0].target.0 &= !0xffff,
    ];
    for damage in damages {
        let mut tables = node.tables.clone();
        damage(tables.edit());
        let planner = Planner::adopt(small(), &tables).unwrap();
        let services: Vec<u32> = planner.image().services.keys().collect();
        assert_eq!((services, planner.image().frontends.len()), (vec![1], 2));
    }
}

#[test]
fn an_id_that_a_foreign_row_names_is_not_given_out() {
    let mut node = Node::new(small());
    let foreign = causeway_schema::Frontend { service: 0, flags: 0 };
    node.tables.edit().frontends.insert(key(9, 99), foreign);
    node.tables.edit().services[1].target.0 = u64::MAX;
    let mut node = restart(node);
    let steps = node.update(&[(id("a"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    node.apply(&steps);
    assert_eq!(node.planner.service_id(&id("a")), Some(2));
}
