//! How fast do the maps follow an API server? Cold starts of many services, one
//! change among more of them, and a thousand changes a second under load.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use causeway_testkit::{
    apiserver::{ApiServer, documents},
    client::request,
    load::ConnectLoad,
    manifest::{Port, Service},
    streams::Streams,
    topology::{Cluster, vip},
    wire::Protocol,
    worker::Ends,
};
use hdrhistogram::Histogram;

use crate::{
    memory::{self, Memory},
    stats::{Report, median},
    stock,
};

/// Enough for all that is measured here.
const CAPACITY: &str =
    "[capacity]\nfrontends = 131072\nservices = 65536\nbackends = 524288\narena = 5300000\n";
const PATIENCE: Duration = Duration::from_secs(120);

const CHANGING: u32 = 500;
const CHANGES: u32 = 1000;
const CONNECTIONS: u32 = 5000;
const STREAMS: usize = 100;

pub fn run(quick: bool) -> Result<Report> {
    let conditions = "Agent, API server (in this process), clients and servers on the machine's CPUs alike.";
    let mut report = Report::new("An API server", conditions.into(), &["figure"]);
    let rounds = if quick { 1 } else { 5 };
    let cold: Vec<f64> = (0..rounds).map(|_| cold_start(5000, 50)).collect();
    report.row(
        "cold start, 5,000 services x 50 endpoints -> read back, ms",
        vec![format!("{:.0}", median(cold))],
    );
    report.row(
        "one change among 44,000 services -> read back, µs",
        vec![format!("{:.0}", one_change(44_000, rounds * 5))],
    );
    let used = standing(10_000, 10)?;
    for (name, mib) in [
        ("memory at 10,000 services x 10: anonymous, MiB", used.anonymous),
        ("program text and files, MiB", used.text),
        ("maps, flow tables apart, MiB", used.maps),
        ("the three together, MiB", used.anonymous + used.text + used.maps),
    ] {
        report.row(name, vec![format!("{mib:.1}")]);
    }
    churn(Duration::from_secs(if quick { 10 } else { 60 }), &mut report)?;
    Ok(report)
}

/// A node, and a server that holds services with so many endpoints each.
fn stocked(services: u32, endpoints: u32) -> (Cluster, ApiServer) {
    let (cluster, api) = Cluster::beside_api(1);
    stock::objects(services, endpoints).for_each(|object| api.put(object));
    (cluster, api)
}

/// Starts an agent and waits until all stands; how long that took.
fn start(cluster: &mut Cluster, api: &ApiServer, services: u32) -> Duration {
    let begun = Instant::now();
    cluster.nodes[0].start_watching_with(api, CAPACITY);
    let agent = cluster.nodes[0].agent();
    agent.wait_status("all of it", PATIENCE, |status| {
        status.converged && status.services == services as usize
    });
    begun.elapsed()
}

/// Milliseconds from the process's start, with nothing of an earlier agent.
fn cold_start(services: u32, endpoints: u32) -> f64 {
    let (mut cluster, api) = stocked(services, endpoints);
    start(&mut cluster, &api, services).as_secs_f64() * 1e3
}

/// Microseconds from the event to the row read back, by the agent's clock.
fn one_change(services: u32, changes: u32) -> f64 {
    let (mut cluster, api) = stocked(services, 1);
    start(&mut cluster, &api, services);
    let agent = cluster.nodes[0].agent();
    let measured = Service::new("measured", vip(200), &[Port::tcp(80, 8080)]);
    api.apply(&measured.yaml());
    agent.wait_status("the service", PATIENCE, |status| {
        status.converged && status.services > services as usize
    });
    let change = |number| {
        let before = agent.status().applied_revision;
        api.apply(&measured.slice(&[stock::backend(0, number % 7)]).yaml());
        let status = agent.wait_status("the change applied", PATIENCE, |status| {
            status.applied_revision > before && status.converged
        });
        status.last_apply_micros as f64
    };
    median((0..changes).map(change))
}

/// What an agent holds that watches so much.
fn standing(services: u32, endpoints: u32) -> Result<Memory> {
    let (mut cluster, api) = stocked(services, endpoints);
    cluster.nodes[0].start_watching(&api, false);
    let agent = cluster.nodes[0].agent();
    agent.wait_status("all of it", PATIENCE, |status| {
        status.converged && status.services == services as usize
    });
    // What the first list took is given back.
    thread::sleep(Duration::from_secs(2));
    memory::of(agent.pid())
}

/// Slices change all the time, connections begin at a service that does not, and one
/// that changes is asked until the other server answers.
fn churn(time: Duration, report: &mut Report) -> Result<()> {
    let (cluster, api) = Cluster::watching(1);
    let servers = cluster.servers(2, 8080);
    let [client, prober] = [100, 101].map(|host| cluster.nodes[0].container(&format!("client-{host}"), host));
    let backends = [0, 1].map(|server: usize| IpAddr::from(servers[server].0.address));
    let named = |name: &str, address| Service::new(name, address, &[Port::tcp(80, 8080)]);
    let untouched = named("untouched", vip(1));
    let probed = named("probed", vip(2));
    let changing: Vec<Service> = (0..CHANGING)
        .map(|index| named(&format!("changing-{index}"), Ipv4Addr::from_bits(vip(0).to_bits() + 256 + index)))
        .collect();
    let slice =
        |service: &Service, server: usize| documents(&service.slice(&[backends[server]]).yaml()).remove(0);
    for service in changing.iter().chain([&untouched, &probed]) {
        api.put(slice(service, 0));
        api.apply(&service.yaml());
    }
    let slices: Vec<_> = changing.iter().map(|service| [slice(service, 0), slice(service, 1)]).collect();
    cluster.wait_converged();

    let to = SocketAddr::from((vip(1), 80));
    let streams = Streams::open(&client.netns, to, STREAMS, Duration::from_millis(50));
    let load = ConnectLoad::start(&client.netns, to, CONNECTIONS);
    let (over, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut taken = Histogram::<u64>::new(3)?;
    let begun = Instant::now();
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            for number in 0_usize.. {
                // Behind, it does not hurry: a change is not worth less for being late.
                let due = begun + Duration::from_secs(1) * number as u32 / CHANGES;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if over.load(Relaxed) {
                    return;
                }
                let pair = &slices[number % slices.len()];
                api.put(pair[(number / slices.len() + 1) % 2].clone());
                changes.fetch_add(1, Relaxed);
            }
        });
        let _ends = Ends(&over);
        let mut server = 0;
        let mut sampled = Ok(());
        while begun.elapsed() < time && sampled.is_ok() {
            server = 1 - server;
            let changed = Instant::now();
            api.put(slice(&probed, server));
            let name = &servers[server].0.name;
            let answered = || request(SocketAddr::from((vip(2), 80)), Protocol::Tcp);
            sampled = prober
                .netns
                .run(|| {
                    loop {
                        let asked = Instant::now();
                        let (answer, _) = answered()?;
                        anyhow::ensure!(changed.elapsed() < PATIENCE, "a change does not arrive");
                        if answer.server == *name {
                            return anyhow::Ok((asked - changed).as_micros() as u64);
                        }
                    }
                })
                .and_then(|micros| Ok(taken.record(micros)?));
            thread::sleep(Duration::from_millis(20));
        }
        sampled
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let (load, streams) = (load.stop(), streams.close());
    let millis = |share: f64| format!("{:.1}", taken.value_at_quantile(share) as f64 / 1e3);
    for (name, figure) in [
        ("changes of endpoints/s", format!("{:.0}", changes.load(Relaxed) as f64 / seconds)),
        (
            "new connections/s meanwhile, to a service that does not change",
            format!("{:.0}", load.report.ok as f64 / seconds),
        ),
        ("of these failed", load.report.failed.to_string()),
        ("100 streams to it", streams.to_string()),
        ("a change's event -> the first connection that follows it, p50, ms", millis(0.5)),
        ("p99, ms", millis(0.99)),
        ("worst, ms", millis(1.0)),
        ("measured changes", taken.len().to_string()),
    ] {
        report.row(name, vec![figure]);
    }
    Ok(())
}
