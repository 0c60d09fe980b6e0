//! Where cases are played: two nodes, nine pods, a host outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
    thread,
};

use super::{
    Case, Party, pods,
    probe::{self, PORTS, Way},
};
use crate::{
    netns::Netns,
    server::Server,
    topology::{Cluster, Container, node_address, node_address6, outside_address, outside_address6},
};

pub struct Stage {
    pub cluster: Cluster,
    containers: Vec<(Party, Container)>,
    _servers: Vec<Server>,
}

/// A way that is not as the case has it.
#[derive(Clone, Debug)]
pub struct Difference {
    pub way: Way,
    pub expected: bool,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Way { from, to, port, v6 } = &self.way;
        let family = if *v6 { "IPv6" } else { "IPv4" };
        let (expected, got) = if self.expected { ("allowed", "denied") } else { ("denied", "allowed") };
        write!(f, "{from} -> {to} {port} {family}: expected {expected}, but {got}")
    }
}

impl Stage {
    pub fn new() -> Self {
        let cluster = Cluster::dual(2);
        let ports = [80, 81];
        let mut containers = Vec::new();
        let mut servers = vec![Server::start_on(&cluster.outside, "outside", &ports)];
        for (index, (namespace, name)) in pods().enumerate() {
            let node = &cluster.nodes[index % 2];
            let container = node.container(&format!("{namespace}/{name}"), 10 + index as u8);
            servers.push(Server::start_on(&container.netns, &container.name, &ports));
            containers.push((Party::Pod(namespace.into(), name.into()), container));
        }
        cluster.wait_converged();
        Self { cluster, containers, _servers: servers }
    }

    /// Plays a case; the ways that are not as it says.
    pub fn play(&self, case: &Case) -> Vec<Difference> {
        self.set(case);
        let open = self.open();
        let ways = self.ways();
        let differs = |(way, _): &(Way, IpAddr)| {
            let expected = case.allows(way);
            (expected != open.contains(way)).then(|| Difference { way: way.clone(), expected })
        };
        ways.iter().filter_map(differs).collect()
    }

    /// Writes a case's manifests, in place of those before, and waits.
    pub fn set(&self, case: &Case) {
        self.cluster.manifests().write("stage.yaml", &self.yaml(case));
        // An agent takes nothing away for a file without a document.
        let file = self.cluster.manifests().file("case.yaml");
        match case.manifests.trim() {
            "" if file.exists() => self.cluster.manifests().remove("case.yaml"),
            "" => {}
            manifests => self.cluster.manifests().write("case.yaml", manifests),
        }
        self.cluster.wait_converged();
    }

    /// All ways that are open now.
    pub fn open(&self) -> BTreeSet<Way> {
        let mut by_party: BTreeMap<Party, Vec<(Way, IpAddr)>> = BTreeMap::new();
        for (way, to) in self.ways() {
            by_party.entry(way.from.clone()).or_default().push((way, to));
        }
        thread::scope(|scope| {
            let probes: Vec<_> = by_party
                .iter()
                .map(|(party, ways)| scope.spawn(|| self.netns(party).run(|| probe::open(ways))))
                .collect();
            probes.into_iter().flat_map(|probe| probe.join().unwrap()).collect()
        })
    }

    /// What the agents know that the case's own manifests do not say.
    pub fn addresses(&self, party: &Party) -> [IpAddr; 2] {
        match party {
            Party::Outside => [outside_address().into(), outside_address6().into()],
            Party::Host(number) => [node_address(number - 1).into(), node_address6(number - 1).into()],
            Party::Pod(..) => {
                let container = self.container(party);
                [container.address.into(), container.address6.unwrap().into()]
            }
        }
    }

    pub fn container(&self, party: &Party) -> &Container {
        let found = self.containers.iter().find(|(pod, _)| pod == party);
        &found.unwrap_or_else(|| panic!("{party} is no pod of the stage")).1
    }

    fn netns(&self, party: &Party) -> &Netns {
        match party {
            Party::Outside => &self.cluster.outside,
            Party::Host(number) => &self.cluster.nodes[usize::from(number - 1)].netns,
            Party::Pod(..) => &self.container(party).netns,
        }
    }

    fn ways(&self) -> Vec<(Way, IpAddr)> {
        let pods: Vec<Party> = self.containers.iter().map(|(party, _)| party.clone()).collect();
        let sources = pods.iter().cloned().chain([Party::Host(1), Party::Host(2), Party::Outside]);
        let targets: Vec<Party> = pods.iter().cloned().chain([Party::Outside]).collect();
        let mut ways = Vec::new();
        for from in sources {
            for to in targets.iter().filter(|to| **to != from) {
                // Hosts among themselves are nobody's business here.
                if *to == Party::Outside && !matches!(from, Party::Pod(..)) {
                    continue;
                }
                for port in PORTS {
                    for (v6, address) in [false, true].into_iter().zip(self.addresses(to)) {
                        ways.push((Way { from: from.clone(), to: to.clone(), port, v6 }, address));
                    }
                }
            }
        }
        ways
    }

    fn yaml(&self, case: &Case) -> String {
        let mut yaml = String::new();
        for namespace in super::NAMESPACES {
            let more = labels(case.namespaces.get(namespace));
            writeln!(yaml, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{ns: {namespace}{more}}}}}").unwrap();
        }
        for (party, container) in &self.containers {
            let Party::Pod(namespace, name) = party else { continue };
            let key = party.to_string();
            let more = labels(case.pods.get(&key));
            let usual = PORTS.map(|port| {
                let protocol = format!("{:?}", port.protocol).to_lowercase();
                (format!("serve-{}-{protocol}", port.number), port)
            });
            let named = case.ports.get(&key).cloned().unwrap_or_else(|| usual.into());
            let ports: Vec<String> = named
                .iter()
                .map(|(name, port)| {
                    let (number, protocol) = (port.number, format!("{:?}", port.protocol).to_uppercase());
                    format!("{{name: {name}, containerPort: {number}, protocol: {protocol}}}")
                })
                .collect();
            let node = &self.cluster.nodes[usize::from(container.address.octets()[2])].name;
            writeln!(
                yaml,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{pod: {name}{more}}}}}\n\
                 spec: {{nodeName: {node}, containers: [{{name: main, ports: [{}]}}]}}\n\
                 status: {{phase: Running, podIPs: [{{ip: {}}}, {{ip: \"{}\"}}]}}",
                ports.join(", "),
                container.address,
                container.address6.unwrap(),
            )
            .unwrap();
        }
        yaml
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

fn labels(more: Option<&BTreeMap<String, String>>) -> String {
    more.into_iter().flatten().map(|(key, value)| format!(", {key}: {value:?}")).collect()
}
