//! A crash between two steps is safe, and nothing is left behind.

use proptest::prelude::*;

use super::world::*;
use crate::plan::Image;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_prefix_of_every_plan_serves(batches in batches(), rests in any::<u16>()) {
        let mut node = Node::new(small());
        for (index, batch) in batches.iter().enumerate() {
            node.change(batch);
            check_against_desired(&node);
            if rests >> (index % 16) & 1 == 1 {
                node.rest();
            }
        }
        let contested = node.planner.problems().filter(|problem| problem.field == "spec.clusterIP").count();
        let claims: usize = node.desired.values().map(|service| keys(service).len()).sum();
        let rows = &node.tables.contents().frontends;
        let rows = rows.keys().filter(|key| key.port != causeway_schema::Port::NONE).count();
        prop_assert_eq!(contested, claims - rows);
    }

    #[test]
    fn deleting_all_leaves_nothing(batches in batches()) {
        let mut node = Node::new(small());
        batches.iter().for_each(|batch| node.change(batch));
        let names: Vec<_> = node.desired.keys().cloned().collect();
        node.change(&names.into_iter().map(|name| (name, None)).collect::<Vec<_>>());
        prop_assert_eq!(node.planner.image(), &Image::default());
        prop_assert_eq!(node.planner.problems().count(), 0);
        let contents = node.tables.contents();
        prop_assert!(contents.frontends.is_empty() && contents.port_ranges.is_empty());
        prop_assert!(contents.services.iter().all(|row| row.target.0 == 0));
        prop_assert!(contents.backends.iter().all(|row| row.addr.0 == [0; 4]));
        // And all of it can be had again.
        node.rest();
        node.change(&[(id("new"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
        check_against_desired(&node);
    }

    #[test]
    fn a_plan_without_a_change_is_empty(batches in batches()) {
        let mut node = Node::new(small());
        batches.iter().for_each(|batch| node.change(batch));
        let again: Vec<Change> = node.desired.clone().into_iter().map(|(name, service)| (name, Some(service))).collect();
        prop_assert_eq!(node.update(&again), []);
    }
}
