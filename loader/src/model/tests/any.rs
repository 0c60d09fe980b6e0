//! Whatever is said in whatever order: what stands last decides, and what it
//! changes is told.

use proptest::prelude::*;

use super::{
    traffic::{node, placed, with},
    workloads, *,
};
use crate::event::{Distribution, Place, Traffic, TrafficPolicy};

fn pod(name: &str, node: u8, host: u8) -> Event {
    let (node, addresses) = (Some(format!("n{node}").into()), vec![[10, 244, host, 1].into()]);
    pod_object(name, PodObject { node, addresses, ..PodObject::default() })
}

fn any_zone() -> impl Strategy<Value = Option<Arc<str>>> {
    proptest::sample::select(vec![None, Some("east".into()), Some("west".into())])
}

fn any_traffic() -> impl Strategy<Value = Traffic> {
    let policy = || proptest::sample::select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]);
    let wishes = vec![None, Some(Distribution::SameZone), Some(Distribution::SameNode)];
    let wish = proptest::sample::select(wishes);
    (policy(), policy(), wish, any::<bool>()).prop_map(|(internal, external, distribution, asked)| Traffic {
        internal,
        external,
        distribution,
        health_check: if asked { 30_000 } else { 0 },
    })
}

/// Of either family, on a node or none, and for whom.
fn any_endpoint() -> impl Strategy<Value = SliceEndpoint> {
    let states = vec![EndpointState::Ready, EndpointState::Draining, EndpointState::NotReady];
    let node = proptest::option::of((0..3u8).prop_map(|node| format!("n{node}").into()));
    let hint = proptest::option::of(0..3u8);
    let zones = (any_zone(), any_zone(), hint).prop_map(|(zone, for_zone, for_node)| Place {
        zone,
        for_zones: for_zone.into_iter().collect(),
        for_nodes: for_node.map(|node| format!("n{node}").into()).into_iter().collect(),
    });
    (0..5u8, any::<bool>(), proptest::sample::select(states), node, proptest::option::of(zones)).prop_map(
        |(host, six, state, node, place)| {
            let mut endpoint = placed(six, host, state, node);
            endpoint.place = place.map(Arc::new);
            endpoint
        },
    )
}

fn any_event() -> impl Strategy<Value = Event> {
    let name = 0u8..4;
    let ports = proptest::collection::btree_set(80u16..83, 0..3);
    let endpoints = proptest::collection::vec(any_endpoint(), 0..4);
    prop_oneof![
        (name.clone(), 0u8..3, ports, any_traffic()).prop_map(|(n, host, ports, traffic)| {
            let ports: Vec<u16> = ports.into_iter().collect();
            with(service(&format!("svc{n}"), host, &ports), traffic)
        }),
        (name.clone(), 0u8..4, 80u16..83, 0u32..3, endpoints).prop_map(
            |(n, svc, port, weight, endpoints)| {
                traffic::slice(&format!("sl{n}"), &format!("svc{svc}"), port, weight, endpoints)
            }
        ),
        (name.clone(), 0u8..3, 0u8..4).prop_map(|(n, node, host)| pod(&format!("pod{n}"), node, host)),
        (0u8..3, 0u8..3, any_zone()).prop_map(|(n, net, zone)| node(n, net, zone)),
        (0u8..3).prop_map(|n| event(Kind::Node, &format!("n{n}"), None)),
        name.clone().prop_map(|n| event(Kind::Pod, &format!("pod{n}"), None)),
        name.clone().prop_map(|n| event(Kind::Service, &format!("svc{n}"), None)),
        name.clone().prop_map(|n| event(Kind::EndpointSlice, &format!("sl{n}"), None)),
        (name.clone(), 0u8..2).prop_map(|(n, team)| workloads::namespace(&format!("ns{n}"), Some(team))),
        name.clone().prop_map(|n| workloads::namespace(&format!("ns{n}"), None)),
        (name.clone(), any::<bool>()).prop_map(|(n, audit)| workloads::policy(&format!("p{n}"), Some(audit))),
        name.prop_map(|n| workloads::policy(&format!("p{n}"), None)),
    ]
}

/// What load balancers hear of a service.
fn heard(model: &Model, id: &ServiceId) -> Option<(u16, usize)> {
    let check = model.health_check(&(id.namespace.clone(), id.name.clone()))?;
    Some((check.port, check.endpoints))
}

/// Takes a batch in, and looks whether all that is otherwise now is told.
fn apply(model: &mut Model, events: &[Event]) -> Result<(), TestCaseError> {
    let before = model.desired().services;
    let said: BTreeMap<_, _> = before.keys().map(|id| (id.clone(), heard(model, id))).collect();
    let touched = model.apply(batch("a", events.to_vec())).services;
    let now = model.desired().services;
    for id in before.keys().chain(now.keys()) {
        let alike = match (before.get(id), now.get(id)) {
            (Some(before), Some(now)) => before.serves_alike(now),
            _ => false,
        };
        prop_assert!(alike || touched.contains(id), "{id} is another, and nobody is told");
        // Load balancers hear of an object's ports together.
        let of_one = |other: &ServiceId| (&other.namespace, &other.name) == (&id.namespace, &id.name);
        let alike = said.get(id) == Some(&heard(model, id));
        prop_assert!(alike || touched.iter().any(of_one), "{id} is heard of otherwise, and nobody is told");
    }
    Ok(())
}

proptest! {
    // A service that looks at zones and a move come together in one of a thousand.
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever came before, in whatever batches.
    #[test]
    fn only_the_last_word_on_each_object_counts(events in proptest::collection::vec(any_event(), 1..40), cut in 1usize..7) {
        let mut step_by_step = Model::new(&["a".into()], "n1");
        for chunk in events.chunks(cut) {
            apply(&mut step_by_step, chunk)?;
        }
        let mut last = BTreeMap::new();
        for event in events {
            last.insert(event.key.clone(), event);
        }
        let mut at_once = Model::new(&["a".into()], "n1");
        at_once.apply(batch("a", last.into_values().rev().collect()));
        let [last, once] = [step_by_step.desired(), at_once.desired()];
        prop_assert_eq!(&last.services, &once.services);
        prop_assert_eq!(step_by_step.services(), last.services.len());
        prop_assert_eq!(&last.nodes, &once.nodes);
        prop_assert_eq!((&last.namespaces, &last.pods), (&once.namespaces, &once.pods));
        prop_assert_eq!(&last.policies, &once.policies);
        prop_assert_eq!(step_by_step.policy_count(), last.policies.len());
    }
}
