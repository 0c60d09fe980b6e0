//! How fast do the maps follow? Cold start with many services, one change,
//! and what the state costs in memory, of the real agent.

use std::time::Duration;

use anyhow::Result;
use causeway_testkit::{
    manifest::{Port, Service},
    topology::{Cluster, vip},
};

use serde_json::{Value, json};

use crate::{
    memory,
    stats::{Report, median},
    stock,
};

const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 5;

pub fn run(quick: bool) -> Result<Report> {
    let rounds = if quick { 3 } else { 10 };
    let mut cluster = Cluster::new(1);
    let yaml = cold_starts(&mut cluster, "services.yaml", &yaml(), rounds);
    cluster.manifests().remove("services.yaml");
    let json = cold_starts(&mut cluster, "services.json", &json(), rounds);
    cluster.start();
    let agent = cluster.nodes[0].agent();
    stand_one(&cluster);
    let changes = (0..rounds * 5).map(|round| one_change(&cluster, 51 + (round % 7) as u8));
    let changes: Vec<f64> = changes.collect();
    let memory = memory::of(agent.pid())?;

    let conditions = format!("{SERVICES} services x {BACKENDS} backends, {rounds} rounds, medians.");
    let mut report = Report::new("Programming", conditions, &["figure"]);
    report.row(
        "cold start from JSON: agent's first line -> image read back, ms",
        vec![format!("{:.0}", median(json))],
    );
    report.row("cold start from YAML, ms", vec![format!("{:.0}", median(yaml))]);
    report.row("one change: events -> read back, µs", vec![format!("{:.0}", median(changes))]);
    report.row("agent's memory: anonymous, MiB", vec![format!("{:.1}", memory.anonymous)]);
    report.row("agent's memory: program text and files, MiB", vec![format!("{:.1}", memory.text)]);
    report.row("maps, flow tables apart, MiB", vec![format!("{:.1}", memory.maps)]);
    let sum = memory.anonymous + memory.text + memory.maps;
    report.row("the three together, MiB", vec![format!("{sum:.1}")]);
    report.row("flow tables and caches, MiB", vec![format!("{:.1}", memory.flows)]);
    Ok(report)
}

/// Milliseconds from the agent's first line to the image read back, from
/// nothing: no pins of an earlier agent.
fn cold_starts(cluster: &mut Cluster, file: &str, text: &str, rounds: u32) -> Vec<f64> {
    cluster.manifests().write(file, text);
    (0..rounds)
        .map(|_| {
            cluster.start();
            let agent = cluster.nodes[0].agent();
            // The status may be of the moment before the first read-back.
            let status = agent.wait_status("the first read-back", Duration::from_secs(10), |status| {
                status.start_micros > 0 && status.services as u32 >= SERVICES
            });
            agent.ask(&["uninstall"]);
            cluster.nodes[0].agent_mut().stop();
            status.start_micros as f64 / 1e3
        })
        .collect()
}

/// Milliseconds from the agent's first line, and from the event of one change, until
/// all of so many services is read back: a node of its own.
pub fn programmed(services: u32, endpoints: u32) -> (f64, f64) {
    let mut cluster = Cluster::new(1);
    let items: Vec<Value> = stock::objects(services, endpoints).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    cluster.manifests().write("services.json", &list.to_string());
    cluster.start();
    let agent = cluster.nodes[0].agent();
    let status = agent.wait_status("the first read-back", Duration::from_secs(60), |status| {
        status.start_micros > 0 && status.services as u32 >= services
    });
    stand_one(&cluster);
    (status.start_micros as f64 / 1e3, one_change(&cluster, 51) / 1e3)
}

fn measured() -> Service {
    Service::new("measured", vip(200), &[Port::tcp(80, 8080)])
}

/// A service that changes.
fn stand_one(cluster: &Cluster) {
    let measured = measured();
    cluster.manifests().service(&measured, &measured.slice(&[cluster.nodes[0].pod_address(50)]));
    cluster.wait_converged();
}

/// Microseconds from the event, that this service has another backend, until its rows
/// are read back.
fn one_change(cluster: &Cluster, backend: u8) -> f64 {
    let (node, agent) = (&cluster.nodes[0], cluster.nodes[0].agent());
    let before = agent.status().applied_revision;
    cluster.manifests().slice(&measured().slice(&[node.pod_address(backend)]));
    let status = agent.wait_status("the change applied", Duration::from_secs(5), |status| {
        status.applied_revision > before && status.converged
    });
    status.last_apply_micros as f64
}

fn yaml() -> String {
    let mut text = String::new();
    for index in 0..SERVICES {
        let service = Service::new(&stock::name(index), stock::address(index), &[Port::tcp(80, 8080)]);
        let backends: Vec<_> = (0..BACKENDS).map(|number| stock::backend(index, number)).collect();
        text.push_str(&format!("---\n{}---\n{}", service.yaml(), service.slice(&backends).yaml()));
    }
    text
}

/// As `kubectl get -o json` prints it.
fn json() -> String {
    let items: Vec<Value> = stock::objects(SERVICES, BACKENDS).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}
