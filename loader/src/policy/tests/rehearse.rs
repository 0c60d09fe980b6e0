//! Does a rehearsal name exactly the flows that would be treated differently?

use std::collections::BTreeSet;

use super::super::{Here, Talk, rehearse};
use super::generator::{Chance, Change};
use super::*;

/// The endpoints of the node, one of them of both families.
const HERE: [(&str, &str); 4] =
    [("10.0.0.1", "e1"), ("10.0.0.2", "e2"), ("10.0.0.3", "e3"), ("fd00::2", "e2")];
const OWN: [&str; 2] = ["192.0.2.1", "fd00::6"];
const ADDRESSES: [&str; 10] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.7",
    "10.0.1.1",
    "192.0.2.1",
    "fd00::1",
    "fd00::2",
    "fd00::6",
    "2001:db8::1",
];

fn here() -> Here {
    Here {
        endpoints: HERE.iter().map(|(address, name)| (ip(address), (*name).into())).collect(),
        own: OWN.iter().map(|address| ip(address)).collect(),
    }
}

/// What the model says of a flow, both ends asked one after the other.
fn outcome(cluster: &Cluster, talk: &Talk) -> Outcome {
    let name = |address| HERE.iter().find(|(own, _)| ip(own) == address).map(|(_, name)| *name);
    let (client, server) = (name(talk.from), name(talk.to));
    if client == server || OWN.iter().any(|own| [talk.from, talk.to].contains(&ip(own))) {
        return Outcome::Allow;
    }
    let mut watched = false;
    for (endpoint, direction, peer) in
        [(client, Direction::Egress, talk.to), (server, Direction::Ingress, talk.from)]
    {
        let Some(endpoint) = endpoint else { continue };
        let flow = Flow { direction, peer, protocol: talk.protocol, port: talk.port };
        match reference::decide(cluster, endpoint, flow).0 {
            Outcome::Allow => {}
            Outcome::Audit => watched = true,
            denial => return denial,
        }
    }
    if watched { Outcome::Audit } else { Outcome::Allow }
}

#[test]
fn the_flows_that_differ_are_those_of_the_model() {
    let (mut looked_at, mut differing) = (0, 0);
    for seed in 0..2000 {
        let mut chance = Chance(5 << 32 | seed);
        let mut live = Cluster::default();
        (0..30 + chance.below(40)).for_each(|_| live.change(chance.change()));
        let mut candidate = live.clone();
        // Other policies, and now and then other pods.
        for _ in 0..40 {
            let change = chance.change();
            let goes_along = !matches!(change, Change::Endpoint(..) | Change::Service(..));
            if matches!(change, Change::Policy(..)) || goes_along && seed % 4 == 0 {
                candidate.change(change);
            }
        }
        let talk = |chance: &mut Chance| {
            let Flow { protocol, port, .. } = chance.flow();
            Talk { from: ip(chance.of(&ADDRESSES)), to: ip(chance.of(&ADDRESSES)), protocol, port }
        };
        let talks: Vec<Talk> = (0..50).map(|_| talk(&mut chance)).collect();
        let named = rehearse(&live.compile(), &candidate.compile(), &here(), &talks);
        let expected: BTreeSet<Talk> =
            talks.iter().filter(|talk| outcome(&live, talk) != outcome(&candidate, talk)).copied().collect();
        assert!(
            named.iter().map(|difference| difference.talk).eq(expected.iter().copied()),
            "seed {seed}: {named:?}, and the model says {expected:?}"
        );
        for difference in &named {
            let said = (difference.before.outcome, difference.after.outcome);
            let (before, after) = (outcome(&live, &difference.talk), outcome(&candidate, &difference.talk));
            assert_eq!(said, (before, after), "seed {seed}: {difference:?}");
        }
        looked_at += talks.len();
        differing += expected.len();
    }
    assert!(differing * 20 > looked_at && differing * 2 < looked_at, "{differing} of {looked_at}");
}

#[test]
fn the_rules_before_and_after_are_named() {
    let guard = |app: &str| PolicyObject {
        ingress: Some(vec![from(Action::Allow, [Peer::Pods(of("a", app))])]),
        ..policy(Tier::Namespaced, of("a", ""))
    };
    let shop = Cluster::default().pod("a/web", "app=web", "10.0.0.7", &[]).endpoint("a/db", "app=db", &[]);
    let here = Here { endpoints: [(ip("10.0.0.1"), "a/db".into())].into(), own: BTreeSet::new() };
    let talk = Talk { from: ip("10.0.0.7"), to: ip("10.0.0.1"), protocol: 6, port: 80 };
    let (live, other) = (shop.clone().policy("a/p", guard("app=web")), shop.policy("a/p", guard("app=cart")));
    let named = rehearse(&live.compile(), &other.compile(), &here, &[talk, talk]);
    let [difference] = &named[..] else { panic!("{named:?}") };
    let rule = |judgement: &super::super::Judgement| {
        let said = judgement.ingress.as_ref().unwrap();
        (said.outcome, said.rule.as_ref().unwrap().to_string())
    };
    assert_eq!(rule(&difference.before), (Outcome::Allow, "NetworkPolicy a/p ingress[0]".into()));
    let denied = "default deny by NetworkPolicy a/p (ingress)";
    assert_eq!(rule(&difference.after), (Outcome::Deny, denied.into()));
    assert_eq!((&difference.before.egress, &difference.after.egress), (&None, &None));
    assert!(rehearse(&live.compile(), &live.compile(), &here, &[talk]).is_empty());
}
