//! What does a packet, a connection, a change cost? Measured on this machine,
//! side by side, everything that is compared in one interleaved run.

mod attach;
mod compare;
mod docker;
mod load;
mod memory;
mod micro;
mod path;
mod policy;
mod program;
mod stats;
mod stock;
mod watch;

use clap::{Parser, Subcommand};

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
    ];
    let chosen = arguments.what.map_or_else(|| all.into(), |what| vec![what]);
    for what in chosen {
        let report = match what {
            What::Attach => attach::run(arguments.quick)?,
            What::Docker => docker::run(arguments.quick)?,
            What::Micro => micro::run(arguments.quick)?,
            What::Path(selection) => path::run(arguments.quick, &selection)?,
            What::Policy => policy::run(arguments.quick)?,
            What::Program => program::run(arguments.quick)?,
            What::Watch => watch::run(arguments.quick)?,
        };
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{report}");
        }
    }
    Ok(())
}
