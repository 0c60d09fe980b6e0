//! SVC-23, SRC-12: which endpoints serve a service at which node? Each line of
//! selection.txt is asked of the library, and of an agent (`causeway explain
//! service`) that has read the case as manifests, for both families.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
    sync::Arc,
};

use causeway::{
    event::{Distribution, EndpointState, Place, SliceEndpoint},
    model::{
        desired::Scope,
        selection::{Choice, Here},
    },
};
use causeway_testkit::{manifest::Manifests, topology::Cluster};

const ZONES: [(&str, Option<&str>); 5] =
    [("n1", Some("z1")), ("n2", Some("z1")), ("n3", Some("z2")), ("n4", None), ("n5", Some("z3"))];

#[derive(Debug, Default)]
struct Case<'a> {
    name: &'a str,
    distribution: Option<&'a str>,
    endpoints: Vec<Endpoint<'a>>,
    /// By node: who serves, in each scope.
    expected: BTreeMap<&'a str, [BTreeSet<&'a str>; 2]>,
}

#[derive(Debug)]
struct Endpoint<'a> {
    name: &'a str,
    conditions: &'a str,
    node: Option<&'a str>,
    zone: Option<&'a str>,
    for_zones: Vec<&'a str>,
    for_nodes: Vec<&'a str>,
}

fn cases() -> Vec<Case<'static>> {
    let mut cases: Vec<Case> = Vec::new();
    for line in include_str!("../selection.txt").lines() {
        if let Some(title) = line.strip_prefix("case ") {
            let (name, distribution) = match title.split_once("; ") {
                Some((name, distribution)) => (name, Some(distribution)),
                None => (title, None),
            };
            cases.push(Case { name, distribution, ..Case::default() });
        } else if let Some((node, expected)) = line.split_once('=') {
            let (cluster, local) = expected.split_once('|').unwrap();
            let sets = [cluster, local].map(|names| names.split_whitespace().collect());
            cases.last_mut().unwrap().expected.insert(node.trim(), sets);
        } else if line.starts_with("  ") {
            cases.last_mut().unwrap().endpoints.push(endpoint(line));
        }
    }
    cases
}

fn endpoint(line: &'static str) -> Endpoint<'static> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [name, conditions, node, zone, hints @ ..] = &words[..] else { panic!("{line}") };
    let named = |word: &'static str| Some(word).filter(|word| *word != "-");
    let hinted = |prefix: &str| {
        let hints = hints.iter().find_map(|hint| hint.strip_prefix(prefix));
        hints.map(|hints| hints.split(',').collect()).unwrap_or_default()
    };
    let (for_zones, for_nodes) = (hinted("z:"), hinted("n:"));
    Endpoint { name, conditions, node: named(node), zone: named(zone), for_zones, for_nodes }
}

impl Endpoint<'_> {
    fn address(&self, six: bool) -> IpAddr {
        let host = self.name.as_bytes()[0] - b'a' + 1;
        if six { format!("fd00:10:244:7::{host}").parse().unwrap() } else { [10, 244, 7, host].into() }
    }

    fn object(&self) -> SliceEndpoint {
        let names = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        let state = match self.conditions {
            "ready" | "silent" | "kept" => EndpointState::Ready,
            "terminating" => EndpointState::Draining,
            _ => EndpointState::NotReady,
        };
        let place = Place {
            zone: self.zone.map(Into::into),
            for_zones: names(&self.for_zones),
            for_nodes: names(&self.for_nodes),
        };
        SliceEndpoint {
            address: self.address(false),
            state,
            node: self.node.map(Into::into),
            place: Some(Arc::new(place)),
        }
    }

    fn yaml(&self, six: bool) -> String {
        let conditions = match self.conditions {
            "ready" => "ready: true, serving: true, terminating: false",
            "unready" => "ready: false, serving: false, terminating: false",
            "terminating" => "ready: false, serving: true, terminating: true",
            "dead" => "ready: false, serving: false, terminating: true",
            "kept" => "ready: true, serving: false, terminating: true",
            "silent" => "",
            other => panic!("{other}"),
        };
        let mut text = format!("- addresses: [\"{}\"]\n  conditions: {{{conditions}}}\n", self.address(six));
        for (field, name) in [("nodeName", self.node), ("zone", self.zone)] {
            name.iter().for_each(|name| writeln!(text, "  {field}: {name}").unwrap());
        }
        let hints = |names: &[&str]| -> String {
            names.iter().map(|name| format!("{{name: {name}}}")).collect::<Vec<_>>().join(", ")
        };
        let mut given = Vec::new();
        for (field, names) in [("forZones", &self.for_zones), ("forNodes", &self.for_nodes)] {
            if !names.is_empty() {
                given.push(format!("{field}: [{}]", hints(names)));
            }
        }
        if !given.is_empty() {
            writeln!(text, "  hints: {{{}}}", given.join(", ")).unwrap();
        }
        text
    }
}

impl Case<'_> {
    /// With a local policy for the outside, so that both scopes are there.
    fn write(&self, manifests: &Manifests) {
        let distribution = self.distribution.map(|word| format!("  trafficDistribution: {word}\n"));
        manifests.write(
            "web.service.yaml",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  type: NodePort\n  clusterIP: 10.96.0.1\n  clusterIPs: [10.96.0.1, \"fd00:10:96::1\"]\n  externalTrafficPolicy: Local\n{}  ports: [{{name: http, port: 80, nodePort: 30080}}]\n",
                distribution.unwrap_or_default()
            ),
        );
        for (six, family) in [(false, "IPv4"), (true, "IPv6")] {
            let endpoints: String = self.endpoints.iter().map(|endpoint| endpoint.yaml(six)).collect();
            let listed = if endpoints.is_empty() {
                "endpoints: []\n".to_owned()
            } else {
                format!("endpoints:\n{endpoints}")
            };
            manifests.write(
                &format!("web.{family}.yaml"),
                &format!(
                    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-{}\n  namespace: default\n  labels: {{kubernetes.io/service-name: web}}\naddressType: {family}\nports: [{{name: http, port: 8080}}]\n{listed}",
                    family.to_lowercase()
                ),
            );
        }
    }
}

#[test]
fn the_library_selects_as_documented() {
    let mut asked = 0;
    for case in cases() {
        let distribution = match case.distribution {
            None => None,
            Some("PreferSameNode") => Some(Distribution::SameNode),
            Some(_) => Some(Distribution::SameZone),
        };
        let objects: Vec<SliceEndpoint> = case.endpoints.iter().map(Endpoint::object).collect();
        for (node, zone) in ZONES {
            for (scope, expected) in [Scope::Cluster, Scope::Local].into_iter().zip(&case.expected[node]) {
                let choice = Choice::of(objects.iter(), scope, distribution, Here { node, zone });
                let chosen = case.endpoints.iter().zip(&objects);
                let chosen = chosen.filter(|(_, object)| choice.fate(object).serves());
                let chosen: BTreeSet<&str> = chosen.map(|(endpoint, _)| endpoint.name).collect();
                assert_eq!(chosen, *expected, "{}: at {node}, {scope}", case.name);
                asked += 1;
            }
        }
    }
    assert!(asked >= 290, "{asked} cases");
}

#[test]
fn an_agent_selects_as_documented_and_says_so() {
    let cluster = Cluster::dual(1);
    let nodes = ZONES.map(|(name, zone)| {
        let labels = zone.map(|zone| format!(", labels: {{topology.kubernetes.io/zone: {zone}}}"));
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}{}}}\n", labels.unwrap_or_default())
    });
    cluster.manifests().write("zones.yaml", &nodes.join("---\n"));
    let agent = cluster.nodes[0].agent();
    for case in cases() {
        case.write(cluster.manifests());
        cluster.wait_converged();
        for (node, expected) in &case.expected {
            let told = agent.cli(&["explain", "service", "web", "--node", node]).json;
            assert_eq!(told["node"], **node);
            let ports = told["ports"].as_array().unwrap();
            assert_eq!(ports.len(), 2, "{told}");
            for (port, (scope, expected)) in ports.iter().zip(["cluster", "local"].into_iter().zip(expected))
            {
                assert_eq!(port["scope"], scope, "{told}");
                let serving = port["endpoints"].as_array().unwrap().iter();
                let serving = serving.filter(|endpoint| endpoint["serves"] == true);
                let chosen: BTreeSet<&str> =
                    serving.map(|endpoint| endpoint["address"].as_str().unwrap()).collect();
                let wanted: Vec<String> = case
                    .endpoints
                    .iter()
                    .filter(|endpoint| expected.contains(endpoint.name))
                    .flat_map(|endpoint| [false, true].map(|six| endpoint.address(six)))
                    .map(|address| std::net::SocketAddr::new(address, 8080).to_string())
                    .collect();
                let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
                assert_eq!(chosen, wanted, "{}: at {node}, {scope}: {told}", case.name);
            }
        }
        // It is what this node, which has no zone, wants for its maps.
        let said = agent.cli(&["explain", "service", "default/web"]).json;
        let shown = agent.ask(&["show", "services"]);
        for (port, service) in said["ports"].as_array().unwrap().iter().zip(shown.as_array().unwrap()) {
            assert_eq!(port["name"], service["name"]);
            let serving = port["endpoints"].as_array().unwrap().iter();
            let serving = serving.filter(|endpoint| endpoint["serves"] == true);
            let serving: BTreeSet<_> =
                serving.map(|endpoint| endpoint["address"].as_str().unwrap()).collect();
            let backends = service["backends"].as_array().unwrap().iter();
            let backends: BTreeSet<_> =
                backends.map(|backend| backend["address"].as_str().unwrap()).collect();
            assert_eq!(serving, backends, "{}: {said}", case.name);
        }
    }
    let unknown = agent.cli(&["explain", "service", "web", "--node", "n9"]).stderr;
    assert!(unknown.contains("node n9: no source has such a Node"), "{unknown}");
    let unknown = agent.cli(&["explain", "service", "web-2"]).stderr;
    assert!(unknown.contains("service default/web-2: no source has one"), "{unknown}");
    // Whatever is typed is a name.
    for name in ["a b", "web&node=n2", "web#"] {
        let unknown = agent.cli(&["explain", "service", name]).stderr;
        assert!(unknown.contains(&format!("service default/{name}: no source has one")), "{unknown}");
        let unknown = agent.cli(&["explain", "service", "web", "--node", name]).stderr;
        assert!(unknown.contains(&format!("node {name}: no source has such a Node")), "{unknown}");
    }
    // Of what it loses to another, this node says so.
    let rival = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: default}\nspec:\n  type: NodePort\n  clusterIP: 10.96.0.2\n  externalTrafficPolicy: Local\n  ports: [{name: http, port: 80, nodePort: 30080}]\n";
    cluster.manifests().write("a.yaml", rival);
    cluster.wait_converged();
    let said = agent.cli(&["explain", "service", "web"]).json;
    for (port, whom) in said["ports"].as_array().unwrap().iter().zip(["", " from outside"]) {
        let [lost] = &port["lost"].as_array().unwrap()[..] else { panic!("{said}") };
        let expected = format!("0.0.0.0:30080/TCP{whom} already belongs to service default/a:http");
        assert!(lost.as_str().unwrap().starts_with(&expected), "{said}");
    }
}
