//! Do maps survive the agent, and do writes arrive whole or with an error?

use std::io;

use causeway_schema::{
    Algorithm, Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, NodeConfig, Port, Service,
    SourceRange, SourceRangeKey, Target, V4,
};

use super::{super::batch, super::sys, *};
use crate::{
    kernel::{
        Tables,
        bpf::{BpfError, BpfTables},
    },
    plan::{Rows, Step},
};

fn key(last: u8) -> FrontendKey<V4> {
    FrontendKey::new(V4([10, 0, 0, last]), Port::new(80), 6)
}

fn v4(dataplane: &Dataplane) -> BpfTables<V4> {
    dataplane.tables().unwrap()
}

fn frontend(service: u32) -> Frontend {
    Frontend { service, flags: 0 }
}

fn service(base: u32) -> Service {
    Service { target: Target::new(base, 3, Algorithm::Rendezvous, Port::new(8080)), generation: 7, flags: 0 }
}

#[test]
fn a_new_agent_adopts_maps_with_their_rows() {
    let place = Place::new();
    let first = place.open();
    let steps = [
        Step::PutBackend { id: 31, row: Backend::new(V4([10, 1, 0, 1]), Port::new(8080)) },
        Step::PutTable { base: 62, cells: vec![Cell([1; 8]), Cell([2; 8])].into() },
        Step::PutService { id: 3, row: service(62) },
        Step::PutEndpoint {
            slot: 7,
            row: Endpoint { ifindex: 9, generation: 1, flags: 0, mac: [2; 6], policy: 0 },
        },
        Step::PutEndpointKey { key: EndpointKey(V4([10, 1, 0, 1])), hop: Hop::new(7, 1) },
        Step::PutFrontend { key: key(1), row: frontend(3) },
    ];
    assert!(v4(&first).apply(&steps).is_empty());
    drop(first);

    let second = place.open();
    assert_eq!(v4(&second).frontend(&key(1)).unwrap(), Some(frontend(3)));
    assert_eq!(v4(&second).frontends().unwrap(), [(key(1), frontend(3))]);
    assert_eq!(v4(&second).endpoint_keys().unwrap().len(), 1);
    assert_eq!(v4(&second).services()[3], service(62));
    assert_eq!(v4(&second).arena()[62..], [Cell([1; 8]), Cell([2; 8])]);
    assert_eq!(v4(&second).backends()[31].addr, V4([10, 1, 0, 1]));
    assert_eq!(v4(&second).endpoints()[7].ifindex, 9);
}

#[test]
fn maps_of_another_capacity_are_refused_by_name_and_kept() {
    let place = Place::new();
    let first = place.open();
    assert!(v4(&first).apply(&[Step::PutFrontend { key: key(1), row: frontend(3) }]).is_empty());
    let other = Capacity { frontends: 9, flows: 65, ..capacity() };
    let refused = Dataplane::open(&place.0, other, Options::default()).err().unwrap().to_string();
    assert!(refused.contains("FRONTENDS_V4 has 8 rows"), "{refused}");
    assert!(refused.contains("FLOWS_V4 has 128 rows"), "{refused}");
    assert!(refused.contains("--recreate-maps"), "{refused}");
    assert_eq!(v4(&place.open()).frontends().unwrap().len(), 1);

    let options = Options { recreate: true, ..Options::default() };
    let anew = Dataplane::open(&place.0, other, options).unwrap();
    assert_eq!(v4(&anew).frontends().unwrap(), []);
    drop(anew);
    Dataplane::open(&place.0, other, Options::default()).unwrap();
}

#[test]
fn maps_of_another_version_are_refused() {
    let place = Place::new();
    drop(place.open());
    let config = sys::open(&place.0.join("maps/CONFIG")).unwrap();
    sys::map_update(
        &config,
        &0_u32,
        &NodeConfig { trace_mark: 5, version: 999, ..bytemuck::Zeroable::zeroed() },
    )
    .unwrap();
    // Whatever else has changed with it.
    for capacity in [capacity(), Capacity { frontends: 9, ..capacity() }] {
        let refused = Dataplane::open(&place.0, capacity, Options::default()).err().unwrap();
        assert!(matches!(refused, BpfError::Version { found: 999, .. }), "{refused}");
    }
}

#[test]
fn a_directory_elsewhere_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Dataplane::open(directory.path(), capacity(), Options::default()).err().unwrap();
    assert!(refused.to_string().contains("mount -t bpf"), "{refused}");
    let dotted = Path::new("/sys/fs/bpf").join(format!("causeway.test-{}", std::process::id()));
    let refused = Dataplane::open(&dotted, capacity(), Options::default()).err().unwrap();
    assert!(refused.to_string().contains("dot"), "{refused}");
}

#[test]
fn a_stored_row_is_what_the_kernel_reads() {
    let place = Place::new();
    let dataplane = place.open();
    assert!(v4(&dataplane).apply(&[Step::PutService { id: 15, row: service(4) }]).is_empty());
    let services = sys::open(&place.0.join("maps/SERVICES_V4")).unwrap();
    assert_eq!(sys::map_lookup(&services, &15_u32).unwrap(), Some(service(4)));
    // And the other way: a foreign hand's write shows in the mapping.
    sys::map_update(&services, &14_u32, &service(9)).unwrap();
    assert_eq!(v4(&dataplane).services()[14], service(9));
    let failed = v4(&dataplane).apply(&[Step::PutService { id: 16, row: service(4) }]);
    assert_eq!(failed[0].1.cause.raw_os_error(), Some(libc::E2BIG));
}

#[test]
fn a_full_map_refuses_new_rows_one_by_one_and_takes_the_others() {
    let place = Place::new();
    let dataplane = place.open();
    // Ten into eight, then one that is there already.
    let mut steps: Vec<Step<V4>> =
        (0..10).map(|n| Step::PutFrontend { key: key(n), row: frontend(u32::from(n)) }).collect();
    steps.push(Step::PutFrontend { key: key(2), row: frontend(77) });
    steps.push(Step::ClearBackend { id: 1 });
    let failed = v4(&dataplane).apply(&steps);
    let indices: Vec<usize> = failed.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [8, 9, 11], "{failed:?}");
    assert_eq!(failed[0].1.cause.raw_os_error(), Some(libc::E2BIG));
    assert!(failed[2].1.to_string().contains("withheld"), "{}", failed[2].1);
    assert_eq!(v4(&dataplane).frontend(&key(2)).unwrap(), Some(frontend(77)));

    // Absent keys in between are no failure.
    let gone: Vec<_> = [0, 100, 1, 101, 102, 2, 3].map(|n| Step::DeleteFrontend { key: key(n) }).into();
    assert!(v4(&dataplane).apply(&gone).is_empty());
    assert_eq!(v4(&dataplane).frontends().unwrap().len(), 4);
}

#[test]
fn a_range_is_not_taken_for_one_that_holds_it() {
    let place = Place::new();
    let dataplane = place.open();
    let range = |bits: u8, last: u8| {
        let key = SourceRangeKey::new(3, V4([10, 0, 0, last]), bits);
        (key, SourceRange { prefix: key.prefix })
    };
    let put = |(key, row)| Step::PutSourceRange { key, row };
    let steps: Vec<_> = [range(8, 0), range(16, 0), range(32, 1), range(32, 2), range(32, 3)].map(put).into();
    assert!(v4(&dataplane).apply(&steps).is_empty());
    assert_eq!(v4(&dataplane).source_ranges().unwrap().len(), 5);
    for ((key, _), there) in [(range(8, 0), true), (range(24, 0), false), (range(32, 9), false)] {
        assert_eq!(v4(&dataplane).source_range(&key).unwrap().is_some(), there, "{key:?}");
    }
    let gone: Vec<_> = [range(24, 0), range(8, 0), range(32, 1), range(32, 9), range(32, 2), range(32, 3)]
        .map(|(key, _)| Step::DeleteSourceRange { key })
        .into();
    assert!(v4(&dataplane).apply(&gone).is_empty());
    assert_eq!(v4(&dataplane).source_ranges().unwrap(), [range(16, 0)]);
}

#[test]
fn a_refused_batch_fails_every_row() {
    let place = Place::new();
    drop(place.open());
    // Rows of an array cannot be deleted: the kernel refuses the whole call.
    let counters = sys::open(&place.0.join("maps/SERVICES_V4")).unwrap();
    let failed = batch::delete(&counters, &[0_u32, 1, 2, 3, 4, 5]);
    assert_eq!(failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    let closed = std::fs::File::open("/dev/null").unwrap();
    let failed = batch::update(&closed, &[(1_u32, 1_u32); 9]);
    assert_eq!(failed.len(), 9);
    assert!(batch::read::<u32, u32>(&closed).is_err());
}

#[test]
fn a_table_larger_than_a_chunk_is_read_whole() {
    let place = Place::new();
    let big = Capacity { frontends: 20_000, ..capacity() };
    let dataplane = Dataplane::open(&place.0, big, Options::default()).unwrap();
    let key = |n: u32| FrontendKey::new(V4(n.to_be_bytes()), Port::new(80), 6);
    let steps: Vec<Step<V4>> =
        (0..20_000).map(|n| Step::PutFrontend { key: key(n), row: frontend(n) }).collect();
    assert!(v4(&dataplane).apply(&steps).is_empty());
    let mut rows = v4(&dataplane).frontends().unwrap();
    rows.sort_by_key(|row| row.1.service);
    assert!(rows.iter().enumerate().all(|(n, row)| *row == (key(n as u32), frontend(n as u32))));
    assert_eq!(rows.len(), 20_000);
}

#[test]
fn removed_pins_come_back_with_the_same_maps() {
    let place = Place::new();
    let mut dataplane = place.open();
    assert!(v4(&dataplane).apply(&[Step::PutFrontend { key: key(1), row: frontend(3) }]).is_empty());
    std::fs::remove_file(place.0.join("maps/FRONTENDS_V4")).unwrap();
    std::fs::remove_file(place.program("sweep_v4")).unwrap();
    let (repaired, errors) = dataplane.audit_links();
    assert_eq!((repaired.len(), errors.len()), (2, 0), "{repaired:?} {errors:?}");
    assert_eq!(dataplane.audit_links().0.len(), 0);
    drop(dataplane);
    assert_eq!(v4(&place.open()).frontend(&key(1)).unwrap(), Some(frontend(3)));
}

#[test]
fn uninstall_leaves_nothing() {
    let place = Place::new();
    place.open().uninstall().unwrap();
    let error = std::fs::metadata(&place.0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
