//! How fast do the maps follow? Cold start with many services, one change,
//! and what the state costs in memory, of the real agent.

use std::{
    fs,
    time::{Duration, Instant},
};

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
    write(&cluster);
    let mut starts = Vec::new();
    let mut walls = Vec::new();
    for round in 0..rounds {
        // From nothing: no pins of an earlier agent.
        if round > 0 {
            cluster.nodes[0].agent().ask(&["uninstall"]);
            cluster.nodes[0].agent_mut().stop();
        }
        let start = Instant::now();
        cluster.start();
        walls.push(start.elapsed().as_secs_f64() * 1e3);
        starts.push(cluster.nodes[0].agent().status().start_micros as f64 / 1e3);
    }
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
    report.row("cold start: agent up -> image read back, ms", vec![format!("{:.0}", median(starts))]);
    report.row("the same with process start and polling, ms", vec![format!("{:.0}", median(walls))]);
    report.row("one change: events -> read back, µs", vec![format!("{:.0}", median(changes))]);
    report.row("agent's memory (RSS), MiB", vec![format!("{:.1}", memory.resident)]);
    report.row("of it file-backed (text, shared), MiB", vec![format!("{:.1}", memory.file)]);
    report.row("maps, flow tables apart, MiB", vec![format!("{:.1}", memory.maps)]);
    report.row("flow tables and caches, MiB", vec![format!("{:.1}", memory.flows)]);
    Ok(report)
}

fn write(cluster: &Cluster) {
    let mut text = String::new();
    for index in 0..SERVICES {
        let address = [10, 96, 1 + (index >> 8) as u8, index as u8].into();
        let service = Service::new(&format!("service-{index}"), address, &[Port::tcp(80, 8080)]);
        let backends: Vec<_> = (0..BACKENDS)
            .map(|backend| [10, 200, (index >> 5) as u8, (index << 3) as u8 + backend].into())
            .collect();
        text.push_str(&format!("---\n{}---\n{}", service.yaml(), service.slice(&backends).yaml()));
    }
    cluster.manifests().write("services.yaml", &text);
}

/// In MiB.
struct Memory {
    resident: f64,
    file: f64,
    maps: f64,
    flows: f64,
}

/// What a process holds, and what the BPF maps that it has open are charged.
fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |field: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(field));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
    };
    let mut memory =
        Memory { resident: kib("VmRSS:") / 1024.0, file: kib("RssFile:") / 1024.0, maps: 0.0, flows: 0.0 };
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
