//! What does a packet, a connection, a change cost? Measured on this machine,
//! side by side, everything that is compared in one interleaved run.

mod attach;
mod compare;
mod docker;
mod load;
mod machine;
mod memory;
mod micro;
mod moved;
mod path;
mod peers;
mod plot;
mod policy;
mod program;
mod report;
mod routed;
mod rules;
mod scale;
mod stats;
mod stock;
mod versus;
mod watch;

use std::{fs, path::PathBuf};

use anyhow::Context;
use causeway_testkit::cpu;
use clap::{Parser, Subcommand};

use self::{machine::Ticks, moved::Old};

/// More than this of the CPUs' time for other guests, and figures are none.
const STOLEN: f64 = 0.01;

#[derive(Parser)]
#[command(name = "causeway-perf", about = "Benchmarks of Causeway: ratios from one run, never a lone time")]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Fewer and shorter rounds: a look, not a figure to quote.
    #[arg(long, global = true)]
    quick: bool,
    /// Print the raw figures as JSON instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// Write the tables, the raw figures and plots to this directory, too.
    #[arg(long, global = true, value_name = "DIRECTORY")]
    write: Option<PathBuf>,
    /// Say what moved beyond noise since an earlier report (report.json of --write).
    #[arg(long, global = true, value_name = "FILE")]
    compare: Option<PathBuf>,
}

#[derive(Subcommand, Clone)]
enum What {
    /// Nanoseconds per packet of the programs, by path, over an empty program.
    Micro,
    /// Request/response, connect/request/close and bulk TCP: a VIP among 1 and
    /// 10,000 services, no VIP, kernel routing, loopback; one CPU for all.
    Path(path::Selection),
    /// The same, with 1,000 policy rules for each end and with none.
    Policy,
    /// A container calls a service: ours, kube-proxy's iptables and nftables, haproxy,
    /// docker-proxy, and no VIP at all; one CPU for all.
    Versus(versus::Scale),
    /// Connections to one of ever more services: ours, and kube-proxy's.
    Scale,
    /// From nothing and by one change: ours, kube-proxy's iptables and nftables.
    Rules(versus::Scale),
    /// Cold start with 10,000 services x 5 backends, one change, memory.
    Program,
    /// ADD and DEL of containers by the CNI plugin, one at a time and eight.
    Attach,
    /// Docker's containers: how soon one serves by its label, and many published ports.
    Docker,
    /// An agent that watches an API server: cold start, one change, memory, and 1,000 changes a
    /// second under load.
    Watch,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("benchmarks make network namespaces and load BPF programs: run them as root");
    }
    let all = [
        What::Micro,
        What::Program,
        What::Watch,
        What::Attach,
        What::Docker,
        What::Path(path::Selection::default()),
        What::Policy,
        What::Versus(versus::Scale::default()),
        What::Scale,
        What::Rules(versus::Scale::default()),
    ];
    if let Some(directory) = &arguments.write {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let old = arguments.compare.as_deref().map(Old::read).transpose()?;
    let whole = arguments.what.is_none();
    let chosen = arguments.what.map_or_else(|| all.into(), |what| vec![what]);
    let (ticks, mut reports) = (Ticks::now()?, Vec::new());
    for what in chosen {
        // Where it runs is each table's own affair.
        cpu::roam();
        let quick = arguments.quick;
        let report = match what {
            What::Attach => attach::run(quick)?,
            What::Docker => docker::run(quick)?,
            What::Micro => micro::run(quick)?,
            What::Path(selection) => path::run(quick, &selection)?,
            What::Policy => policy::run(quick)?,
            What::Program => program::run(quick)?,
            What::Rules(scale) => rules::run(quick, scale.services)?,
            What::Scale => scale::run(quick, arguments.write.as_deref())?,
            What::Versus(scale) => versus::run(quick, &scale)?,
            What::Watch => watch::run(quick)?,
        };
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{report}");
        }
        reports.push(report);
    }
    if let Some(old) = old {
        println!("{}", old.moved(&reports));
    }
    let stolen = ticks.stolen_since()?;
    if stolen > STOLEN {
        eprintln!("{:.1}% of the CPUs' time was other guests': measure again", stolen * 100.0);
    }
    if let Some(directory) = &arguments.write {
        let command = if whole { "cargo xtask bench" } else { "a part of cargo xtask bench" };
        report::write(directory, command, stolen, &reports)?;
        eprintln!("written: {}", directory.join(report::TEXT).display());
    }
    Ok(())
}
