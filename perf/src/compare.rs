//! Which variant carries more? Each carries the same workload in turn, forth
//! and back (ABBA), many times; ratios are taken within a round.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result};
use causeway_testkit::netns::Netns;

use crate::{
    load::{self, Workload},
    stats::{Report, median, paired_ratio},
};

pub struct Variant<'a> {
    pub name: &'static str,
    pub client: &'a Netns,
    /// The server's address, with any port.
    pub to: Ipv4Addr,
}

/// How often, and for how long at a time.
pub struct Rounds {
    count: u32,
    length: Duration,
}

impl Rounds {
    pub fn new(quick: bool) -> Self {
        match quick {
            true => Self { count: 4, length: Duration::from_millis(200) },
            false => Self { count: 12, length: Duration::from_millis(600) },
        }
    }

    pub fn conditions(&self) -> String {
        format!(
            "Client, server and softirq on CPU 0; {} interleaved rounds of {} ms; medians.",
            self.count,
            self.length.as_millis()
        )
    }
}

/// A row for each variant, with its ratios to the one called `reference`, where
/// that is among them.
pub fn compare(
    title: &str,
    variants: &[Variant],
    reference: &str,
    workloads: &[Workload],
    rounds: &Rounds,
) -> Result<Report> {
    let conditions = format!("{} Ratios within a round to \"{reference}\".", rounds.conditions());
    let columns: Vec<String> = workloads
        .iter()
        .flat_map(|workload| [workload.unit().to_owned(), "ratio".to_owned(), "p50 / p99 µs".to_owned()])
        .collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut report = Report::new(title, conditions, &columns);
    let mut cells = vec![Vec::new(); variants.len()];
    for &workload in workloads {
        let samples = interleave(variants, workload, rounds)?;
        let reference = variants.iter().position(|variant| variant.name == reference);
        for (index, cells) in cells.iter_mut().enumerate() {
            let rate = median(samples[index].rates.iter().copied());
            let unit = if workload == Workload::Bulk { format!("{rate:.1}") } else { format!("{rate:.0}") };
            cells.push(unit);
            cells.push(reference.map_or("-".into(), |reference| {
                format!("{:.3}", paired_ratio(&samples[index].rates, &samples[reference].rates))
            }));
            cells.push(format!(
                "{:.1} / {:.1}",
                median(samples[index].p50.clone()),
                median(samples[index].p99.clone())
            ));
        }
    }
    for (variant, cells) in variants.iter().zip(cells) {
        report.row(variant.name, cells);
    }
    Ok(report)
}

/// What a variant did, by round; latencies in µs.
#[derive(Default, Clone)]
pub struct Series {
    pub rates: Vec<f64>,
    pub p50: Vec<f64>,
    pub p99: Vec<f64>,
}

/// Runs one workload over all of them, forth and back.
pub fn interleave(variants: &[Variant], workload: Workload, rounds: &Rounds) -> Result<Vec<Series>> {
    let mut series = vec![Series::default(); variants.len()];
    for variant in variants {
        load::forget(variant.client);
    }
    // The first round warms up and is thrown away.
    for round in 0..=rounds.count {
        let forth: Vec<usize> = (0..variants.len()).collect();
        let order: Vec<usize> = if round % 2 == 0 { forth } else { forth.into_iter().rev().collect() };
        for index in order {
            let variant = &variants[index];
            let to = SocketAddrV4::new(variant.to, workload.port());
            let sample = load::sample(variant.client, workload, to, rounds.length)
                .with_context(|| format!("{workload:?} over \"{}\"", variant.name))?;
            if round > 0 {
                series[index].rates.push(sample.per_second);
                series[index].p50.push(sample.latency.value_at_quantile(0.5) as f64 / 1e3);
                series[index].p99.push(sample.latency.value_at_quantile(0.99) as f64 / 1e3);
            }
        }
    }
    Ok(series)
}
