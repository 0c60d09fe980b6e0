//! CNV-01, CNV-02: when `wait` returns, has the last packet gone to a backend
//! that left? And when the maps cannot be written, does it say so?

use std::{
    net::SocketAddrV4,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    load::ConnectLoad,
    manifest::{Port, Service},
    pinned::Pinned,
    topology::{Cluster, PATIENCE, vip},
    wire::{Answer, Protocol},
};

/// `CAUSEWAY_REMOVALS` has another number: 10000 is what the check asks for.
const REMOVALS: usize = 1000;

/// A new flow's answer.
struct Seen {
    begun: Instant,
    answered: Instant,
    server: String,
}

#[test]
fn after_wait_no_new_flow_reaches_a_removed_backend() {
    let cluster = Cluster::running(1);
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080), Port::udp(53, 8080)]);
    let servers = cluster.serve(&web, 5);
    let addresses: Vec<_> = servers.iter().map(|(container, _)| container.address).collect();
    let clients = [101, 102].map(|host| cluster.nodes[0].container(&format!("client-{host}"), host));
    cluster.wait_converged();

    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let witness = || {
        let seen = seen.clone();
        Arc::new(move |begun, answer: &Answer| {
            let answered = Instant::now();
            seen.lock().unwrap().push(Seen { begun, answered, server: answer.server.clone() });
        })
    };
    let loads = [(Protocol::Tcp, 80, 400), (Protocol::Udp, 53, 200)].map(|(protocol, port, rate)| {
        let client = &clients[usize::from(protocol == Protocol::Udp)];
        ConnectLoad::start_with(&client.netns, SocketAddrV4::new(vip(1), port), protocol, rate, witness())
    });

    // Which backend was out, from when to when.
    let mut absences = Vec::new();
    let removals = std::env::var("CAUSEWAY_REMOVALS").map_or(REMOVALS, |text| text.parse().unwrap());
    for removal in 0..removals {
        let out = removal % addresses.len();
        let mut rest = addresses.clone();
        rest.remove(out);
        cluster.manifests().slice(&web.slice(&rest));
        cluster.nodes[0].agent().wait_converged(PATIENCE);
        let from = Instant::now();
        thread::sleep(Duration::from_millis(5));
        absences.push((&servers[out].0.name, from, Instant::now()));
    }
    for load in loads {
        let report = load.stop();
        println!("{report}");
        assert_eq!(report.report.failed, 0, "{report}");
    }
    let seen = seen.lock().unwrap();
    let late = |&(name, from, until): &(&String, Instant, Instant)| {
        seen.iter().filter(|seen| seen.begun > from && seen.answered < until && seen.server == *name).count()
    };
    let late: usize = absences.iter().map(late).sum();
    let watched = |&(_, from, until): &(&String, Instant, Instant)| {
        seen.iter().filter(|seen| seen.begun > from && seen.answered < until).count()
    };
    let watched: usize = absences.iter().map(watched).sum();
    println!("{removals} removals, {watched} new flows while a backend was out, {late} went to it");
    assert!(watched > removals / 2, "too few flows to say anything");
    assert_eq!(late, 0);
}

#[test]
fn a_revision_that_was_reached_is_reached() {
    let cluster = Cluster::running(1);
    let agent = cluster.nodes[0].agent();
    let revision = agent.status().revision;
    assert_eq!(agent.cli(&["wait", "--revision", &revision.to_string(), "--timeout", "5"]).code, 0);
    let beyond = (revision + 1000).to_string();
    let begun = Instant::now();
    assert_eq!(agent.cli(&["wait", "--revision", &beyond, "--timeout", "1"]).code, 1);
    assert!(begun.elapsed() >= Duration::from_secs(1), "gave up early");
}

#[test]
fn a_map_that_refuses_writes_keeps_wait_waiting() {
    let cluster = Cluster::running(1);
    let agent = cluster.nodes[0].agent();
    Pinned::new(agent.pins()).freeze("FRONTENDS_V4");
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    cluster.manifests().service(&web, &web.slice(&[cluster.nodes[0].pod_address(10)]));
    stuck_because_of(&cluster, "frontends");
}

#[test]
fn a_full_map_keeps_wait_waiting() {
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].start_with(Some("[capacity]\nfrontends = 8\n"));
    cluster.wait_converged();
    for host in 1..=20 {
        let service = Service::new(&format!("service-{host}"), vip(host), &[Port::tcp(80, 8080)]);
        cluster.manifests().service(&service, &service.slice(&[cluster.nodes[0].pod_address(10)]));
    }
    stuck_because_of(&cluster, "frontends");
}

/// `wait` gives up, and `status` names what keeps it.
fn stuck_because_of(cluster: &Cluster, word: &str) {
    let agent = cluster.nodes[0].agent();
    let said = agent.cli(&["wait", "--timeout", "2"]);
    assert_eq!(said.code, 1, "wait returned: {said:?}");
    let status = agent.status();
    assert!(!status.converged, "{status:#?}");
    let reasons = status.reasons.join("\n");
    assert!(reasons.contains(word), "no {word} in the reasons:\n{reasons}");
}
