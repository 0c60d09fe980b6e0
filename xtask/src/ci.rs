//! What must pass before anything lands?

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::{ebpf, kernels, paths, schemas, setup, suites, whole};

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
        passed = tests(&cargo)?;
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

/// Runs all tests, showing what they say; the number that passed.
fn tests(cargo: &str) -> Result<u64> {
    let mut child = Command::new(cargo)
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .current_dir(paths::root())
        .env("CAUSEWAY_BIN", paths::built("causeway"))
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for line in BufReader::new(child.stdout.take().context("the output of cargo test")?).lines() {
        let line = line?;
        println!("{line}");
        let Some(counts) = line.strip_prefix("test result: ") else { continue };
        let count = |what: &str| -> u64 {
            let part = counts.split([';', '.']).find(|part| part.trim().ends_with(what));
            part.and_then(|part| part.split_whitespace().find_map(|word| word.parse().ok())).unwrap_or(0)
        };
        passed += count(" passed");
        failed += count(" failed");
        skipped += count(" ignored");
    }
    let status = child.wait()?;
    if failed > 0 || !status.success() {
        println!("{passed} passed, {failed} failed");
        bail!("tests failed");
    }
    ensure!(skipped == 0, "{skipped} tests were skipped: a test that does not run shows nothing");
    ensure!(passed > 0, "no test ran");
    Ok(passed)
}
