//! Do the programs do what the oracle says, over random nodes and packets of
//! both families?
//!
//! Each packet is first traced, which must leave no trace, then run, in some
//! worlds with XDP before TC; verdict, events, action, interface, service and
//! packet must all be the oracle's, and checksums as right as they were. On
//! failure the CAUSEWAY_SEED printed runs it again, and the packets and changes
//! that it takes are listed.

use std::collections::BTreeMap;

use causeway_schema::{Event, TraceRecord, V4, V6, Verdict, flow::flags};
use causeway_testkit::{
    bed::{Bed, NEIGHBOUR_MAC, UPLINK_MAC},
    frame::Frame,
    inspect::{describe, residuals, without_checksums},
    oracle::{Expected, Oracle, Side},
    prog::{Outcome, Programs},
    random::Random,
    scenery,
    traffic::{self, Sent},
    world::World,
};

/// `CAUSEWAY_PACKETS` has another number.
const PACKETS: usize = 1_000_000;
const PER_WORLD: usize = 2000;

/// What no packet here brings about: a full table, a helper that fails, a row
/// that is missing, a socket of the host, a policy, an outer header.
const UNSEEN: [&str; 14] = [
    "drop_flow_table",
    "flow_promotion_failed",
    "drop_rewrite",
    "drop_inconsistent",
    "socket_served",
    "socket_refused",
    "drop_policy",
    "drop_policy_reject",
    "drop_tunnel_source",
    "drop_no_egress",
    "drop_egress_closed",
    "encapsulated",
    "decapsulated",
    "host_answered",
];

/// What `TC_ACT_*` and `XDP_*` call them.
const PASS: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
const XDP_TX: i32 = 3;

#[test]
fn the_programs_do_what_the_oracle_says() {
    let wanted = std::env::var("CAUSEWAY_PACKETS").map_or(PACKETS, |text| text.parse().unwrap());
    let bed = Bed::new();
    bed.netns.run(|| {
        let mut programs = Programs::load().unwrap();
        programs.attach_xdp("up0");
        let (mut judged, mut seen) = (0, Tally::new());
        let worlds = Random::rounds_while(|random| {
            judged += round(&bed, &mut programs, random, &mut seen);
            judged < wanted
        });
        println!("{worlds} worlds, {judged} packets judged: {seen:?}");
        for name in Verdict::ALL.map(Verdict::name).into_iter().chain(Event::ALL.map(Event::name)) {
            let there = seen.get(name).is_some_and(|&count| count * 10_000 > judged as u64);
            let one_seed = std::env::var_os("CAUSEWAY_SEED").is_some();
            assert!(there || one_seed || UNSEEN.contains(&name), "{name} was hardly seen");
        }
    });
}

/// What can happen to a node.
#[derive(Clone)]
enum Step {
    World(Box<World>),
    /// Established flows were silent for too long.
    Expire,
    /// Clients of services with affinity stayed away for too long.
    Forget,
    Packet(Side, Vec<u8>),
}

/// How often a counter has moved.
type Tally = BTreeMap<&'static str, u64>;

/// The programs beside the oracle.
struct Play<'a> {
    bed: &'a Bed,
    programs: &'a mut Programs,
    oracle: Oracle,
    world: World,
    /// XDP stands before TC.
    xdp: bool,
    judged: usize,
    seen: Tally,
}

/// One world and its packets; how many the kernel took.
fn round(bed: &Bed, programs: &mut Programs, random: &mut Random, seen: &mut Tally) -> usize {
    let xdp = random.one_in(2);
    let passing = random.one_in(2);
    let mut steps = vec![Step::World(Box::new(scenery::world(bed, random)))];
    let mut play = Play::new(bed, programs, xdp);
    // Few flows over and over, or many: a cache shows its faults with few.
    let recent = *random.pick(&[2, 6, 30]);
    let mut sent: Vec<Sent> = Vec::new();
    play.step(&steps[0]).unwrap();
    for _ in 0..PER_WORLD {
        if random.one_in(60) {
            let step = match random.below(20) {
                0 => Step::Expire,
                1 => Step::Forget,
                _ => {
                    let busy = sent.last().and_then(|sent| Some(sent.left.as_ref()?.dst));
                    let mut world = play.world.clone();
                    scenery::change(bed, &mut world, random, busy);
                    Step::World(Box::new(world))
                }
            };
            play.step(&step).unwrap();
            steps.push(step);
        }
        let last = &sent[sent.len().saturating_sub(recent)..];
        let (mut side, packet) = traffic::packet(bed, &play.world, random, last, passing);
        let mut frame = traffic::frame(side, packet.clone(), random);
        if random.one_in(60) {
            (side, frame) = traffic::oddity(bed, random);
        }
        let step = Step::Packet(side, frame);
        steps.push(step.clone());
        match play.step(&step) {
            // What went on will go on; of the rest, little more is to be seen.
            Ok(out) if out.is_some() || random.one_in(20) => {
                let left = out.and_then(|out| Some(Frame::read(&out).ok()?.packet));
                sent.push(Sent { packet, left });
            }
            Ok(_) => {}
            Err(fault) => panic!("{}", shortest(bed, programs, xdp, steps, fault)),
        }
    }
    play.seen.iter().for_each(|(name, count)| *seen.entry(name).or_default() += count);
    play.judged
}

/// The fault with as few steps before it as it takes.
fn shortest(bed: &Bed, programs: &mut Programs, xdp: bool, steps: Vec<Step>, fault: String) -> String {
    let mut fails = |steps: &[Step]| {
        let mut play = Play::new(bed, programs, xdp);
        let (last, before) = steps.split_last()?;
        // Another fault on the way is not this one.
        if before.iter().any(|step| play.step(step).is_err()) {
            return None;
        }
        play.step(last).err()
    };
    let (mut steps, mut fault) = (steps, fault);
    let mut length = steps.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at + length < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..at + length);
            match fails(&fewer) {
                Some(still) => (steps, fault) = (fewer, still),
                None => at += length,
            }
        }
        length /= 2;
    }
    let listed = steps.iter().map(|step| match step {
        Step::World(world) => format!("world   {world:?}"),
        Step::Expire => "flows expire".into(),
        Step::Forget => "clients are forgotten".into(),
        Step::Packet(side, frame) => format!("packet  {side:?} {}", describe(frame)),
    });
    let xdp = if xdp { "with XDP" } else { "without XDP" };
    format!("{}\n{xdp}, {} steps:\n{}", fault, steps.len(), listed.collect::<Vec<_>>().join("\n"))
}

impl<'a> Play<'a> {
    fn new(bed: &'a Bed, programs: &'a mut Programs, xdp: bool) -> Self {
        programs.clear_flows();
        let (oracle, world) = (Oracle::default(), World::default());
        let mut play = Self { bed, programs, oracle, world, xdp, judged: 0, seen: Tally::new() };
        play.settle(&World::default());
        play
    }

    /// Does a step; of a packet, what was delivered or forwarded. An error is
    /// what went otherwise than expected.
    fn step(&mut self, step: &Step) -> Result<Option<Vec<u8>>, String> {
        match step {
            Step::World(world) => self.settle(world),
            Step::Expire => {
                self.oracle.expire();
                self.programs.change_flows::<V4>(|flow| flow.flags |= flags::EXPIRED);
                self.programs.change_flows::<V6>(|flow| flow.flags |= flags::EXPIRED);
            }
            Step::Forget => {
                self.oracle.forget_clients();
                let long = World::AFFINITY + 1;
                let age = |last: &mut u32| *last = last.wrapping_sub(long);
                self.programs.change_clients::<V4>(|client| age(&mut client.last_used));
                self.programs.change_clients::<V6>(|client| age(&mut client.last_used));
            }
            Step::Packet(side, frame) => return self.packet(*side, frame),
        }
        Ok(None)
    }

    fn settle(&mut self, world: &World) {
        self.world = world.clone();
        self.programs.configure(world.config());
        self.programs.fill::<V4>(&world.image());
        self.programs.fill::<V6>(&world.image());
    }

    fn packet(&mut self, side: Side, frame: &[u8]) -> Result<Option<Vec<u8>>, String> {
        // Counting entries is slow: now and then will do.
        let flows = self.judged.is_multiple_of(500).then(|| self.programs.flows());
        let (traced, dry) = match self.programs.trace(side, frame) {
            Ok(traced) => traced,
            // Newer kernels refuse to run what is shorter than its headers;
            // the oracle must not hear of such a packet either.
            Err(_) if frame.len() < 14 + 40 => return Ok(None),
            Err(error) => return Err(format!("{error:?}: {}", describe(frame))),
        };
        let untouched = flows.is_none_or(|flows| flows == self.programs.flows());
        let expected = self.oracle.judge(&self.world, &|from, to| self.bed.route(from, to), side, frame);
        let early = self.xdp && matches!(side, Side::Uplink { .. });
        // What the trace has counted, this one will have, too.
        let run = self.programs.run_on(side, frame, early);
        let real = run.map_err(|error| format!("{error:?}: {}", describe(frame)))?;
        self.judged += 1;
        real.counters.iter().for_each(|(name, count)| *self.seen.entry(name).or_default() += count);
        let fault = if untouched {
            differs(frame, side, &expected, &real, early)
                .or_else(|| trace_differs(frame, &expected, &traced, &dry))
        } else {
            Some("a trace left one")
        };
        match fault {
            None => {
                let went_on = matches!(expected.verdict, Some(Verdict::Delivered | Verdict::Forwarded));
                Ok(went_on.then_some(real.packet))
            }
            Some(what) => Err(format!(
                "{what}\n{side:?} {:?}\nin   {}\nout  {}\nwant {}\n{expected:?}\n{real:?}\ntrace {traced:?} {dry:?}",
                real.counters,
                describe(frame),
                describe(&real.packet),
                expected.packet.as_deref().map_or_else(|| "nothing".into(), describe),
            )),
        }
    }
}

/// In what, if in anything.
fn differs(
    frame: &[u8],
    side: Side,
    expected: &Expected,
    real: &Outcome,
    early: bool,
) -> Option<&'static str> {
    let turned = early && real.action == XDP_TX;
    let mut names: Vec<_> = expected
        .events
        .iter()
        .map(|event| event.name())
        .chain(expected.verdict.map(Verdict::name))
        .chain(turned.then(|| Event::XdpForwarded.name()))
        .collect();
    names.sort_unstable();
    if names != real.counters.keys().copied().collect::<Vec<_>>() {
        return Some("counters");
    }
    if real.counters.values().any(|&moved| moved != 1) {
        return Some("counted twice");
    }
    if turned {
        let out = &real.packet;
        let macs = (&out[..6], &out[6..12]) == (&NEIGHBOUR_MAC[..], &UPLINK_MAC[..]);
        if !macs || expected.verdict != Some(Verdict::Forwarded) || expected.ifindex != side.ifindex() {
            return Some("XDP sent what it should not have");
        }
        // TC leaves the neighbour's address to the kernel.
        let mut behind = real.packet.clone();
        behind[..12].copy_from_slice(&frame[..12]);
        return packet_differs(frame, expected, &behind);
    }
    if real.action != action(expected) {
        return Some("action");
    }
    packet_differs(frame, expected, &real.packet)
}

fn action(expected: &Expected) -> i32 {
    match expected.verdict {
        // Its clones go on.
        None => SHOT,
        Some(_) if expected.ifindex != 0 => REDIRECT,
        Some(verdict) if verdict.is_drop() || verdict == Verdict::HeldFragment => SHOT,
        Some(_) => PASS,
    }
}

fn trace_differs(
    frame: &[u8],
    expected: &Expected,
    traced: &TraceRecord,
    dry: &[u8],
) -> Option<&'static str> {
    let verdict = expected.verdict?;
    let all = (traced.verdict, traced.ifindex, traced.service);
    if all != (verdict as u32, expected.ifindex, expected.service) {
        return Some("verdict, interface or service of the trace");
    }
    if expected.anew { None } else { packet_differs(frame, expected, dry) }
}

fn packet_differs(frame: &[u8], expected: &Expected, out: &[u8]) -> Option<&'static str> {
    let packet = expected.packet.as_ref()?;
    if expected.fresh {
        return (packet != out).then_some("a fresh packet");
    }
    if without_checksums(packet) != without_checksums(out) {
        return Some("packet");
    }
    // Right stays right, and wrong stays as wrong as it was.
    if residuals(frame) != residuals(out) {
        return Some("checksums");
    }
    // Somebody else's reading, where there is one.
    (Frame::read_right(frame).is_ok() && Frame::read_right(out).is_err()).then_some("a right checksum")
}
