//! Examples of what is held.

mod moods;

use std::collections::BTreeSet;

use super::*;
use crate::{
    event::{NodeObject, Object, Origin},
    model::Model,
};

const SOURCE: &str = "manifests";
const LIMITS: Limits = Limits { percent: 90, patience: Duration::from_secs(30) };

/// A source of nodes, the guard, and the model behind it.
struct Bed {
    guard: Guard,
    model: Model,
    now: Instant,
    /// What the source names.
    named: BTreeSet<u32>,
}

impl Bed {
    fn new(remembered: usize) -> Self {
        let counts = Counts::from([(SOURCE.to_owned(), [(Kind::Node, remembered)].into())]);
        let source: Arc<str> = SOURCE.into();
        let guard = Guard::new(LIMITS, std::slice::from_ref(&source), counts);
        Self { guard, model: Model::new(&[source], "n1"), now: Instant::now(), named: BTreeSet::new() }
    }

    /// With so many objects, known for a minute.
    fn with(count: u32) -> Self {
        let mut bed = Self::new(0);
        bed.say(0..count);
        bed.pass(60);
        bed
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// The source says that this is all.
    fn say(&mut self, named: impl IntoIterator<Item = u32>) {
        self.listed(named, BTreeMap::new());
    }

    fn listed(&mut self, named: impl IntoIterator<Item = u32>, looked: BTreeMap<Kind, u64>) {
        let named: BTreeSet<u32> = named.into_iter().collect();
        let news = named.symmetric_difference(&self.named).map(|&name| event(name, named.contains(&name)));
        let batch = Batch {
            source: SOURCE.into(),
            events: news.collect(),
            synced: true,
            containers: true,
            looked,
            ..Batch::default()
        };
        self.named = named;
        let model = &self.model;
        let believed = self.guard.take(batch, self.now, |key| model.said(SOURCE, key));
        self.model.apply(believed);
    }

    /// The second looks that are due are asked for.
    fn asked(&mut self) -> BTreeMap<Kind, u64> {
        if self.guard.due().is_none_or(|due| due > self.now) {
            return BTreeMap::new();
        }
        for batch in self.guard.settle(self.now) {
            self.model.apply(batch);
        }
        let (number, questions) = self.guard.ask(self.now);
        questions.into_iter().flat_map(|(_, kinds)| kinds).map(|kind| (kind, number)).collect()
    }

    fn release(&mut self) -> usize {
        let (batch, held) = self.guard.release(SOURCE).unwrap();
        self.model.apply(batch);
        held
    }

    fn served(&self) -> BTreeSet<u32> {
        (0..1000).filter(|&name| self.model.said(SOURCE, &key(name)).is_some()).collect()
    }

    fn held(&self) -> usize {
        self.guard.held(SOURCE).map(|(_, held)| held.objects).sum()
    }

    #[track_caller]
    fn check(&self, served: impl IntoIterator<Item = u32>, held: usize) {
        assert_eq!(self.served(), served.into_iter().collect());
        assert_eq!(self.held(), held);
    }
}

fn key(name: u32) -> ObjectKey {
    ObjectKey { kind: Kind::Node, namespace: "".into(), name: name.to_string().into() }
}

fn event(name: u32, there: bool) -> Event {
    let object =
        Object::Node(NodeObject { addresses: Vec::new(), pod_cidrs: Vec::new(), zone: None, leaving: false });
    let origin = Origin { source: SOURCE.into(), place: "".into() };
    Event { key: key(name), object: there.then(|| (Arc::new(object), Arc::new(origin))) }
}

#[test]
fn an_empty_listing_is_held_and_its_objects_come_back() {
    let mut bed = Bed::with(100);
    bed.say([]);
    bed.check(0..100, 100);
    bed.pass(10);
    bed.say(0..100);
    bed.check(0..100, 0);
    assert_eq!(bed.guard.due(), None);
}

#[test]
fn what_comes_with_a_loss_is_taken() {
    let mut bed = Bed::with(100);
    bed.say([3, 4, 500]);
    bed.check((0..100).chain([500]), 98);
}

#[test]
fn a_loss_of_less_goes_at_once() {
    let mut bed = Bed::with(100);
    bed.say(5..100);
    bed.check(5..100, 0);
    bed.pass(6);
    bed.say(85..100);
    bed.check(85..100, 0);
    let mut few = Bed::with(9);
    few.say([]);
    few.check([], 0);
}

#[test]
fn a_loss_in_parts_is_one_loss_and_what_went_first_comes_back() {
    let mut bed = Bed::with(100);
    for left in [80, 40, 11] {
        bed.pass(1);
        bed.say(0..left);
        bed.check(0..left, 0);
    }
    bed.pass(1);
    bed.say(0..5);
    bed.check(0..100, 95);
    // Slower than that, it is meant.
    let mut slow = Bed::with(100);
    for left in [80, 40, 11] {
        slow.pass(6);
        slow.say(0..left);
    }
    slow.pass(6);
    slow.say(0..5);
    slow.check(0..5, 0);
}

#[test]
fn others_in_their_place_are_no_loss() {
    let mut bed = Bed::with(100);
    bed.say(100..200);
    bed.check(100..200, 0);
    // One after the other: held until the others are there.
    bed.pass(60);
    bed.say([]);
    bed.check(100..200, 100);
    bed.say(200..250);
    bed.check(100..250, 100);
    // Those that are missing now have a while to be named after all.
    bed.say(200..300);
    bed.check(100..300, 100);
    bed.pass(4);
    assert!(bed.asked().is_empty());
    bed.check(100..300, 100);
    bed.pass(1);
    assert!(bed.asked().is_empty());
    bed.check(200..300, 0);
    // As they are that others come among.
    bed.pass(60);
    bed.say([]);
    bed.say((200..299).chain([500]));
    bed.check((200..300).chain([500]), 1);
    bed.pass(1);
    bed.say((200..300).chain([500]));
    bed.check((200..300).chain([500]), 0);
}

/// A kind about containers is known before all is, or without ever all being.
#[test]
fn policies_wait_for_what_was_there_though_not_all_is_said() {
    let source: Arc<str> = SOURCE.into();
    let counts = Counts::from([(SOURCE.to_owned(), [(Kind::Pod, 100), (Kind::Service, 100)].into())]);
    let mut guard = Guard::new(LIMITS, std::slice::from_ref(&source), counts);
    let mut say = |synced| {
        let batch = Batch { source: source.clone(), synced, containers: true, ..Batch::default() };
        let believed = guard.take(batch, Instant::now(), |_| None);
        let counts = guard.counts()[SOURCE].clone();
        assert_eq!(counts, [(Kind::Pod, 100), (Kind::Service, 100)].into());
        (believed.synced, believed.containers, guard.held(SOURCE).count())
    };
    assert_eq!(say(false), (false, false, 1));
    assert_eq!(say(true), (false, false, 2));
}

#[test]
fn a_second_look_lets_go_what_was_missed_long_enough() {
    let mut bed = Bed::with(100);
    bed.say(0..5);
    bed.pass(20);
    bed.say(0..3);
    assert!(bed.asked().is_empty());
    bed.pass(10);
    let looks = bed.asked();
    assert_eq!(looks, [(Kind::Node, 1)].into());
    assert!(bed.asked().is_empty(), "asked once");
    // A source that does not answer loses nothing.
    bed.pass(3600);
    bed.check(0..100, 97);
    bed.listed(0..3, looks);
    bed.check(0..5, 2);
    let looks = bed.asked();
    assert!(looks.is_empty(), "not at once: {looks:?}");
    bed.pass(5);
    let looks = bed.asked();
    bed.listed(0..3, looks);
    bed.check(0..3, 0);
}

#[test]
fn a_second_look_that_finds_them_again_clears_the_hold() {
    let mut bed = Bed::with(100);
    bed.say([]);
    bed.pass(30);
    let looks = bed.asked();
    bed.listed(0..100, looks);
    bed.check(0..100, 0);
}

#[test]
fn a_hand_lets_everything_go() {
    let mut bed = Bed::with(100);
    bed.say([7]);
    assert_eq!(bed.release(), 99);
    bed.check([7], 0);
    assert_eq!(bed.release(), 0);
    assert!(bed.guard.release("nobody").is_none());
}

#[test]
fn an_agent_that_starts_knows_how_much_there_was() {
    let mut bed = Bed::new(100);
    bed.say([]);
    assert!(!bed.model.synced(), "what an earlier agent left may not go");
    assert!(!bed.model.containers_known(), "nor its policies");
    let counts = bed.guard.counts();
    assert_eq!((bed.held(), counts[SOURCE][&Kind::Node]), (100, 100));
    bed.say(0..40);
    assert!(!bed.model.synced() && bed.held() == 60);
    bed.pass(30);
    let looks = bed.asked();
    bed.listed(0..40, looks);
    assert!(bed.model.synced());
    bed.check(0..40, 0);

    for by_hand in [false, true] {
        let mut bed = Bed::new(100);
        bed.say([]);
        if by_hand {
            assert_eq!(bed.release(), 100);
        } else {
            bed.say(0..100);
        }
        assert!(bed.model.synced() && bed.held() == 0);
    }
    let mut less = Bed::new(100);
    less.say(0..11);
    assert!(less.model.synced() && less.held() == 0);
}

/// Of services nothing follows for them.
#[test]
fn containers_wait_for_what_is_about_them_alone() {
    let bed = |kind| {
        let source: Arc<str> = SOURCE.into();
        let counts = Counts::from([(SOURCE.to_owned(), BTreeMap::from([(kind, 100)]))]);
        let mut guard = Guard::new(LIMITS, std::slice::from_ref(&source), counts);
        let batch = Batch { source, synced: true, containers: true, ..Batch::default() };
        let believed = guard.take(batch, Instant::now(), |_| None);
        (believed.synced, believed.containers)
    };
    assert_eq!(bed(Kind::Service), (false, true));
    assert_eq!(bed(Kind::Pod), (false, false));
}

#[test]
fn a_hand_that_is_quicker_than_the_source_lets_go_as_well() {
    let mut bed = Bed::new(100);
    assert_eq!(bed.release(), 0);
    bed.say([]);
    assert!(bed.model.synced() && bed.held() == 0);
}

#[test]
fn what_was_remembered_counts_for_nothing_when_it_is_off() {
    let source: Arc<str> = SOURCE.into();
    let counts = Counts::from([(SOURCE.to_owned(), BTreeMap::from([(Kind::Node, 100)]))]);
    let mut guard = Guard::new(Limits { percent: 0, ..LIMITS }, std::slice::from_ref(&source), counts);
    let batch = Batch { source, synced: true, ..Batch::default() };
    assert!(guard.take(batch, Instant::now(), |_| None).synced);
    assert!(guard.counts().values().all(BTreeMap::is_empty), "nor is it remembered on");
}

#[test]
fn nothing_is_held_when_it_is_off() {
    let mut bed = Bed::new(100);
    bed.guard.limits.percent = 0;
    bed.say(0..50);
    bed.say([]);
    bed.check([], 0);
    assert!(bed.model.synced());
}
