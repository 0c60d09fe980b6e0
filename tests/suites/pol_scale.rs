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

use bytemuck::bytes_of;
use causeway_schema::{V4, policy::PeerKey};
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

/// The class of an address, as the programs find it.
fn class(table: &Table<'_>, generation: u32, address: Ipv4Addr) -> Vec<u8> {
    let key = PeerKey::exactly(generation, V4::from(address));
    table.get(bytes_of(&key)).unwrap_or_default()
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

    let pinned = Pinned::new(agent.pins());
    let (classes, standing) = (pinned.trie("CLASSES_V4"), pinned.array::<4>("POLICY"));
    let table = Table::of(&classes);
    let now = || u32::from_ne_bytes(standing.get(&0, 0).unwrap());
    let generation = now() >> 1;
    let rows = table.keys().len();
    assert!(rows >= (pods + CHANGING) as usize, "{rows} rows for {pods} pods");
    let before = (rows, memory(agent), agent.status());
    let churn = |from: u32| {
        let (mut of_pods, mut of_endpoints) = (Vec::new(), Vec::new());
        let start = Instant::now();
        for change in 0..seconds * 200 {
            let due = start + PAUSE / 2 * change;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let (round, number) = (from + change / 2 / CHANGING, change / 2 % CHANGING);
            let (began, took) = if change % 2 == 1 {
                // It gets another set of rules.
                let turn = change / 2 / u32::from(HERE);
                let container = &containers[usize::from((number % u32::from(HERE)) as u8)];
                let (old, text) = (now(), own(container, turn + 1));
                let began = Instant::now();
                manifests.write(&format!("{}.yaml", container.name.replace('/', "-")), &text);
                (began, until(|| now() != old).map(|took| of_endpoints.push(took)))
            } else {
                let address = changing_address(number);
                let (old, text) = (class(&table, generation, address), changing(number, round + 1));
                let began = Instant::now();
                manifests.write(&format!("c{number}.yaml"), &text);
                (began, until(|| class(&table, generation, address) != old).map(|took| of_pods.push(took)))
            };
            assert!(took.is_some(), "change {change} did not reach the map in {:?}", began.elapsed());
        }
        (start.elapsed(), [of_pods, of_endpoints])
    };
    // An even number of rounds, so that all is as it was.
    let (took, latencies) = churn(0);
    let rate = f64::from(seconds * 200) / took.as_secs_f64();
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
    let after = (table.keys().len(), memory(agent), agent.status());
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

/// How long it takes.
fn until(done: impl Fn() -> bool) -> Option<Duration> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        if done() {
            return Some(start.elapsed());
        }
        thread::sleep(Duration::from_micros(200));
    }
    None
}
