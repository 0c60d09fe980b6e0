//! What the suites about egress addresses have in common: a cluster whose world
//! knows no way to containers, an Egress, and who is seen where.

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    netns::Netns,
    topology::{Cluster, Container, Node, UPLINK, outside_address, outside_address6, widen},
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

/// Nodes that masquerade, and a world that knows the way to them alone.
pub fn cluster(nodes: u8) -> Cluster {
    let config = "masquerade = true\nnative = [\"10.0.0.0/8\", \"fd00:10::/32\"]\n";
    let cluster = Cluster::configured(nodes, config);
    for node in &cluster.nodes {
        cluster.outside.ip(&format!("route del {}", node.pod_cidr()));
        cluster.outside.ip(&format!("-6 route del {}", node.pod_cidr6()));
    }
    widen(&cluster.outside);
    cluster
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
    let (v4, v6) = (container.address.to_string(), container.address6.unwrap().to_string());
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
pub fn wait_held(cluster: &Cluster, expected: &str, patience: Duration) {
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
        assert!(begun.elapsed() < patience, "{expected} does not hold them after {patience:?}: {seen}");
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
pub struct Attempts {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Instant>>,
}

/// How long one of them waits.
const IMPATIENCE: Duration = Duration::from_millis(150);

impl Attempts {
    pub fn start(netns: &Netns, to: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let thread = netns.spawn_thread({
            let stop = stop.clone();
            move || {
                let mut made = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    if attempt(to).is_ok() {
                        made.push(Instant::now());
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                made
            }
        });
        Self { stop, thread }
    }

    /// The longest time from `since` on without a new connection.
    pub fn gap(self, since: Instant) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut made = self.thread.join().unwrap();
        made.retain(|at| *at >= since);
        made.insert(0, since);
        made.push(Instant::now());
        made.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

fn attempt(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&to, IMPATIENCE).map(drop)
}
