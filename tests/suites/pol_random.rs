//! POL-01: does the loaded program decide about random flows, by random policies of
//! all tiers, what a slow model of their words says?

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use causeway_testkit::{
    container::{Container, pod},
    random::Random,
    topology::{Cluster, outside_address, outside_address6},
};
use ipnet::IpNet;
use serde_json::json;

/// `CAUSEWAY_PACKETS` has another number.
const PAIRS: usize = 10_000;
const PER_ROUND: usize = 250;
const NAMESPACES: [&str; 2] = ["a", "b"];
const APPS: [&str; 3] = ["x", "y", "z"];
const NETWORKS: [&str; 6] =
    ["0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/28", "192.168.77.200/32", "::/0", "fd00:10:244:1::/64"];
const PORTS: [u16; 5] = [53, 80, 81, 8080, 9000];

/// Who may be in a flow.
struct Party {
    namespace: &'static str,
    /// The world has none.
    app: Option<&'static str>,
    addresses: [IpAddr; 2],
    /// An endpoint of the node that is asked.
    here: bool,
}

enum Peer {
    /// Of one namespace or of all; with one value of `app` or any.
    Pods(Option<&'static str>, Option<&'static str>),
    /// Without a part of it.
    Network(IpNet, Option<IpNet>),
}

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Allow,
    Deny,
    Pass,
}

struct Rule {
    action: Action,
    peers: Option<Vec<Peer>>,
    /// Protocol, first and last port.
    ports: Option<Vec<(&'static str, u16, u16)>>,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Tier {
    Admin,
    Namespaced,
    Baseline,
}

struct Policy {
    tier: Tier,
    priority: usize,
    name: String,
    namespace: Option<&'static str>,
    app: Option<&'static str>,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

struct Flow<'a> {
    from: &'a Party,
    to: &'a Party,
    /// Of the addresses.
    family: usize,
    protocol: &'static str,
    port: u16,
}

fn maybe<T: Copy>(random: &mut Random, from: &[T]) -> Option<T> {
    (!random.one_in(3)).then(|| *random.pick(from))
}

impl Rule {
    fn any(random: &mut Random, tier: Tier) -> Self {
        let action = match tier {
            Tier::Namespaced => Action::Allow,
            Tier::Admin => *random.pick(&[Action::Allow, Action::Deny, Action::Pass]),
            Tier::Baseline => *random.pick(&[Action::Allow, Action::Deny]),
        };
        let peer = |random: &mut Random| match random.below(3) {
            0 => {
                let network: IpNet = random.pick(&NETWORKS).parse().unwrap();
                let parts: Vec<IpNet> = NETWORKS.iter().map(|part| part.parse().unwrap()).collect();
                let within = |part: &&IpNet| network.contains(*part) && network != **part;
                let parts: Vec<&IpNet> = parts.iter().filter(within).collect();
                // Only NetworkPolicy has a word for it.
                let except = tier == Tier::Namespaced && !parts.is_empty() && random.one_in(2);
                Peer::Network(network, except.then(|| **random.pick(&parts)))
            }
            _ => Peer::Pods(maybe(random, &NAMESPACES), maybe(random, &APPS)),
        };
        // Without peers a rule of ours names nobody; NetworkPolicy means everybody.
        let everybody = tier == Tier::Namespaced && random.one_in(5);
        let peers = (!everybody).then(|| (0..1 + random.below(3)).map(|_| peer(random)).collect());
        let port = |random: &mut Random| {
            let first = *random.pick(&PORTS);
            let last = if random.one_in(3) { first + random.below(9000) as u16 } else { first };
            (*random.pick(&["TCP", "UDP"]), first, last)
        };
        let ports = (!random.one_in(3)).then(|| (0..1 + random.below(3)).map(|_| port(random)).collect());
        Self { action, peers, ports }
    }

    fn matches(&self, peer: &Party, flow: &Flow<'_>) -> bool {
        let address = peer.addresses[flow.family];
        let holds = |of: &Peer| match of {
            Peer::Pods(namespace, app) => {
                peer.app.is_some()
                    && namespace.is_none_or(|namespace| namespace == peer.namespace)
                    && app.is_none_or(|app| peer.app == Some(app))
            }
            Peer::Network(network, except) => {
                network.contains(&address) && !except.is_some_and(|except| except.contains(&address))
            }
        };
        let at = |(protocol, first, last): &(&str, u16, u16)| {
            *protocol == flow.protocol && (*first..=*last).contains(&flow.port)
        };
        self.peers.as_ref().is_none_or(|peers| peers.iter().any(holds))
            && self.ports.as_ref().is_none_or(|ports| ports.iter().any(at))
    }

    fn yaml(&self, tier: Tier, whom: &str) -> String {
        let labels = |key: &str, value: &Option<&str>| {
            value.map_or("{}".into(), |value| format!("{{matchLabels: {{{key}: {value}}}}}"))
        };
        let peer = |peer: &Peer| match peer {
            Peer::Pods(namespace, app) => {
                let namespaces = labels("kubernetes.io/metadata.name", namespace);
                let selectors =
                    format!("namespaceSelector: {namespaces}, podSelector: {}", labels("app", app));
                if tier == Tier::Namespaced {
                    format!("{{{selectors}}}")
                } else {
                    format!("{{pods: {{{selectors}}}}}")
                }
            }
            Peer::Network(network, except) if tier == Tier::Namespaced => {
                let except = except.map_or(String::new(), |except| format!(", except: [\"{except}\"]"));
                format!("{{ipBlock: {{cidr: \"{network}\"{except}}}}}")
            }
            Peer::Network(network, _) => format!("{{networks: [\"{network}\"]}}"),
        };
        let port = |(protocol, first, last): &(&str, u16, u16)| match tier {
            Tier::Namespaced => format!("{{protocol: {protocol}, port: {first}, endPort: {last}}}"),
            _ => format!("{{portRange: {{protocol: {protocol}, start: {first}, end: {last}}}}}"),
        };
        let mut parts = Vec::new();
        if tier != Tier::Namespaced {
            let word = match self.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
                Action::Pass => "Pass",
            };
            parts.push(format!("action: {word}"));
        }
        if let Some(peers) = &self.peers {
            parts.push(format!("{whom}: [{}]", peers.iter().map(peer).collect::<Vec<_>>().join(", ")));
        }
        if let Some(ports) = &self.ports {
            parts.push(format!("ports: [{}]", ports.iter().map(port).collect::<Vec<_>>().join(", ")));
        }
        format!("{{{}}}", parts.join(", "))
    }
}

impl Policy {
    fn any(random: &mut Random, number: usize) -> Self {
        let tier = *random.pick(&[Tier::Admin, Tier::Namespaced, Tier::Namespaced, Tier::Baseline]);
        let rules = |random: &mut Random| {
            (!random.one_in(3)).then(|| (0..random.below(4)).map(|_| Rule::any(random, tier)).collect())
        };
        let (mut ingress, egress) = (rules(random), rules(random));
        if tier == Tier::Namespaced && ingress.is_none() && egress.is_none() {
            // No type at all would mean those that the API sets in their place.
            ingress = Some(Vec::new());
        }
        Self {
            tier,
            priority: random.below(5),
            name: format!("p{number}"),
            namespace: if tier == Tier::Namespaced {
                Some(*random.pick(&NAMESPACES))
            } else {
                maybe(random, &NAMESPACES)
            },
            app: maybe(random, &APPS),
            ingress,
            egress,
        }
    }

    fn selects(&self, party: &Party) -> bool {
        self.namespace.is_none_or(|namespace| namespace == party.namespace)
            && self.app.is_none_or(|app| party.app == Some(app))
    }

    fn yaml(&self) -> String {
        let labels = self.app.map_or("{}".into(), |app| format!("{{matchLabels: {{app: {app}}}}}"));
        let mut text = match self.tier {
            Tier::Namespaced => {
                let types = [("Ingress", &self.ingress), ("Egress", &self.egress)];
                let types = types.iter().filter(|(_, rules)| rules.is_some()).map(|(name, _)| *name);
                format!(
                    "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {}, namespace: {}}}\n\
                     spec:\n  podSelector: {labels}\n  policyTypes: [{}]\n",
                    self.name,
                    self.namespace.unwrap(),
                    types.collect::<Vec<_>>().join(", "),
                )
            }
            tier => {
                let namespaces = self.namespace.map_or("{}".into(), |namespace| {
                    format!("{{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}")
                });
                format!(
                    "---\napiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {{name: {}}}\nspec:\n  tier: {}\n  \
                     priority: {}\n  subject: {{pods: {{namespaceSelector: {namespaces}, podSelector: {labels}}}}}\n",
                    self.name,
                    if tier == Tier::Admin { "Admin" } else { "Baseline" },
                    self.priority,
                )
            }
        };
        for (direction, whom, rules) in [("ingress", "from", &self.ingress), ("egress", "to", &self.egress)] {
            if let Some(rules) = rules {
                let rules: Vec<String> = rules.iter().map(|rule| rule.yaml(self.tier, whom)).collect();
                let _ = writeln!(text, "  {direction}: [{}]", rules.join(", "));
            }
        }
        text
    }
}

/// What the policies' words say of one side of a flow. They are in order.
fn allows(policies: &[Policy], flow: &Flow<'_>, ingress: bool) -> bool {
    let (subject, peer) = if ingress { (flow.to, flow.from) } else { (flow.from, flow.to) };
    let of = |tier: Tier| {
        let selected = policies.iter().filter(move |policy| policy.tier == tier && policy.selects(subject));
        selected
            .filter_map(move |policy| if ingress { policy.ingress.as_ref() } else { policy.egress.as_ref() })
    };
    let first = |tier: Tier| of(tier).flatten().find(|rule| rule.matches(peer, flow)).map(|rule| rule.action);
    match first(Tier::Admin) {
        Some(Action::Allow) => return true,
        Some(Action::Deny) => return false,
        Some(Action::Pass) | None => {}
    }
    if of(Tier::Namespaced).next().is_some() {
        return first(Tier::Namespaced).is_some();
    }
    first(Tier::Baseline) != Some(Action::Deny)
}

#[test]
fn the_program_decides_as_the_words_say() {
    let wanted = std::env::var("CAUSEWAY_PACKETS").map_or(PAIRS, |text| text.parse().unwrap());
    let cluster = Cluster::dual(2);
    let containers: Vec<Container> = (0..4)
        .map(|number: u8| {
            cluster.nodes[0]
                .container(&format!("{}/here-{number}", NAMESPACES[usize::from(number % 2)]), 10 + number)
        })
        .collect();
    let agent = cluster.nodes[0].agent();
    let (mut pairs, mut denied) = (0, 0);
    let rounds = Random::rounds_while(|random| {
        let mut parties = Vec::new();
        let mut pods = Vec::new();
        for (number, container) in containers.iter().enumerate() {
            let app = *random.pick(&APPS);
            pods.push(container.pod(&format!("app: {app}")));
            let addresses = container.addresses();
            parties.push(Party { namespace: NAMESPACES[number % 2], app: Some(app), addresses, here: true });
        }
        for number in 0..6 {
            let (namespace, app) = (*random.pick(&NAMESPACES), *random.pick(&APPS));
            let host = 10 + number;
            let addresses = [format!("10.244.1.{host}"), format!("fd00:10:244:1::{host:x}")]
                .map(|text| text.parse().unwrap());
            pods.push(pod(&format!("{namespace}/there-{number}"), &addresses, &format!("app: {app}")));
            parties.push(Party { namespace, app: Some(app), addresses, here: false });
        }
        let world = [outside_address().into(), outside_address6().into()];
        parties.push(Party { namespace: "", app: None, addresses: world, here: false });
        let mut policies: Vec<Policy> =
            (0..1 + random.below(8)).map(|number| Policy::any(random, number)).collect();
        policies.sort_by_key(|policy| (policy.priority, policy.name.clone()));
        let text: String = policies.iter().map(Policy::yaml).collect();
        cluster.manifests().write("pods.yaml", &pods.join("---\n"));
        cluster.manifests().write("policies.yaml", &text);
        cluster.wait_converged();
        for _ in 0..PER_ROUND {
            let (from, to) = (random.pick(&parties), random.pick(&parties));
            if std::ptr::eq(from, to) || !(from.here || to.here) {
                continue;
            }
            let (family, protocol) = (random.below(2), *random.pick(&["TCP", "UDP"]));
            let port = random.pick(&PORTS) + random.below(2) as u16;
            let flow = Flow { from, to, family, protocol, port };
            let expected = (!from.here || allows(&policies, &flow, false))
                && (!to.here || allows(&policies, &flow, true));
            let [from, to] = [from, to].map(|party| party.addresses[family].to_string());
            let question = json!({"from": from, "to": to, "protocol": protocol, "port": port});
            let said = agent.post("/v1/explain", &question);
            let reason = said["program"]["reason"].as_str().unwrap();
            let called = SocketAddr::new(to.parse().unwrap(), port);
            let context =
                || format!("{from} -> {called} {protocol}\n{text}\n{}\n{said:#}", pods.join("---\n"));
            assert_eq!(!reason.starts_with("drop"), expected, "{}", context());
            assert_eq!(
                (&said["allowed"], &said["agrees"]),
                (&expected.into(), &true.into()),
                "{}",
                context()
            );
            pairs += 1;
            denied += usize::from(!expected);
        }
        pairs < wanted
    });
    println!("{rounds} sets of rules, {pairs} flows, {denied} of them denied");
    let one_seed = std::env::var_os("CAUSEWAY_SEED").is_some();
    assert!(one_seed || denied * 10 > pairs && denied * 10 < pairs * 9, "{denied} of {pairs} show little");
}
