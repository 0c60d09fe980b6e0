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
    let mut changes = Vec::new();
    let measured = Service::new("measured", vip(200), &[Port::tcp(80, 8080)]);
    for round in 0..rounds * 5 {
        let backend = cluster.nodes[0].pod_address(50 + (round % 7) as u8);
        let before = agent.status().applied_revision;
        cluster.manifests().service(&measured, &measured.slice(&[backend]));
        let status = agent.wait_status("the change applied", Duration::from_secs(5), |status| {
            status.applied_revision > before && status.converged
        });
        changes.push(status.last_apply_micros as f64);
    }
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
