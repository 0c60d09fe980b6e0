//! Runs all tests, suite after suite; beside them those that do little but wait.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::paths;

/// Suites that are idle for most of their time: together they take one CPU a tenth of it,
/// and would hold up the others for five minutes. First those that nothing hurries, since
/// the others begin with the libraries' own tests, which are busy.
const PATIENT: [&str; 7] = [
    "src_kubernetes_credentials",
    "policy_table",
    "src_kubernetes_events",
    "svc_health_check",
    "src_kubernetes",
    "src_guard",
    "ops_proxy_health",
];

/// A built test binary.
struct Suite {
    name: String,
    source: String,
    binary: PathBuf,
    /// Of its package, where cargo runs it too.
    directory: PathBuf,
}

/// What the suites' own summaries add up to.
#[derive(Debug, Default, PartialEq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Suites that ended otherwise than by counting.
    pub broken: Vec<String>,
}

/// Builds and runs them, showing what they say.
///
/// # Errors
/// When they do not build or cannot be started; tests that fail are counted.
pub fn run(cargo: &str) -> Result<Count> {
    let turn = |suite: &Suite| PATIENT.iter().position(|name| *name == suite.name);
    let (mut patient, others): (Vec<Suite>, Vec<Suite>) =
        built(cargo)?.into_iter().partition(|suite| turn(suite).is_some());
    patient.sort_by_key(turn);
    ensure!(patient.len() == PATIENT.len(), "a suite that is named here is gone: {PATIENT:?}");
    thread::scope(|scope| {
        let beside = scope.spawn(|| all(&patient));
        let mut count = all(&others)?;
        let waited = beside.join().map_err(|_| anyhow::anyhow!("the patient suites' thread panicked"))??;
        count.add(waited);
        Ok(count)
    })
}

fn built(cargo: &str) -> Result<Vec<Suite>> {
    let mut child = Command::new(cargo)
        .args(["test", "--release", "--workspace", "--no-run", "--message-format=json-render-diagnostics"])
        .current_dir(paths::root())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let mut suites = Vec::new();
    for line in BufReader::new(child.stdout.take().context("cargo's messages")?).lines() {
        let message: Value = serde_json::from_str(&line?).context("a message of cargo")?;
        let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        if message.pointer("/profile/test") != Some(&Value::Bool(true)) {
            continue;
        }
        let (Some(binary), Some(name), Some(source), Some(manifest)) =
            (text("/executable"), text("/target/name"), text("/target/src_path"), text("/manifest_path"))
        else {
            continue;
        };
        let directory = PathBuf::from(manifest).parent().context("a manifest's directory")?.to_owned();
        suites.push(Suite { name, source, binary: binary.into(), directory });
    }
    ensure!(child.wait()?.success(), "the tests do not build");
    suites.sort_by(|one, other| one.source.cmp(&other.source));
    Ok(suites)
}

/// One after the other. What a suite says is shown in one piece.
fn all(suites: &[Suite]) -> Result<Count> {
    let mut count = Count::default();
    for Suite { name, source, binary, directory } in suites {
        let source = source.strip_prefix(&format!("{}/", paths::root().display())).unwrap_or(source);
        println!("     Starting {source}");
        let output = Command::new(binary)
            .current_dir(directory)
            .env("CAUSEWAY_BIN", paths::built("causeway"))
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("start {}", binary.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let mut shown = std::io::stdout().lock();
        write!(shown, "\n     Running {source}\n{said}")?;
        let summary = said.lines().rev().find_map(|line| line.strip_prefix("test result: "));
        let of_suite = summary.map(read);
        if of_suite.is_none()
            || !output.status.success() && of_suite.as_ref().is_some_and(|all| all.failed == 0)
        {
            writeln!(shown, "{source} broke off: {}", output.status)?;
            count.broken.push(name.clone());
        }
        count.add(of_suite.unwrap_or_default());
    }
    Ok(count)
}

/// `ok. 3 passed; 0 failed; 0 ignored; …`
fn read(summary: &str) -> Count {
    let of = |what: &str| {
        let part = summary.split([';', '.']).find(|part| part.trim().ends_with(what));
        part.and_then(|part| part.split_whitespace().find_map(|word| word.parse().ok())).unwrap_or(0)
    };
    Count { passed: of(" passed"), failed: of(" failed"), skipped: of(" ignored"), broken: Vec::new() }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.broken.extend(other.broken);
    }

    /// # Errors
    /// When a test failed, or none ran.
    pub fn judge(&self) -> Result<()> {
        ensure!(self.failed == 0 && self.broken.is_empty(), "tests failed: {}", self.words());
        ensure!(self.passed > 0, "no test ran");
        Ok(())
    }

    pub fn words(&self) -> String {
        let Self { passed, failed, broken, .. } = self;
        let broken =
            if broken.is_empty() { String::new() } else { format!(", {} broke off", broken.join(", ")) };
        format!("{passed} passed, {failed} failed{broken}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read_and_judged() {
        let good = read("ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.07s");
        assert_eq!(good, Count { passed: 12, failed: 0, skipped: 1, broken: Vec::new() });
        good.judge().unwrap();
        let mut all = read("FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        all.add(good);
        assert_eq!(all.judge().unwrap_err().to_string(), "tests failed: 15 passed, 2 failed");
        let broken = Count { passed: 3, broken: vec!["fwd".into()], ..Count::default() };
        assert!(broken.judge().unwrap_err().to_string().ends_with("3 passed, 0 failed, fwd broke off"));
        assert!(Count::default().judge().is_err());
    }
}
