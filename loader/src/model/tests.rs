//! The model's promises: order does not matter, and nothing is lost or kept
//! too long.

use std::sync::Arc;

use super::*;
use crate::event::{
    EndpointState, Event, NodeObject, PodObject, Protocol, ServiceObject, ServicePort, SliceEndpoint,
    SliceObject, SlicePort,
};
use crate::model::desired::Scope;

fn batch(source: &str, events: Vec<Event>) -> Batch {
    Batch { source: source.into(), events, synced: true, ..Batch::default() }
}

fn event(kind: Kind, name: &str, object: Option<Object>) -> Event {
    let namespace = if kind == Kind::Node { "" } else { "default" };
    let key = ObjectKey { kind, namespace: namespace.into(), name: name.into() };
    let origin = Origin { source: "s".into(), place: name.into() };
    Event { key, object: object.map(|object| (Arc::new(object), Arc::new(origin))) }
}

fn service(name: &str, host: u8, ports: &[u16]) -> Event {
    let ports = ports
        .iter()
        .map(|&port| ServicePort {
            name: port.to_string().into(),
            protocol: Protocol::Tcp,
            port,
            end_port: port,
            node_port: 0,
            unlisted: false,
        })
        .collect();
    let object =
        ServiceObject { addresses: vec![[10, 96, 0, host].into()], cluster: 1, ports, options: None };
    event(Kind::Service, name, Some(Object::Service(object)))
}

fn slice(name: &str, service: &str, port: u16, weight: u32, backends: &[(u8, bool)]) -> Event {
    let endpoints = backends
        .iter()
        .map(|&(host, ready)| {
            let state = if ready { EndpointState::Ready } else { EndpointState::NotReady };
            SliceEndpoint { address: [10, 244, 0, host].into(), state, node: None, place: None }
        })
        .collect();
    let ports = vec![SlicePort { name: port.to_string().into(), protocol: Protocol::Tcp, port: port + 8000 }];
    let object = SliceObject { service: service.into(), ports, endpoints, weight, changed: None };
    event(Kind::EndpointSlice, name, Some(Object::Slice(object)))
}

fn backends(model: &Model, port: &str) -> Vec<(String, u32)> {
    let id = ServiceId::new("default".into(), "web".into(), port.into(), Scope::Cluster);
    let service = &model.desired().services[&id];
    service.backends.iter().map(|b| (format!("{}:{}", b.address, b.port), b.weight)).collect()
}

#[test]
fn ready_backends_of_matching_ports_serve() {
    let mut model = Model::new(&["a".into()], "here");
    model.apply(batch(
        "a",
        vec![
            slice("s1", "web", 80, 1, &[(1, true), (2, false)]),
            slice("s2", "web", 80, 5, &[(1, true)]),
            slice("s3", "web", 81, 0, &[(3, true)]),
            service("web", 1, &[80, 81]),
        ],
    ));
    assert_eq!(backends(&model, "80"), [("10.244.0.1:8080".to_owned(), 5)]);
    assert!(backends(&model, "81").is_empty(), "weight 0 drains");
}

#[test]
fn who_drains_serves_while_nobody_is_ready() {
    let mut model = Model::new(&["a".into()], "here");
    let with = |ready: bool| {
        let mut all = slice("s", "web", 80, 1, &[(1, ready), (2, false), (3, false)]);
        let (object, _) = all.object.as_mut().unwrap();
        if let Object::Slice(slice) = Arc::make_mut(object) {
            slice.endpoints[1].state = EndpointState::Draining;
        }
        all
    };
    model.apply(batch("a", vec![service("web", 1, &[80]), with(true)]));
    assert_eq!(backends(&model, "80"), [("10.244.0.1:8080".to_owned(), 1)]);
    model.apply(batch("a", vec![with(false)]));
    assert_eq!(backends(&model, "80"), [("10.244.0.2:8080".to_owned(), 1)]);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut model = Model::new(&["a".into()], "here");
    model.apply(batch("a", vec![service("web", 1, &[80]), slice("s", "web", 80, 1, &[(1, true)])]));
    let touched = model.apply(batch("a", vec![slice("s", "other", 80, 1, &[(1, true)])]));
    assert!(backends(&model, "80").is_empty());
    assert_eq!(touched.services.len(), 1);
}

#[test]
fn the_same_again_changes_nothing() {
    let mut model = Model::new(&["a".into()], "here");
    let events = vec![service("web", 1, &[80]), slice("s", "web", 80, 1, &[(1, true)])];
    model.apply(batch("a", events.clone()));
    assert!(model.apply(batch("a", events)).is_empty());
    assert_eq!(model.desired().revision, 1);
}

#[test]
fn a_move_within_the_file_is_noted_and_is_no_change() {
    let mut model = Model::new(&["a".into()], "here");
    model.apply(batch("a", vec![service("web", 1, &[80]), slice("s", "web", 80, 1, &[(1, true)])]));
    let mut moved = service("web", 1, &[80]);
    moved.object.as_mut().unwrap().1 = Arc::new(Origin { source: "s".into(), place: "elsewhere".into() });
    assert!(model.apply(batch("a", vec![moved])).is_empty());
    assert_eq!(model.desired().revision, 1);
    assert_eq!(&*model.desired().services.values().next().unwrap().origin.place, "elsewhere");
}

#[test]
fn two_sources_add_their_backends_and_the_first_gives_the_frontend() {
    let mut model = Model::new(&["a".into(), "b".into()], "here");
    model.apply(batch("b", vec![service("web", 2, &[80]), slice("s", "web", 80, 1, &[(2, true)])]));
    assert!(!model.synced());
    model.apply(batch("a", vec![service("web", 1, &[80]), slice("s", "web", 80, 1, &[(1, true)])]));
    assert!(model.synced());
    assert_eq!(backends(&model, "80").len(), 2);
    let desired = model.desired();
    let service = desired.services.values().next().unwrap();
    assert_eq!(service.frontends[0].address, std::net::IpAddr::from([10, 96, 0, 1]));
}

#[test]
fn pods_outside_their_nodes_networks_are_stray() {
    let mut model = Model::new(&["a".into()], "here");
    let node = NodeObject {
        addresses: vec![[192, 168, 0, 1].into()],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        zone: None,
        leaving: false,
    };
    let pod = |name: &str, address: [u8; 4]| {
        pod_object(
            name,
            PodObject { node: Some("n1".into()), addresses: vec![address.into()], ..PodObject::default() },
        )
    };
    model.apply(batch(
        "a",
        vec![
            pod("inside", [10, 244, 1, 7]),
            pod("stray", [10, 9, 9, 9]),
            event(Kind::Node, "n1", Some(Object::Node(node))),
        ],
    ));
    assert_eq!(model.desired().nodes["n1"].stray_pods, [std::net::IpAddr::from([10, 9, 9, 9])]);
    assert_eq!(model.pods_on("n1").count(), 2);

    let gone = |kind, name| batch("a", vec![event(kind, name, None)]);
    assert!(!model.apply(gone(Kind::Pod, "inside")).nodes);
    assert!(model.apply(gone(Kind::Pod, "stray")).nodes);
    assert!(model.desired().nodes["n1"].stray_pods.is_empty());
    assert!(model.apply(gone(Kind::Node, "n1")).nodes);
    assert!(model.desired().nodes.is_empty());
}

fn pod_object(name: &str, object: PodObject) -> Event {
    event(Kind::Pod, name, Some(Object::Pod(Arc::new(object))))
}

#[path = "tests/any.rs"]
mod any;
#[path = "tests/traffic.rs"]
mod traffic;
#[path = "tests/workloads.rs"]
mod workloads;
