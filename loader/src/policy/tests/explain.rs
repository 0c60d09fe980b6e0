//! Does a denial name what decided, and the rule that came nearest?

use super::super::Differs;
use super::generator::Chance;
use super::*;

fn shop() -> Cluster {
    let web = at(from(Action::Allow, [Peer::Pods(of("a", "app=web"))]), Transport::Tcp, Ports::Range(80, 90));
    let web = Rule { name: "web".into(), ..web };
    let dns = at(rule(Action::Allow), Transport::Udp, Ports::Range(53, 53));
    let object = PolicyObject {
        ingress: Some(vec![web]),
        egress: Some(vec![dns]),
        ..policy(Tier::Namespaced, of("a", "app=db"))
    };
    Cluster::default()
        .endpoint("a/db", "app=db", &[])
        .endpoint("a/free", "app=free", &[])
        .pod("a/web", "app=web", "10.0.0.1", &[])
        .policy("a/p", object)
}

fn nearest(cluster: &Cluster, flow: Flow) -> (String, Vec<Differs>) {
    let explanation = cluster.compile().explain("a/db", flow).unwrap();
    let nearest = explanation.nearest.unwrap();
    assert!(explanation.text.contains(&nearest.rule.to_string()), "{}", explanation.text);
    (nearest.rule.to_string(), nearest.differs)
}

#[test]
fn the_nearest_rule_differs_least() {
    let web = "NetworkPolicy a/p ingress[0] \"web\"".to_string();
    let shop = shop();
    assert_eq!(nearest(&shop, comes("10.0.0.1", 91)), (web.clone(), vec![Differs::Port]));
    assert_eq!(nearest(&shop, comes("10.0.0.2", 80)), (web.clone(), vec![Differs::Peer]));
    let udp = Flow { protocol: 17, ..comes("10.0.0.1", 80) };
    assert_eq!(nearest(&shop, udp), (web.clone(), vec![Differs::Protocol]));
    let dns = "NetworkPolicy a/p egress[0]".to_string();
    let query = Flow { protocol: 17, ..comes("192.0.2.1", 53) };
    assert_eq!(nearest(&shop, query), (dns, vec![Differs::Direction]));
}

#[test]
fn it_is_said_in_a_sentence() {
    let explanation = shop().compile().explain("a/db", comes("10.0.0.1", 91)).unwrap();
    assert_eq!(
        explanation.text,
        "deny: default deny by NetworkPolicy a/p (ingress); nearest rule that would allow: \
         NetworkPolicy a/p ingress[0] \"web\", but it is not about port 91"
    );
    let explanation = shop().compile().explain("a/db", comes("192.0.2.1", 80)).unwrap();
    assert!(explanation.text.ends_with("but 192.0.2.1 is none of its peers"), "{}", explanation.text);
    let explanation = shop().compile().explain("a/db", comes("10.0.0.1", 80)).unwrap();
    assert_eq!(explanation.text, "allow: NetworkPolicy a/p ingress[0] \"web\"");
    let explanation = shop().compile().explain("a/free", comes("10.0.0.1", 80)).unwrap();
    assert_eq!((explanation.outcome, explanation.rule), ("allow", None));
    assert!(shop().compile().explain("a/unknown", comes("10.0.0.1", 80)).is_none());
}

#[test]
fn rules_that_are_never_asked_are_not_near() {
    let admin = |priority, action| PolicyObject {
        ingress: Some(vec![at(rule(action), Transport::Tcp, Ports::Range(1, 100))]),
        ..policy(Tier::Admin { priority }, of("a", ""))
    };
    let denied = shop().policy("deny", admin(5, Action::Deny)).policy("late", admin(6, Action::Allow));
    let explanation = denied.compile().explain("a/db", comes("10.0.0.1", 80)).unwrap();
    assert_eq!(explanation.rule.unwrap().to_string(), "AdminNetworkPolicy deny ingress[0]");
    assert_eq!(explanation.nearest, None);
    let early = PolicyObject { subject: of("a", "app=web"), ..admin(4, Action::Allow) };
    let denied = denied.policy("early", early);
    let near = nearest(&denied, comes("10.0.0.1", 80));
    assert_eq!(near, ("AdminNetworkPolicy early ingress[0]".into(), vec![Differs::Endpoint]));
}

/// Takes the difference away: the rule is made to speak of the flow.
fn widen(cluster: &Cluster, endpoint: &str, near: &super::super::Nearest, flow: Flow) -> Cluster {
    let mut cluster = cluster.clone();
    let RuleName::Rule { policy, direction, index, .. } = &near.rule else { panic!("{near:?}") };
    let mut object = (*cluster.policies[policy]).clone();
    let rules = match direction {
        Direction::Ingress => object.ingress.as_mut().unwrap(),
        Direction::Egress => object.egress.as_mut().unwrap(),
    };
    let rule = &mut rules[*index];
    for differs in &near.differs {
        match differs {
            Differs::Peer => {
                rule.peers = Some(vec![Peer::Block { network: flow.peer.into(), except: vec![] }])
            }
            Differs::Protocol | Differs::Port => rule.ports = None,
            Differs::Endpoint => {
                let subject = &cluster.endpoints[endpoint];
                let namespaces = Namespaces::Named(subject.namespace.clone());
                object.subject = PodSelector { namespaces, pods: Selector::default() };
            }
            Differs::Direction => return cluster,
        }
    }
    cluster.policies.insert(policy.clone(), Arc::new(object));
    cluster
}

#[test]
fn a_flow_passes_once_the_nearest_rule_speaks_of_it() {
    let (mut denials, mut near) = (0, 0);
    for seed in 0..4000 {
        let mut chance = Chance(3 << 32 | seed);
        let mut cluster = Cluster::default();
        (0..30).for_each(|_| cluster.change(chance.change()));
        let compiler = cluster.compile();
        for _ in 0..4 {
            let (endpoint, flow) = (chance.of(&["e1", "e2", "e3"]), chance.flow());
            let Some(explanation) = compiler.explain(endpoint, flow) else { continue };
            let (outcome, rule) = decision(&compiler, endpoint, flow);
            assert_eq!(explanation.rule.as_deref(), rule.as_ref());
            if !matches!(outcome, Outcome::Deny | Outcome::Reject) {
                continue;
            }
            denials += 1;
            let Some(nearest) = explanation.nearest else { continue };
            if nearest.differs.contains(&Differs::Direction) {
                continue;
            }
            let wider = widen(&cluster, endpoint, &nearest, flow);
            let (outcome, by) = reference::decide(&wider, endpoint, flow);
            near += usize::from(by == Some(nearest.rule.clone()));
            let allowed = matches!(outcome, Outcome::Allow | Outcome::Audit);
            assert!(allowed || by != rule, "seed {seed}: {nearest:?} did not change {rule:?}\n{wider:#?}");
        }
    }
    assert!(denials > 1000, "{denials} denials");
    assert!(near * 2 > denials, "of {denials} denials {near} are turned by the nearest rule");
}
