//! Are policies' rows found that are not as they should be, wherever they are, and
//! how many others there may be?

use std::{net::IpAddr, sync::Arc};

use causeway_schema::{
    V4,
    policy::{EndpointPolicy, NO_RULE, Outcome, PeerKey, PolicyStep, SetKey, Standing, Steps},
};
use ipnet::IpNet;

use super::{
    super::{batch, sys},
    *,
};
use crate::{
    kernel::bpf::{PolicyTables, PolicyWalk},
    plan::{PolicyMaps, PolicyWrite},
};

/// More than are read in a turn.
const MANY: u32 = 5000;

fn network(number: u32) -> IpNet {
    let [.., a, b] = number.to_be_bytes();
    let address: IpAddr = if number.is_multiple_of(2) {
        [10, 1, a, b].into()
    } else {
        [0xfd00, 0, 0, 0, 0, 0, 0, number as u16].into()
    };
    address.into()
}

fn class(peer: IpNet, class: Option<u32>) -> PolicyWrite {
    PolicyWrite::Class { generation: 3, peer, class }
}

fn key(number: u32) -> SetKey {
    SetKey { set: 1 + number / 10, class: number % 10 }
}

fn image() -> PolicyMaps {
    let step: Arc<[PolicyStep]> = [PolicyStep::new(0, Outcome::Allow, NO_RULE)].into();
    PolicyMaps {
        standing: Standing::new(3, 1),
        sets: (0..MANY).map(|number| (key(number), Steps { base: 4, len: 1 })).collect(),
        steps: [(4, step)].into(),
        classes: (0..MANY).map(|number| (network(number), number)).collect(),
        policies: [(5, EndpointPolicy { ingress: 1, egress: 0 })].into(),
    }
}

fn written(tables: &mut PolicyTables) -> PolicyMaps {
    let image = image();
    let mut writes: Vec<PolicyWrite> =
        image.steps.iter().map(|(base, steps)| PolicyWrite::Steps(*base, steps.clone())).collect();
    writes.extend(image.sets.iter().map(|(key, row)| PolicyWrite::Set(*key, Some(*row))));
    writes.extend(image.classes.iter().map(|(peer, row)| class(*peer, Some(*row))));
    writes.extend(image.policies.iter().map(|(row, sets)| PolicyWrite::Policy(*row, *sets)));
    writes.push(PolicyWrite::Stand(image.standing));
    tables.apply(&writes).unwrap();
    assert_eq!(tables.unlike(&image, &writes).unwrap(), []);
    image
}

/// A whole round; and in how many turns.
fn round(tables: &PolicyTables, image: &PolicyMaps, walk: &mut PolicyWalk) -> (Vec<PolicyWrite>, usize) {
    let (mut found, mut turns) = (Vec::new(), 0);
    loop {
        found.extend(tables.audit(image, walk, false).unwrap());
        turns += 1;
        assert!(turns < 100, "the walk has no end");
        if walk.is_at_its_start() {
            return (found, turns);
        }
    }
}

fn open() -> (Place, Dataplane) {
    let place = Place::new();
    let capacity = Capacity { policy_sets: 2 * MANY, peers: 2 * MANY, ..capacity() };
    let dataplane = Dataplane::open(&place.0, capacity, Options::default()).unwrap();
    (place, dataplane)
}

#[test]
fn a_round_finds_every_row_that_is_wrong() {
    let (_place, dataplane) = open();
    let mut tables = dataplane.policies().unwrap();
    let image = written(&mut tables);
    let mut walk = PolicyWalk::default();
    let (found, turns) = round(&tables, &image, &mut walk);
    assert_eq!(found, []);
    assert!(turns > 3, "{turns} turns for {MANY} rows of each kind");

    let steps = Steps { base: 4, len: 1 };
    let mut spoilt = Vec::new();
    for number in [0, 1, MANY / 2, MANY / 2 + 1, MANY - 2, MANY - 1] {
        // Away, another's, and nobody's.
        for (set, row) in
            [(number, None), (number ^ 8, Some(Steps { base: 9, len: 2 })), (number + MANY, Some(steps))]
        {
            spoilt.push((
                PolicyWrite::Set(key(set), row),
                PolicyWrite::Set(key(set), (set < MANY).then_some(steps)),
            ));
        }
        for (peer, row) in [(number, None), (number ^ 8, Some(77_777)), (number + MANY, Some(1))] {
            let mend = class(network(peer), (peer < MANY).then_some(peer));
            spoilt.push((class(network(peer), row), mend));
        }
    }
    spoilt.push((
        PolicyWrite::Policy(5, EndpointPolicy::default()),
        PolicyWrite::Policy(5, EndpointPolicy { ingress: 1, egress: 0 }),
    ));
    for (spoil, mend) in spoilt {
        tables.apply(std::slice::from_ref(&spoil)).unwrap();
        let (mut found, _) = round(&tables, &image, &mut walk);
        // What is another's is seen twice: among what is there, and as what is wanted.
        found.dedup();
        assert_eq!(found, std::slice::from_ref(&mend), "after {spoil:?}");
        let mut at_once = tables.audit(&image, &mut walk, true).unwrap();
        at_once.dedup();
        assert_eq!((at_once, walk.is_at_its_start()), (found.clone(), true), "after {spoil:?}");
        tables.apply(&found).unwrap();
        assert_eq!(round(&tables, &image, &mut walk).0, [], "after {mend:?}");
    }
}

/// A key that holds for several generations at once is nobody's.
#[test]
fn a_row_of_no_whole_generation_goes() {
    let (_place, dataplane) = open();
    let mut tables = dataplane.policies().unwrap();
    let image = written(&mut tables);
    let map = dataplane.object.map("CLASSES_V4").unwrap();
    let key = PeerKey { prefix: 20, ..PeerKey::new(0, V4([0; 4]), 0) };
    let there = || batch::read::<PeerKey<V4>, u32>(&map).unwrap().iter().any(|(there, _)| *there == key);
    sys::map_update(&map, &key, &7_u32).unwrap();
    assert!(there());
    let mut walk = PolicyWalk::default();
    assert_eq!(round(&tables, &image, &mut walk).0.len(), 1, "it is told");
    assert!(!there());
    assert_eq!(round(&tables, &image, &mut walk).0, []);
}

#[test]
fn rows_that_come_and_go_meanwhile_are_no_trouble() {
    let (_place, dataplane) = open();
    let mut tables = dataplane.policies().unwrap();
    let mut image = written(&mut tables);
    let (mut walk, mut turns) = (PolicyWalk::default(), 0);
    for number in 0.. {
        assert_eq!(tables.audit(&image, &mut walk, false).unwrap(), []);
        turns += 1;
        if walk.is_at_its_start() {
            break;
        }
        assert!(turns < 200, "the walk has no end");
        let (gone, new) = (network(number * 7 % MANY), network(MANY + number));
        image.classes.remove(&gone);
        image.classes.insert(new, number);
        image.sets.remove(&key(number * 11));
        tables
            .apply(&[class(gone, None), class(new, Some(number)), PolicyWrite::Set(key(number * 11), None)])
            .unwrap();
    }
}

#[test]
fn what_was_written_is_read_back_as_it_is_wanted_now() {
    let (_place, dataplane) = open();
    let mut tables = dataplane.policies().unwrap();
    let image = written(&mut tables);
    let steps = Steps { base: 4, len: 1 };
    // By an earlier plan.
    let written = [
        PolicyWrite::Set(key(3), None),
        PolicyWrite::Set(key(MANY), Some(steps)),
        class(network(3), Some(9)),
    ];
    assert_eq!(tables.unlike(&image, &written).unwrap(), []);
    tables.apply(&written).unwrap();
    assert_eq!(
        tables.unlike(&image, &written).unwrap(),
        [
            PolicyWrite::Set(key(3), Some(steps)),
            PolicyWrite::Set(key(MANY), None),
            class(network(3), Some(3))
        ]
    );
}
