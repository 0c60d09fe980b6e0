//! Do all programs pass this kernel's verifier, and have they grown? Loads
//! both objects and holds the counts against a reviewed text file.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Btf, Ebpf,
    programs::{Program, SchedClassifier},
};
use causeway_schema::SOCK_LISTED;
use clap::Parser;

/// Loads every BPF program and compares the verifier's counts with
/// dataplane-ebpf/instructions.txt.
#[derive(Parser)]
struct Arguments {
    /// Rewrite the file, for review.
    #[arg(long)]
    update: bool,
    /// Only whether they load: the counts in the file are of another kernel.
    #[arg(long, conflicts_with = "update")]
    load_only: bool,
}

const OBJECTS: [&str; 2] = ["causeway.bpf.o", "bench-front.bpf.o"];
/// A tenth of what the verifier walks before it gives up.
const BUDGET: u32 = 100_000;
/// Compilers move a little; more than this is a change to look at.
const GROWTH_PERCENT: u32 = 3;
const HEADER: &str = "# program: instructions the verifier walks, bytes of translated and of JITed code.\n\
                      # Rewritten by `cargo xtask verify --update`; read the difference.\n";

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane-ebpf/instructions.txt");
    let mut counts = BTreeMap::new();
    for object in OBJECTS {
        counts.extend(load(&path_of(object)?).with_context(|| format!("object {object}"))?);
    }
    let mut text = HEADER.to_owned();
    for (program, (verified, translated, jited)) in &counts {
        writeln!(text, "{program:<20} {verified:>7} {translated:>7} {jited:>7}")?;
    }
    print!("{text}");
    if arguments.load_only {
        return Ok(());
    }
    if arguments.update {
        return fs::write(&file, text).with_context(|| format!("write {}", file.display()));
    }
    compare(&counts, &fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?)
}

type Counts = BTreeMap<String, (u32, u32, u32)>;

fn load(path: &Path) -> Result<Counts> {
    let mut object = Ebpf::load(&fs::read(path)?)?;
    let (mut counts, mut refused) = (Counts::new(), Vec::new());
    for (name, program) in object.programs_mut() {
        let loaded = match &mut *program {
            Program::Xdp(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::Iter(program) => program.load(SOCK_LISTED, &Btf::from_sys_fs()?),
            program => TryInto::<&mut SchedClassifier>::try_into(program)?.load(),
        };
        if let Err(error) = loaded {
            refused
                .push(format!("program {name} is refused by the verifier: {:#}", anyhow::Error::from(error)));
            continue;
        }
        let info = program.info()?;
        // Counted since 5.16.
        let verified = info.verified_instruction_count().context("the kernel does not count")?;
        counts.insert(name.to_owned(), (verified, info.size_translated().unwrap_or(0), info.size_jitted()));
    }
    ensure!(refused.is_empty(), "{}", refused.join("\n"));
    Ok(counts)
}

fn compare(counts: &Counts, reviewed: &str) -> Result<()> {
    let reviewed: BTreeMap<&str, u32> = reviewed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?.parse().ok()?))
        })
        .collect();
    let mut faults = Vec::new();
    for (program, (verified, ..)) in counts {
        if *verified > BUDGET {
            faults.push(format!("{program}: {verified} instructions, the budget is {BUDGET}"));
        }
        match reviewed.get(program.as_str()) {
            None => faults.push(format!("{program} is new")),
            Some(before) if *verified > before + before * GROWTH_PERCENT / 100 => {
                faults.push(format!("{program} has grown from {before} to {verified}"));
            }
            Some(_) => {}
        }
    }
    faults.extend(
        reviewed.keys().filter(|name| !counts.contains_key(**name)).map(|name| format!("{name} is gone")),
    );
    if !faults.is_empty() {
        bail!("{}; review, and `cargo xtask verify --update`", faults.join("; "));
    }
    Ok(())
}

fn path_of(object: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let found = program.ancestors().skip(1).map(|dir| dir.join(object)).find(|path| path.exists());
    found.with_context(|| format!("no {object} beside {}: run cargo xtask build-ebpf", program.display()))
}
