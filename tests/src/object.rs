//! The built object: its programs loaded over maps of their own, but not attached.

use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::SchedClassifier,
};
use causeway::plan::Family;
use causeway_schema::{JUMPS, V4, V6};

/// Room in the maps; more than any test fills.
pub const ROOM: u32 = 16_384;

/// The programs of both hooks, and those that they jump to; `settings` come after
/// [`ROOM`]. Jumps are forgotten with the last holder of their array.
pub fn load(settings: impl FnOnce(&mut EbpfLoader<'_>)) -> Result<(Ebpf, ProgramArray<MapData>)> {
    let path = object()?;
    let mut loader = EbpfLoader::new();
    let ticks = ticks_per_second();
    loader.override_global("TICKS_PER_SECOND", &ticks, true);
    for map in V4::MAPS.into_iter().chain(V6::MAPS) {
        loader.map_max_entries(map, ROOM);
    }
    settings(&mut loader);
    let mut bpf = loader.load_file(&path).with_context(|| format!("load {}", path.display()))?;
    for name in ["from_container", "from_uplink"].iter().chain(&JUMPS) {
        let program: &mut SchedClassifier =
            bpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
        // Some are jumped to from both hooks.
        if program.fd().is_err() {
            program.load().with_context(|| format!("load program {name}"))?;
        }
    }
    let mut jumps = ProgramArray::try_from(bpf.take_map("JUMPS").context("no map JUMPS")?)?;
    for (slot, name) in (0..).zip(JUMPS) {
        let program: &SchedClassifier =
            bpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?;
        jumps.set(slot, program.fd()?, 0)?;
    }
    Ok((bpf, jumps))
}

/// What `cargo xtask build-ebpf` made: `$CAUSEWAY_BPF_OBJECT`, or above this
/// program in the target directory.
fn object() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CAUSEWAY_BPF_OBJECT") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let mut places = own.ancestors().skip(1).map(|dir| dir.join("causeway.bpf.o"));
    places
        .find(|path| path.is_file())
        .with_context(|| format!("no causeway.bpf.o above {}: cargo xtask build-ebpf", own.display()))
}

/// The kernel's ticks, from the resolution of its coarse clock.
fn ticks_per_second() -> u32 {
    let resolution = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
    (1_000_000_000 / resolution.tv_nsec()) as u32
}
