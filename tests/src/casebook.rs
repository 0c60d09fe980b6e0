//! How is a folder of cases played, and what is printed meanwhile?

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, ensure};
use clap::Args;

#[derive(Args)]
pub struct Casebook {
    /// Folder of cases (*.yaml).
    folder: PathBuf,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

impl Casebook {
    /// The chosen cases.
    ///
    /// # Errors
    /// When there is none, and what `read` says of the folder.
    pub fn read<C>(
        &self,
        read: impl Fn(&Path) -> Result<Vec<C>>,
        name: impl Fn(&C) -> &str,
    ) -> Result<Vec<C>> {
        ensure!(nix::unistd::geteuid().is_root(), "namespaces and BPF programs are made: run it as root");
        let mut cases = read(&self.folder)?;
        if let Some(only) = &self.only {
            cases.retain(|case| name(case).contains(only));
            ensure!(!cases.is_empty(), "no case's name contains {only:?}");
        }
        Ok(cases)
    }
}

/// Plays one after the other; whether all went as they say. `play` tells the
/// differences, a line each.
pub fn play<C>(cases: &[C], name: impl Fn(&C) -> &str, play: impl Fn(&C) -> Vec<String>) -> bool {
    let mut failed = 0;
    for (index, case) in cases.iter().enumerate() {
        let begun = Instant::now();
        let differences = play(case);
        let verdict = if differences.is_empty() { "ok" } else { "DIFFERS" };
        let seconds = begun.elapsed().as_secs_f64();
        println!("{}/{} {}: {verdict} ({seconds:.1} s)", index + 1, cases.len(), name(case));
        differences.iter().for_each(|difference| println!("    {difference}"));
        failed += usize::from(!differences.is_empty());
    }
    println!("{} cases, {} as they say, {failed} not", cases.len(), cases.len() - failed);
    failed == 0
}

/// What a program that played cases ends with.
pub fn exit(played: Result<bool>) -> ExitCode {
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
