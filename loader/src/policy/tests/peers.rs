//! Who is meant: selectors, networks with exceptions, services, named ports.
//! Each flow is asked of compiler and reference.

use causeway_schema::policy::Outcome::{Allow, Deny};

use super::*;

fn only(ingress: Vec<Rule>, egress: Vec<Rule>) -> PolicyObject {
    PolicyObject { ingress: Some(ingress), egress: Some(egress), ..policy(Tier::Namespaced, of("a", "")) }
}

/// An endpoint `a/e` with a policy that lets these come, and go nowhere.
fn lets(peers: impl IntoIterator<Item = Peer>) -> Cluster {
    Cluster::default().endpoint("a/e", "", &[]).policy("a/p", only(vec![from(Action::Allow, peers)], vec![]))
}

fn check(cluster: &Cluster, outcomes: &[(&str, Outcome)]) {
    for (peer, outcome) in outcomes {
        assert_eq!(cluster.outcome("a/e", comes(peer, 80)), *outcome, "{peer}");
    }
}

#[test]
fn namespaces_and_pods_are_selected_together() {
    let with_pods = |cluster: Cluster| {
        cluster
            .namespace("b", "team=red")
            .pod("a/web", "app=web", "10.0.0.1", &[])
            .pod("b/web", "app=web", "10.0.0.2", &[])
            .pod("b/db", "app=db", "10.0.0.3", &[])
            .pod("c/web", "app=web", "fd00::4", &[])
    };
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::4", "10.0.0.9"];
    for (selector, outcomes) in [
        (of("a", ""), [Allow, Deny, Deny, Deny, Deny]),
        (of("b", "app=web"), [Deny, Allow, Deny, Deny, Deny]),
        (among("", ""), [Allow, Allow, Allow, Allow, Deny]),
        (among("team=red", ""), [Deny, Allow, Allow, Deny, Deny]),
        (among("team=red", "app=db"), [Deny, Deny, Allow, Deny, Deny]),
        (among("", "app=web"), [Allow, Allow, Deny, Allow, Deny]),
        (among("kubernetes.io/metadata.name=c", ""), [Deny, Deny, Deny, Allow, Deny]),
    ] {
        let cluster = with_pods(lets([Peer::Pods(selector.clone())]));
        for (peer, outcome) in all.into_iter().zip(outcomes) {
            assert_eq!(cluster.outcome("a/e", comes(peer, 80)), outcome, "{selector:?}, {peer}");
        }
    }
}

#[test]
fn expressions_are_all_required() {
    let require = |key: &str, operator| Requirement { key: key.into(), operator };
    let values = |list: &[&str]| list.iter().map(|value| (*value).into()).collect::<Vec<Arc<str>>>();
    for (requirements, outcomes) in [
        (vec![require("app", Operator::In(values(&["web", "db"])))], [Allow, Allow, Deny]),
        (vec![require("app", Operator::NotIn(values(&["web"])))], [Deny, Allow, Allow]),
        (vec![require("app", Operator::Exists)], [Allow, Allow, Deny]),
        (vec![require("app", Operator::DoesNotExist)], [Deny, Deny, Allow]),
        (vec![require("app", Operator::In(vec![]))], [Deny, Deny, Deny]),
        (
            vec![require("app", Operator::Exists), require("tier", Operator::DoesNotExist)],
            [Allow, Deny, Deny],
        ),
    ] {
        let namespaces = Namespaces::Named("b".into());
        let selector = PodSelector { namespaces, pods: Selector(requirements.clone()) };
        let cluster = lets([Peer::Pods(selector)])
            .pod("b/web", "app=web", "10.0.0.1", &[])
            .pod("b/db", "app=db,tier=x", "10.0.0.2", &[])
            .pod("b/other", "", "10.0.0.3", &[]);
        for (peer, outcome) in ["10.0.0.1", "10.0.0.2", "10.0.0.3"].into_iter().zip(outcomes) {
            assert_eq!(cluster.outcome("a/e", comes(peer, 80)), outcome, "{requirements:?}, {peer}");
        }
    }
}

#[test]
fn networks_have_exceptions_and_those_have_networks_again() {
    let cluster = lets([block("10.1.2.3/8", &["10.1.0.0/16", "10.2.0.0/16"]), block("10.1.5.0/24", &[])]);
    check(
        &cluster,
        &[
            ("10.0.0.1", Allow),
            ("10.1.0.1", Deny),
            ("10.1.5.1", Allow),
            ("10.1.6.1", Deny),
            ("10.2.0.1", Deny),
            ("10.3.0.1", Allow),
            ("11.0.0.1", Deny),
            ("fd00::1", Deny),
        ],
    );
    let v6 = lets([block("fd00::/16", &["fd00:1::/32"])]);
    check(&v6, &[("fd00:2::1", Allow), ("fd00:1::1", Deny), ("fe00::1", Deny), ("253.0.0.1", Deny)]);
    check(&lets([block("0.0.0.0/0", &["0.0.0.0/0"])]), &[("10.0.0.1", Deny), ("::1", Deny)]);
}

#[test]
fn networks_hold_for_pods_too() {
    let both = lets([block("10.0.0.0/24", &["10.0.0.8/29"]), Peer::Pods(of("b", "app=web"))])
        .pod("b/web", "app=web", "10.0.0.9", &[])
        .pod("b/db", "app=db", "10.0.0.10", &[])
        .pod("b/far", "app=db", "10.0.0.1", &[]);
    check(&both, &[("10.0.0.9", Allow), ("10.0.0.10", Deny), ("10.0.0.11", Deny), ("10.0.0.1", Allow)]);
    // A pod whose selector only another policy uses stays in its network.
    let denied = Rule { peers: Some(vec![Peer::Pods(of("b", "app=db"))]), ..rule(Action::Deny) };
    let admin =
        PolicyObject { ingress: Some(vec![denied]), ..policy(Tier::Admin { priority: 1 }, of("a", "")) };
    let two = both.policy("admin", admin);
    check(&two, &[("10.0.0.9", Allow), ("10.0.0.10", Deny), ("10.0.0.1", Deny), ("10.0.0.2", Allow)]);
}

#[test]
fn a_single_address_may_be_network_and_pod() {
    let cluster = lets([block("10.0.0.1/32", &[]), Peer::Pods(of("b", ""))]).pod("b/p", "", "10.0.0.1", &[]);
    check(&cluster, &[("10.0.0.1", Allow), ("10.0.0.2", Deny)]);
    let mut compiler = cluster.compile();
    compiler.set_pod(("b".into(), "p".into()), None);
    compiler.commit();
    assert_eq!(decision(&compiler, "a/e", comes("10.0.0.1", 80)).0, Allow);
}

#[test]
fn two_pods_with_one_address_are_both_meant() {
    let cluster = lets([Peer::Pods(of("b", "app=web"))]).pod("b/old", "app=web", "10.0.0.1", &[]).pod(
        "c/new",
        "app=db",
        "10.0.0.1",
        &[],
    );
    check(&cluster, &[("10.0.0.1", Allow)]);
    let mut compiler = cluster.compile();
    compiler.set_pod(("b".into(), "old".into()), None);
    compiler.commit();
    assert_eq!(decision(&compiler, "a/e", comes("10.0.0.1", 80)).0, Deny);
}

#[test]
fn a_service_is_whoever_serves_it() {
    let service = Peer::Service { namespace: "b".into(), name: "s".into() };
    let mut cluster = Cluster::default()
        .endpoint("a/e", "", &[])
        .policy("a/p", only(vec![], vec![from(Action::Allow, [service])]));
    let name: Name = ("b".into(), "s".into());
    cluster.services.insert(name.clone(), vec![ip("10.0.0.1"), ip("192.0.2.1")]);
    for (peer, outcome) in [("10.0.0.1", Allow), ("192.0.2.1", Allow), ("10.0.0.2", Deny)] {
        assert_eq!(cluster.outcome("a/e", goes(peer, 80)), outcome, "{peer}");
    }
    let mut compiler = cluster.compile();
    compiler.set_service(name, vec![ip("10.0.0.2")]);
    compiler.commit();
    for (peer, outcome) in [("10.0.0.1", Deny), ("192.0.2.1", Deny), ("10.0.0.2", Allow)] {
        assert_eq!(decision(&compiler, "a/e", goes(peer, 80)).0, outcome, "{peer}");
    }
}

#[test]
fn a_named_port_is_the_endpoints_own_for_what_comes() {
    let http = at(rule(Action::Allow), Transport::Tcp, Ports::Named("http".into()));
    let cluster = Cluster::default()
        .endpoint("a/e", "", &[named("http", 8080)])
        .endpoint("a/f", "", &[named("http", 9090), named("http", 9091)])
        .endpoint("a/g", "", &[])
        .pod("a/peer", "", "10.0.0.1", &[named("http", 7070)])
        .policy("a/p", only(vec![http], vec![]));
    for (endpoint, allowed) in [("a/e", &[8080][..]), ("a/f", &[9090, 9091]), ("a/g", &[])] {
        for port in [7070, 8080, 9090, 9091] {
            let outcome = if allowed.contains(&port) { Allow } else { Deny };
            assert_eq!(cluster.outcome(endpoint, comes("10.0.0.1", port)), outcome, "{endpoint} {port}");
        }
    }
}

#[test]
fn a_named_port_is_each_peers_own_for_what_goes() {
    let http = |peers| Rule { peers, ..at(rule(Action::Allow), Transport::Tcp, Ports::Named("http".into())) };
    let web = vec![Peer::Pods(of("b", "app=web")), block("10.0.0.4/32", &[])];
    let pods = |cluster: Cluster| {
        cluster
            .pod("b/one", "app=web", "10.0.0.1", &[named("http", 8080)])
            .pod("b/two", "app=web", "10.0.0.2", &[named("http", 9090)])
            .pod("b/db", "app=db", "10.0.0.3", &[named("http", 8080)])
            .pod("b/net", "app=db", "10.0.0.4", &[named("http", 7070)])
            .pod("b/bare", "app=web", "10.0.0.5", &[])
    };
    let own = [named("http", 1000)];
    for (peers, allowed) in [
        (Some(web), &[("10.0.0.1", 8080), ("10.0.0.2", 9090), ("10.0.0.4", 7070)][..]),
        (None, &[("10.0.0.1", 8080), ("10.0.0.2", 9090), ("10.0.0.3", 8080), ("10.0.0.4", 7070)]),
    ] {
        let cluster = Cluster::default().endpoint("a/e", "", &own);
        let cluster = pods(cluster.policy("a/p", only(vec![], vec![http(peers)])));
        for peer in 1..=6 {
            let peer = format!("10.0.0.{peer}");
            for port in [1000, 7070, 8080, 9090] {
                let outcome = if allowed.contains(&(&*peer, port)) { Allow } else { Deny };
                assert_eq!(cluster.outcome("a/e", goes(&peer, port)), outcome, "{peer} {port}");
            }
        }
    }
}

#[test]
fn a_number_that_is_new_for_a_port_name_counts_at_once() {
    let http = at(rule(Action::Allow), Transport::Tcp, Ports::Named("http".into()));
    let cluster = Cluster::default().endpoint("a/e", "", &[]).policy("a/p", only(vec![], vec![http]));
    let mut compiler = cluster.compile();
    let name: Name = ("b".into(), "p".into());
    for port in [8080, 9090] {
        let pod =
            Pod { labels: labels(""), addresses: vec![ip("10.0.0.1")], ports: [named("http", port)].into() };
        compiler.set_pod(name.clone(), Some(pod));
        compiler.commit();
        for asked in [8080, 9090] {
            let outcome = if asked == port { Allow } else { Deny };
            assert_eq!(decision(&compiler, "a/e", goes("10.0.0.1", asked)).0, outcome);
        }
    }
    compiler.set_pod(name, None);
    compiler.commit();
    settle(&mut compiler);
    assert_eq!(compiler.sizes().classes, 0);
}
