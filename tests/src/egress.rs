//! What the suites about egress addresses have in common: a cluster whose world
//! knows no way to containers, an Egress, and who is seen where.

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use crate::{
    netns::Netns,
    server::Server,
    topology::{Cluster, Container, Node, PATIENCE, UPLINK, outside_address, outside_address6, widen},
    worker::Worker,
};

/// IPv4, IPv6: of the link between the nodes, and nobody's.
pub const EGRESS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 77, 50)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x50)),
];
/// The label of those who leave under them.
pub const LABEL: &str = "leaves=so";
/// Where the world's server listens.
pub const PORT: u16 = 8000;

/// As [`Cluster::masquerading`], with a busy world.
pub fn cluster(nodes: u8) -> Cluster {
    let cluster = Cluster::masquerading(nodes);
    widen(&cluster.outside);
    cluster
}

/// Three nodes, the world's server, and a container on the last that is selected;
/// the first two may hold the addresses, and the first does.
pub fn away() -> (Cluster, Server, Container) {
    let cluster = cluster(3);
    let world = Server::start(&cluster.outside, "world", PORT);
    let container = selected(&cluster.nodes[2], "c", 2);
    hold(&cluster, &["n0", "n1"]);
    (cluster, world, container)
}

/// Lets these nodes hold the addresses, and waits until the first does.
pub fn hold(cluster: &Cluster, nodes: &[&str]) {
    cluster.manifests().write("egress.yaml", &manifest(nodes));
    cluster.wait_converged();
    wait_held(cluster, nodes[0]);
}

/// An Egress of both addresses that these nodes may hold.
pub fn manifest(nodes: &[&str]) -> String {
    let [v4, v6] = EGRESS;
    format!(
        "apiVersion: causeway.io/v1alpha1
kind: Egress
metadata: {{name: out}}
spec:
  subject: {{pods: {{podSelector: {{matchLabels: {{leaves: so}}}}}}}}
  addresses: [{v4}, \"{v6}\"]
  nodes: [{}]
",
        nodes.join(", ")
    )
}

/// A container that the Egress selects.
pub fn selected(node: &Node, name: &str, host: u8) -> Container {
    let container = node.container(name, host);
    label(node, &container, &["--label", LABEL]);
    container
}

/// Attaches a container anew, with these labels.
pub fn label(node: &Node, container: &Container, labels: &[&str]) {
    let [v4, v6] = container.addresses().map(|address| address.to_string());
    let netns = container.netns.path().to_str().unwrap();
    let words = ["endpoint", "attach", &container.name, "--netns", netns, "--address", &v4, "--address", &v6];
    node.agent().ask(&[&words, labels].concat());
}

/// The world's server, by family.
pub fn world() -> [SocketAddr; 2] {
    [outside_address().into(), outside_address6().into()]
        .map(|address: IpAddr| SocketAddr::new(address, PORT))
}

/// Who holds the addresses, as a node sees it.
pub fn holder(node: &Node) -> Option<String> {
    let shown = node.agent().ask(&["show", "egress"]);
    shown[0]["holder"].as_str().map(Into::into)
}

/// Waits until these nodes, and no others, have the addresses, and all agree.
pub fn wait_held(cluster: &Cluster, expected: &str) {
    let begun = Instant::now();
    loop {
        let mut seen = String::new();
        let mut good = true;
        for node in &cluster.nodes {
            let has = has(node);
            let believes = holder(node);
            good &=
                has == [node.name == expected; 2] && believes.as_deref().is_none_or(|name| name == expected);
            let _ = write!(seen, "{}: has {has:?}, believes {believes:?}; ", node.name);
        }
        if good && seen.contains("Some(") {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{expected} does not hold them after {PATIENCE:?}: {seen}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Which of the addresses are on a node's uplink.
pub fn has(node: &Node) -> [bool; 2] {
    let shown = node.netns.ip(&format!("-o address show dev {UPLINK}"));
    EGRESS.map(|address| shown.contains(&format!(" {address}/")))
}

/// New connections to the world, several a second, none of which waits long: when
/// they were made.
pub struct Attempts(Worker<Vec<Instant>>);

/// How long one of them waits.
const IMPATIENCE: Duration = Duration::from_millis(150);

impl Attempts {
    pub fn start(netns: &Netns, to: SocketAddr) -> Self {
        Self(Worker::start(netns, move |stop| {
            let mut made = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if attempt(to).is_ok() {
                    made.push(Instant::now());
                }
                thread::sleep(Duration::from_millis(20));
            }
            made
        }))
    }

    /// The longest time from `since` on without a new connection.
    pub fn gap(self, since: Instant) -> Duration {
        let mut made = self.0.end();
        made.retain(|at| *at >= since);
        made.insert(0, since);
        made.push(Instant::now());
        made.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

fn attempt(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&to, IMPATIENCE).map(drop)
}
