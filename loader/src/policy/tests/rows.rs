//! Which rows are written, and when? Only those that differ, and no more of them
//! than a change asks for.

use causeway_schema::policy::{MAX_STEPS, OTHERS, SetKey};

use super::*;

/// Endpoints `a/0` to `a/3`, all isolated, to which pods of `b` with `app=web` may come.
fn some() -> Cluster {
    let allow = from(Action::Allow, [Peer::Pods(of("b", "app=web")), block("10.9.0.0/16", &[])]);
    let web = PolicyObject { ingress: Some(vec![allow]), ..policy(Tier::Namespaced, of("a", "")) };
    let pods = (1..=9).fold(Cluster::default(), |cluster, number| {
        let app = if number % 2 == 0 { "app=web" } else { "app=db" };
        cluster.pod(&format!("b/{number}"), &format!("{app},id={number}"), &format!("10.0.0.{number}"), &[])
    });
    (0..4).fold(pods.policy("a/p", web), |cluster, number| cluster.endpoint(&format!("a/{number}"), "", &[]))
}

fn pod(labels_: &str, address: &str) -> Pod {
    Pod { labels: labels(labels_), addresses: vec![ip(address)], ports: [].into() }
}

#[test]
fn equal_endpoints_share_a_set_and_equal_peers_a_class() {
    let compiler = some().compile();
    let image = compiler.image();
    let sets: std::collections::BTreeSet<u32> =
        image.endpoints.rows().values().map(|row| row.ingress).collect();
    assert_eq!(sets.len(), 1);
    assert_eq!(compiler.sizes(), super::super::Sizes { sets: 1, classes: 2 });
    // Four web pods, and the network.
    assert_eq!(image.classes.rows().len(), 5);
    // For all others, for web pods, for the network.
    assert_eq!(image.sets.rows().len(), 3);
    assert_eq!(image.rules.rows().len(), 2);
}

#[test]
fn rows_that_say_what_holds_for_all_are_left_out() {
    let watch = from(Action::Allow, [Peer::Pods(of("b", "app=web"))]);
    let policy = PolicyObject {
        ingress: Some(vec![rule(Action::Deny), watch]),
        ..policy(Tier::Baseline { priority: 0 }, of("a", ""))
    };
    let cluster = some().policy("default", policy);
    let cluster = Cluster {
        policies: cluster.policies.into_iter().filter(|(id, _)| id.name == "default".into()).collect(),
        ..cluster
    };
    let compiler = cluster.compile();
    let keys: Vec<SetKey> = compiler.image().sets.rows().keys().copied().collect();
    assert_eq!(keys, [SetKey { set: 1, class: OTHERS }]);
    assert_eq!(compiler.image().sets.rows()[&keys[0]].len(), 1);
}

#[test]
fn a_pod_costs_its_own_row() {
    let mut compiler = some().compile();
    compiler.set_pod(("b".into(), "new".into()), Some(pod("app=web,id=new", "10.0.0.100")));
    let delta = compiler.commit();
    assert_eq!(delta.classes.put.len(), 1);
    assert!(delta.sets.is_empty() && delta.endpoints.is_empty() && delta.rules.is_empty());
    // Labels that no rule asks for.
    compiler.set_pod(("b".into(), "new".into()), Some(pod("app=web,id=other", "10.0.0.100")));
    assert!(compiler.commit().is_empty());
    compiler.set_pod(("c".into(), "new".into()), Some(pod("app=web", "10.0.0.101")));
    assert!(compiler.commit().is_empty());
    compiler.set_pod(("b".into(), "new".into()), Some(pod("app=db", "10.0.0.100")));
    let delta = compiler.commit();
    assert_eq!((delta.classes.gone.len(), delta.classes.put.len()), (1, 0));
    assert!(delta.sets.is_empty());
}

#[test]
fn selectors_that_nobody_here_uses_cost_nothing() {
    let mut cluster = some();
    let endpoints = std::mem::take(&mut cluster.endpoints);
    let mut compiler = cluster.compile();
    assert!(compiler.image().classes.rows().is_empty() && compiler.image().sets.rows().is_empty());
    for (name, subject) in endpoints {
        compiler.set_endpoint(name, Some(subject));
    }
    assert_eq!(compiler.commit().classes.put.len(), 5);
}

#[test]
fn nothing_changes_before_the_commit_or_without_a_change() {
    let cluster = some();
    let mut compiler = cluster.compile();
    let before = format!("{:?}", compiler.image());
    cluster.tell(&mut compiler);
    assert!(compiler.commit().is_empty());
    compiler.set_endpoint("a/0".into(), None);
    compiler.set_policy(cluster.policies.keys().next().unwrap().clone(), None);
    compiler.set_pod(("b".into(), "2".into()), None);
    assert_eq!(format!("{:?}", compiler.image()), before);
    cluster.tell(&mut compiler);
    assert!(compiler.commit().is_empty());
}

#[test]
fn a_changed_rule_keeps_its_number_and_gets_other_rows() {
    let cluster = some();
    let mut compiler = cluster.compile();
    let before: Vec<SetKey> = compiler.image().sets.rows().keys().copied().collect();
    let (id, object) = cluster.policies.iter().next().unwrap();
    let mut object = (**object).clone();
    object.ingress.as_mut().unwrap()[0].peers = None;
    compiler.set_policy(id.clone(), Some(Arc::new(object)));
    let delta = compiler.commit();
    assert!(delta.rules.is_empty() && delta.classes.is_empty() && delta.sets.gone.is_empty());
    assert_eq!((delta.sets.put.len(), delta.endpoints.put.len()), (1, 4));
    // What was stays until the other is known to stand.
    assert!(compiler.commit().is_empty());
    assert!(compiler.release(delta.revision));
    let delta = compiler.commit();
    assert_eq!(delta.sets.gone, before.into_iter().collect());
    assert_eq!(delta.classes.gone.len(), 5);
}

#[test]
fn more_rules_than_numbers_share_some() {
    let rules = |policy: usize| {
        (0..20).map(move |index| {
            let port = (policy * 100 + index) as u16;
            at(rule(Action::Allow), Transport::Tcp, Ports::Range(port, port))
        })
    };
    let mut cluster = some();
    for number in 0..8 {
        let object =
            PolicyObject { ingress: Some(rules(number).collect()), ..policy(Tier::Namespaced, of("a", "")) };
        cluster = cluster.policy(&format!("a/{number}"), object);
    }
    let mut compiler = Compiler::with_rules(50);
    cluster.tell(&mut compiler);
    compiler.commit();
    let rows = compiler.image().rules.rows();
    let shared: Vec<_> = rows.values().filter(|name| matches!(***name, RuleName::Shared { .. })).collect();
    assert_eq!(rows.len() - shared.len(), 49);
    let members: usize = shared
        .iter()
        .map(|name| match &***name {
            RuleName::Shared { count, some } => {
                assert!(some.len() <= *count && name.to_string().contains(&some[0].to_string()));
                *count
            }
            _ => 0,
        })
        .sum();
    assert_eq!(members + 49, 8 * 20 + 2);
    for (number, port) in [(0, 0), (3, 307), (7, 719)] {
        assert_eq!(decision(&compiler, "a/0", comes("192.0.2.1", port)).0, Outcome::Allow, "{number}");
    }
    for id in cluster.policies.keys() {
        compiler.set_policy(id.clone(), None);
    }
    compiler.commit();
    settle(&mut compiler);
    assert!(compiler.image().rules.rows().is_empty());
}

#[test]
fn a_list_that_is_too_long_denies_its_end_and_says_so() {
    let ports = (1..=MAX_STEPS as u16)
        .map(|port| PortMatch { protocol: Transport::Tcp, ports: Ports::Range(port * 2, port * 2) });
    let many = Rule { ports: Some(ports.collect()), ..rule(Action::Allow) };
    let object = PolicyObject { ingress: Some(vec![many]), ..policy(Tier::Namespaced, of("a", "")) };
    let cluster = Cluster::default().endpoint("a/e", "", &[]).policy("a/p", object);
    let mut compiler = cluster.compile();
    assert_eq!(decision(&compiler, "a/e", comes("192.0.2.1", 2)).0, Outcome::Allow);
    let (outcome, name) = decision(&compiler, "a/e", comes("192.0.2.1", MAX_STEPS as u16 * 2));
    assert_eq!((outcome, name), (Outcome::Deny, Some(RuleName::TooLong)));
    let problems = compiler.problems(|_| Default::default());
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].object, "NetworkPolicy a/p");
    compiler.set_endpoint("a/e".into(), None);
    compiler.commit();
    settle(&mut compiler);
    assert!(compiler.problems(|_| Default::default()).is_empty() && compiler.image().rules.rows().is_empty());
}

#[test]
fn what_comes_back_and_leaves_again_stays_as_long_as_before() {
    let mut compiler = some().compile();
    let subject = compiler.endpoints["a/0"].subject.clone();
    let mut all = |stay: bool| {
        for number in 0..4 {
            compiler.set_endpoint(format!("a/{number}").into(), stay.then(|| subject.clone()));
        }
        let revision = compiler.commit().revision;
        (revision, compiler.release(0))
    };
    let (first, _) = all(false);
    all(true);
    let (second, _) = all(false);
    compiler.release(first);
    assert!(compiler.commit().is_empty());
    assert!(compiler.release(second));
    assert_eq!(compiler.commit().sets.gone.len(), 3);
    // The same of a class: pods are peers of endpoints that stay.
    let mut compiler = some().compile();
    let (name, labelled): (Name, Pod) = (("c".into(), "p".into()), pod("", "10.9.0.1"));
    let both = [Peer::Pods(of("c", "")), block("10.9.0.0/16", &[])].map(|peer| from(Action::Allow, [peer]));
    let object = PolicyObject { ingress: Some(both.into()), ..policy(Tier::Namespaced, of("a", "")) };
    compiler.set_policy(id("a/p", &object), Some(Arc::new(object)));
    compiler.commit();
    settle(&mut compiler);
    let mut turn = |stay: bool| {
        compiler.set_pod(name.clone(), stay.then(|| labelled.clone()));
        compiler.commit().revision
    };
    turn(true);
    let first = turn(false);
    turn(true);
    let second = turn(false);
    compiler.release(first);
    assert!(compiler.commit().is_empty());
    assert!(compiler.release(second));
    assert_eq!(compiler.commit().sets.gone.len(), 1);
}
