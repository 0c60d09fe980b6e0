use super::*;
use crate::event::{
    Origin,
    egress::EgressObject,
    policy::{Namespaces, Operator, PodSelector, Requirement, Selector},
};

const NODES: [&str; 3] = ["n0", "n1", "n2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(number: usize) -> IpAddr {
    IpAddr::from([192, 168, 77, 10 + number as u8])
}

/// `app`: of the pods that leave so.
fn egress(app: &str, addresses: &[&str], nodes: &[&str]) -> Egress {
    let operator = Operator::In(vec![app.into()]);
    let pods = Selector(vec![Requirement { key: "app".into(), operator }]);
    let subject = PodSelector { namespaces: Namespaces::Matching(Selector::default()), pods };
    let addresses = addresses.iter().map(|address| ip(address)).collect();
    let nodes = nodes.iter().map(|&node| node.into()).collect();
    let origin = Origin { source: "manifests".into(), place: "a.yaml#1".into() };
    Egress { object: Arc::new(EgressObject { subject, addresses, nodes }), origin: Arc::new(origin) }
}

struct Case {
    node: &'static str,
    egresses: BTreeMap<Arc<str>, Egress>,
    /// With their apps.
    endpoints: Vec<(&'static str, &'static str, Vec<IpAddr>)>,
    masquerade: bool,
}

impl Case {
    fn new(node: &'static str) -> Self {
        let all = egress("web", &["192.168.77.50", "fd00:77::50"], &NODES);
        Self {
            node,
            egresses: [("out".into(), all)].into(),
            endpoints: vec![
                ("web", "web", vec![ip("10.244.0.2"), ip("fd00:10:244::2")]),
                ("other", "db", vec![ip("10.244.0.3")]),
            ],
            masquerade: true,
        }
    }

    fn decide(&self, dead: &[usize], unknown: &[usize]) -> Decision {
        let nodes = NODES.iter().enumerate().map(|(number, &name)| {
            let six = ip(&format!("fd00:77::1{number}"));
            let node = Node {
                addresses: vec![node(number), six],
                pod_cidrs: vec![],
                stray_pods: vec![],
                zone: None,
                leaving: false,
            };
            (name.into(), node)
        });
        let nodes = nodes.collect();
        let endpoints = self.endpoints.iter().map(|(name, app, addresses)| Endpoint {
            name,
            namespace: "default".into(),
            namespace_labels: Labels::default(),
            labels: Labels::new([("app".into(), (*app).into())].into()),
            addresses,
        });
        let facts = Facts {
            node: self.node,
            nodes: &nodes,
            egresses: &self.egresses,
            endpoints: endpoints.collect(),
            masquerade: self.masquerade,
        };
        let is = |list: &[usize], address| list.iter().any(|&number| node(number) == address);
        decide(&facts, |address| match () {
            () if is(dead, address) => Health::Dead,
            () if is(unknown, address) => Health::Unknown,
            () => Health::Alive,
        })
    }
}

fn via(decision: &Decision, own: &str) -> Option<IpAddr> {
    decision.leaves[&ip(own)].node
}

#[test]
fn the_first_that_is_alive_holds_it() {
    let there = Case::new("n2");
    for (dead, holder, v4, v6) in [
        (&[][..], "n0", "192.168.77.10", "fd00:77::10"),
        (&[0][..], "n1", "192.168.77.11", "fd00:77::11"),
        // Itself, which it never asks.
        (&[0, 1][..], "n2", "192.168.77.50", "fd00:77::50"),
    ] {
        let decision = there.decide(dead, &[]);
        assert_eq!(decision.standing["out"].holder.as_deref(), Some(holder));
        assert_eq!(via(&decision, "10.244.0.2"), Some(ip(v4)), "{dead:?}");
        assert_eq!(via(&decision, "fd00:10:244::2"), Some(ip(v6)), "{dead:?}");
        assert_eq!(decision.held.is_empty(), holder != "n2", "{dead:?}");
        assert!(!decision.leaves.contains_key(&ip("10.244.0.3")), "one that is not selected");
        assert_eq!(decision.asked, [node(0), node(1)].into());
    }
    assert_eq!(Case::new("n0").decide(&[], &[]).held.len(), 2);
}

#[test]
fn without_anybody_alive_nothing_leaves_and_until_that_is_known_all_stays() {
    let mut case = Case::new("n2");
    case.egresses.insert("out".into(), egress("web", &["192.168.77.50"], &NODES[..2]));
    let decision = case.decide(&[0, 1], &[]);
    assert_eq!((via(&decision, "10.244.0.2"), decision.undecided.len()), (None, 0));
    let decision = case.decide(&[0], &[1]);
    assert_eq!((via(&decision, "10.244.0.2"), decision.undecided.len()), (None, 1));
    assert!(case.decide(&[], &[1]).undecided.is_empty(), "the first is known to be alive");
}

#[test]
fn who_is_not_concerned_asks_nobody() {
    let mut case = Case::new("n2");
    case.egresses.insert("out".into(), egress("nobody", &["192.168.77.50"], &NODES[..2]));
    let decision = case.decide(&[], &[]);
    assert!(!decision.concerned && decision.asked.is_empty() && decision.leaves.is_empty());
    case.node = "n1";
    let decision = case.decide(&[], &[]);
    assert!(decision.concerned && decision.asked == [node(0)].into(), "it may have to hold it");
}

#[test]
fn what_cannot_be_is_named() {
    let mut case = Case::new("n0");
    let check = |name: &str, egress: Egress, field: &str, message: &str| {
        let mut case = Case { egresses: case.egresses.clone(), ..Case::new("n0") };
        case.egresses.insert(name.into(), egress);
        let problems = case.decide(&[], &[]).problems;
        let told = problems.iter().any(|problem| {
            problem.object == format!("Egress {name}")
                && problem.field == field
                && problem.message.contains(message)
        });
        assert!(told, "{message}: {problems:?}");
    };
    check("z", egress("db", &["192.168.77.50"], &["n0"]), "spec.addresses", "belongs to another");
    check("z", egress("db", &["192.168.77.11"], &["n0"]), "spec.addresses", "is node n1's own");
    check("z", egress("db", &["192.168.77.51"], &["n9"]), "spec.nodes[0]", "there is no node n9");
    check(
        "z",
        egress("web", &["192.168.77.51"], &["n0"]),
        "spec.subject",
        "endpoint web leaves under another",
    );
    case.masquerade = false;
    let decision = case.decide(&[], &[]);
    assert!(decision.problems[0].message.contains("--masquerade") && decision.leaves.is_empty());
}

mod liveness {
    use super::*;

    /// Rounds in which these are heard: a(gent), k(ernel), f(arewell), nobody.
    fn after(rounds: &str) -> (Health, bool) {
        let (mut watch, mut returned) = (Watch::default(), false);
        watch.set(&[node(0)].into());
        // Nothing was asked before this one.
        watch.round(&BTreeMap::new());
        for round in rounds.chars() {
            let heard = match round {
                'a' => [(node(0), Heard::Agent)].into(),
                'k' => [(node(0), Heard::Kernel)].into(),
                'f' => [(node(0), Heard::Farewell)].into(),
                _ => BTreeMap::new(),
            };
            returned |= watch.round(&heard);
        }
        (watch.health()[&node(0)], returned)
    }

    #[test]
    fn who_was_not_asked_yet_is_not_silent() {
        let mut watch = Watch::default();
        for asked in 0..2 {
            watch.set(&(0..=asked).map(node).collect());
            for round in 0..6 {
                assert_eq!(watch.health()[&node(asked)], Health::Unknown, "after {round} rounds");
                watch.round(&BTreeMap::new());
            }
            assert_eq!(watch.health()[&node(asked)], Health::Dead);
        }
    }

    #[test]
    fn silence_ends_it_and_only_the_agent_begins_it_anew() {
        for (rounds, health, returned) in [
            ("", Health::Unknown, false),
            ("....", Health::Unknown, false),
            (".....", Health::Dead, false),
            ("a", Health::Alive, false),
            ("kkkk", Health::Unknown, false),
            ("kkkkk", Health::Alive, false),
            ("a....k....", Health::Alive, false),
            ("a.....", Health::Dead, false),
            ("a.....kkkkkkkkkk", Health::Dead, false),
            ("a.....aaa", Health::Dead, false),
            ("a.....aaka", Health::Dead, false),
            ("a.....aaaa", Health::Alive, true),
            ("af", Health::Dead, false),
            ("afkkkkkk", Health::Dead, false),
            ("afaaaa", Health::Alive, true),
        ] {
            assert_eq!(after(rounds), (health, returned), "{rounds:?}");
        }
    }
}
