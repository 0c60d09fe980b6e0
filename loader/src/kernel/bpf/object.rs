//! How do programs and maps get into the kernel? From the object that is built
//! into this binary; maps that an earlier agent pinned are taken over.

use std::os::fd::{AsFd, OwnedFd};

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, programs::SchedClassifier};
use causeway_schema::{
    Backend, Cell, Endpoint, EndpointKey, Flow, FlowKey, Frontend, FrontendKey, Hop, NodeConfig,
    SCHEMA_VERSION, Service, V4,
};

use super::{
    BpfError,
    bpffs::{self, Pins},
    sys,
};
use crate::plan::Capacity;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/causeway.bpf.o"));

pub const FROM_CONTAINER: &str = "from_container";
pub const FROM_UPLINK: &str = "from_uplink";
pub const SWEEP: &str = "sweep";
const PROGRAMS: [&str; 3] = [FROM_CONTAINER, FROM_UPLINK, SWEEP];

/// What a map must be like to be taken over.
struct Shape {
    name: &'static str,
    key: usize,
    value: usize,
    rows: u32,
}

fn shapes(capacity: &Capacity) -> [Shape; 8] {
    fn shape<K, V>(name: &'static str, rows: u32) -> Shape {
        Shape { name, key: size_of::<K>(), value: size_of::<V>(), rows }
    }
    [
        shape::<FrontendKey<V4>, Frontend>("FRONTENDS_V4", capacity.frontends),
        shape::<u32, Service>("SERVICES_V4", capacity.services),
        shape::<u32, Backend<V4>>("BACKENDS_V4", capacity.backends),
        shape::<u32, Cell>("ARENA_V4", capacity.arena),
        shape::<EndpointKey<V4>, Hop>("EP_KEYS_V4", capacity.endpoints),
        // Slot 0 is never given out.
        shape::<u32, Endpoint>("ENDPOINTS_V4", capacity.endpoints + 1),
        // An entry for each direction.
        shape::<FlowKey<V4>, Flow<V4>>("FLOWS_V4", capacity.flows * 2),
        shape::<FlowKey<V4>, Flow<V4>>("EMBRYONIC_V4", capacity.embryonic * 2),
    ]
}

/// Maps whose size is their own.
const FIXED: [&str; 5] = ["COUNTERS", "CONFIG", "TRACE", "CACHE_V4", "FLOW_EPOCH"];

/// The loaded object. aya's handle is kept for the clsact way of attaching.
pub struct Object {
    pub ebpf: Ebpf,
    pins: Pins,
}

impl Object {
    /// Loads the programs, over pinned maps where there are any.
    ///
    /// # Errors
    /// [`BpfError::Shape`] when pinned maps do not fit `capacity` (with
    /// `recreate` they are replaced instead), and what the kernel refuses.
    pub fn load(pins: Pins, capacity: &Capacity, recreate: bool) -> Result<Self, BpfError> {
        let shapes = shapes(capacity);
        match check(&pins, &shapes) {
            Err(BpfError::Shape { .. } | BpfError::Version { .. }) if recreate => discard(&pins)?,
            other => other?,
        }
        let mut loader = EbpfLoader::new();
        let ticks = ticks_per_second();
        loader.verifier_log_level(VerifierLogLevel::STATS).override_global("TICKS_PER_SECOND", &ticks, true);
        for shape in &shapes {
            loader.map_max_entries(shape.name, shape.rows);
        }
        for name in shapes.iter().map(|shape| shape.name).chain(FIXED) {
            loader.map_pin_path(name, pins.maps().join(name));
        }
        let ebpf =
            loader.load(OBJECT).map_err(|error| BpfError::Object { step: "load", cause: Box::new(error) })?;
        let mut object = Self { ebpf, pins };
        let config = object.map("CONFIG")?;
        sys::map_update(&config, &0_u32, &NodeConfig { trace_mark: 0, version: SCHEMA_VERSION })
            .map_err(BpfError::call("write to map", "CONFIG"))?;
        for name in PROGRAMS {
            let program = object.load_program(name)?;
            bpffs::publish(&program, &object.pins.programs().join(name))?;
        }
        Ok(object)
    }

    /// A descriptor of a pinned map.
    ///
    /// # Errors
    /// When somebody has removed the pin.
    pub fn map(&self, name: &str) -> Result<OwnedFd, BpfError> {
        sys::open(&self.pins.maps().join(name)).map_err(BpfError::call("open map", name))
    }

    /// A descriptor of a loaded program.
    ///
    /// # Errors
    /// When the object has no such program.
    pub fn program(&self, name: &str) -> Result<OwnedFd, BpfError> {
        sys::open(&self.pins.programs().join(name)).map_err(BpfError::call("open program", name))
    }

    fn load_program(&mut self, name: &'static str) -> Result<OwnedFd, BpfError> {
        let missing = || BpfError::Missing { kind: "program", name: name.into() };
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())?;
        program.load().map_err(|error| {
            let log = error.to_string();
            let from = log.len().saturating_sub(2000);
            let log = log.get(from..).unwrap_or(&log).to_owned();
            BpfError::Verifier { program: name, cause: std::io::Error::last_os_error(), log }
        })?;
        let fd = program.fd().map_err(|_| missing())?;
        fd.as_fd().try_clone_to_owned().map_err(BpfError::call("duplicate the descriptor of", name))
    }
}

/// Compares what is pinned with what is wanted.
fn check(pins: &Pins, shapes: &[Shape]) -> Result<(), BpfError> {
    let config = pins.maps().join("CONFIG");
    if config.exists() {
        let map = sys::open(&config).map_err(BpfError::call("open map", "CONFIG"))?;
        let row: Option<NodeConfig> =
            sys::map_lookup(&map, &0_u32).map_err(BpfError::call("read map", "CONFIG"))?;
        let found = row.map_or(0, |row| row.version);
        // 0: an agent died before it had written anything.
        if found != 0 && found != SCHEMA_VERSION {
            return Err(BpfError::Version { path: pins.maps(), found, wanted: SCHEMA_VERSION });
        }
    }
    let mut differences = Vec::new();
    for shape in shapes {
        let path = pins.maps().join(shape.name);
        if !path.exists() {
            continue;
        }
        let map = sys::open(&path).map_err(BpfError::call("open map", shape.name))?;
        let found: sys::MapInfo = sys::info(&map).map_err(BpfError::call("look at map", shape.name))?;
        let there = (found.key_size as usize, found.value_size as usize, found.max_entries);
        let wanted = (shape.key, shape.value, shape.rows);
        if there != wanted {
            differences.push(format!(
                "{} has {} rows of {}+{} bytes, wanted are {} of {}+{}",
                shape.name, there.2, there.0, there.1, wanted.2, wanted.0, wanted.1
            ));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(BpfError::Shape { differences: differences.join("; ") })
}

/// Removes the maps' pins; links go on with the old maps until they get the
/// new programs.
fn discard(pins: &Pins) -> Result<(), BpfError> {
    let directory = pins.maps();
    let names = bpffs::names(&directory).map_err(BpfError::call("list", directory.display().to_string()))?;
    for name in names {
        bpffs::remove_file(&directory.join(&name)).map_err(BpfError::call("remove the pin of map", name))?;
    }
    Ok(())
}

/// The kernel's HZ: the resolution of the coarse clocks is one tick.
pub(super) fn ticks_per_second() -> u32 {
    let mut tick = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the one struct it is given.
    let got = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut tick) };
    if got == 0 && tick.tv_nsec > 0 { (1_000_000_000 / tick.tv_nsec) as u32 } else { 250 }
}
