use kube::runtime::watcher::Event as Told;
use serde_json::json;

use super::*;

const PODS: Index = 3;

fn listed(version: u32, name: &str, rest: serde_json::Value) -> Listed {
    let mut object =
        json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": version.to_string()}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
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
fn a_service_waits_for_its_backends_and_a_policy_for_its_pods() {
    let mut store = Store::new("kubernetes".into());
    relist(&mut store, vec![service(1, "a", 80)]);
    assert_eq!(words(&mut store), "");
    told(&mut store, SLICES, vec![Told::Init, Told::InitDone]);
    assert_eq!(words(&mut store), "+a");
    let policy = listed(2, "p", json!({"spec": {"podSelector": {}}}));
    told(&mut store, 5, vec![Told::Init, Told::InitApply(policy), Told::InitDone]);
    // Kinds of policies that are not installed, and no namespace.
    for kind in (0..KINDS.len()).filter(|&kind| kind == 4 || KINDS[kind].optional) {
        store.take(kind, Word::Absent);
    }
    assert_eq!(words(&mut store), "");
    store.take(PODS, Word::Refused);
    assert_eq!(words(&mut store), "+p");
    assert!(!store.whole(), "pods are not known");
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
    told(&mut store, 5, vec![Told::Apply(policy)]);
    assert_eq!(words(&mut store), "+p");
    store.take(5, Word::Absent);
    assert_eq!(words(&mut store), "-p");
}
