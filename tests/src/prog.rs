//! The real programs over private maps: packet in, verdict, counters and
//! packet out, through `BPF_PROG_TEST_RUN`.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path};

use anyhow::Result;
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, ProgramArray},
    programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp, xdp::XdpMode},
};
use bytemuck::{Pod, bytes_of};
use causeway::plan::{Family, Image};
use causeway_schema::{
    Client, Egress, Event, Flow, NodeConfig, TraceRecord, V4, Verdict,
    nat::Ports,
    policy::{self, EndpointPolicy, OTHERS, PolicyStep, SetKey, Standing, Steps},
    verdict::COUNTERS,
};

use crate::{object, oracle::Side, table::Table};

const FLOWS: [[&str; 2]; 2] = [["FLOWS_V4", "FLOWS_V6"], ["EMBRYONIC_V4", "EMBRYONIC_V6"]];
const QUEUES: [&str; 2] = ["QUEUES_V4", "QUEUES_V6"];
const CLIENTS: [&str; 2] = ["AFFINITY_V4", "AFFINITY_V6"];
const FRAGMENTS: [&str; 2] = ["FRAGMENTS_V4", "FRAGMENTS_V6"];
/// Length of the row about the node.
const NODE: usize = size_of::<NodeConfig>();
const TRACE_MARK: u32 = 0x00c0_ffee;

/// What came of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the program returned: `TC_ACT_*`.
    pub action: i32,
    pub packet: Vec<u8>,
    /// Counters that moved, by name.
    pub counters: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// The verdict counted.
    pub fn verdict(&self) -> Option<Verdict> {
        Verdict::ALL.into_iter().find(|verdict| self.counters.contains_key(verdict.name()))
    }
}

/// Loaded programs and what they read. Runs happen in the calling thread's
/// namespace: that is where interfaces and routes are looked up.
pub struct Programs {
    bpf: Ebpf,
    /// Counters, when they were last read.
    last: Vec<u64>,
    /// Held: an array of programs forgets them with its last holder.
    _jumps: ProgramArray<MapData>,
}

impl Programs {
    pub fn load() -> Result<Self> {
        Self::load_with(&[])
    }

    /// With other sizes than [`ROOM`](crate::object::ROOM) for some maps.
    pub fn load_with(sizes: &[(&'static str, u32)]) -> Result<Self> {
        Self::load_by(|loader| {
            for &(map, size) in sizes {
                loader.map_max_entries(map, size);
            }
        })
    }

    /// With a map that is pinned somewhere, of whatever kind, in place of an own one.
    pub fn load_over(map: &'static str, pin: &Path) -> Result<Self> {
        Self::load_by(|loader| {
            loader.map_pin_path(map, pin.to_owned());
        })
    }

    fn load_by(settings: impl FnOnce(&mut EbpfLoader<'_>)) -> Result<Self> {
        let (bpf, jumps) = object::load(settings)?;
        let mut programs = Self { bpf, last: vec![0; COUNTERS as usize], _jumps: jumps };
        programs.set("CONFIG", 0, &NodeConfig { trace_mark: TRACE_MARK, ..NodeConfig::new() });
        Ok(programs)
    }

    /// The object itself, for who fills its maps otherwise.
    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.bpf
    }

    /// Makes the maps of a family hold `image` and nothing else; flows stay.
    pub fn fill<A: Family>(&mut self, image: &Image<A>) {
        let name = |stem: &str| format!("{stem}{}", A::MAP_SUFFIX);
        for (id, row) in image.backends.iter() {
            self.set(&name("BACKENDS"), id, row);
        }
        for (&base, cells) in &image.tables {
            for (index, cell) in (base..).zip(cells.iter()) {
                self.set(&name("ARENA"), index, cell);
            }
        }
        for (id, row) in image.services.iter() {
            self.set(&name("SERVICES"), id, row);
        }
        for (slot, row) in image.endpoints.iter() {
            self.set(&name("ENDPOINTS"), slot, row);
        }
        let frontends = image.frontends.iter().map(|(key, row)| (bytes(key), bytes(row)));
        self.replace(&name("FRONTENDS"), frontends.collect());
        let members = image.members.iter().map(|(key, row)| (bytes(key), bytes(row)));
        self.replace(&name("MEMBERS"), members.collect());
        let ranges = image.source_ranges.iter().map(|(key, row)| (bytes(key), bytes(row)));
        self.replace(&name("SRC_RANGES"), ranges.collect());
        let ranges = image.port_ranges.iter().map(|(addr, row)| (bytes(addr), bytes(row)));
        self.replace(&name("PORT_RANGES"), ranges.collect());
        let keys = image.endpoint_keys.iter().map(|(key, hop)| (bytes(key), bytes(hop)));
        self.replace(&name("EP_KEYS"), keys.collect());
    }

    /// Writes a row about an egress address, or about who has one.
    pub fn leaves(&mut self, key: V4, row: Egress<V4>) {
        let map = self.bpf.map_mut("EGRESS_V4").expect("the object has it");
        let mut map = HashMap::<_, [u8; 4], [u8; 8]>::try_from(map).expect("it is a hash map");
        map.insert(key.0, bytemuck::cast::<_, [u8; 8]>(row), 0).expect("it has room");
    }

    /// Tells the programs the node's address, and the source ports that flows
    /// under it may have.
    pub fn node(&mut self, address: Ipv4Addr, ports: Ports) {
        self.configure(NodeConfig { node_v4: address.into(), ports, ..NodeConfig::new() });
    }

    /// Tells the programs all about the node.
    pub fn configure(&mut self, node: NodeConfig) {
        self.set("CONFIG", 0, &NodeConfig { trace_mark: TRACE_MARK, ..node });
    }

    pub fn clear_flows(&mut self) {
        for map in FLOWS.into_iter().flatten() {
            self.replace(map, BTreeMap::new());
        }
        for map in QUEUES.into_iter().chain(CLIENTS) {
            self.replace(map, BTreeMap::new());
        }
        for map in FRAGMENTS.into_iter().chain(["HELD"]) {
            self.zero(map);
        }
        // The programs' caches go by this number; entries left by our hand.
        let epoch: u64 = self.get("FLOW_EPOCH", 0);
        self.set("FLOW_EPOCH", 0, &(epoch + 1));
    }

    /// Changes every entry of the table of established flows of a family; how
    /// many they are.
    pub fn change_flows<A: Family>(&mut self, change: impl Fn(&mut Flow<A>)) -> usize {
        let count = self.change(&format!("FLOWS{}", A::MAP_SUFFIX), change);
        let epoch: u64 = self.get("FLOW_EPOCH", 0);
        self.set("FLOW_EPOCH", 0, &(epoch + 1));
        count
    }

    /// Changes what is remembered of every client of services with affinity.
    pub fn change_clients<A: Family>(&mut self, change: impl Fn(&mut Client<A>)) -> usize {
        self.change(&format!("AFFINITY{}", A::MAP_SUFFIX), change)
    }

    fn change<T: Pod>(&self, map: &str, change: impl Fn(&mut T)) -> usize {
        let table = Table::of(self.bpf.map(map).unwrap_or_else(|| panic!("no map {map}")));
        let keys = table.keys();
        for key in &keys {
            let mut row: T = bytemuck::pod_read_unaligned(&table.get(key).unwrap());
            change(&mut row);
            table.put(key, &bytes(&row));
        }
        keys.len()
    }

    /// Makes every row of an array zero.
    fn zero(&mut self, map: &str) {
        Table::of(self.bpf.map(map).unwrap_or_else(|| panic!("no map {map}"))).zero();
    }

    /// Entries in the tables of established and of embryonic flows, of both families.
    pub fn flows(&self) -> [usize; 2] {
        FLOWS.map(|names| {
            names.into_iter().map(|name| Table::of(self.bpf.map(name).unwrap()).keys().len()).sum()
        })
    }

    /// Gives the program for XDP to the driver of an interface, until the value
    /// goes. (Only then can it be run over packets that come by it.)
    pub fn attach_xdp(&mut self, interface: &str) {
        let program: &mut Xdp = self.bpf.program_mut("uplink_xdp").unwrap().try_into().unwrap();
        if program.fd().is_err() {
            program.load().unwrap();
        }
        program.attach(interface, XdpMode::Driver).unwrap();
    }

    /// Runs a packet for real: flows and counters move.
    pub fn run(&mut self, side: Side, frame: &[u8]) -> Result<Outcome, ProgramError> {
        self.moved();
        self.run_on(side, frame, false)
    }

    /// As [`Programs::run`], but counters may have moved since the last run, too.
    /// `early`: XDP sees the frame first, and the action is its own if it keeps
    /// it, or else TC's, for a frame that it has not touched.
    pub fn run_on(&mut self, side: Side, frame: &[u8], early: bool) -> Result<Outcome, ProgramError> {
        const XDP_PASS: i32 = 2;
        if early {
            let (action, packet) = self.run_xdp(side.ifindex(), frame)?;
            if action != XDP_PASS {
                return Ok(Outcome { action, packet, counters: self.moved() });
            }
            assert_eq!(packet, frame, "XDP touched what it passed");
        }
        let (action, packet) = self.test_run(side, frame, 0)?;
        Ok(Outcome { action, packet, counters: self.moved() })
    }

    /// Asks what would become of a packet, and what the program makes of it.
    pub fn trace(&mut self, side: Side, frame: &[u8]) -> Result<(TraceRecord, Vec<u8>), ProgramError> {
        let (_, packet) = self.test_run(side, frame, TRACE_MARK)?;
        Ok((self.get("TRACE", 0), packet))
    }

    /// As [`Programs::run`], without a look at the counters, which is most of
    /// its cost; `TC_ACT_*`, and the packet that came of it.
    pub fn run_quietly(&mut self, side: Side, frame: &[u8]) -> Result<(i32, Vec<u8>), ProgramError> {
        self.test_run(side, frame, 0)
    }

    /// What the program for XDP makes of a frame that comes by `ifindex`, where
    /// it must be attached: `XDP_*`, and the frame.
    pub fn run_xdp(&mut self, ifindex: u32, frame: &[u8]) -> Result<(i32, Vec<u8>), ProgramError> {
        // `struct xdp_md`: the frame from its first byte to its last, no
        // metadata, the interface.
        let length = frame.len() as u32;
        let context: Vec<u8> =
            [0, length, 0, ifindex, 0, 0].iter().flat_map(|field: &u32| field.to_ne_bytes()).collect();
        let program: &Xdp = self.bpf.program("uplink_xdp").unwrap().try_into()?;
        run_once(program, &context, frame)
    }

    fn test_run(&self, side: Side, frame: &[u8], mark: u32) -> Result<(i32, Vec<u8>), ProgramError> {
        let (name, ifindex) = match side {
            Side::Container { ifindex } => ("from_container", ifindex),
            Side::Uplink { ifindex, .. } => ("from_uplink", ifindex),
        };
        let context = context(ifindex, mark);
        let program: &SchedClassifier = self.bpf.program(name).unwrap().try_into()?;
        run_once(program, &context, frame)
    }

    /// Every counter, summed over the CPUs.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        names().zip(self.totals()).collect()
    }

    fn totals(&self) -> Vec<u64> {
        let rows = Table::of(self.bpf.map("COUNTERS").unwrap()).rows();
        let per_counter = rows.len() / COUNTERS as usize;
        let total = |row: &[u8]| row.chunks(8).map(|cpu| u64::from_ne_bytes(cpu.try_into().unwrap())).sum();
        rows.chunks(per_counter).map(total).collect()
    }

    /// The counters that have moved since this was asked last.
    fn moved(&mut self) -> BTreeMap<&'static str, u64> {
        let now = self.totals();
        let before = std::mem::replace(&mut self.last, now);
        let moved =
            names().zip(self.last.iter().zip(before)).map(|(name, (now, before))| (name, now - before));
        moved.filter(|&(_, moved)| moved != 0).collect()
    }

    /// Gives endpoints with this policy a set for all they send and get, with one
    /// outcome for everybody.
    pub fn judge(&mut self, index: u16, outcome: policy::Outcome) {
        let sets = EndpointPolicy { ingress: 1, egress: 1 };
        for bank in [0, 1] {
            self.set("POLICIES", Standing::new(0, bank).row(index), &sets);
        }
        self.set("STEPS", 0, &PolicyStep::new(0, outcome, 1));
        let (key, row) = (SetKey { set: 1, class: OTHERS }, Steps { base: 0, len: 1 });
        self.replace("SETS", [(bytes(&key), bytes(&row))].into());
    }

    fn set<T: Pod>(&mut self, map: &str, index: u32, row: &T) {
        let data = self.bpf.map_mut(map).unwrap_or_else(|| panic!("no map {map}"));
        match bytes_of(row).len() {
            8 => put::<8>(data, index, bytes_of(row)),
            16 => put::<16>(data, index, bytes_of(row)),
            24 => put::<24>(data, index, bytes_of(row)),
            32 => put::<32>(data, index, bytes_of(row)),
            64 => put::<64>(data, index, bytes_of(row)),
            NODE => put::<NODE>(data, index, bytes_of(row)),
            size => panic!("rows of {size} bytes"),
        }
    }

    fn get<T: Pod>(&self, map: &str, index: u32) -> T {
        let data = self.bpf.map(map).unwrap_or_else(|| panic!("no map {map}"));
        match size_of::<T>() {
            8 => take::<8, T>(data, index),
            16 => take::<16, T>(data, index),
            20 => take::<20, T>(data, index),
            size => panic!("rows of {size} bytes"),
        }
    }

    fn replace(&mut self, map: &str, wanted: BTreeMap<Vec<u8>, Vec<u8>>) {
        let table = Table::of(self.bpf.map(map).unwrap_or_else(|| panic!("no map {map}")));
        let there = table.keys();
        for (key, row) in &wanted {
            table.put(key, row);
        }
        for key in there.iter().filter(|key| !wanted.contains_key(*key)) {
            table.remove(key);
        }
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    Verdict::ALL.map(Verdict::name).into_iter().chain(Event::ALL.map(Event::name))
}

/// What a program returns for a frame, and what it makes of it.
fn run_once(
    program: &impl for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
    context: &[u8],
    frame: &[u8],
) -> Result<(i32, Vec<u8>), ProgramError> {
    // A first fragment leaves as the longest that has waited for it.
    let mut packet = vec![0; frame.len().max(1600) + 256];
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut packet),
        ctx_in: Some(context),
        ..TestRunOptions::default()
    })?;
    packet.truncate(result.data_size_out as usize);
    Ok((result.return_value as i32, packet))
}

fn bytes<T: Pod>(value: &T) -> Vec<u8> {
    bytes_of(value).to_vec()
}

fn put<const N: usize>(map: &mut aya::maps::Map, index: u32, row: &[u8]) {
    let mut array: Array<&mut MapData, [u8; N]> = map.try_into().unwrap();
    array.set(index, <[u8; N]>::try_from(row).unwrap(), 0).unwrap();
}

fn take<const N: usize, T: Pod>(map: &aya::maps::Map, index: u32) -> T {
    let array: Array<&MapData, [u8; N]> = map.try_into().unwrap();
    bytemuck::pod_read_unaligned(&array.get(&index, 0).unwrap())
}

/// A `struct __sk_buff` with a mark and an interface, zero elsewhere.
fn context(ifindex: u32, mark: u32) -> Vec<u8> {
    // Offsets from linux/bpf.h, a stable interface.
    const MARK: usize = 8;
    const IFINDEX: usize = 40;
    let mut context = vec![0; 192];
    context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    context
}
