//! How long does a container wait for its network? ADD and DEL by the CNI plugin,
//! as a runtime calls it: one at a time, and eight.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use causeway_testkit::{cni::Plugin, netns::Netns, topology::Cluster};
use hdrhistogram::Histogram;

use crate::stats::Report;

/// What takes longer counts as this.
const LONGEST: Duration = Duration::from_secs(60);
const POOL: &str = "[[pools]]\nname = \"wide\"\nnetworks = [\"10.245.0.0/16\"]\n";

pub fn run(quick: bool) -> Result<Report> {
    let conditions = "Agent, plugin and callers on the machine's CPUs alike; ms, by the caller's clock.";
    let mut report = Report::new("Attaching", conditions.into(), &["p50", "p99", "worst"]);
    let mut cluster = Cluster::idle(1);
    cluster.nodes[0].start_with(Some(POOL));
    cluster.wait_converged();
    let plugin = Plugin::of(&cluster.nodes[0]);
    for (callers, containers) in [(1, 200), (8, 1000)] {
        let containers = if quick { containers / 10 } else { containers };
        let [adds, dels] = churn(&plugin, callers, containers)?;
        for (verb, times) in [("ADD", adds), ("DEL", dels)] {
            let millis = |micros: u64| format!("{:.1}", micros as f64 / 1e3);
            let figures = [times.value_at_quantile(0.5), times.value_at_quantile(0.99), times.max()];
            report.row(&format!("{verb}, {callers} at a time"), figures.map(millis).into());
        }
    }
    Ok(report)
}

/// Microseconds of each ADD and DEL.
fn churn(plugin: &Plugin, callers: usize, containers: usize) -> Result<[Histogram<u64>; 2]> {
    let (next, config) = (AtomicUsize::new(0), plugin.config());
    let times = || Histogram::new_with_bounds(1, LONGEST.as_micros() as u64, 3);
    let times = Mutex::new([times()?, times()?]);
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                let netns = Netns::new();
                let path = netns.path().display().to_string();
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= containers {
                        return;
                    }
                    for (index, verb) in ["ADD", "DEL"].into_iter().enumerate() {
                        let begun = Instant::now();
                        let said = plugin.ask(verb, &format!("c{callers}-{number}"), &path, &config);
                        failed.fetch_add(usize::from(said.code != 0), Relaxed);
                        let took = begun.elapsed().as_micros() as u64;
                        let mut times = times.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        times[index].saturating_record(took);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    anyhow::ensure!(failed == 0, "{failed} of {} calls failed", 2 * containers);
    Ok(times.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}
