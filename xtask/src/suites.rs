//! Demo, tests, verification, benchmarks and packages: set up, build, run.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::{deb, ebpf, image, kernels, paths, runner, schemas, setup, whole};

pub fn demo(shell: &Shell, arguments: &[String]) -> Result<()> {
    need_root("the demo makes network namespaces and loads BPF programs")?;
    prepare(shell)?;
    build(shell, &["-p", "causeway", "-p", "causeway-testkit", "--bins"])?;
    let demo = paths::built("causeway-demo");
    run(shell, cmd!(shell, "{demo} {arguments...}"))
}

pub fn test(shell: &Shell, arguments: &[String]) -> Result<()> {
    need_root("the tests make network namespaces and load BPF programs")?;
    prepare(shell)?;
    build(shell, &["-p", "causeway", "--bins"])?;
    whole::build(shell)?;
    schemas::install(shell)?;
    let cargo = paths::cargo();
    if arguments.is_empty() {
        let count = runner::run(&cargo)?;
        println!("\n{}", count.words());
        return count.judge();
    }
    run(shell, cmd!(shell, "{cargo} test --release --workspace --quiet {arguments...}"))
}

pub fn verify(shell: &Shell, update: bool) -> Result<()> {
    need_root("verification loads BPF programs")?;
    prepare(shell)?;
    build(shell, &["-p", "causeway-testkit", "--bin", "causeway-verify"])?;
    let verify = paths::built("causeway-verify");
    let update = update.then_some("--update");
    run(shell, cmd!(shell, "{verify} {update...}"))
}

pub fn kernels(shell: &Shell, versions: &[String], suites: &[String]) -> Result<()> {
    need_root("the kernels' packages and QEMU are Debian's, installed by apt-get")?;
    prepare(shell)?;
    build(shell, &["-p", "causeway", "-p", "causeway-testkit", "--bins"])?;
    kernels::run(shell, versions, suites)
}

pub fn netpol(shell: &Shell, arguments: &[String]) -> Result<()> {
    need_root("policy cases are played in network namespaces, by loaded BPF programs")?;
    prepare(shell)?;
    build(shell, &["-p", "causeway", "-p", "causeway-testkit", "--bins"])?;
    let netpol = paths::built("causeway-netpol");
    run(shell, cmd!(shell, "{netpol} {arguments...}"))
}

pub fn cni_conformance(shell: &Shell, arguments: &[String]) -> Result<()> {
    need_root("cases are played in network namespaces, with loaded BPF programs")?;
    prepare(shell)?;
    build(shell, &["-p", "causeway", "-p", "causeway-testkit", "--bins"])?;
    let conformance = paths::built("causeway-cni-conformance");
    run(shell, cmd!(shell, "{conformance} {arguments...}"))
}

pub fn image(
    shell: &Shell,
    output: Option<PathBuf>,
    binary: Option<PathBuf>,
    source: Option<String>,
) -> Result<()> {
    let binary = match binary {
        Some(binary) => binary,
        None => static_binary(shell)?,
    };
    let output = output.unwrap_or_else(|| paths::target().join("causeway-image.tar"));
    // A tree that is no checkout has no commit.
    let revision = cmd!(shell, "git rev-parse HEAD").quiet().ignore_stderr().read().ok();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let licenses = env!("CARGO_PKG_LICENSE").to_owned();
    image::write(&binary, &output, &image::Facts { version, licenses, source, revision })
}

pub fn deb(shell: &Shell, output: Option<PathBuf>, binary: Option<PathBuf>) -> Result<()> {
    let binary = match binary {
        Some(binary) => binary,
        None => static_binary(shell)?,
    };
    let version = env!("CARGO_PKG_VERSION");
    let output = match output {
        Some(output) => output,
        None => paths::target().join(deb::name(version, &binary)?),
    };
    deb::build(shell, version, &binary, &output)?;
    println!("{}", output.display());
    Ok(())
}

/// Builds what an image and a package carry.
fn static_binary(shell: &Shell) -> Result<PathBuf> {
    prepare(shell)?;
    eprintln!("building the agent");
    whole::build(shell)
}

pub fn tidy(shell: &Shell) -> Result<()> {
    ebpf::build(shell)?;
    let cargo = paths::cargo();
    run(shell, cmd!(shell, "{cargo} test --release --quiet -p causeway-testkit --test tidy"))
}

pub fn bench(shell: &Shell, arguments: &[String]) -> Result<()> {
    need_root("benchmarks make network namespaces and load BPF programs")?;
    prepare(shell)?;
    build(shell, &["-p", "causeway", "-p", "causeway-perf", "--bins"])?;
    let bench = paths::built("causeway-perf");
    run(shell, cmd!(shell, "{bench} {arguments...}"))
}

fn prepare(shell: &Shell) -> Result<()> {
    setup::run(shell)?;
    eprintln!("building the BPF programs");
    ebpf::build(shell)
}

fn build(shell: &Shell, what: &[&str]) -> Result<()> {
    eprintln!("building the agent");
    let cargo = paths::cargo();
    cmd!(shell, "{cargo} build --release {what...}").quiet().run().context("build")
}

/// Runs with the agent's binary named, and hands on failure without a stack
/// of causes: the command has said what was wrong.
fn run(shell: &Shell, command: xshell::Cmd) -> Result<()> {
    let _agent = shell.push_env("CAUSEWAY_BIN", paths::built("causeway"));
    match command.quiet().run() {
        Ok(()) => Ok(()),
        Err(_) => bail!("failed"),
    }
}

fn need_root(why: &str) -> Result<()> {
    if paths::is_root() { Ok(()) } else { bail!("{why}: run it as root") }
}
