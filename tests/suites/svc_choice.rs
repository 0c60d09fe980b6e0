//! SVC-02: do all nodes choose the same backend, whatever order they learned
//! the services in, and does a leaving backend leave the other flows alone?

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use causeway_schema::protocol;
use causeway_testkit::{
    manifest::{Manifests, Port, Service},
    pinned::Pinned,
    random::Random,
    streams::Streams,
    topology::{Cluster, Node, PATIENCE, vip},
};

const FLOWS: u32 = 50_000;

fn pod(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 200 + (index / 250) as u8, 1 + (index % 250) as u8)
}

fn pods(count: usize) -> Vec<Ipv4Addr> {
    (0..count).map(pod).collect()
}

fn at(host: u8) -> SocketAddrV4 {
    SocketAddrV4::new(vip(host), 80)
}

fn service(host: u8) -> Service {
    Service::new(&format!("service-{host}"), vip(host), &[Port::tcp(80, 8080)])
}

/// What the node's maps choose for the flows.
fn chosen(node: &Node, frontend: SocketAddrV4) -> Vec<SocketAddrV4> {
    Pinned::new(node.agent().pins()).choice().backends(frontend, protocol::TCP, FLOWS)
}

/// The files that make the world of this suite.
fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for host in 1..=40 {
        let service = service(host);
        let backends = match host {
            1 => pods(100),
            2 => pods(10),
            _ => pods(host.into()),
        };
        let slice = service.slice(&backends);
        files.push((format!("{}.service.yaml", service.name), service.yaml()));
        // Some services have their backends in two slices, of different weight.
        if host % 5 == 3 {
            let (first, second) = backends.split_at(1);
            for (name, part, weight) in [("a", first, 3), ("b", second, 1)] {
                let name = format!("{}-{name}", service.name);
                let slice = service.slice(part).weighted(&name, weight);
                files.push((format!("{name}.slice.yaml"), slice.yaml()));
            }
        } else {
            files.push((format!("{}.slice.yaml", service.name), slice.yaml()));
        }
    }
    files
}

/// Writes the files in an order of its own, with detours.
fn feed(manifests: &Manifests, random: &mut Random) {
    let mut files = files();
    random.shuffle(&mut files);
    for (index, (name, text)) in files.iter().enumerate() {
        if random.one_in(4) {
            let detour =
                Service::new(&format!("detour-{index}"), vip(200 + (index % 50) as u8), &[Port::udp(53, 53)]);
            manifests.service(&detour, &detour.slice(&pods(1 + random.below(40))));
        }
        manifests.write(name, text);
    }
    for index in 0..files.len() {
        for kind in ["service", "slice"] {
            let name = format!("detour-{index}.{kind}.yaml");
            if manifests.file(&name).exists() {
                manifests.remove(&name);
            }
        }
    }
}

#[test]
fn three_orders_make_one_digest_and_one_choice() {
    let mut cluster = Cluster::with_own_manifests(3);
    for (index, node) in (0..).zip(&mut cluster.nodes) {
        let mut random = Random::new(index);
        match index {
            // All there before the agent; while it runs; half and half.
            0 => {
                feed(&node.manifests, &mut random);
                node.start();
            }
            1 => {
                node.start();
                feed(&node.manifests, &mut random);
            }
            _ => {
                for (name, text) in files().iter().rev().step_by(2) {
                    node.manifests.write(name, text);
                }
                node.start();
                feed(&node.manifests, &mut random);
            }
        }
    }
    cluster.wait_converged();
    let digests: Vec<_> = cluster.nodes.iter().map(|node| node.agent().status()).collect();
    for status in &digests {
        assert_eq!(status.digest, digests[0].digest, "{} wants something else", status.node);
        assert_eq!(status.kernel_digest, status.digest, "{} has something else", status.node);
    }
    for host in [1, 2, 3, 8, 33] {
        let first = chosen(&cluster.nodes[0], at(host));
        for node in &cluster.nodes[1..] {
            assert!(first == chosen(node, at(host)), "{} chooses otherwise for {}", node.name, at(host));
        }
    }
    // A node that knows something else says something else.
    cluster.nodes[1].manifests.remove("service-2.service.yaml");
    cluster.wait_converged();
    assert_ne!(cluster.nodes[1].agent().status().digest, digests[0].digest);
}

#[test]
fn a_leaving_backend_moves_its_own_flows() {
    let cluster = Cluster::running(1);
    let node = &cluster.nodes[0];
    for (host, count, share) in [(1, 100, 0.01), (2, 10, 0.0), (3, 52, 0.0)] {
        let service = service(host);
        cluster.manifests().service(&service, &service.slice(&pods(count)));
        cluster.wait_converged();
        let before = chosen(node, at(host));
        let leaver = pod(count / 2);
        let rest: Vec<_> = pods(count).into_iter().filter(|&pod| pod != leaver).collect();
        cluster.manifests().slice(&service.slice(&rest));
        cluster.wait_converged();
        let after = chosen(node, at(host));
        let moved =
            before.iter().zip(&after).filter(|(before, after)| *before.ip() != leaver && before != after);
        let moved = moved.count();
        println!("1 of {count} gone: {moved} of {FLOWS} other flows moved");
        assert!(moved as f64 <= f64::from(FLOWS) * share, "{moved} moved");
        assert!(after.iter().all(|backend| *backend.ip() != leaver));
    }
}

#[test]
fn established_connections_stay_where_they_are() {
    let cluster = Cluster::running(1);
    let servers = cluster.servers(10, 8080);
    let addresses: Vec<_> = servers.iter().map(|(container, _)| container.address).collect();
    let service = service(1);
    cluster.manifests().service(&service, &service.slice(&addresses));
    let client = cluster.nodes[0].container("client", 100);
    cluster.wait_converged();
    let streams = Streams::open(&client.netns, at(1), 200, Duration::from_millis(100));
    for leaver in 0..5 {
        let mut rest = addresses.clone();
        rest.remove(leaver);
        cluster.manifests().slice(&service.slice(&rest));
        cluster.wait_converged();
        std::thread::sleep(Duration::from_millis(300));
    }
    streams.close().assert_clean(200);
}

#[test]
fn a_service_may_ask_for_maglev_while_it_serves() {
    let cluster = Cluster::running(1);
    let servers = cluster.servers(3, 8080);
    let service = service(1);
    for (weight, (at, _)) in [1, 2, 4].into_iter().zip(&servers) {
        cluster.manifests().slice(&service.slice(&[at.address]).weighted(&at.name, weight));
    }
    cluster.manifests().write("service.yaml", &service.yaml());
    let client = cluster.nodes[0].container("client", 100);
    cluster.wait_converged();
    let agent = cluster.nodes[0].agent();
    let algorithm = || agent.ask(&["show", "services"])[0]["algorithm"].as_str().unwrap().to_owned();
    assert_eq!(algorithm(), "weighted rendezvous");
    let streams = Streams::open(&client.netns, at(1), 200, Duration::from_millis(20));
    let cells = || agent.status().maps.iter().find(|map| map.map == "arena").unwrap().used;
    let mut used = Vec::new();
    for size in ["16381", "65521"] {
        let asking = service.clone().annotated("causeway.io/algorithm", "maglev");
        cluster.manifests().write("service.yaml", &asking.annotated("causeway.io/table-size", size).yaml());
        cluster.wait_converged();
        assert_eq!(algorithm(), "maglev");
        used.push(cells());
        let mut counts = BTreeMap::<Ipv4Addr, u32>::new();
        for backend in chosen(&cluster.nodes[0], at(1)) {
            *counts.entry(*backend.ip()).or_default() += 1;
        }
        for (weight, (at, _)) in [1.0, 2.0, 4.0].into_iter().zip(&servers) {
            let got = f64::from(counts[&at.address]) / f64::from(FLOWS);
            assert!((got - weight / 7.0).abs() < 0.02, "{size}: {got:.4} of the flows, of {weight} in 7");
        }
    }
    assert!(used[1] > used[0] + 1000, "{used:?} cells");
    // What cannot be is named, and what stands without it serves.
    let asking = service.clone().annotated("causeway.io/algorithm", "random");
    cluster.manifests().write("service.yaml", &asking.yaml());
    let status = agent.wait_status("a problem", PATIENCE, |status| !status.problems.is_empty());
    assert!(status.problems[0].to_string().contains("causeway.io/algorithm"), "{status:?}");
    cluster.wait_converged();
    assert_eq!(algorithm(), "weighted rendezvous");
    streams.close().assert_clean(200);
}

#[test]
fn shares_follow_weights() {
    let cluster = Cluster::running(1);
    for (host, weights) in
        [(1, vec![1, 2, 4]), (2, vec![10, 1000, 500]), (3, (0..60).map(|pod| 1 + pod % 3).collect())]
    {
        let service = service(host);
        cluster.manifests().service(&service, &service.slice::<std::net::IpAddr>(&[]));
        for (index, &weight) in weights.iter().enumerate() {
            let name = format!("{}-{index}", service.name);
            cluster.manifests().slice(&service.slice(&[pod(index)]).weighted(&name, weight));
        }
        cluster.wait_converged();
        let mut counts = BTreeMap::<Ipv4Addr, u32>::new();
        for backend in chosen(&cluster.nodes[0], at(host)) {
            *counts.entry(*backend.ip()).or_default() += 1;
        }
        let total: u32 = weights.iter().sum();
        for (index, &weight) in weights.iter().enumerate() {
            let got = f64::from(counts.get(&pod(index)).copied().unwrap_or(0)) / f64::from(FLOWS);
            let ideal = f64::from(weight) / f64::from(total);
            assert!((got - ideal).abs() < 0.02, "backend {index}: {got:.4} of the flows, ideal {ideal:.4}");
        }
    }
}
