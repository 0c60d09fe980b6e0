//! What must pass before anything lands?

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{ebpf, kernels, paths, runner, schemas, setup, suites, whole};

/// # Errors
/// Names the step that failed.
pub fn run(shell: &Shell) -> Result<()> {
    let cargo = paths::cargo();
    let mut times = Vec::new();
    let mut step = |name: &'static str, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        println!("== {name}");
        let start = Instant::now();
        work().with_context(|| format!("step {name}"))?;
        times.push((name, start.elapsed().as_secs()));
        Ok(())
    };
    step("set-up", &mut || setup::run(shell).and_then(|()| schemas::install(shell)))?;
    step("BPF programs", &mut || ebpf::build(shell))?;
    step("format", &mut || {
        cmd!(shell, "{cargo} fmt --all --check").run()?;
        let manifest = "dataplane-ebpf/Cargo.toml";
        Ok(cmd!(shell, "{cargo} fmt --check --manifest-path {manifest}").run()?)
    })?;
    step("lints", &mut || {
        Ok(cmd!(shell, "{cargo} clippy --release --workspace --all-targets --quiet -- -D warnings").run()?)
    })?;
    step("verification", &mut || suites::verify(shell, false))?;
    let mut passed = 0;
    step("tests", &mut || {
        cmd!(shell, "{cargo} build --release -p causeway --bins --quiet").run()?;
        whole::build(shell)?;
        let count = runner::run(&cargo)?;
        println!("{}", count.words());
        count.judge()?;
        let skipped = count.skipped;
        ensure!(skipped == 0, "{skipped} tests were skipped: a test that does not run shows nothing");
        passed = count.passed;
        Ok(())
    })?;
    // The oldest kernel: what loads and works on both ends does so in between.
    // Suites of verdicts and bytes alone: an emulated machine keeps no times.
    let suites = ["packets", "packets6"].map(str::to_owned);
    step("Linux 6.1", &mut || kernels::run(shell, &["6.1".to_owned()], &suites))?;
    for (name, seconds) in times {
        println!("{name}: {seconds} s");
    }
    println!("{passed} passed, 0 failed");
    Ok(())
}
