//! How fast do the maps follow? Cold start with many services, one change,
//! and what the state costs in memory, of the real agent.

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use causeway_testkit::{
    manifest::{Port, Service},
    topology::{Cluster, vip},
};

use crate::stats::{Report, median};

const SERVICES: u32 = 10_000;
const BACKENDS: u8 = 5;

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
    let memory = memory(agent.pid())?;

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

fn address(index: u32) -> Ipv4Addr {
    [10, 96, 1 + (index >> 8) as u8, index as u8].into()
}

fn backend(index: u32, backend: u8) -> Ipv4Addr {
    [10, 200, (index >> 5) as u8, ((index << 3) as u8).wrapping_add(backend)].into()
}

fn yaml() -> String {
    let mut text = String::new();
    for index in 0..SERVICES {
        let service = Service::new(&format!("service-{index}"), address(index), &[Port::tcp(80, 8080)]);
        let backends: Vec<_> = (0..BACKENDS).map(|at| backend(index, at)).collect();
        text.push_str(&format!("---\n{}---\n{}", service.yaml(), service.slice(&backends).yaml()));
    }
    text
}

/// As `kubectl get -o json` prints it.
fn json() -> String {
    let mut items = Vec::new();
    for index in 0..SERVICES {
        let port = serde_json::json!({ "name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080 });
        items.push(serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": format!("service-{index}"), "namespace": "default" },
            "spec": { "clusterIP": address(index).to_string(), "ports": [port] },
        }));
        let endpoint = |at| serde_json::json!({ "addresses": [backend(index, at).to_string()], "conditions": { "ready": true } });
        items.push(serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("service-{index}"), "namespace": "default",
                "labels": { "kubernetes.io/service-name": format!("service-{index}") },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "tcp", "protocol": "TCP", "port": 8080 }],
            "endpoints": (0..BACKENDS).map(endpoint).collect::<Vec<_>>(),
        }));
    }
    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

/// In MiB.
pub struct Memory {
    pub anonymous: f64,
    /// Without the maps that the agent has mapped: they are counted below.
    pub text: f64,
    pub maps: f64,
    pub flows: f64,
}

/// What a process holds, and what the BPF maps that it has open are charged.
pub fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |field: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(field));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
    };
    let mapped = mapped_maps(pid)?;
    let mut memory = Memory {
        anonymous: kib("RssAnon:") / 1024.0,
        text: kib("RssFile:") / 1024.0 - mapped,
        maps: 0.0,
        flows: 0.0,
    };
    let mut seen = std::collections::BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("list the agent's descriptors")? {
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let (Some(id), Some(bytes), Some(kind)) = (field("map_id:"), field("memlock:"), field("map_type:"))
        else {
            continue;
        };
        if !seen.insert(id) {
            continue;
        }
        // Flow tables are the large hash (1, not allocated per entry), the LRU
        // (9) and the per-CPU arrays (6).
        let on_demand = field("map_flags:") == Some(1) || info.contains("map_flags:\t0x1\n");
        let is_flow = matches!(kind, 6 | 9) || kind == 1 && !on_demand;
        let mib = bytes as f64 / 1048576.0;
        if is_flow { memory.flows += mib } else { memory.maps += mib }
    }
    Ok(memory)
}

/// MiB of BPF maps that are resident in a process through its mappings.
fn mapped_maps(pid: u32) -> Result<f64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut inside = false;
    let mut kib = 0;
    for line in smaps.lines() {
        if line.contains('-') && line.split_whitespace().count() >= 5 {
            inside = line.contains("bpf-map");
        } else if inside && let Some(rest) = line.strip_prefix("Rss:") {
            kib += rest.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(kib as f64 / 1024.0)
}
