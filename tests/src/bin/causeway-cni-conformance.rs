//! Plays a folder of cases of what a CNI plugin should say.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use causeway_testkit::{
    cni::{Case, Plugin, play},
    topology::Cluster,
};
use clap::Parser;

/// Plays cases (docs/cni.md) against causeway-cni and an agent on a node of its own,
/// and prints the answers that differ.
#[derive(Parser)]
struct Arguments {
    /// Folder of cases (*.yaml).
    folder: PathBuf,
    /// Only cases whose words contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Another program in place of causeway-cni.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "namespaces and BPF programs are made: run it as root");
    let mut cases = Case::read_all(&arguments.folder)?;
    if let Some(only) = &arguments.only {
        cases.retain(|case| case.case.contains(only));
        ensure!(!cases.is_empty(), "no case contains {only:?}");
    }
    let cluster = Cluster::dual(1);
    cluster.wait_converged();
    let mut plugin = Plugin::of(&cluster.nodes[0]);
    plugin.program = arguments.plugin.clone().unwrap_or(plugin.program);
    let mut failed = 0;
    for (index, case) in cases.iter().enumerate() {
        let differences = play(case, &plugin);
        let verdict = if differences.is_empty() { "ok" } else { "DIFFERS" };
        println!("{}/{} {}: {verdict}", index + 1, cases.len(), case.case);
        differences.iter().for_each(|difference| println!("    {difference}"));
        failed += usize::from(!differences.is_empty());
    }
    println!("{} cases, {} as they say, {failed} not", cases.len(), cases.len() - failed);
    Ok(failed == 0)
}
