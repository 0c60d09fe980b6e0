//! POL-04: does anything run out, grow or become slow, when policies look at
//! very many pods that all have other labels, and these and endpoints change all
//! the time? `CAUSEWAY_SCALE_PODS` and `CAUSEWAY_SCALE_SECONDS` (an even number)
//! say how many and how long: 200000 and 60 are what the check asks for.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, Map, MapData};
use bytemuck::{bytes_of, pod_read_unaligned};
use causeway_schema::{
    Endpoint, Hop, V4,
    policy::{PeerKey, Standing},
};
use causeway_testkit::{
    agent::Agent,
    pinned::Pinned,
    table::Table,
    topology::{Cluster, Container},
};

/// Objects in a file.
const DOCUMENTS: u32 = 1000;
const NAMESPACES: u32 = 100;
/// Endpoints, each in a namespace of its own.
const HERE: u8 = 10;
/// Pods that change, each in a file of its own, so that a change is small.
const CHANGING: u32 = 100;
/// Two changes in that time: a pod's, and an endpoint's.
const PAUSE: Duration = Duration::from_millis(10);
/// For half of them, from the file's to the row's.
const QUICK: Duration = Duration::from_millis(10);
/// Between two looks at the rows.
const LOOK: Duration = Duration::from_micros(200);
const GIVEN_UP: Duration = Duration::from_secs(5);
/// Until a large directory has been read.
const PATIENCE: Duration = Duration::from_secs(300);

fn setting(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + number)
}

/// No two have the same labels.
fn pod(number: u32) -> String {
    let (namespace, app, rank) = (number % NAMESPACES, number % 50, number % 13);
    let address = address(number);
    let six = address.to_ipv6_mapped().segments();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}, namespace: ns{namespace}, \
         labels: {{app: a{app}, rank: r{rank}, id: i{number}}}}}\n\
         status: {{podIPs: [{{ip: {address}}}, {{ip: \"fd11::{:x}:{:x}\"}}]}}\n",
        six[6], six[7]
    )
}

/// One of those that change: let in by all endpoints, or not.
fn changing(number: u32, round: u32) -> String {
    let address = changing_address(number);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: c{number}, namespace: ns{}, labels: {{let: {}, id: c{number}}}}}\n\
         status: {{podIPs: [{{ip: {address}}}]}}\n",
        number % NAMESPACES,
        if round.is_multiple_of(2) { "out" } else { "in" },
    )
}

fn changing_address(number: u32) -> Ipv4Addr {
    address(0x00ff_0000 + number)
}

/// The Pod of an endpoint: closed to most, or not.
fn own(container: &Container, round: u32) -> String {
    container.pod(if round.is_multiple_of(2) { "shut: never" } else { "shut: now" })
}

/// Rules that tell pods apart by namespace, by labels of many, and by one of its
/// own; every pod has a row.
fn policies() -> String {
    let mut text = String::new();
    for number in 0..NAMESPACES {
        let far = format!(
            "{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{rank: r{}, app: a{}}}}}}}",
            number % 13,
            number % 50
        );
        let some = "{namespaceSelector: {}, podSelector: {matchExpressions: [{key: id, operator: Exists}]}}";
        let _ = write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: ns{number}}}\n\
             spec:\n  podSelector: {{}}\n  ingress:\n\
             \x20 - from: [{{podSelector: {{matchLabels: {{app: a{}}}}}}}, {{ipBlock: {{cidr: 192.0.2.0/24}}}}]\n\
             \x20 - from: [{far}, {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{id: i{number}}}}}}}]\n\
             \x20   ports: [{{port: 80}}]\n\
             \x20 - from: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{let: in}}}}}}]\n\
             \x20 - from: [{some}]\n    ports: [{{port: 9, protocol: UDP}}]\n",
            number % 50
        );
    }
    text.push_str(
        "---\napiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {name: shut}\nspec:\n  tier: Admin\n  priority: 1\n\
         \x20 subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {shut: now}}}}\n\
         \x20 ingress: [{name: all, action: Deny, from: [{networks: [192.0.2.0/24]}]}]\n",
    );
    text
}

/// Resident, in kilobytes.
fn memory(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What the programs read.
struct Rows {
    classes: Map,
    standing: Array<MapData, [u8; 4]>,
    policies: Array<MapData, [u8; 8]>,
    hops: HashMap<MapData, [u8; 4], [u8; 4]>,
    endpoints: Array<MapData, [u8; 16]>,
}

/// What changes.
#[derive(Clone, Copy, PartialEq)]
enum Row {
    /// The class of an address.
    Class(Ipv4Addr),
    /// The sets of rules of an endpoint.
    Sets(Ipv4Addr),
}

impl Rows {
    fn open(pinned: &Pinned) -> Self {
        Self {
            classes: pinned.trie("CLASSES_V4"),
            standing: pinned.array("POLICY"),
            policies: pinned.array("POLICIES"),
            hops: pinned.table("EP_KEYS_V4"),
            endpoints: pinned.array("ENDPOINTS_V4"),
        }
    }

    fn standing(&self) -> Standing {
        Standing(u32::from_ne_bytes(self.standing.get(&0, 0).unwrap()))
    }

    fn classes(&self) -> usize {
        Table::of(&self.classes).keys().len()
    }

    fn read(&self, row: Row) -> Vec<u8> {
        match row {
            Row::Class(address) => {
                let key = PeerKey::exactly(self.standing().generation(), V4::from(address));
                Table::of(&self.classes).get(bytes_of(&key)).unwrap_or_default()
            }
            Row::Sets(address) => {
                let hop = Hop(u32::from_ne_bytes(self.hops.get(&address.octets(), 0).unwrap()));
                let row: Endpoint = pod_read_unaligned(&self.endpoints.get(&hop.slot(), 0).unwrap());
                self.policies.get(&self.standing().row(row.policy), 0).unwrap().to_vec()
            }
        }
    }
}

fn settled(agent: &Agent) {
    agent.wait_converged(PATIENCE);
    // What is out of use rests for a second or two before it goes.
    thread::sleep(Duration::from_secs(3));
    agent.wait_converged(PATIENCE);
}

#[test]
fn many_pods_change_and_nothing_runs_out() {
    let pods = setting("CAUSEWAY_SCALE_PODS", 20_000);
    let seconds = setting("CAUSEWAY_SCALE_SECONDS", 4);
    let cluster = Cluster::configured(1, "");
    let (agent, manifests) = (cluster.nodes[0].agent(), cluster.manifests());
    let containers: Vec<Container> = (0..HERE)
        .map(|number| cluster.nodes[0].container(&format!("ns{number}/e{number}"), 2 + number))
        .collect();
    let start = Instant::now();
    manifests.write("policies.yaml", &policies());
    for first in (0..pods).step_by(DOCUMENTS as usize) {
        let text: String = (first..pods.min(first + DOCUMENTS)).map(pod).collect();
        manifests.write(&format!("pods-{first}.yaml"), &text);
    }
    (0..CHANGING).for_each(|number| manifests.write(&format!("c{number}.yaml"), &changing(number, 0)));
    for container in &containers {
        manifests.write(&format!("{}.yaml", container.name.replace('/', "-")), &own(container, 0));
    }
    settled(agent);
    println!("{pods} pods read and written after {:?}", start.elapsed());

    let rows = Rows::open(&Pinned::new(agent.pins()));
    let there = rows.classes();
    assert!(there >= (pods + CHANGING) as usize, "{there} rows for {pods} pods");
    let before = (there, memory(agent), agent.status());
    // Every other change is an endpoint's: it gets another set of rules. An even number of
    // rounds, so that all is as it was.
    let change = |index: u32| {
        let (endpoint, number) = (index % 2 == 1, index / 2 % CHANGING);
        if endpoint {
            let container = &containers[(number % u32::from(HERE)) as usize];
            let text = own(container, index / 2 / u32::from(HERE) + 1);
            (Row::Sets(container.address), format!("{}.yaml", container.name.replace('/', "-")), text)
        } else {
            let text = changing(number, index / 2 / CHANGING + 1);
            (Row::Class(changing_address(number)), format!("c{number}.yaml"), text)
        }
    };
    let (start, count) = (Instant::now(), seconds * 200);
    let (mut next, mut blocked, mut latencies) = (0, false, [Vec::new(), Vec::new()]);
    let mut open: Vec<(Row, Vec<u8>, Instant)> = Vec::new();
    while next < count || !open.is_empty() {
        let due = start + PAUSE / 2 * next;
        if next < count && due <= Instant::now() {
            let (row, file, text) = change(next);
            // Whoever is late makes nobody wait, unless it is as late as that its row is to
            // change again: that change counts from when it was due.
            let old = rows.read(row);
            if open.iter().all(|(other, ..)| *other != row) {
                manifests.write(&file, &text);
                // The disk may have taken its time until the file was there.
                open.push((row, old, if blocked { due } else { Instant::now() }));
                (next, blocked) = (next + 1, false);
            } else {
                blocked = true;
            }
        }
        open.retain(|(row, old, began)| {
            let waits = rows.read(*row) == *old;
            if !waits {
                latencies[usize::from(matches!(row, Row::Sets(_)))].push(began.elapsed());
            }
            assert!(began.elapsed() < GIVEN_UP, "a change does not reach the map");
            waits
        });
        thread::sleep(LOOK);
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    for (whose, mut latencies) in ["pods", "endpoints"].into_iter().zip(latencies) {
        latencies.sort_unstable();
        let at = |part: usize| latencies[latencies.len() * part / 100];
        let late = latencies.iter().filter(|took| **took >= QUICK).count();
        println!(
            "{} changes of {whose}: median {:?}, 90% {:?}, 99% {:?}, slowest {:?}, {late} of {QUICK:?} or more",
            latencies.len(),
            at(50),
            at(90),
            at(99),
            latencies.last().unwrap()
        );
        assert!(at(50) < QUICK, "{whose}: the median is {:?}", at(50));
    }
    println!("{rate:.0} changes a second for {seconds} s");
    settled(agent);
    let after = (rows.classes(), memory(agent), agent.status());
    println!("rows {} -> {}, memory {} kB -> {} kB", before.0, after.0, before.1, after.1);
    assert_eq!((before.0, before.2.maps), (after.0, after.2.maps), "rows");
    assert!(after.1 * 10 < before.1 * 11, "memory grew from {} kB to {} kB", before.1, after.1);
    assert_eq!((after.2.alarms.len(), after.2.problems.len(), after.2.drift.repaired), (0, 0, 0));

    // The rows still say what the policies say.
    for number in (0..pods).step_by(pods as usize / 50 + 7) {
        let (from, to) = (address(number).to_string(), &*containers[usize::from(number as u8 % HERE)].name);
        let namespace: u32 = to[2..3].parse().unwrap();
        let near = number % NAMESPACES == namespace && number % 50 == namespace % 50;
        let far = number % 13 == namespace % 13 && number % 50 == namespace % 50 || number == namespace;
        let said = agent.cli(&["explain", "--from", &from, "--to", to, "--port", "80"]);
        assert_eq!(said.json["agrees"], true, "{said:?}");
        assert_eq!(said.json["allowed"], near || far, "{from} to {to}: {said:?}");
    }
    let start = Instant::now();
    let said = agent.cli(&["policy", "rehearse", manifests.path().to_str().unwrap()]);
    assert_eq!((said.code, &said.json["changed"]), (0, &0.into()), "{said:?}");
    println!("the directory rehearsed in {:?}", start.elapsed());
}
