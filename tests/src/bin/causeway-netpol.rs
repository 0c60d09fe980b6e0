//! Plays a folder of policy cases and prints where the network differs.

use std::process::ExitCode;

use anyhow::Result;
use causeway_testkit::{
    casebook::{self, Casebook},
    netpol::{Case, Stage},
};
use clap::Parser;

/// Plays cases of who may talk to whom (docs/netpol.md) on two nodes, nine pods
/// and a host outside, over real connections; prints the ways that differ.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    casebook: Casebook,
}

fn main() -> ExitCode {
    casebook::exit(run(&Arguments::parse()))
}

fn name(case: &Case) -> &str {
    &case.name
}

fn run(arguments: &Arguments) -> Result<bool> {
    let cases = arguments.casebook.read(Case::read_all, name)?;
    let stage = Stage::new();
    let play = |case: &Case| {
        let mut said: Vec<String> = stage.play(case).iter().map(ToString::to_string).collect();
        if !said.is_empty() {
            said.insert(0, case.about.clone());
        }
        said
    };
    Ok(casebook::play(&cases, name, play))
}
