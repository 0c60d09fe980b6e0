//! Whatever a foreign hand does to the maps is found and mended.

use causeway_schema::{
    Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Port, PortRange, PortRanges, Service, Target, V4,
};
use proptest::prelude::*;
use proptest::sample::Index;

use super::world::*;
use crate::kernel::Tables;
use crate::kernel::memory::Contents;
use crate::plan::{Fault, Map, audit, confirm};

#[derive(Clone, Debug)]
pub enum Edit {
    DropFrontend(Index),
    AlterFrontend(Index, u32),
    AddFrontend(u8, u32),
    Service(Index, u64, u32),
    Backend(Index, [u8; 4], u16),
    Cell(Index, u64),
    Endpoint(Index, u32),
    PortRanges(u8, Option<PortRange>),
    EndpointKey(u8, u32),
}

impl Edit {
    pub fn apply(&self, rows: &mut Contents<V4>) {
        let picked = |index: &Index, rows: &Contents<V4>| {
            let mut keys: Vec<_> = rows.frontends.keys().copied().collect();
            keys.sort();
            (!keys.is_empty()).then(|| *index.get(&keys))
        };
        match self {
            Edit::DropFrontend(index) => {
                let key = picked(index, rows);
                key.map(|key| rows.frontends.remove(&key));
            }
            Edit::AlterFrontend(index, service) => {
                let key = picked(index, rows);
                key.map(|key| rows.frontends.insert(key, Frontend { service: *service, flags: 0 }));
            }
            Edit::AddFrontend(byte, service) => {
                let key = FrontendKey::new(V4([10, 99, 0, *byte]), Port::new(80), 6);
                rows.frontends.insert(key, Frontend { service: *service, flags: 0 });
            }
            Edit::Service(index, target, generation) => {
                let row = Service { target: Target(*target), generation: *generation, flags: 0 };
                rows.services[index.index(12)] = row;
            }
            Edit::Backend(index, addr, port) => {
                let row = &mut rows.backends[index.index(24)];
                (row.addr, row.port) = (V4(*addr), Port::new(*port));
            }
            Edit::Cell(index, word) => rows.arena[index.index(600)] = Cell([*word; 8]),
            Edit::Endpoint(index, ifindex) => {
                let row = Endpoint { ifindex: *ifindex, generation: 7, flags: 0, mac: [1; 6], policy: 0 };
                rows.endpoints[index.index(16)] = row;
            }
            Edit::PortRanges(vip, None) => {
                rows.port_ranges.remove(&V4([10, 96, 0, *vip]));
            }
            Edit::PortRanges(vip, Some(range)) => {
                let row = rows.port_ranges.entry(V4([10, 96, 0, *vip])).or_insert(PortRanges::NONE);
                row.0[usize::from(range.pad) % row.0.len()] = *range;
            }
            Edit::EndpointKey(byte, hop) => {
                rows.endpoint_keys.insert(EndpointKey(V4([10, 244, 0, *byte])), Hop(*hop));
            }
        }
    }
}

pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let service = || prop_oneof![0..12u32, any::<u32>()];
    let target = prop_oneof![
        any::<u64>(),
        Just(0u64),
        (0..12u64, 0..7u64, 0..4u64, Just(8080u64))
            .prop_map(|(base, len, algorithm, port)| base << 38 | len << 18 | algorithm << 16 | port)
    ];
    let range = (1..100u16, 1..100u16, any::<bool>(), 0..8u8, 0..4u16, service());
    let range = range.prop_map(|(first, last, tcp, pad, flags, service)| PortRange {
        first: Port::new(first),
        last: Port::new(last),
        protocol: if tcp { 6 } else { pad },
        pad,
        flags,
        service,
    });
    let edit = prop_oneof![
        (1..6u8, proptest::option::of(range)).prop_map(|(vip, range)| Edit::PortRanges(vip, range)),
        any::<Index>().prop_map(Edit::DropFrontend),
        (any::<Index>(), service()).prop_map(|(index, service)| Edit::AlterFrontend(index, service)),
        (any::<u8>(), service()).prop_map(|(byte, service)| Edit::AddFrontend(byte, service)),
        (any::<Index>(), target, 0..9u32)
            .prop_map(|(index, target, gen_)| Edit::Service(index, target, gen_)),
        (
            any::<Index>(),
            prop_oneof![any::<[u8; 4]>(), Just([0; 4]), Just([10, 244, 0, 1])],
            prop_oneof![Just(0), any::<u16>()]
        )
            .prop_map(|(index, addr, port)| Edit::Backend(index, addr, port)),
        (any::<Index>(), any::<u64>()).prop_map(|(index, word)| Edit::Cell(index, word)),
        (any::<Index>(), 0..3u32).prop_map(|(index, ifindex)| Edit::Endpoint(index, ifindex)),
        (any::<u8>(), any::<u32>()).prop_map(|(byte, hop)| Edit::EndpointKey(byte, hop)),
    ];
    proptest::collection::vec(edit, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn foreign_edits_are_mended(batches in batches(), edits in edits()) {
        let mut node = Node::new(small());
        batches.iter().for_each(|batch| node.change(batch));
        let before = all_answers(node.tables.contents());
        edits.iter().for_each(|edit| edit.apply(node.tables.edit()));
        let repairs = audit(node.planner.image(), &node.tables).unwrap();
        let steps: Vec<_> = repairs.into_iter().map(|repair| repair.step).collect();
        let phases: Vec<u8> = steps.iter().map(|step| step.phase()).collect();
        // First what takes up room, then all else.
        prop_assert!(phases.chunk_by(|a, b| a <= b).count() <= 2, "{:?}", phases);
        node.apply(&steps);
        node.settled();
        prop_assert_eq!(all_answers(node.tables.contents()), before);
    }
}

/// Rows that nobody wants must not keep out those that are wanted.
#[test]
fn a_map_full_of_strangers_is_mended() {
    let mut node = Node::new(small());
    node.change(&[(id("web"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    let frontends = &mut node.tables.edit().frontends;
    frontends.remove(&key(1, 80));
    for port in 1.. {
        if frontends.len() == small().frontends as usize {
            break;
        }
        frontends.insert(key(9, port), Frontend { service: 0, flags: 0 });
    }
    let repairs = audit(node.planner.image(), &node.tables).unwrap();
    let steps: Vec<_> = repairs.into_iter().map(|repair| repair.step).collect();
    node.apply(&steps);
    node.settled();
}

#[test]
fn a_repair_says_what_was_wrong() {
    let mut node = Node::new(small());
    node.change(&[(id("web"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    node.tables.edit().frontends.get_mut(&key(1, 80)).unwrap().service = 9;
    node.tables.edit().frontends.remove(&FrontendKey::whole_address(V4([10, 96, 0, 1])));
    node.tables.edit().backends[0].addr = V4([0; 4]);
    node.tables.edit().backends[9].addr = V4([9; 4]);
    let repairs = audit(node.planner.image(), &node.tables).unwrap();
    assert_eq!(repairs[0].fault, Fault::Missing);
    let lines: Vec<String> = repairs.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "backends 0: missing, written again",
            "frontends 10.96.0.1: missing, written again",
            "frontends 10.96.0.1:80/TCP: altered, rewritten",
            "backends 9: unknown, cleared",
        ]
    );
}

#[test]
fn failed_and_lost_writes_are_seen_and_written_later() {
    let mut node = Node::new(small());
    let steps = node.update(&[(id("web"), Some(service(&[(1, 80)], &[(1, 80, 1)])))]);
    node.tables.fail(Map::Services, libc::EPERM, Some(1));
    let errors = node.tables.apply(&steps);
    assert_eq!(errors[0].1.to_string(), "update of map services: Operation not permitted (os error 1)");
    assert_eq!(errors.len(), 3, "frontends are withheld: {errors:?}");
    assert_eq!(
        confirm(&steps, &node.tables).unwrap(),
        errors.iter().map(|(index, _)| *index).collect::<Vec<_>>()
    );

    node.tables.lose(Map::Frontends, 1);
    let repairs = |node: &Node| -> Vec<_> {
        audit(node.planner.image(), &node.tables).unwrap().into_iter().map(|repair| repair.step).collect()
    };
    let steps = repairs(&node);
    assert!(node.tables.apply(&steps).is_empty());
    assert_eq!(confirm(&steps, &node.tables).unwrap().len(), 1);
    let steps = repairs(&node);
    node.apply(&steps);
    node.settled();
}
