//! How soon do rules follow? As many services as asked for from nothing, and one
//! change among them, beside those who do it with rules.

use std::time::Instant;

use anyhow::Result;
use causeway_testkit::cpu;

use crate::{
    peers::{self, Peer},
    program,
    routed::Routed,
    stats::{Report, median, paired_ratio},
    stock,
};

const ENDPOINTS: u32 = 5;
/// The one that changes; the measured one is elsewhere.
const CHANGED: usize = 3;

pub fn run(quick: bool, services: u32) -> Result<Report> {
    let rounds = if quick { 1 } else { 3 };
    // The agent and the commands alike.
    cpu::stay_on(1);
    let (mut ours, mut theirs) = (Timed::default(), Peer::RULES.map(|_| Timed::default()));
    for _ in 0..rounds {
        ours.add(program::programmed(services, ENDPOINTS));
        for (peer, timed) in Peer::RULES.iter().zip(&mut theirs) {
            timed.add(programmed(*peer, services)?);
        }
    }
    let conditions = format!(
        "{services} services x {ENDPOINTS} endpoints, {rounds} interleaved rounds, medians, ratios within a round to \
         Causeway. Causeway: from the agent's first line, and from the event of a change, until its rows are read \
         back from the kernel. All on CPU 1. The others: the restore or nft command alone, fed with what kube-proxy writes, without what \
         kube-proxy does to make it."
    );
    let mut report = Report::new(
        "Programming, beside others",
        conditions,
        &["from nothing, ms", "ratio", "one change, ms", "ratio"],
    );
    let row = |timed: &Timed| {
        let cells = [(&timed.all, &ours.all), (&timed.one, &ours.one)];
        let show = |(times, ours): (&Vec<f64>, &Vec<f64>)| {
            [format!("{:.2}", median(times.iter().copied())), format!("{:.1}", paired_ratio(times, ours))]
        };
        cells.into_iter().flat_map(show).collect::<Vec<_>>()
    };
    report.row("Causeway", row(&ours));
    for (peer, timed) in Peer::RULES.iter().zip(&theirs) {
        report.row(peer.name(), row(timed));
    }
    Ok(report)
}

/// Milliseconds, by round.
#[derive(Default)]
struct Timed {
    all: Vec<f64>,
    one: Vec<f64>,
}

impl Timed {
    fn add(&mut self, (all, one): (f64, f64)) {
        self.all.push(all);
        self.one.push(one);
    }
}

fn programmed(peer: Peer, count: u32) -> Result<(f64, f64)> {
    let bed = Routed::new()?;
    let mut services = peers::services(count, ENDPOINTS);
    let text = peer.all(&services);
    let begun = Instant::now();
    peer.feed(&bed.router, &text)?;
    let all = begun.elapsed();
    services[CHANGED].endpoints[0].set_ip(stock::backend(CHANGED as u32, ENDPOINTS));
    let text = peer.change(&services, CHANGED);
    let begun = Instant::now();
    peer.feed(&bed.router, &text)?;
    Ok((all.as_secs_f64() * 1e3, begun.elapsed().as_secs_f64() * 1e3))
}
