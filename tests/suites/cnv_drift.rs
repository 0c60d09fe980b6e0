//! CNV-06: what a foreign hand breaks, is it mended and reported within a second?

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddrV4, TcpStream},
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::requests,
    manifest::{self, Port, Service},
    pinned::Pinned,
    table::Table,
    topology::{Cluster, Container, Node, vip},
    wire::Protocol,
};

const PROMISE: Duration = Duration::from_secs(1);
/// How keys begin that stand for no policy: of what is sealed until the agent
/// knows better, which it writes at its start alone.
const UNUSED: [u8; 4] = [u8::MAX; 4];

/// Two nodes, a service with a backend on each, a client on the first.
struct Rig {
    cluster: Cluster,
    client: Container,
    _servers: Vec<(Container, causeway_testkit::server::Server)>,
}

impl Rig {
    fn new() -> Self {
        let cluster = Cluster::running(2);
        let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
        let _servers = cluster.serve(&web, 1);
        let client = cluster.nodes[0].container("client", 100);
        cluster.wait_converged();
        let rig = Self { cluster, client, _servers };
        rig.assert_serves();
        rig
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    fn assert_serves(&self) {
        let to = SocketAddrV4::new(vip(1), 80);
        let report = requests(&self.client.netns, to, 40, Protocol::Tcp);
        report.assert_clean(40, to);
        assert_eq!(report.by_server.len(), 2, "{report}");
    }

    /// Breaks something, and waits until `whole` holds again and it is reported.
    fn mended(&self, what: &str, spoil: impl FnOnce(), whole: impl Fn() -> bool) {
        assert!(whole(), "{what}: broken before it was touched");
        let before = self.node().agent().status().drift.repaired;
        let begun = Instant::now();
        spoil();
        while !whole() {
            assert!(begun.elapsed() < PROMISE * 3, "{what}: not mended");
            thread::sleep(Duration::from_millis(5));
        }
        let took = begun.elapsed();
        println!("{what}: mended after {took:?}");
        assert!(took < PROMISE, "{what}: mended after {took:?}");
        let status =
            self.node().agent().wait_status("reported", PROMISE, |status| status.drift.repaired > before);
        assert!(!status.drift.last.is_empty(), "{what}: {:?}", status.drift);
        self.cluster.wait_converged();
        self.assert_serves();
    }
}

#[test]
fn rows_of_hash_maps_are_mended() {
    let rig = Rig::new();
    let pinned = Pinned::new(rig.node().agent().pins());
    spoil_table(&rig, &pinned, "FRONTENDS_V4");
    spoil_table(&rig, &pinned, "EP_KEYS_V4");
}

/// Deletes each row, alters it, adds a foreign one.
fn spoil_table(rig: &Rig, pinned: &Pinned, map: &str) {
    let opened = pinned.hash_map(map);
    let table = Table::of(&opened);
    let rows = || -> BTreeMap<Vec<u8>, Vec<u8>> {
        let keys = table.keys().into_iter().filter(|key| !key.starts_with(&UNUSED));
        keys.filter_map(|key| table.get(&key).map(|row| (key, row))).collect()
    };
    let right = rows();
    assert!(!right.is_empty(), "{map} is empty");
    for (key, row) in &right {
        rig.mended(&format!("{map}: a row deleted"), || table.remove(key), || rows() == right);
        let mut wrong = row.clone();
        wrong[0] ^= 0x55;
        rig.mended(&format!("{map}: a row altered"), || table.put(key, &wrong), || rows() == right);
    }
    let (key, row) = right.first_key_value().unwrap();
    let mut other = key.clone();
    *other.last_mut().unwrap() ^= 0x55;
    rig.mended(&format!("{map}: a row added"), || table.put(&other, row), || rows() == right);
}

#[test]
fn rows_of_arrays_are_mended() {
    let rig = Rig::new();
    let pinned = Pinned::new(rig.node().agent().pins());
    spoil_array::<16>(&rig, &pinned, "SERVICES_V4", 0);
    spoil_array::<8>(&rig, &pinned, "BACKENDS_V4", 0);
    spoil_array::<64>(&rig, &pinned, "ARENA_V4", 0);
    spoil_array::<16>(&rig, &pinned, "ENDPOINTS_V4", 0);
}

/// What is allowed is so again, and what is denied.
#[test]
fn policies_are_mended() {
    let rig = Rig::new();
    let (home, web) = (rig.node(), &rig._servers[0].0);
    let foe = home.container("foe", 101);
    let pod = |name: &str, address| manifest::pod(name, "n0", address);
    let pods = [pod("web", web.address), pod(&rig.client.name, rig.client.address), pod("foe", foe.address)];
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: guard}}\nspec:\n  podSelector: {{}}\n\
         \x20 ingress: [{{from: [{{ipBlock: {{cidr: {}/32}}}}], ports: [{{port: 8080}}]}}]\n",
        rig.client.address
    );
    rig.cluster.manifests().write("policy.yaml", &[pods.as_slice(), &[policy]].concat().join("---\n"));
    rig.cluster.wait_converged();
    let pinned = Pinned::new(home.agent().pins());
    spoil_table(&rig, &pinned, "SETS");
    spoil_table(&rig, &pinned, "CLASSES_V4");
    spoil_array::<8>(&rig, &pinned, "STEPS", 1);
    spoil_array::<8>(&rig, &pinned, "POLICIES", 4);
    spoil_array::<4>(&rig, &pinned, "POLICY", 0);
    let tried = foe.netns.run(|| TcpStream::connect_timeout(&(web.address, 8080).into(), PROMISE));
    assert_eq!(tried.unwrap_err().kind(), ErrorKind::TimedOut);
}

/// Zeroes the first row in use at or behind `first`, and flips a bit in it.
fn spoil_array<const N: usize>(rig: &Rig, pinned: &Pinned, map: &str, first: u32) {
    let row = |index| pinned.array::<N>(map).get(&index, 0).unwrap();
    let index = (first..256).find(|&index| row(index) != [0; N]).unwrap_or_else(|| panic!("{map} is empty"));
    let right = row(index);
    let mut flipped = right;
    flipped[0] ^= 1;
    for (what, wrong) in [("zeroed", [0; N]), ("altered", flipped)] {
        let spoil = || pinned.array::<N>(map).set(index, wrong, 0).unwrap();
        rig.mended(&format!("{map}: a row {what}"), spoil, || row(index) == right);
    }
}

#[test]
fn routes_are_mended() {
    let rig = Rig::new();
    let node = rig.node();
    let client = rig.client.address.to_string();
    for destination in [rig.cluster.nodes[1].pod_cidr(), client] {
        let there = || !node.netns.ip(&format!("route show {destination}")).is_empty();
        let delete = || drop(node.netns.ip(&format!("route del {destination}")));
        rig.mended(&format!("route to {destination} deleted"), delete, there);
    }
}

#[test]
fn links_are_mended() {
    let rig = Rig::new();
    let node = rig.node();
    let pinned = Pinned::new(node.agent().pins());
    let attached = || pinned.attached();
    let right = attached();
    assert!(right >= 2, "only {right} programs attached");
    let detach = || assert!(pinned.detach_links() > 0, "no link is pinned");
    rig.mended("programs detached", detach, || attached() == right);
}
