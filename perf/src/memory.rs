//! What does a process hold, and what do its BPF maps?

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};

/// In MiB.
pub struct Memory {
    pub anonymous: f64,
    /// Without the maps that the agent has mapped: they are counted below.
    pub text: f64,
    pub maps: f64,
    pub flows: f64,
}

/// What a process holds, and what the BPF maps that it has open are charged.
pub fn of(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |field: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(field));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
    };
    let mapped = mapped_maps(pid)?;
    let mut memory = Memory {
        anonymous: kib("RssAnon:") / 1024.0,
        text: kib("RssFile:") / 1024.0 - mapped,
        maps: 0.0,
        flows: 0.0,
    };
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("list the agent's descriptors")? {
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let (Some(id), Some(bytes), Some(kind)) = (field("map_id:"), field("memlock:"), field("map_type:"))
        else {
            continue;
        };
        if !seen.insert(id) {
            continue;
        }
        // Flow tables are the large hash (1, not allocated per entry), the LRU
        // (9) and the per-CPU arrays (6).
        let on_demand = field("map_flags:") == Some(1) || info.contains("map_flags:\t0x1\n");
        let is_flow = matches!(kind, 6 | 9) || kind == 1 && !on_demand;
        let mib = bytes as f64 / 1048576.0;
        if is_flow { memory.flows += mib } else { memory.maps += mib }
    }
    Ok(memory)
}

/// MiB of BPF maps that are resident in a process through its mappings.
fn mapped_maps(pid: u32) -> Result<f64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut inside = false;
    let mut kib = 0;
    for line in smaps.lines() {
        if line.contains('-') && line.split_whitespace().count() >= 5 {
            inside = line.contains("bpf-map");
        } else if inside && let Some(rest) = line.strip_prefix("Rss:") {
            kib += rest.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(kib as f64 / 1024.0)
}
