//! Does a denial name what decided, and the rule that came nearest?

use super::super::explain::Differs;
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
