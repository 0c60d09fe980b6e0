//! Is a denial named after what decides it? What is named is taken away, in the
//! model, and the packet passes, or what denies it next is named.

use super::super::explain::{Differs, Nearest};
use super::generator::Chance;
use super::*;

/// Calls back with denials of random clusters, until there were so many.
fn denials(seeds: u64, enough: usize, mut look: impl FnMut(u64, &Cluster, &str, Flow)) {
    let mut denials = 0;
    for seed in 0..4000 {
        let mut chance = Chance(seeds << 32 | seed);
        let mut cluster = Cluster::default();
        (0..30).for_each(|_| cluster.change(chance.change()));
        let compiler = cluster.compile();
        for _ in 0..4 {
            let (endpoint, flow) = (chance.of(&["e1", "e2", "e3"]), chance.flow());
            if is_denied(decision(&compiler, endpoint, flow).0) {
                denials += 1;
                look(seed, &cluster, endpoint, flow);
            }
        }
    }
    assert!(denials >= enough, "{denials} denials");
}

fn is_denied(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Deny | Outcome::Reject)
}

fn change(cluster: &mut Cluster, id: &PolicyId, change: impl FnOnce(&mut PolicyObject)) {
    change(Arc::make_mut(cluster.policies.get_mut(id).unwrap()));
}

fn rules(policy: &mut PolicyObject, direction: Direction) -> &mut Option<Vec<Rule>> {
    match direction {
        Direction::Ingress => &mut policy.ingress,
        Direction::Egress => &mut policy.egress,
    }
}

/// Of a rule: it holds for nobody any more. Of a default denial: its policies
/// isolate nobody any more.
fn without(cluster: &Cluster, name: &RuleName) -> Cluster {
    let mut cluster = cluster.clone();
    match name {
        RuleName::Rule { policy, direction, index, .. } => change(&mut cluster, policy, |policy| {
            rules(policy, *direction).as_mut().unwrap()[*index].peers = Some(vec![]);
        }),
        RuleName::DefaultDeny { direction, policies } => {
            for policy in policies {
                change(&mut cluster, policy, |policy| *rules(policy, *direction) = None);
            }
        }
        other => panic!("{other:?} is no rule of so small a cluster"),
    }
    cluster
}

#[test]
fn without_the_rule_that_is_named_the_packet_passes_or_the_next_is_named() {
    let (mut at_once, mut longest) = (0, 0);
    denials(6, 1000, |seed, cluster, endpoint, flow| {
        let mut cluster = cluster.clone();
        let mut named = Vec::new();
        loop {
            let rule = cluster.compile().explain(endpoint, flow).unwrap().rule;
            let (outcome, deciding) = reference::decide(&cluster, endpoint, flow);
            assert_eq!(rule.as_deref(), deciding.as_ref(), "seed {seed}: {endpoint} {flow:?} {cluster:#?}");
            if !is_denied(outcome) {
                break;
            }
            let deciding = deciding.unwrap();
            assert!(!named.contains(&deciding), "seed {seed}: {deciding} is gone, and still denies");
            cluster = without(&cluster, &deciding);
            named.push(deciding);
        }
        at_once += usize::from(named.len() == 1);
        longest = longest.max(named.len());
    });
    assert!(at_once >= 1000 && longest >= 3, "{at_once} pass at once, {longest} rules deny one packet");
}

/// Takes the differences away: the rule is made to speak of the flow.
fn widen(cluster: &Cluster, endpoint: &str, near: &Nearest, flow: Flow) -> Cluster {
    let mut cluster = cluster.clone();
    let RuleName::Rule { policy, direction, index, .. } = &near.rule else { panic!("{near:?}") };
    let namespace = cluster.endpoints[endpoint].namespace.clone();
    change(&mut cluster, policy, |policy| {
        let list = rules(policy, *direction).as_mut().unwrap();
        let mut rule = list[*index].clone();
        for differs in &near.differs {
            match differs {
                Differs::Peer => {
                    rule.peers = Some(vec![Peer::Block { network: flow.peer.into(), except: vec![] }]);
                }
                Differs::Protocol | Differs::Port => rule.ports = None,
                Differs::Endpoint => {
                    let namespaces = Namespaces::Named(namespace.clone());
                    policy.subject = PodSelector { namespaces, pods: Selector::default() };
                }
                Differs::Direction => {}
            }
        }
        if near.differs.contains(&Differs::Direction) {
            rules(policy, flow.direction).get_or_insert_default().insert(0, rule);
        } else {
            rules(policy, *direction).as_mut().unwrap()[*index] = rule;
        }
    });
    cluster
}

#[test]
fn a_flow_passes_once_the_nearest_rule_speaks_of_it() {
    let mut near = 0;
    denials(3, 1000, |seed, cluster, endpoint, flow| {
        let Some(nearest) = cluster.compile().explain(endpoint, flow).unwrap().nearest else { return };
        let wider = widen(cluster, endpoint, &nearest, flow);
        let (outcome, by) = reference::decide(&wider, endpoint, flow);
        assert!(
            !is_denied(outcome),
            "seed {seed}: {endpoint} {flow:?}: with {nearest:?} it is still denied by {by:?}\n{wider:#?}"
        );
        near += 1;
    });
    assert!(near >= 1000, "{near} denials have a rule that is near");
}
