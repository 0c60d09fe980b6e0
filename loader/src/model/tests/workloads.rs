//! Namespaces, pods and policies: what a batch touches, and who is believed.

use super::*;
use crate::event::policy::{Labels, NamespaceObject, Namespaces, PodSelector, PolicyObject, Selector, Tier};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Arc::new(pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect())
}

fn global(kind: Kind, name: &str, object: Option<Object>) -> Event {
    let mut event = event(kind, name, object);
    event.key.namespace = "".into();
    event
}

pub fn namespace(name: &str, team: Option<u8>) -> Event {
    let object = team.map(|team| NamespaceObject { labels: labels(&[("team", &team.to_string())]) });
    global(Kind::Namespace, name, object.map(Object::Namespace))
}

pub fn policy(name: &str, audit: Option<bool>) -> Event {
    let namespaces = Namespaces::Named("default".into());
    let object = audit.map(|audit| PolicyObject {
        tier: Tier::Namespaced,
        subject: PodSelector { namespaces, pods: Selector::default() },
        ingress: Some(Vec::new()),
        egress: None,
        audit,
        reject: false,
        faulty: false,
    });
    event(Kind::NetworkPolicy, name, object.map(|object| Object::Policy(Arc::new(object))))
}

fn web(app: &str) -> Event {
    pod_object(
        "web",
        PodObject { labels: labels(&[("app", app), ("tier", "front")]), ..PodObject::default() },
    )
}

/// What was touched, by name.
#[track_caller]
fn check(touched: &Touched, namespaces: &[&str], pods: &[&str], policies: &[&str]) {
    assert!(touched.namespaces.iter().map(|name| &**name).eq(namespaces.iter().copied()), "{touched:?}");
    assert!(touched.pods.iter().map(|(_, name)| &**name).eq(pods.iter().copied()), "{touched:?}");
    assert!(touched.policies.iter().map(|id| &*id.name).eq(policies.iter().copied()), "{touched:?}");
    assert!(touched.services.is_empty());
    assert_eq!(touched.is_empty(), !touched.policy());
}

#[test]
fn a_batch_touches_what_it_changes() {
    let mut model = Model::new(&["a".into()], "here");
    let touched =
        model.apply(batch("a", vec![namespace("n", Some(1)), web("web"), policy("p", Some(false))]));
    check(&touched, &["n"], &["web"], &["p"]);
    assert_eq!((model.revision(), model.policy_count()), (1, 1));

    let again = vec![namespace("n", Some(1)), web("web"), policy("p", Some(false))];
    check(&model.apply(batch("a", again)), &[], &[], &[]);
    assert_eq!(model.revision(), 1);

    check(&model.apply(batch("a", vec![web("db"), namespace("n", Some(2))])), &["n"], &["web"], &[]);
    check(
        &model.apply(batch("a", vec![policy("p", Some(true)), policy("q", Some(true))])),
        &[],
        &[],
        &["p", "q"],
    );
    // There and back within a batch is no change.
    check(&model.apply(batch("a", vec![policy("p", None), policy("p", Some(true))])), &[], &[], &[]);
    assert_eq!((model.revision(), model.policy_count()), (3, 2));

    let gone =
        vec![policy("p", None), namespace("n", None), event(Kind::Pod, "web", None), policy("q", None)];
    check(&model.apply(batch("a", gone)), &["n"], &["web"], &["p", "q"]);
    let desired = model.desired();
    assert!(desired.namespaces.is_empty() && desired.pods.is_empty() && desired.policies.is_empty());
    assert_eq!(model.policy_count(), 0);
}

#[test]
fn a_policy_that_moves_within_its_file_is_no_change_and_names_its_place() {
    let mut model = Model::new(&["a".into()], "here");
    model.apply(batch("a", vec![policy("p", Some(false))]));
    let mut moved = policy("p", Some(false));
    moved.object.as_mut().unwrap().1 = Arc::new(Origin { source: "s".into(), place: "elsewhere".into() });
    check(&model.apply(batch("a", vec![moved])), &[], &[], &[]);
    assert_eq!(&*model.desired().policies.values().next().unwrap().origin.place, "elsewhere");
}

#[test]
fn of_two_sources_the_first_is_believed() {
    let mut model = Model::new(&["a".into(), "b".into()], "here");
    let second = vec![policy("p", Some(true)), policy("q", Some(true)), namespace("n", Some(2))];
    model.apply(batch("b", second));
    check(
        &model.apply(batch("a", vec![policy("p", Some(false)), namespace("n", Some(1))])),
        &["n"],
        &[],
        &["p"],
    );
    // What the second says of it then is nobody's business.
    check(&model.apply(batch("b", vec![policy("p", None), namespace("n", Some(3))])), &[], &[], &[]);
    let audits: Vec<_> = model.policies().map(|(id, policy)| (&*id.name, policy.object.audit)).collect();
    assert_eq!((audits.len(), model.policy_count()), (2, 2));
    assert!(audits.contains(&("p", false)) && audits.contains(&("q", true)));
    check(&model.apply(batch("a", vec![namespace("n", None)])), &["n"], &[], &[]);
    assert_eq!(&*model.namespace_labels(&"n".into())["team"], "3");
}

#[test]
fn a_namespace_without_an_object_has_its_name() {
    let model = Model::new(&["a".into()], "here");
    assert_eq!(*model.namespace_labels(&"shop".into()), *labels(&[("kubernetes.io/metadata.name", "shop")]));
}

#[test]
fn an_endpoint_has_its_pods_labels_and_before_them_those_given() {
    let mut model = Model::new(&["a".into()], "here");
    model.apply(batch("a", vec![web("web")]));
    let given = [("app".to_owned(), "db".to_owned()), ("x".to_owned(), "y".to_owned())].into();
    let none = BTreeMap::new();
    for (name, given, namespace, expect) in [
        ("default/web", &none, "default", labels(&[("app", "web"), ("tier", "front")])),
        ("default/web", &given, "default", labels(&[("app", "db"), ("tier", "front"), ("x", "y")])),
        ("web", &none, "default", labels(&[("app", "web"), ("tier", "front")])),
        ("shop/web", &none, "shop", labels(&[])),
        ("shop/web", &given, "shop", labels(&[("app", "db"), ("x", "y")])),
    ] {
        assert_eq!(model.endpoint_labels(name, given), (namespace.into(), expect), "{name}");
    }
    // Nothing is copied where nothing was given.
    let (_, shared) = model.endpoint_labels("default/web", &none);
    assert!(Arc::ptr_eq(&shared, &model.pod(&("default".into(), "web".into())).unwrap().labels));
}
