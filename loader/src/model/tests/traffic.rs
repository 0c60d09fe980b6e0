//! What follows from where nodes and endpoints are, and from whom is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::event::{Distribution, Place, ServiceOptions, Traffic, TrafficPolicy};

/// A service of both families, with node ports.
pub fn with(mut service: Event, traffic: Traffic) -> Event {
    let (object, _) = service.object.as_mut().unwrap();
    if let Object::Service(object) = Arc::make_mut(object) {
        object.addresses.push(Ipv6Addr::LOCALHOST.into());
        object.cluster = 2;
        object.ports.iter_mut().for_each(|port| port.node_port = 30_000 + port.port);
        object.options = Some(Box::new(ServiceOptions { traffic, ..ServiceOptions::default() }));
    }
    service
}

pub fn placed(six: bool, host: u8, state: EndpointState, node: Option<Arc<str>>) -> SliceEndpoint {
    let address: IpAddr = match six {
        false => Ipv4Addr::new(10, 244, 0, host).into(),
        true => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).into(),
    };
    SliceEndpoint { address, state, node, place: None }
}

pub fn slice(name: &str, service: &str, port: u16, weight: u32, endpoints: Vec<SliceEndpoint>) -> Event {
    let mut slice = super::slice(name, service, port, weight, &[]);
    let (object, _) = slice.object.as_mut().unwrap();
    if let Object::Slice(object) = Arc::make_mut(object) {
        object.endpoints = endpoints;
    }
    slice
}

pub fn node(name: u8, net: u8, zone: Option<Arc<str>>) -> Event {
    let pod_cidrs = vec![format!("10.244.{net}.0/24").parse().unwrap()];
    let object = NodeObject { addresses: vec![[192, 168, 0, net].into()], pod_cidrs, zone, leaving: false };
    event(Kind::Node, &format!("n{name}"), Some(Object::Node(object)))
}

#[test]
fn load_balancers_hear_of_each_family_that_terminates() {
    for health_check in [0, 30_000] {
        let traffic = Traffic { external: TrafficPolicy::Local, health_check, ..Traffic::default() };
        let family = |six, state| {
            let endpoints = vec![placed(six, 1, state, Some("n1".into()))];
            slice(if six { "six" } else { "four" }, "web", 80, 1, endpoints)
        };
        let mut model = Model::new(&["a".into()], "n1");
        let ready = [false, true].map(|six| family(six, EndpointState::Ready));
        model.apply(batch("a", [vec![with(service("web", 1, &[80]), traffic)], ready.to_vec()].concat()));
        let told = |model: &Model| {
            let check = model.health_check(&("default".into(), "web".into()));
            check.map(|check| check.endpoints)
        };
        let asked = health_check != 0;
        assert_eq!(told(&model), asked.then_some(1), "of both families, it is one");
        for (six, left) in [(true, 1), (false, 0)] {
            let touched = model.apply(batch("a", vec![family(six, EndpointState::Draining)]));
            assert_eq!(touched.services.is_empty(), !asked, "nothing else changes");
            assert_eq!(told(&model), asked.then_some(left));
        }
        // One comes, and the other goes: as many terminate as before.
        let ready = [(false, EndpointState::Ready), (true, EndpointState::Draining)];
        model.apply(batch("a", ready.map(|(six, state)| family(six, state)).to_vec()));
        let swapped = ready.map(|(six, _)| (six, ready[usize::from(!six)].1));
        let touched = model.apply(batch("a", swapped.map(|(six, state)| family(six, state)).to_vec()));
        assert_eq!(touched.services.is_empty(), !asked);
        assert_eq!(told(&model), asked.then_some(0));
    }
}

#[test]
fn a_move_to_another_zone_concerns_those_who_look_at_zones() {
    let mut model = Model::new(&["a".into(), "b".into()], "n1");
    let close = Traffic { distribution: Some(Distribution::SameZone), ..Traffic::default() };
    let at = |name: &str, service: &str, host, place: Place| {
        let endpoint = placed(false, host, EndpointState::Ready, None);
        slice(name, service, 80, 1, vec![SliceEndpoint { place: Some(Arc::new(place)), ..endpoint }])
    };
    let zone = |zone: &str| Place { zone: Some(zone.into()), ..Place::default() };
    let hinted = Place { for_zones: ["east".into()].into(), ..Place::default() };
    let events = vec![
        service("plain", 1, &[80]),
        at("plain", "plain", 1, zone("east")),
        with(service("close", 2, &[80]), close),
        at("close", "close", 1, zone("east")),
        at("far", "close", 2, zone("west")),
        service("hinted", 3, &[80]),
        at("hinted", "hinted", 1, hinted),
    ];
    model.apply(batch("a", events));
    let names: Vec<String> = model.services_by_zone().map(|(_, name)| name.to_string()).collect();
    assert_eq!(names, ["close", "hinted"]);

    // Whoever else knows the node says where it is, when the first no longer does.
    model.apply(batch("a", vec![node(1, 1, None)]));
    model.apply(batch("b", vec![node(1, 1, Some("west".into()))]));
    let touched = model.apply(batch("a", vec![event(Kind::Node, "n1", None)]));
    assert_eq!(touched.services.iter().map(|id| id.name.to_string()).collect::<Vec<_>>(), ["close"]);
}
