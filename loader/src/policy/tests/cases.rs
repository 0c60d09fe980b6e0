//! What policies mean: isolation, union, tiers, order, audit, reject. Each flow
//! is asked of compiler and reference.

use causeway_schema::policy::Outcome::{Allow, Audit, Deny, Reject};

use super::*;

const WEB: &str = "10.0.0.1";
const DB: &str = "10.0.0.2";
const OUTSIDE: &str = "192.0.2.1";

/// `shop/e` is web itself; its peers are a web and a db pod of the same namespace.
fn shop() -> Cluster {
    Cluster::default()
        .namespace("shop", "team=red")
        .pod("shop/web", "app=web", WEB, &[])
        .pod("shop/db", "app=db", DB, &[])
        .endpoint("shop/e", "app=web", &[])
}

fn namespaced(ingress: Option<Vec<Rule>>, egress: Option<Vec<Rule>>) -> PolicyObject {
    PolicyObject { ingress, egress, ..policy(Tier::Namespaced, of("shop", "")) }
}

fn admin(priority: u16, ingress: Vec<Rule>) -> PolicyObject {
    PolicyObject { ingress: Some(ingress), ..policy(Tier::Admin { priority }, among("", "")) }
}

fn baseline(ingress: Vec<Rule>) -> PolicyObject {
    PolicyObject { ingress: Some(ingress), ..policy(Tier::Baseline { priority: 0 }, among("", "")) }
}

fn web() -> Peer {
    Peer::Pods(of("shop", "app=web"))
}

fn said(cluster: &Cluster, flow: Flow) -> (Outcome, String) {
    let (outcome, rule) = cluster.decide("shop/e", flow);
    (outcome, rule.unwrap_or_default())
}

#[test]
fn without_a_policy_everything_is_allowed() {
    let cluster = shop();
    assert_eq!(cluster.decide("shop/e", comes(OUTSIDE, 80)), (Allow, None));
    assert_eq!(cluster.compile().image().endpoints.rows()["shop/e"], Default::default());
}

#[test]
fn a_direction_is_isolated_only_by_a_policy_that_has_it() {
    let cluster = shop().policy("shop/in", namespaced(Some(vec![]), None));
    assert_eq!(
        said(&cluster, comes(WEB, 80)),
        (Deny, "default deny by NetworkPolicy shop/in (ingress)".into())
    );
    assert_eq!(cluster.outcome("shop/e", goes(WEB, 80)), Allow);
    let cluster = shop().policy("shop/out", namespaced(None, Some(vec![])));
    assert_eq!(cluster.outcome("shop/e", comes(WEB, 80)), Allow);
    assert_eq!(cluster.outcome("shop/e", goes(WEB, 80)), Deny);
}

#[test]
fn the_subject_is_chosen_by_labels_and_namespace() {
    let deny = |subject| PolicyObject { ingress: Some(vec![]), ..policy(Tier::Namespaced, subject) };
    for (subject, outcome) in [
        (of("shop", ""), Deny),
        (of("shop", "app=web"), Deny),
        (of("shop", "app=db"), Allow),
        (of("other", ""), Allow),
        (among("team=red", "app=web"), Deny),
        (among("team=blue", ""), Allow),
        (among("kubernetes.io/metadata.name=shop", ""), Deny),
    ] {
        let cluster = shop().policy("shop/p", deny(subject.clone()));
        assert_eq!(cluster.outcome("shop/e", comes(WEB, 80)), outcome, "{subject:?}");
    }
}

#[test]
fn policies_of_one_tier_are_a_union() {
    let from_web = namespaced(Some(vec![from(Action::Allow, [web()])]), None);
    let https = namespaced(Some(vec![at(rule(Action::Allow), Transport::Tcp, Ports::Range(443, 443))]), None);
    let cluster = shop().policy("shop/a", from_web).policy("shop/b", https);
    assert_eq!(said(&cluster, comes(WEB, 80)), (Allow, "NetworkPolicy shop/a ingress[0]".into()));
    assert_eq!(said(&cluster, comes(DB, 443)), (Allow, "NetworkPolicy shop/b ingress[0]".into()));
    let (outcome, by) = said(&cluster, comes(DB, 80));
    let both = "default deny by NetworkPolicy shop/a, NetworkPolicy shop/b (ingress)";
    assert_eq!((outcome, &*by), (Deny, both));
}

#[test]
fn empty_lists_match_nobody_and_missing_ones_everybody() {
    let nobody = Rule { peers: Some(vec![]), ..rule(Action::Allow) };
    let no_port = Rule { ports: Some(vec![]), ..rule(Action::Allow) };
    for (rule, outcome) in [(rule(Action::Allow), Allow), (nobody, Deny), (no_port, Deny)] {
        let cluster = shop().policy("shop/p", namespaced(Some(vec![rule.clone()]), None));
        assert_eq!(cluster.outcome("shop/e", comes(OUTSIDE, 80)), outcome, "{rule:?}");
    }
}

#[test]
fn protocols_without_ports_are_allowed_by_rules_without_ports_only() {
    let plain = shop().policy("shop/p", namespaced(Some(vec![from(Action::Allow, [web()])]), None));
    let tcp = at(from(Action::Allow, [web()]), Transport::Tcp, Ports::All);
    let tcp = shop().policy("shop/p", namespaced(Some(vec![tcp]), None));
    let icmp = at(from(Action::Allow, [web()]), Transport::Icmp, Ports::All);
    let icmp = shop().policy("shop/p", namespaced(Some(vec![icmp]), None));
    for (protocol, outcomes) in [
        (1, [Allow, Deny, Allow]),
        (58, [Allow, Deny, Allow]),
        (47, [Allow, Deny, Deny]),
        (6, [Allow, Allow, Deny]),
    ] {
        let flow = Flow { protocol, port: 0, ..comes(WEB, 0) };
        let got = [&plain, &tcp, &icmp].map(|cluster| cluster.outcome("shop/e", flow));
        assert_eq!(got, outcomes, "protocol {protocol}");
    }
}

#[test]
fn ranges_have_both_their_ends() {
    let range = at(rule(Action::Allow), Transport::Tcp, Ports::Range(8000, 8010));
    let cluster = shop().policy("shop/p", namespaced(Some(vec![range]), None));
    for (port, outcome) in [(7999, Deny), (8000, Allow), (8005, Allow), (8010, Allow), (8011, Deny)] {
        assert_eq!(cluster.outcome("shop/e", comes(WEB, port)), outcome, "{port}");
    }
    let udp = Flow { protocol: 17, ..comes(WEB, 8000) };
    assert_eq!(cluster.outcome("shop/e", udp), Deny);
    let last = at(rule(Action::Allow), Transport::Sctp, Ports::Range(65535, 65535));
    let cluster = shop().policy("shop/p", namespaced(Some(vec![last]), None));
    for (protocol, port, outcome) in [(132, 65535, Allow), (132, 65534, Deny), (133, 0, Deny)] {
        assert_eq!(cluster.outcome("shop/e", Flow { protocol, port, ..comes(WEB, 0) }), outcome);
    }
}

#[test]
fn administrators_are_asked_by_priority_then_name() {
    let allow = || admin(5, vec![from(Action::Allow, [web()])]);
    let deny = |priority| admin(priority, vec![rule(Action::Deny)]);
    let isolated = || shop().policy("shop/p", namespaced(Some(vec![]), None));
    let first = isolated().policy("z", allow()).policy("a", deny(6));
    assert_eq!(said(&first, comes(WEB, 1)), (Allow, "AdminNetworkPolicy z ingress[0]".into()));
    assert_eq!(said(&first, comes(DB, 1)), (Deny, "AdminNetworkPolicy a ingress[0]".into()));
    let last = isolated().policy("z", allow()).policy("a", deny(4));
    assert_eq!(last.outcome("shop/e", comes(WEB, 1)), Deny);
    let by_name = isolated().policy("z", allow()).policy("a", deny(5));
    assert_eq!(by_name.outcome("shop/e", comes(WEB, 1)), Deny);
    let by_name = isolated().policy("a", allow()).policy("z", deny(5));
    assert_eq!(by_name.outcome("shop/e", comes(WEB, 1)), Allow);
}

#[test]
fn the_first_matching_rule_of_an_administrator_decides() {
    let https = || at(rule(Action::Allow), Transport::Tcp, Ports::Range(443, 443));
    let policy = admin(0, vec![from(Action::Reject, [web()]), https(), rule(Action::Deny)]);
    let cluster = shop().policy("p", policy);
    assert_eq!(said(&cluster, comes(WEB, 443)), (Reject, "AdminNetworkPolicy p ingress[0]".into()));
    assert_eq!(said(&cluster, comes(DB, 443)), (Allow, "AdminNetworkPolicy p ingress[1]".into()));
    assert_eq!(said(&cluster, comes(DB, 80)), (Deny, "AdminNetworkPolicy p ingress[2]".into()));
}

#[test]
fn what_is_passed_is_left_to_the_next_tier() {
    let passing = || shop().policy("a", admin(0, vec![from(Action::Pass, [web()]), rule(Action::Deny)]));
    assert_eq!(passing().outcome("shop/e", comes(WEB, 80)), Allow);
    assert_eq!(passing().outcome("shop/e", comes(DB, 80)), Deny);
    // Past all administrators, not only this one.
    let more = passing().policy("b", admin(1, vec![rule(Action::Deny)]));
    assert_eq!(more.outcome("shop/e", comes(WEB, 80)), Allow);
    let isolated = passing().policy("shop/p", namespaced(Some(vec![]), None));
    assert_eq!(isolated.outcome("shop/e", comes(WEB, 80)), Deny);
    let based = passing().policy("default", baseline(vec![rule(Action::Deny)]));
    assert_eq!(said(&based, comes(WEB, 80)), (Deny, "BaselineAdminNetworkPolicy default ingress[0]".into()));
}

#[test]
fn the_baseline_holds_where_nobody_isolates() {
    let based = || shop().policy("default", baseline(vec![from(Action::Allow, [web()]), rule(Action::Deny)]));
    assert_eq!(based().outcome("shop/e", comes(WEB, 80)), Allow);
    assert_eq!(based().outcome("shop/e", comes(DB, 80)), Deny);
    let db = from(Action::Allow, [Peer::Pods(of("shop", "app=db"))]);
    let isolated = based().policy("shop/p", namespaced(Some(vec![db]), None));
    assert_eq!(isolated.outcome("shop/e", comes(WEB, 80)), Deny);
    assert_eq!(isolated.outcome("shop/e", comes(DB, 80)), Allow);
    // Isolated in the other direction only.
    let out = based().policy("shop/p", namespaced(None, Some(vec![])));
    assert_eq!(out.outcome("shop/e", comes(WEB, 80)), Allow);
}

#[test]
fn what_no_rule_allows_is_rejected_if_a_policy_says_so() {
    let reject = PolicyObject { reject: true, ..namespaced(Some(vec![from(Action::Allow, [web()])]), None) };
    let cluster = shop().policy("shop/a", reject).policy("shop/b", namespaced(Some(vec![]), None));
    assert_eq!(cluster.outcome("shop/e", comes(DB, 80)), Reject);
    assert_eq!(cluster.outcome("shop/e", comes(WEB, 80)), Allow);
}

#[test]
fn audit_watches_what_it_would_deny() {
    let audit = |policy| PolicyObject { audit: true, ..policy };
    let from_web = || namespaced(Some(vec![from(Action::Allow, [web()])]), None);
    let watched = shop().policy("shop/a", audit(from_web()));
    assert_eq!(watched.outcome("shop/e", comes(WEB, 80)), Allow);
    assert_eq!(
        said(&watched, comes(DB, 80)),
        (Audit, "default deny by NetworkPolicy shop/a (ingress)".into())
    );
    // Another isolates in earnest, and is the one to be named.
    let enforced = watched.clone().policy("shop/b", namespaced(Some(vec![]), None));
    assert_eq!(
        said(&enforced, comes(DB, 80)),
        (Deny, "default deny by NetworkPolicy shop/b (ingress)".into())
    );
    assert_eq!(enforced.outcome("shop/e", comes(WEB, 80)), Allow);
    // It does not isolate, so the baseline holds.
    let based = watched.clone().policy("default", baseline(vec![rule(Action::Deny)]));
    assert_eq!(based.outcome("shop/e", comes(DB, 80)), Deny);
    let admin = shop().policy("p", audit(admin(0, vec![rule(Action::Deny)])));
    assert_eq!(said(&admin, comes(DB, 80)), (Audit, "AdminNetworkPolicy p ingress[0]".into()));
    let denied = admin.policy("shop/b", namespaced(Some(vec![]), None));
    assert_eq!(denied.outcome("shop/e", comes(DB, 80)), Deny);
    let based = shop().policy("default", audit(baseline(vec![rule(Action::Reject)])));
    assert_eq!(based.outcome("shop/e", comes(DB, 80)), Audit);
}
