//! Plays a folder of cases of what a CNI plugin should say.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use causeway_testkit::{
    casebook::{self, Casebook},
    cni::{self, Case, Plugin},
    topology::Cluster,
};
use clap::Parser;

/// Plays cases (docs/cni.md) against causeway-cni and an agent on a node of its own,
/// and prints the answers that differ.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    casebook: Casebook,
    /// Another program in place of causeway-cni.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
}

fn main() -> ExitCode {
    casebook::exit(run(&Arguments::parse()))
}

fn name(case: &Case) -> &str {
    &case.case
}

fn run(arguments: &Arguments) -> Result<bool> {
    let cases = arguments.casebook.read(Case::read_all, name)?;
    let cluster = Cluster::dual(1);
    cluster.wait_converged();
    let mut plugin = Plugin::of(&cluster.nodes[0]);
    plugin.program = arguments.plugin.clone().unwrap_or(plugin.program);
    Ok(casebook::play(&cases, name, |case| cni::play(case, &plugin)))
}
