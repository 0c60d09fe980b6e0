//! What does a packet cost in the programs alone? `BPF_PROG_TEST_RUN` of a
//! front program that writes a packet of a flow drawn at random and tail-calls
//! the program under test; an empty program under the same front is the zero.
//! Every packet has to be delivered: a drop is no figure.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun, TestRunOptions},
};
use bytemuck::{Pod, bytes_of};
use causeway_schema::{
    Algorithm, Backend, Cell, Endpoint, EndpointKey, Flow, FlowKey, Frontend, FrontendKey, GATEWAY_MAC, Hop,
    Port, Service, Target, V4, Verdict,
    choice::{Lot, rendezvous},
    flow::flags,
    front::{Front, TEMPLATE_BYTES, flow_address},
    protocol,
};
use causeway_testkit::{cpu, prog::Programs};

use crate::stats::Report;

const VIP: V4 = V4([10, 96, 0, 1]);
const BACKEND: V4 = V4([10, 244, 0, 2]);
const CLIENT_PORT: Port = Port::new(40_000);
const FRONTEND_PORT: Port = Port::new(80);
const SERVICE: u32 = 3;
const BACKENDS: u32 = 5;
/// All clients are addresses of one container: the packets come by one interface.
const CLIENT: Hop = Hop::new(1, 7);
/// The container that serves; delivery is a number here.
const SERVER: Hop = Hop::new(2, 7);

const TCP_SYN: u8 = 2;
const TCP_ACK: u8 = 16;

pub fn run(quick: bool) -> Result<Report> {
    cpu::stay_on(0);
    let (runs, repeat) = if quick { (3, 100_000) } else { (9, 500_000) };
    let conditions = format!(
        "Minimum of {runs} runs of {repeat} packets; the front's own cost (an empty program behind it) \
         is subtracted. Nanoseconds; the columns are flows drawn from."
    );
    let mut report = Report::new("Cost per packet", conditions, &["1 flow", "1,024 flows", "65,536 flows"]);
    let mut cells: Vec<Vec<String>> = CASES.iter().map(|_| Vec::new()).collect();
    for flows in [1, 1024, 65_536] {
        let mut bench = Bench::new(flows)?;
        for (case, cells) in CASES.iter().zip(&mut cells) {
            bench.fill(case)?;
            let empty = bench.run(case, false, runs, repeat)?;
            let full = bench.run(case, true, runs, repeat)?;
            cells.push(format!("{}", full.saturating_sub(empty)));
        }
    }
    for (case, cells) in CASES.iter().zip(cells) {
        report.row(case.name, cells);
    }
    Ok(report)
}

/// A path through `from_container`.
struct Case {
    name: &'static str,
    protocol: u8,
    tcp_flags: u8,
    to: V4,
    port: Port,
    /// The backends' port; entries of established flows when given.
    established: Option<Port>,
}

const CASES: [Case; 5] = [
    Case {
        name: "established TCP to a VIP, 80 -> 8080",
        protocol: protocol::TCP,
        tcp_flags: TCP_ACK,
        to: VIP,
        port: FRONTEND_PORT,
        established: Some(Port::new(8080)),
    },
    Case {
        name: "established TCP to a VIP, 80 -> 80",
        protocol: protocol::TCP,
        tcp_flags: TCP_ACK,
        to: VIP,
        port: FRONTEND_PORT,
        established: Some(FRONTEND_PORT),
    },
    Case {
        name: "established UDP to a VIP, 80 -> 8080",
        protocol: protocol::UDP,
        tcp_flags: 0,
        to: VIP,
        port: FRONTEND_PORT,
        established: Some(Port::new(8080)),
    },
    Case {
        name: "a SYN to a VIP on ports just used (5 backends)",
        protocol: protocol::TCP,
        tcp_flags: TCP_SYN,
        to: VIP,
        port: FRONTEND_PORT,
        established: None,
    },
    Case {
        name: "container to container, no service",
        protocol: protocol::TCP,
        tcp_flags: TCP_ACK,
        to: BACKEND,
        port: FRONTEND_PORT,
        established: None,
    },
];

struct Bench {
    front: Ebpf,
    dataplane: Programs,
    under_test: ProgramFd,
    empty: ProgramFd,
    flows: u32,
}

impl Bench {
    fn new(flows: u32) -> Result<Self> {
        let mut front = Ebpf::load(&object("bench-front.bpf.o")?)?;
        load_program(&mut front, "front")?;
        let empty = load_program(&mut front, "empty")?;
        let sizes = [("EP_KEYS_V4", 131_072), ("FLOWS_V4", 262_144), ("EMBRYONIC_V4", 262_144)];
        let mut dataplane = Programs::load_with(&sizes)?;
        let entry = dataplane.object().program("from_container").context("program from_container")?;
        let entry: &SchedClassifier = entry.try_into()?;
        let under_test = entry.fd()?.try_clone()?;
        let mut bench = Self { front, dataplane, under_test, empty, flows };
        bench.fill_tables()?;
        Ok(bench)
    }

    fn fill_tables(&mut self) -> Result<()> {
        for hop in [CLIENT, SERVER] {
            let (ifindex, generation) = (hop.slot(), hop.generation());
            let endpoint = Endpoint { ifindex, generation, flags: 0, mac: [2; 6], policy: 0 };
            self.put_row::<_, 16>("ENDPOINTS_V4", hop.slot(), &endpoint)?;
        }
        self.put::<_, _, 4, 4>("EP_KEYS_V4", &EndpointKey(BACKEND), &SERVER)?;
        // Every client is a container's address, behind the interface that the
        // packets come by.
        for index in 0..self.flows {
            self.put::<_, _, 4, 4>("EP_KEYS_V4", &EndpointKey(V4(flow_address(index))), &CLIENT)?;
        }
        let frontend = Frontend { service: SERVICE, flags: 0 };
        for protocol in [protocol::TCP, protocol::UDP] {
            let key = FrontendKey::new(VIP, FRONTEND_PORT, protocol);
            self.put::<_, _, 8, 8>("FRONTENDS_V4", &key, &frontend)?;
        }
        let marker = Frontend { service: Frontend::WHOLE_ADDRESS, flags: 0 };
        self.put::<_, _, 8, 8>("FRONTENDS_V4", &FrontendKey::whole_address(VIP), &marker)?;
        let target = Target::new(0, BACKENDS, Algorithm::Rendezvous, Port::new(8080));
        self.put_row::<_, 16>("SERVICES_V4", SERVICE, &Service { target, generation: 1, flags: 0 })?;
        let backend = Backend::new(BACKEND, Port::NONE);
        let mut lots = Vec::new();
        for id in 0..BACKENDS {
            self.put_row::<_, 8>("BACKENDS_V4", id, &backend)?;
            lots.push(Lot { seed: causeway_schema::hash::mix(u64::from(id)), weight: 1, backend: id });
        }
        let mut cells = vec![Cell::ZERO; rendezvous::cells(lots.len())];
        rendezvous::fill(&lots, &mut cells);
        for (index, cell) in (0..).zip(&cells) {
            self.put_row::<_, 64>("ARENA_V4", index, cell)?;
        }
        Ok(())
    }

    /// Entries of the case's flows.
    fn fill(&mut self, case: &Case) -> Result<()> {
        let Some(port) = case.established else { return Ok(()) };
        for index in 0..self.flows {
            let client = V4(flow_address(index));
            let key = FlowKey::new(client, case.to, CLIENT_PORT, case.port, case.protocol);
            let after = FlowKey::new(client, BACKEND, CLIENT_PORT, port, case.protocol);
            let flow = Flow {
                flags: flags::REPLIED | flags::ESTABLISHED,
                service: SERVICE,
                generation: 1,
                hop: SERVER,
                ..Flow::translating(&key, &after)
            };
            self.put::<_, _, 16, 40>("FLOWS_V4", &key, &flow)?;
        }
        Ok(())
    }

    /// Nanoseconds per packet: the best of `runs`.
    fn run(&mut self, case: &Case, under_test: bool, runs: u32, repeat: u32) -> Result<u128> {
        let mut slots = ProgramArray::try_from(self.front.map_mut("UNDER_TEST").context("map UNDER_TEST")?)?;
        slots.set(0, if under_test { &self.under_test } else { &self.empty }, 0)?;
        let frame = frame(case);
        let mut template = [0; TEMPLATE_BYTES / 8];
        bytemuck::bytes_of_mut(&mut template).copy_from_slice(&frame[..TEMPLATE_BYTES]);
        // Offset 26: the source address of the IPv4 header.
        let front = Front { state: 1, mask: self.flows - 1, varied: 26, template };
        let mut map: Array<_, [u8; 72]> = Array::try_from(self.front.map_mut("FRONT").context("map FRONT")?)?;
        map.set(0, sized(&front)?, 0)?;
        let program: &SchedClassifier = self.front.program("front").context("program front")?.try_into()?;
        let before = self.dataplane.counters();
        let mut best = u128::MAX;
        for _ in 0..runs {
            let options = TestRunOptions { data_in: Some(&frame), repeat, ..Default::default() };
            best = best.min(program.test_run(options)?.duration.as_nanos());
        }
        let delivered = Verdict::Delivered.name();
        let moved = self.dataplane.counters()[delivered] - before[delivered];
        let wanted = if under_test { u64::from(runs) * u64::from(repeat) } else { 0 };
        ensure!(moved == wanted, "{}: {moved} of {wanted} packets were delivered", case.name);
        Ok(best)
    }

    fn put<K: Pod, V: Pod, const KEY: usize, const VALUE: usize>(
        &mut self,
        map: &str,
        key: &K,
        value: &V,
    ) -> Result<()> {
        let map = self.dataplane.object().map_mut(map).with_context(|| format!("map {map}"))?;
        let mut map: HashMap<_, [u8; KEY], [u8; VALUE]> = HashMap::try_from(map)?;
        Ok(map.insert(sized::<K, KEY>(key)?, sized::<V, VALUE>(value)?, 0)?)
    }

    fn put_row<V: Pod, const VALUE: usize>(&mut self, map: &str, index: u32, value: &V) -> Result<()> {
        let map = self.dataplane.object().map_mut(map).with_context(|| format!("map {map}"))?;
        let mut map: Array<_, [u8; VALUE]> = Array::try_from(map)?;
        Ok(map.set(index, sized::<V, VALUE>(value)?, 0)?)
    }
}

fn load_program(object: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program: &mut SchedClassifier =
        object.program_mut(name).with_context(|| format!("program {name}"))?.try_into()?;
    program.load()?;
    Ok(program.fd()?.try_clone()?)
}

fn sized<T: Pod, const N: usize>(value: &T) -> Result<[u8; N]> {
    bytes_of(value).try_into().context("the size of a row")
}

/// The case's frame; checksums play no part in its cost.
fn frame(case: &Case) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[..6].copy_from_slice(&GATEWAY_MAC);
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&50_u16.to_be_bytes());
    frame[22] = 64;
    frame[23] = case.protocol;
    frame[30..34].copy_from_slice(&case.to.0);
    frame[34..36].copy_from_slice(&CLIENT_PORT.0);
    frame[36..38].copy_from_slice(&case.port.0);
    // A checksum that is not zero: UDP without one would skip the update.
    frame[40] = 0x12;
    frame[46] = 0x50;
    frame[47] = case.tcp_flags;
    frame
}

/// An object that `cargo xtask build-ebpf` left in the target directory.
fn object(name: &str) -> Result<Vec<u8>> {
    let program = std::env::current_exe()?;
    let candidates: Vec<PathBuf> = program.ancestors().skip(1).map(|dir| dir.join(name)).collect();
    let found = candidates.iter().map(PathBuf::as_path).find(|path| Path::exists(path));
    let path = found
        .with_context(|| format!("no {name} beside {}: run cargo xtask build-ebpf", program.display()))?;
    Ok(std::fs::read(path)?)
}
