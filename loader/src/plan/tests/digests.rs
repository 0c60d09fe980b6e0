//! Nodes that want the same say the same, and no others.

use proptest::prelude::*;

use super::world::*;
use crate::plan::Digest;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_order_of_events_changes_no_digest_and_no_choice(batches in batches(), seed in any::<u64>()) {
        let mut first = Node::new(small());
        batches.iter().for_each(|batch| first.change(batch));

        let mut second = Node::new(small());
        let mut world: Vec<Change> =
            first.desired.clone().into_iter().map(|(name, service)| (name, Some(service))).collect();
        world.sort_by_key(|(name, _)| causeway_schema::hash::mix(seed ^ u64::from(name.name.as_bytes()[1])));
        world.iter().for_each(|change| second.change(std::slice::from_ref(change)));

        prop_assert_eq!(all_answers(first.tables.contents()), all_answers(second.tables.contents()));
        let digest = Digest::of_image(first.planner.image());
        prop_assert_eq!(digest, Digest::of_image(second.planner.image()));
        prop_assert_eq!(digest, Digest::of_rows(&first.tables).unwrap());
        prop_assert_eq!(digest, Digest::of_rows(&second.tables).unwrap());
    }
}

fn digest(frontends: &[(u8, u16)], backends: &[(u16, u16, u32)]) -> Digest {
    let mut node = Node::new(small());
    node.change(&[(id("web"), Some(service(frontends, backends)))]);
    let digest = Digest::of_image(node.planner.image());
    assert_eq!(digest, Digest::of_rows(&node.tables).unwrap());
    digest
}

#[test]
fn every_difference_shows() {
    let many =
        |weight| (0..80).map(|number| (number, 80, if number == 7 { weight } else { 1 })).collect::<Vec<_>>();
    let digests = [
        digest(&[], &[]),
        digest(&[(1, 80)], &[]),
        digest(&[(2, 80)], &[]),
        digest(&[(1, 81)], &[]),
        digest(&[(1, 80)], &[(1, 80, 1)]),
        digest(&[(1, 80)], &[(1, 81, 1)]),
        digest(&[(1, 80)], &[(2, 80, 1)]),
        digest(&[(1, 80)], &[(1, 80, 1), (2, 80, 1)]),
        digest(&[(1, 80)], &[(1, 80, 1), (2, 81, 1)]),
        digest(&[(1, 80)], &[(1, 80, 2), (2, 80, 1)]),
        digest(&[(1, 80)], &[(1, 80, 1), (2, 80, 2)]),
        digest(&[(1, 80)], &many(1)),
        digest(&[(1, 80)], &many(2)),
        digest(&[(1, 80)], &many(1)[1..]),
    ];
    for (index, one) in digests.iter().enumerate() {
        assert!(!digests[..index].contains(one), "{index}");
    }
    assert_eq!(digests[0].to_string(), "0".repeat(32));
}

#[test]
fn a_foreign_edit_shows() {
    let mut node = Node::new(small());
    node.change(&[(id("web"), Some(service(&[(1, 80)], &[(1, 80, 1), (2, 80, 1)])))]);
    let sound = Digest::of_rows(&node.tables).unwrap();
    type Edit = fn(&mut crate::kernel::memory::Contents<causeway_schema::V4>);
    let edits: [Edit; 5] = [
        |rows| rows.backends[0].addr.0[3] ^= 9,
        |rows| rows.arena[0].0[0] ^= 1,
        |rows| rows.services[0].target.0 ^= 1,
        |rows| rows.frontends.values_mut().for_each(|row| row.service = 63),
        |rows| rows.frontends.clear(),
    ];
    for edit in edits {
        let mut tables = node.tables.clone();
        edit(tables.edit());
        assert_ne!(Digest::of_rows(&tables).unwrap(), sound);
    }
}
