//! Plays a folder of policy cases and prints where the network differs.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use causeway_testkit::netpol::{Case, Stage};
use clap::Parser;

/// Plays cases of who may talk to whom (docs/netpol.md) on two nodes, nine pods
/// and a host outside, over real connections; prints the ways that differ.
#[derive(Parser)]
struct Arguments {
    /// Folder of cases (*.yaml).
    folder: PathBuf,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
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
        cases.retain(|case| case.name.contains(only));
        ensure!(!cases.is_empty(), "no case's name contains {only:?}");
    }
    let stage = Stage::new();
    let mut failed = 0;
    for (index, case) in cases.iter().enumerate() {
        let begun = Instant::now();
        let differences = stage.play(case);
        let verdict = if differences.is_empty() { "ok" } else { "DIFFERS" };
        println!(
            "{}/{} {}: {verdict} ({:.1} s)",
            index + 1,
            cases.len(),
            case.name,
            begun.elapsed().as_secs_f64()
        );
        if !differences.is_empty() {
            failed += 1;
            println!("    {}", case.about);
            differences.iter().for_each(|difference| println!("    {difference}"));
        }
    }
    println!("{} cases, {} as they say, {failed} not", cases.len(), cases.len() - failed);
    Ok(failed == 0)
}
