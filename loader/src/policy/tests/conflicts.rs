//! Which rules by service and by backend are told to be at odds?

use std::{collections::BTreeSet, net::SocketAddr};

use super::*;
use crate::event::Protocol;

const SERVERS: [&str; 2] = ["10.0.0.1:80", "10.0.0.2:80"];

/// Two endpoints of `shop`; two pods called `db` serve `shop/db`, of which the
/// second has a label of its own.
fn shop() -> Cluster {
    let mut cluster = Cluster::default()
        .pod("shop/db-0", "app=db", "10.0.0.1", &[])
        .pod("shop/db-1", "app=db,old=yes", "10.0.0.2", &[])
        .endpoint("shop/e", "app=web", &[])
        .endpoint("shop/f", "app=admin", &[]);
    let served = SERVERS.map(|server| server.parse::<SocketAddr>().unwrap().ip());
    cluster.services.insert(("shop".into(), "db".into()), served.into());
    cluster
}

fn service() -> Peer {
    Peer::Service { namespace: "shop".into(), name: "db".into() }
}

fn goes_to(priority: u16, subject: &str, egress: Vec<Rule>) -> PolicyObject {
    PolicyObject { egress: Some(egress), ..policy(Tier::Admin { priority }, among("", subject)) }
}

fn told(cluster: &Cluster) -> Vec<String> {
    let backends = |name: &Name| -> BTreeSet<_> {
        assert_eq!((&*name.0, &*name.1), ("shop", "db"));
        SERVERS.iter().map(|server| (Protocol::Tcp, server.parse().unwrap())).collect()
    };
    cluster.compile().problems(backends).iter().map(ToString::to_string).collect()
}

fn two(first: Rule, second: Rule) -> Cluster {
    shop().policy("a", goes_to(1, "", vec![first])).policy("b", goes_to(2, "", vec![second]))
}

fn pods(labels: &str) -> Peer {
    Peer::Pods(of("shop", labels))
}

#[test]
fn a_rule_by_service_of_which_a_backend_is_denied_is_told() {
    let one = from(Action::Deny, [pods("old=yes")]);
    assert_eq!(
        told(&two(one, from(Action::Allow, [service()]))),
        ["AdminNetworkPolicy b: spec.egress[0]: it names service shop/db, but backends of it are denied \
          by AdminNetworkPolicy a egress[0], which is asked first: let only one of them speak of these, or change \
          their order"]
    );
    // The other way round, and all of them.
    let all = from(Action::Allow, [block("10.0.0.0/24", &[])]);
    let said = told(&two(all, from(Action::Reject, [service()])));
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("backends of it are allowed by"), "{said:?}");
}

#[test]
fn a_rule_by_backend_that_has_no_effect_is_told() {
    let said = told(&two(from(Action::Allow, [service()]), from(Action::Deny, [pods("app=db")])));
    assert_eq!(
        said,
        [
            "AdminNetworkPolicy b: spec.egress[0]: it has no effect here: all whom it is about, as backends of service \
          shop/db, are allowed by AdminNetworkPolicy a egress[0], which is asked first: let only one of them speak \
          of these, or change their order"
        ]
    );
    // A NetworkPolicy that allows what the administrator denies.
    let lets = PolicyObject {
        egress: Some(vec![from(Action::Allow, [pods("old=yes")])]),
        ..policy(Tier::Namespaced, of("shop", ""))
    };
    let said = told(
        &shop().policy("a", goes_to(1, "", vec![from(Action::Deny, [service()])])).policy("shop/n", lets),
    );
    assert!(said.len() == 1 && said[0].starts_with("NetworkPolicy shop/n: spec.egress[0]"), "{said:?}");
}

#[test]
fn exceptions_and_other_ports_are_no_conflict() {
    let allow = || from(Action::Allow, [service()]);
    let wide = from(Action::Deny, [block("10.0.0.0/8", &[])]);
    let agrees = from(Action::Allow, [pods("app=db")]);
    let elsewhere = at(from(Action::Deny, [pods("app=db")]), Transport::Tcp, Ports::Range(22, 22));
    let nobody = from(Action::Deny, [pods("app=none")]);
    for (first, second) in [
        (allow(), wide),
        (agrees, allow()),
        (elsewhere, allow()),
        (allow(), nobody),
        (from(Action::Pass, [pods("")]), allow()),
    ] {
        assert_eq!(told(&two(first, second)), Vec::<String>::new());
    }
    // One of the endpoints may call nobody; the other is heard.
    let quarantine = goes_to(1, "app=web", vec![rule(Action::Deny)]);
    let cluster = shop().policy("a", quarantine.clone()).policy("b", goes_to(2, "", vec![allow()]));
    assert_eq!(told(&cluster), Vec::<String>::new());
    let everybody = PolicyObject { subject: among("", ""), ..quarantine };
    assert_eq!(told(&cluster.policy("a", everybody)).len(), 1);
    // The baseline is for those whom no NetworkPolicy isolates.
    let base = PolicyObject { tier: Tier::Baseline { priority: 0 }, ..goes_to(0, "", vec![allow()]) };
    let isolates = PolicyObject { egress: Some(vec![]), ..policy(Tier::Namespaced, of("shop", "")) };
    assert_eq!(told(&shop().policy("a", base).policy("shop/n", isolates)), Vec::<String>::new());
    // Those who only look take nothing away.
    let looks = PolicyObject { audit: true, ..goes_to(1, "", vec![from(Action::Deny, [pods("")])]) };
    assert_eq!(
        told(&shop().policy("a", looks).policy("b", goes_to(2, "", vec![allow()]))),
        Vec::<String>::new()
    );
}

/// By the name of a port one rule is several clauses, of which most are about nobody.
#[test]
fn a_strangers_port_of_that_name_hides_nothing() {
    let named_port = |cluster: Cluster| {
        cluster.pod("shop/db-0", "app=db", "10.0.0.1", &[named("sql", 80)]).pod(
            "shop/db-1",
            "app=db,old=yes",
            "10.0.0.2",
            &[named("sql", 80)],
        )
    };
    let by_name = at(from(Action::Allow, [service()]), Transport::Tcp, Ports::Named("sql".into()));
    let odds = named_port(two(from(Action::Deny, [pods("app=db")]), by_name));
    assert_eq!(told(&odds).len(), 1);
    let stranger = odds.pod("far/stranger", "app=x", "10.0.9.9", &[named("sql", 8080)]);
    assert_eq!(told(&stranger).len(), 1);
    // Ports that are told apart: one of them is denied.
    let both = at(from(Action::Allow, [service()]), Transport::Tcp, Ports::Range(443, 443));
    let both = at(both, Transport::Tcp, Ports::Range(80, 80));
    assert_eq!(told(&two(from(Action::Deny, [pods("app=db")]), both)).len(), 1);
}
