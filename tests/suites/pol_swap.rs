//! POL-08: does every packet see one set of rules, the old or the new, while
//! the rules of several endpoints change at once?

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Map, MapData};
use bytemuck::bytes_of;
use causeway::plan::{Family, Image};
use causeway_schema::{
    Endpoint, V4,
    policy::{EndpointPolicy, OTHERS, Outcome, PolicyStep, SetKey, Standing, Steps},
};
use causeway_testkit::{
    bed::{self, Bed},
    cpu::stay_on,
    frame::{Datagram, Frame},
    mirror,
    numbered::{Heard, Numbered},
    prog::Programs,
    table::Table,
    topology::{Cluster, Container},
    worker::Ends,
    world::World,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

const SWAPS: usize = 50;
/// The old rules or the new hold at least so long.
const PAUSE: Duration = Duration::from_millis(40);
const PER_SECOND: u32 = 50_000;
const PORT: u16 = 7000;

/// Receivers 1 and 2 get packets by one of the two sets alone. To 3 and 4 either
/// set lets none: by the one the sender may not send there, by the other the
/// receiver may not get it. A packet that is asked about by both comes through.
fn rules(new: bool) -> String {
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let gets = |number: u8, gets: bool| {
        let from = if gets { "{from: [{podSelector: {matchLabels: {app: sender}}}]}" } else { "" };
        let subject = format!("podSelector: {{matchLabels: {{app: receiver-{number}}}}}");
        policy(&format!("gets-{number}"), &format!("{subject}, policyTypes: [Ingress], ingress: [{from}]"))
    };
    let third = if new { 4 } else { 3 };
    let values = format!("[receiver-1, receiver-2, receiver-{third}]");
    let to = format!("{{podSelector: {{matchExpressions: [{{key: app, operator: In, values: {values}}}]}}}}");
    let subject = "podSelector: {matchLabels: {app: sender}}";
    let sends = policy("sends", &format!("{subject}, policyTypes: [Egress], egress: [{{to: [{to}]}}]"));
    [gets(1, !new), gets(2, new), gets(3, new), gets(4, !new), sends].join("---\n")
}

/// Once the first packet has come that the new rules alone allow, none comes
/// that the old alone allow and that was sent later.
#[test]
fn rules_of_many_change_between_two_packets() {
    let cluster = Cluster::dual(1);
    let node = &cluster.nodes[0];
    let sender = node.container("sender", 2);
    let receivers: Vec<Container> =
        (1..=4).map(|number| node.container(&format!("receiver-{number}"), 10 + number)).collect();
    let own = |container: &Container| container.pod(&format!("app: {}", container.name));
    let pods: Vec<String> = receivers.iter().chain([&sender]).map(own).collect();
    cluster.manifests().write("pods.yaml", &pods.join("---\n"));
    cluster.manifests().write("rules.yaml", &rules(false));
    cluster.wait_converged();

    let mut targets = Vec::new();
    let mut heard: [Vec<Heard>; 4] = Default::default();
    for (receiver, heard) in receivers.iter().zip(&mut heard) {
        for address in receiver.addresses() {
            let at = SocketAddr::new(address, PORT);
            targets.push(at);
            heard.push(Heard::start(&receiver.netns, at));
        }
    }
    let load = Numbered::start(&sender.netns, &targets, PER_SECOND);
    let mut slowest = Duration::ZERO;
    thread::sleep(PAUSE);
    for swap in 1..=SWAPS {
        let start = Instant::now();
        cluster.manifests().write("rules.yaml", &rules(swap % 2 == 1));
        cluster.wait_converged();
        slowest = slowest.max(start.elapsed());
        thread::sleep(PAUSE);
    }
    let (sent, rate) = load.stop();
    let [one, two, three, four] = heard.map(|heard| heard.into_iter().map(Heard::close).collect::<Vec<_>>());
    println!(
        "{sent} packets, {rate:.0} a second; {SWAPS} swaps, the slowest in {slowest:?}; arrived by the one set \
         {:?}, by the other {:?} (IPv4, IPv6)",
        one.each_len(),
        two.each_len(),
    );
    assert!(rate > f64::from(PER_SECOND) / 10.0, "{rate:.0} packets a second show little");
    assert_eq!((three.each_len(), four.each_len()), ([0, 0], [0, 0]), "packets saw a mix of both sets");
    let mut all: Vec<(u64, bool)> = Vec::new();
    for (numbers, new) in [(one, false), (two, true)] {
        all.extend(numbers.into_iter().flatten().map(|number| (number, new)));
    }
    all.sort_unstable();
    let turns: Vec<_> = all.windows(2).filter(|pair| pair[0].1 != pair[1].1).collect();
    assert_eq!(turns.len(), SWAPS, "more turns than swaps: {turns:?}");
}

/// Numbers of each family.
trait Lengths {
    fn each_len(&self) -> [usize; 2];
}

impl Lengths for Vec<Vec<u64>> {
    fn each_len(&self) -> [usize; 2] {
        [self[0].len(), self[1].len()]
    }
}

const ALLOWS: u32 = 1;
const DENIES: u32 = 2;
const REFUSES: u32 = 3;

/// By one bank the sender may not send, by the other the receiver may not get.
fn banks(programs: &mut Programs) {
    let put = |programs: &mut Programs, map: &str, key: &[u8], row: &[u8]| {
        Table::of(programs.object().map(map).unwrap()).put(key, row);
    };
    let outcomes = [(ALLOWS, Outcome::Allow), (DENIES, Outcome::Deny), (REFUSES, Outcome::Reject)];
    for (set, outcome) in outcomes {
        put(programs, "STEPS", bytes_of(&set), bytes_of(&PolicyStep::new(0, outcome, set)));
        let (key, steps) = (SetKey { set, class: OTHERS }, Steps { base: set, len: 1 });
        put(programs, "SETS", bytes_of(&key), bytes_of(&steps));
    }
    for (bank, egress, ingress) in [(0, ALLOWS, REFUSES), (1, DENIES, ALLOWS)] {
        for (index, sets) in
            [(2, EndpointPolicy { ingress: 0, egress }), (3, EndpointPolicy { ingress, egress: 0 })]
        {
            let row = Standing::new(0, bank).row(index);
            put(programs, "POLICIES", bytes_of(&row), bytes_of(&sets));
        }
    }
}

/// The containers' rows name their policies.
fn guarded<A: Family>(mut image: Image<A>) -> Image<A> {
    let rows = image.endpoints.iter().map(|(slot, row)| (slot, Endpoint { policy: slot as u16 + 1, ..*row }));
    let rows: Vec<(u32, Endpoint)> = rows.collect();
    for (slot, row) in rows {
        image.endpoints.insert(slot, row);
    }
    image
}

/// The first word of an array, as the programs see it; for good.
fn mapped(array: &MapData) -> &'static AtomicU32 {
    let (length, rights) = (NonZero::new(4096).unwrap(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
    // SAFETY: the kernel keeps the pages, of which the word is the first.
    unsafe { mmap(None, length, rights, MapFlags::MAP_SHARED, array.fd(), 0).unwrap().cast().as_ref() }
}

/// The word that makes all change over is turned all the time, also between the
/// two questions about a packet.
#[test]
fn both_ends_of_a_packet_are_asked_by_one_set() {
    let bed = Bed::new();
    let mut world = World::default();
    for number in 1..=2 {
        world.attach(bed::address(number), number.into(), bed.link(number), bed::mac(number));
    }
    bed.netns.run(|| {
        let mut programs = Programs::load().unwrap();
        programs.fill(&guarded(world.image::<V4>()));
        programs.fill(&guarded(mirror::image(&world)));
        banks(&mut programs);
        let Map::Array(standing) = programs.object().map("POLICY").unwrap() else { panic!("an array") };
        let standing = MapData::from_id(standing.info().unwrap().id()).unwrap();
        let (stop, turns) = (AtomicBool::new(false), AtomicU64::new(0));
        // The two threads are not to wait for one another.
        stay_on(0);
        thread::scope(|scope| {
            let _ends = Ends(&stop);
            scope.spawn(|| {
                stay_on(1);
                let word = mapped(&standing);
                while !stop.load(Ordering::Relaxed) {
                    let turned = turns.fetch_add(1, Ordering::Relaxed);
                    word.store(Standing::new(0, turned as u32 & 1).0, Ordering::Relaxed);
                    // As long as the other CPU takes to see it, and some more.
                    (0..turned % 64).for_each(|_| std::hint::spin_loop());
                }
            });
            for v6 in [false, true] {
                let host = |number| match mirror::of_family(bed::address(number), v6) {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("[{address}]"),
                };
                let before = programs.counters();
                let packets = 20_000;
                for number in 0..packets {
                    let (from, to) = (format!("{}:{}", host(1), 10_000 + number), format!("{}:53", host(2)));
                    let frame = Frame::new(Datagram::udp(&from, &to, b"")).bytes();
                    programs.run_quietly(bed.from_container(1), &frame).unwrap();
                }
                let after = programs.counters();
                let moved = |name: &str| after[name] - before[name];
                let (sends, gets) = (moved("drop_policy"), moved("drop_policy_reject"));
                println!("IPv6 {v6}: {sends} denied at the sender, {gets} at the receiver");
                assert_eq!(sends + gets, packets, "packets passed by a mix of both sets");
                assert!(sends.min(gets) > packets / 100, "{sends} and {gets}: it was not turned often");
            }
        });
        println!("{} turns", turns.load(Ordering::Relaxed));
    });
}
