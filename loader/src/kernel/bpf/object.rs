//! How do programs and maps get into the kernel? From the object that is built
//! into this binary; maps that an earlier agent pinned are taken over.

mod late;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use aya::{Ebpf, EbpfLoader};
use causeway_schema::{
    Addr, Backend, Cell, Client, ClientKey, Egress, Endpoint, EndpointKey, Flow, FlowKey, Frontend,
    FrontendKey, Hop, JUMPS, Member, MemberKey, NodeConfig, PortRanges, Service, SourceRange, SourceRangeKey,
    TraceRecord, V4, V6,
    config::SCHEMA_VERSION,
    policy::{EndpointPolicy, PeerKey, PolicyStep, SetKey, Standing, Steps},
    socket::Peers,
    verdict,
};

use super::{
    BpfError, Options,
    bpffs::{self, Pins},
    programs, sys,
};
use crate::plan::{Capacity, Family};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/causeway.bpf.o"));

pub const FROM_CONTAINER: &str = "from_container";
pub const FROM_UPLINK: &str = "from_uplink";
/// At the egress of interfaces; the others are at an ingress.
pub const FROM_HOST: &str = "from_host";
/// In front of `FROM_UPLINK`, where it is wanted.
pub const UPLINK_XDP: &str = "uplink_xdp";
/// What is attached or run from here; the others are jumped to.
const ENTRIES: [&str; 5] = [FROM_CONTAINER, FROM_UPLINK, FROM_HOST, "sweep_v4", "sweep_v6"];
const JUMP_MAP: &str = "JUMPS";

/// What a map must be like to be taken over.
struct Shape {
    name: &'static str,
    info: sys::MapInfo,
}

/// `enum bpf_map_type`, and the flags each map is made with.
const HASH: (u32, u32) = (1, 0);
const SPARSE_HASH: (u32, u32) = (1, BPF_F_NO_PREALLOC);
const ARRAY: (u32, u32) = (2, 0);
const PROGRAM_ARRAY: (u32, u32) = (3, 0);
const MAPPED_ARRAY: (u32, u32) = (2, BPF_F_MMAPABLE);
const PERCPU_ARRAY: (u32, u32) = (6, 0);
const LRU_HASH: (u32, u32) = (9, 0);
const SOCKET_STORAGE: (u32, u32) = (24, BPF_F_NO_PREALLOC);
const PREFIX_TRIE: (u32, u32) = (11, BPF_F_NO_PREALLOC);
const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Egress addresses that one node may hold.
const HELD: u32 = 1024;

/// Every map that outlives the agent. The caches of the CPUs do not: what they
/// hold is void without its programs.
fn shapes(capacity: &Capacity) -> Vec<Shape> {
    let mut shapes = family_shapes::<V4>(capacity);
    shapes.extend(family_shapes::<V6>(capacity));
    shapes.extend([
        shape::<u32, u64>("FLOW_EPOCH", ARRAY, 1),
        shape::<u32, u64>("PROMOTIONS", ARRAY, 1),
        shape::<u32, u64>("COUNTERS", PERCPU_ARRAY, verdict::COUNTERS),
        shape::<u32, NodeConfig>("CONFIG", ARRAY, 1),
        shape::<u32, TraceRecord>("TRACE", ARRAY, 1),
        shape::<u32, Standing>("POLICY", MAPPED_ARRAY, 1),
        // In two banks; index 0 is nobody's.
        shape::<u32, EndpointPolicy>("POLICIES", MAPPED_ARRAY, policies(capacity)),
        shape::<SetKey, Steps>("SETS", SPARSE_HASH, capacity.policy_sets),
        shape::<u32, PolicyStep>("STEPS", MAPPED_ARRAY, capacity.policy_steps),
        shape::<u32, u64>("RULES", PERCPU_ARRAY, capacity.rules),
        // A row goes with its socket, and is found by it.
        shape::<u32, Peers>("PEERS", SOCKET_STORAGE, 0),
        // Pinned as well: an array of programs forgets them with its last holder.
        shape::<u32, u32>(JUMP_MAP, PROGRAM_ARRAY, JUMPS.len() as u32),
    ]);
    shapes
}

/// Rows of the table of policies, in both banks.
pub fn policies(capacity: &Capacity) -> u32 {
    // An index has 16 bits.
    (capacity.endpoints.saturating_add(2)).min(1 << 16) * 2
}

fn family_shapes<A: Family>(capacity: &Capacity) -> Vec<Shape> {
    let pairs = |flows: u32| flows.saturating_mul(2);
    let [frontends, services, backends, arena, endpoint_keys, endpoints, flows, embryonic, ..] = A::MAPS;
    let [.., affinity, members, source_ranges, port_ranges, classes, egress] = A::MAPS;
    vec![
        shape::<FrontendKey<A>, Frontend>(frontends, SPARSE_HASH, capacity.frontends),
        shape::<u32, Service>(services, MAPPED_ARRAY, capacity.services),
        shape::<u32, Backend<A>>(backends, MAPPED_ARRAY, capacity.backends),
        shape::<u32, Cell>(arena, MAPPED_ARRAY, capacity.arena),
        shape::<EndpointKey<A>, Hop>(endpoint_keys, SPARSE_HASH, capacity.endpoints),
        // Slot 0 is never given out.
        shape::<u32, Endpoint>(endpoints, MAPPED_ARRAY, capacity.endpoints.saturating_add(1)),
        // An entry for each direction.
        shape::<FlowKey<A>, Flow<A>>(flows, HASH, pairs(capacity.flows)),
        shape::<FlowKey<A>, Flow<A>>(embryonic, LRU_HASH, pairs(capacity.embryonic)),
        shape::<ClientKey<A>, Client<A>>(affinity, LRU_HASH, capacity.affinity),
        shape::<MemberKey<A>, Member>(members, SPARSE_HASH, capacity.members),
        shape::<SourceRangeKey<A>, SourceRange>(source_ranges, PREFIX_TRIE, capacity.source_ranges),
        shape::<A, PortRanges>(port_ranges, SPARSE_HASH, capacity.port_ranges),
        shape::<PeerKey<A>, u32>(classes, PREFIX_TRIE, capacity.peers),
        // Of containers, and of addresses that are held for them.
        shape::<A, Egress<A>>(egress, SPARSE_HASH, capacity.endpoints.saturating_add(HELD)),
    ]
}

fn shape<K, V>(name: &'static str, (kind, flags): (u32, u32), max_entries: u32) -> Shape {
    let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
    Shape { name, info: sys::MapInfo { kind, id: 0, key_size, value_size, max_entries, flags } }
}

/// The program that removes idle flows of a family.
pub const fn sweep_program<A: Family>() -> &'static str {
    match A::BYTES {
        V4::BYTES => "sweep_v4",
        _ => "sweep_v6",
    }
}

/// The loaded programs and their maps, held open: a pin that somebody removes
/// is put back from here.
pub struct Object {
    programs: BTreeMap<&'static str, OwnedFd>,
    maps: BTreeMap<&'static str, OwnedFd>,
    pins: Pins,
    /// Where the programs for sockets come from, as long as they are not loaded.
    rest: Option<Ebpf>,
}

impl Object {
    /// Loads the programs, over pinned maps where there are any.
    ///
    /// # Errors
    /// [`BpfError::Shape`] when pinned maps do not fit `capacity` (with
    /// `recreate` they are replaced instead), and what the kernel refuses.
    pub fn load(pins: Pins, capacity: &Capacity, options: Options) -> Result<Self, BpfError> {
        let shapes = shapes(capacity);
        match check(&pins, &shapes) {
            Err(BpfError::Shape { .. } | BpfError::Version { .. }) if options.recreate => discard(&pins)?,
            other => other?,
        }
        let first = ENTRIES.into_iter().chain(JUMPS).chain(options.xdp.then_some(UPLINK_XDP));
        // Some are jumped to from both hooks.
        let first: Vec<_> = first.collect::<BTreeSet<_>>().into_iter().collect();
        let mut object = Self { programs: BTreeMap::new(), maps: BTreeMap::new(), pins, rest: None };
        if !object.inherit(&shapes, &first) {
            let mut ebpf = read(&object.pins, &shapes)?;
            object.open_maps(&shapes)?;
            let programs = programs::load(&mut ebpf, &first)?;
            // Whoever finds but a part of them loads them all anew, and never puts
            // them together with some of an earlier load, which hand packets over
            // through other memory.
            object.pins.remove_programs()?;
            object.publish(programs)?;
            object.rest = Some(ebpf);
            release(OBJECT);
        }
        // An agent that died in a trace may have left its mark.
        let config = object.map("CONFIG")?;
        let there: Option<NodeConfig> =
            sys::map_lookup(&config, &0_u32).map_err(BpfError::call("read map", "CONFIG"))?;
        let there = there.unwrap_or_default();
        sys::map_update(&config, &0_u32, &NodeConfig { trace_mark: 0, version: SCHEMA_VERSION, ..there })
            .map_err(BpfError::call("write to map", "CONFIG"))?;
        object.fill_jumps()?;
        Ok(object)
    }

    /// Takes over the maps and programs of an earlier agent of this build; false
    /// when some are not there.
    fn inherit(&mut self, shapes: &[Shape], names: &[&'static str]) -> bool {
        if self.open_maps(shapes).is_err() {
            return false;
        }
        let Some(programs) = self.inherited(names, |kind| kind != SOCKET_STORAGE.0) else { return false };
        self.programs.extend(programs);
        true
    }

    /// Of an earlier agent, which work on the maps of some kinds.
    fn inherited(
        &self,
        names: &[&'static str],
        on: impl Fn(u32) -> bool,
    ) -> Option<Vec<(&'static str, OwnedFd)>> {
        let infos = self.maps.values().map(sys::info::<sys::MapInfo>);
        let infos = infos.collect::<io::Result<Vec<_>>>().ok()?;
        let ids = infos.iter().filter(|info| on(info.kind)).map(|info| info.id).collect();
        programs::inherit(&self.pins, names, &ids)
    }

    fn open_maps(&mut self, shapes: &[Shape]) -> Result<(), BpfError> {
        for shape in shapes {
            let map = sys::open(&self.pins.maps().join(shape.name))
                .map_err(BpfError::call("open map", shape.name))?;
            self.maps.insert(shape.name, map);
        }
        Ok(())
    }

    fn publish(&mut self, programs: programs::Loaded) -> Result<(), BpfError> {
        for (name, program) in programs {
            bpffs::publish(&program, &self.pins.programs().join(name))?;
            self.programs.insert(name, program);
        }
        Ok(())
    }

    /// Slot by slot, under the programs that run: what an earlier agent has
    /// attached jumps to the new ones at once.
    fn fill_jumps(&self) -> Result<(), BpfError> {
        let jumps = self.map(JUMP_MAP)?;
        for (slot, name) in (0_u32..).zip(JUMPS) {
            let target = self.program(name)?;
            sys::map_update(&jumps, &slot, &target.as_raw_fd())
                .map_err(BpfError::call("write to map", JUMP_MAP))?;
        }
        Ok(())
    }

    /// A descriptor of a map.
    ///
    /// # Errors
    /// When the object has no such map.
    pub fn map(&self, name: &str) -> Result<OwnedFd, BpfError> {
        duplicate("map", name, self.maps.get(name))
    }

    /// A descriptor of a loaded program.
    ///
    /// # Errors
    /// When the object has no such program.
    pub fn program(&self, name: &str) -> Result<OwnedFd, BpfError> {
        duplicate("program", name, self.programs.get(name))
    }

    /// Puts back pins that somebody removed or took for something else, so
    /// that the next agent finds this one's maps; says which.
    pub fn audit_pins(&self) -> (Vec<String>, Vec<BpfError>) {
        let (mut repaired, mut errors) = (Vec::new(), Vec::new());
        let maps = self.maps.iter().map(|(name, map)| ("map", self.pins.maps().join(name), map));
        let programs =
            self.programs.iter().map(|(name, program)| ("program", self.pins.programs().join(name), program));
        for (kind, path, object) in maps.chain(programs) {
            // Type and id lead every kind of description.
            let there = sys::open(&path).and_then(|pinned| sys::info::<sys::ProgramInfo>(&pinned));
            let ours = sys::info::<sys::ProgramInfo>(object);
            if matches!((&there, &ours), (Ok(there), Ok(ours)) if there == ours) {
                continue;
            }
            match bpffs::publish(object, &path) {
                Ok(()) => repaired.push(format!("pin of {kind} {}: missing, put back", path.display())),
                Err(error) => errors.push(error),
            }
        }
        (repaired, errors)
    }
}

/// The object with its maps: pinned ones, and new ones, which are pinned.
fn read(pins: &Pins, shapes: &[Shape]) -> Result<Ebpf, BpfError> {
    let mut loader = EbpfLoader::new();
    let ticks = ticks_per_second();
    // No relocation against the kernel's types is used.
    loader.btf(None).override_global("TICKS_PER_SECOND", &ticks, true);
    for shape in shapes {
        loader.map_max_entries(shape.name, shape.info.max_entries);
        loader.map_pin_path(shape.name, pins.maps().join(shape.name));
    }
    loader.load(OBJECT).map_err(|error| BpfError::Object { step: "load", cause: Box::new(error) })
}

/// Gives back the memory of bytes in the executable that have done their work.
fn release(bytes: &'static [u8]) {
    const PAGE: usize = 4096;
    let range = bytes.as_ptr_range();
    let start = (range.start as usize).next_multiple_of(PAGE);
    let end = range.end as usize / PAGE * PAGE;
    if start < end {
        // SAFETY: whole pages of the executable's constants, which nothing
        // writes; who reads them again gets them from the file. Failing, they stay.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

fn duplicate(kind: &'static str, name: &str, fd: Option<&OwnedFd>) -> Result<OwnedFd, BpfError> {
    let fd = fd.ok_or_else(|| BpfError::Missing { kind, name: name.into() })?;
    fd.try_clone().map_err(BpfError::call("duplicate the descriptor of", name))
}

/// Compares what is pinned with what is wanted.
fn check(pins: &Pins, shapes: &[Shape]) -> Result<(), BpfError> {
    let mut differences = Vec::new();
    let mut version = Ok(());
    for Shape { name, info: wanted } in shapes {
        let path = pins.maps().join(name);
        let map = match sys::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(BpfError::call("open map", path.display().to_string()))?,
        };
        let found: sys::MapInfo = sys::info(&map).map_err(BpfError::call("look at map", *name))?;
        let found = sys::MapInfo { id: 0, ..found };
        if found != *wanted {
            differences.push(format!("{name} has {}, wanted {}", describe(&found), describe(wanted)));
        } else if *name == "CONFIG" {
            version = check_version(pins, &map);
        }
    }
    // Of maps that another version made, their sizes are no news.
    version?;
    if differences.is_empty() {
        return Ok(());
    }
    Err(BpfError::Shape { differences: differences.join("; ") })
}

fn check_version(pins: &Pins, config: &OwnedFd) -> Result<(), BpfError> {
    let row: Option<NodeConfig> =
        sys::map_lookup(config, &0_u32).map_err(BpfError::call("read map", "CONFIG"))?;
    match row.map_or(0, |row| row.version) {
        // 0: an agent died before it had written anything.
        0 | SCHEMA_VERSION => Ok(()),
        found => Err(BpfError::Version { path: pins.maps(), found, wanted: SCHEMA_VERSION }),
    }
}

fn describe(info: &sys::MapInfo) -> String {
    let sys::MapInfo { kind, key_size, value_size, max_entries, flags, .. } = info;
    format!("{max_entries} rows of {key_size}+{value_size} bytes (type {kind}, flags {flags:#x})")
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
