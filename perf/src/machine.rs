//! What was it measured on, and was the machine ours alone?

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

/// For whoever compares figures of two machines.
#[derive(Serialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    pub memory_gib: u64,
    pub jit: String,
    /// Weaknesses of the CPU that the kernel works around.
    pub mitigated: Vec<String>,
}

impl Machine {
    pub fn read() -> Result<Self> {
        let word = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let memory = fs::read_to_string("/proc/meminfo")?;
        let kib: u64 = memory.split_whitespace().nth(1).context("no MemTotal")?.parse()?;
        let mut mitigated = Vec::new();
        for entry in fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten() {
            let entry = entry?;
            if fs::read_to_string(entry.path())?.starts_with("Mitigation") {
                mitigated.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        mitigated.sort();
        Ok(Self {
            kernel: word("/proc/sys/kernel/osrelease")?,
            cpu: model.map_or("unknown", |(_, model)| model).to_owned(),
            cpus: cpus.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: kib.div_ceil(1 << 20),
            jit: word("/proc/sys/net/core/bpf_jit_enable")?,
            mitigated,
        })
    }
}

/// Ticks of all CPUs, and those of them that another guest had.
pub struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    pub fn now() -> Result<Self> {
        const STEAL: usize = 7;
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("no line of all CPUs")?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        Ok(Self { all: ticks.iter().take(STEAL + 1).sum(), stolen: *ticks.get(STEAL).unwrap_or(&0) })
    }

    /// The share that was stolen since then.
    pub fn stolen_since(&self) -> Result<f64> {
        let now = Self::now()?;
        Ok((now.stolen - self.stolen) as f64 / (now.all - self.all).max(1) as f64)
    }
}
