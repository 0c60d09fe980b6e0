use std::time::{Duration, SystemTime};

use kube::runtime::watcher::Event as Told;
use serde_json::json;

use super::{
    super::{fare::Cause, kinds::PODS, listed::OfKind},
    *,
};

const NODES: Index = 2;
const NAMESPACES: Index = 4;
const POLICIES: Index = 5;

fn listed(version: u32, name: &str, rest: serde_json::Value) -> Listed {
    let mut object =
        json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": version.to_string()}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    let OfKind::<false>(listed) = serde_json::from_value(object).unwrap();
    listed
}

fn service(version: u32, name: &str, port: u16) -> Listed {
    listed(version, name, json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}}))
}

fn told(store: &mut Store, kind: Index, events: Vec<Told<Listed>>) {
    for event in events {
        store.take(kind, Word::Event(event));
    }
}

/// A store in which every kind was listed, of services these.
fn listing(services: Vec<Listed>) -> Store {
    let mut store = Store::new("kubernetes".into());
    for kind in SLICES..KINDS.len() {
        told(&mut store, kind, vec![Told::Init, Told::InitDone]);
    }
    relist(&mut store, services);
    store
}

fn relist(store: &mut Store, services: Vec<Listed>) {
    let listed = services.into_iter().map(Told::InitApply);
    let events = std::iter::once(Told::Init).chain(listed).chain([Told::InitDone]);
    told(store, SERVICES, events.collect());
}

/// `+name` and `-name`.
fn words(store: &mut Store) -> String {
    let word = |event: Event| format!("{}{}", if event.object.is_some() { '+' } else { '-' }, event.key.name);
    store.news().into_iter().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_relist_tells_what_changed_and_what_went() {
    let mut store = listing(vec![service(1, "a", 80), service(2, "b", 80), service(3, "c", 80)]);
    assert_eq!(words(&mut store), "+a +b +c");
    assert!(store.whole());
    relist(&mut store, vec![service(1, "a", 80), service(9, "b", 81), service(8, "d", 80)]);
    assert_eq!(words(&mut store), "+b -c +d");
    told(&mut store, SERVICES, vec![Told::Apply(service(10, "d", 80))]);
    assert_eq!(words(&mut store), "", "another version of the same is no news");
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let mut store = listing(vec![service(1, "a", 80), service(2, "b", 80)]);
    words(&mut store);
    told(&mut store, SERVICES, vec![Told::Init, Told::InitApply(service(1, "a", 80))]);
    assert_eq!(words(&mut store), "");
    relist(&mut store, vec![service(2, "b", 80)]);
    assert_eq!(words(&mut store), "-a");
}

#[test]
fn what_is_said_again_undoes_nothing() {
    let mut store = listing(vec![service(1, "a", 80)]);
    words(&mut store);
    told(
        &mut store,
        SERVICES,
        vec![
            Told::Apply(service(5, "b", 80)),
            Told::Delete(service(6, "a", 80)),
            Told::Apply(service(1, "a", 80)),
            Told::Delete(service(4, "b", 80)),
            Told::Apply(service(5, "b", 80)),
        ],
    );
    assert_eq!(words(&mut store), "-a +b");
}

#[test]
fn a_service_waits_for_its_backends_and_a_kind_for_its_list() {
    let mut store = Store::new("kubernetes".into());
    relist(&mut store, vec![service(1, "a", 80)]);
    assert_eq!(words(&mut store), "");
    told(&mut store, SLICES, vec![Told::Init, Told::InitDone]);
    assert_eq!(words(&mut store), "+a");
    let policy = |name| listed(2, name, json!({"spec": {"podSelector": {}}}));
    told(&mut store, POLICIES, vec![Told::Init, Told::InitApply(policy("p")), Told::InitApply(policy("q"))]);
    assert_eq!(words(&mut store), "");
    told(&mut store, POLICIES, vec![Told::InitDone]);
    assert_eq!(words(&mut store), "+p +q", "whatever is known of pods");
    assert!(!store.whole());
}

#[test]
fn policies_are_settled_without_what_must_not_be_read() {
    let mut store = Store::new("kubernetes".into());
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let all = |status, seconds| -> Vec<(Index, Trouble)> {
        let cause = || Cause::Refused(status, String::new());
        let trouble = || Trouble { since: SystemTime::UNIX_EPOCH, last: at(seconds), cause: cause() };
        (0..KINDS.len()).map(|kind| (kind, trouble())).collect()
    };
    for (seconds, kind) in (0..).zip([NODES, PODS, NAMESPACES, POLICIES]) {
        let known = KINDS[kind].name;
        assert!(!store.knows_containers(&all(403, seconds), at(seconds)), "without {known}");
        told(&mut store, kind, vec![Told::Init, Told::InitDone]);
    }
    assert!(!store.knows_containers(&all(403, 3), at(4)), "that was before the others were known");
    assert!(!store.knows_containers(&all(403, 4), at(9)), "and so was that");
    assert!(store.knows_containers(&all(403, 5), at(5)), "whatever is known of services");
    assert!(!store.knows_containers(&[], at(6)), "others are to come");
    assert!(!store.knows_containers(&all(500, 7), at(7)), "others may come");
    for kind in (0..KINDS.len()).filter(|&kind| KINDS[kind].optional) {
        store.take(kind, Word::Absent);
    }
    assert!(store.knows_containers(&[], at(8)));
}

/// The first list of a large cluster, told of every few milliseconds.
#[test]
fn what_is_not_ripe_costs_nothing() {
    let mut store = Store::new("kubernetes".into());
    let begun = Instant::now();
    told(&mut store, PODS, vec![Told::Init]);
    for number in 0..20_000 {
        let pod = listed(1, &format!("p{number}"), json!({"status": {"podIP": "10.0.0.1"}}));
        told(&mut store, PODS, vec![Told::InitApply(pod)]);
        assert!(store.news().is_empty());
    }
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(10), "{taken:?}");
    told(&mut store, PODS, vec![Told::InitDone]);
    assert_eq!(store.news().len(), 20_000);
}

#[test]
fn a_broken_object_keeps_its_past_and_is_named() {
    let mut store = listing(vec![service(1, "a", 80)]);
    words(&mut store);
    told(&mut store, SERVICES, vec![Told::Apply(service(2, "a", 0))]);
    assert_eq!(words(&mut store), "");
    let said: Vec<String> = store.problems().map(ToString::to_string).collect();
    assert!(
        said[0].starts_with("kubernetes:Service/default/a: Service default/a: spec.ports[0].port: "),
        "{said:?}"
    );
    told(&mut store, SERVICES, vec![Told::Delete(service(3, "a", 0))]);
    assert_eq!(words(&mut store), "-a");
    assert_eq!(store.problems().count(), 0);
}

#[test]
fn a_kind_that_goes_takes_its_objects() {
    let mut store = listing(Vec::new());
    let policy = listed(2, "p", json!({"spec": {"podSelector": {}}}));
    told(&mut store, POLICIES, vec![Told::Apply(policy)]);
    assert_eq!(words(&mut store), "+p");
    store.take(POLICIES, Word::Absent);
    assert_eq!(words(&mut store), "-p");
    // And no less so in the middle of a list, which then never ends.
    told(&mut store, POLICIES, vec![Told::Init]);
    assert!(store.marks().is_none(), "a list is under way");
    store.take(POLICIES, Word::Absent);
    assert!(store.marks().is_some(), "nobody will say how far it has come");
}

#[test]
fn a_second_look_ends_with_the_next_list_and_is_told_once() {
    let mut store = listing(vec![service(1, "a", 80)]);
    assert!(store.looked().is_empty(), "nobody asked");
    told(&mut store, SERVICES, vec![Told::Init]);
    store.take(SERVICES, Word::Again(3));
    told(&mut store, SERVICES, vec![Told::Init, Told::InitApply(service(1, "a", 80))]);
    assert!(store.looked().is_empty(), "the list is not complete");
    told(&mut store, SERVICES, vec![Told::InitDone]);
    assert_eq!(store.looked(), [(Kind::Service, 3)].into());
    relist(&mut store, Vec::new());
    assert!(store.looked().is_empty());
    // A kind that is none of the server's any more was looked at, too.
    store.take(5, Word::Again(4));
    store.take(5, Word::Absent);
    assert_eq!(store.looked(), [(Kind::NetworkPolicy, 4)].into());
}
