//! Names and checks; the wiring itself is tested on real namespaces, in the
//! suites.

use std::fs;

use super::*;

fn request() -> AttachRequest {
    AttachRequest {
        name: "default/web-1".into(),
        netns: "/run/netns/x".into(),
        addresses: vec![[10, 244, 0, 2].into()],
        labels: [("app".into(), "web".into())].into(),
        ..AttachRequest::default()
    }
}

#[test]
fn names_are_short_stable_and_apart() {
    let names: std::collections::BTreeSet<String> =
        (0..1000).map(|index| host_name(&format!("default/web-{index}"))).collect();
    assert_eq!(names.len(), 1000);
    assert!(names.iter().all(|name| name.len() == 15 && name.starts_with("cw")));
}

#[test]
fn a_bad_request_names_its_field() {
    let check = |field: &str, spoil: fn(&mut AttachRequest)| {
        let mut request = request();
        spoil(&mut request);
        let error = validate(&request).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    };
    validate(&request()).unwrap();
    check("name", |request| request.name = String::new());
    check("name", |request| request.name = "a b".into());
    check("addresses", |request| request.addresses.clear());
    check("addresses", |request| request.addresses.push([127, 0, 0, 1].into()));
    check("addresses", |request| request.addresses.push([10, 244, 0, 2].into()));
    check("labels", |request| drop(request.labels.insert("a b".into(), "c".into())));
    check("labels", |request| drop(request.labels.insert("a".into(), "b/c".into())));
    check("interface", |request| request.interface = Some("a/b".into()));
    check("mtu", |request| request.mtu = Some(100));
}

#[test]
fn a_damaged_store_is_set_aside_and_said() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("endpoints.json"), "{\"half").unwrap();
    let (store, warning) = EndpointStore::open(dir.path()).unwrap();
    assert_eq!(store.iter().count(), 0);
    assert!(warning.unwrap().contains("set aside"));
}

#[test]
fn a_stored_endpoint_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint {
        addresses: request().addresses,
        interface: "cw1".into(),
        ifindex: 7,
        mac: [2; 6],
        policy: None,
    };
    let (mut store, _) = EndpointStore::open(dir.path()).unwrap();
    store.insert(Stored { request: request(), endpoint: endpoint.clone() }).unwrap();
    let (mut again, warning) = EndpointStore::open(dir.path()).unwrap();
    assert!(warning.is_none());
    assert_eq!(again.get("default/web-1").unwrap().endpoint, endpoint);
    assert_eq!(again.get("default/web-1").unwrap().request.labels, request().labels);
    let (removed, saved) = again.remove("default/web-1");
    assert!(removed.is_some() && saved.is_ok());
    assert!(EndpointStore::open(dir.path()).unwrap().0.get("default/web-1").is_none());
}

#[test]
fn an_endpoint_that_was_stored_before_there_were_labels_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let request = r#"{"name":"a","netns":"/n","addresses":["10.0.0.1"],"interface":null,"mtu":null}"#;
    let endpoint = r#"{"addresses":["10.0.0.1"],"interface":"cw1","ifindex":7,"mac":[2,2,2,2,2,2]}"#;
    let text = format!(r#"{{"a":{{"request":{request},"endpoint":{endpoint}}}}}"#);
    fs::write(dir.path().join("endpoints.json"), text).unwrap();
    let (store, warning) = EndpointStore::open(dir.path()).unwrap();
    assert!(warning.is_none(), "{warning:?}");
    assert!(store.get("a").unwrap().request.labels.is_empty());
}
