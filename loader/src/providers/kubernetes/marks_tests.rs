//! CNV-04: whatever agents have read, late, twice, from the beginning or not at
//! all, is a node ever taken for one that has read back what it has not?

use std::{collections::BTreeMap, time::Duration};

use kube::runtime::watcher::Event as Told;
use serde_json::json;

use super::{super::listed::OfKind, Listed, SERVICES, Store, Word};
use crate::{
    cluster::{Asked, ReadBack, Said, laggards},
    event::marks::{Mark, Marks, version_hash},
    providers::{
        dice::Dice,
        kubernetes::kinds::{Index, KINDS},
    },
};

const NODES: Index = 2;
/// Those that change here.
const CHANGING: [Index; 2] = [SERVICES, NODES];
const AGENTS: usize = 3;
const RUNS: u64 = 1000;
const STEPS: u64 = 300;

/// Versions of objects, by name.
type Objects = BTreeMap<String, u64>;

struct Change {
    revision: u64,
    name: String,
    gone: bool,
    /// All objects of the kind, from then on.
    after: Objects,
}

#[derive(Default)]
struct Server {
    revision: u64,
    log: BTreeMap<Index, Vec<Change>>,
}

impl Server {
    fn objects(&self, kind: Index) -> Objects {
        self.log.get(&kind).and_then(|log| log.last()).map(|last| last.after.clone()).unwrap_or_default()
    }

    fn change(&mut self, kind: Index, dice: &mut Dice) {
        self.revision += 1;
        let (name, mut after) = (format!("o{}", dice.below(6)), self.objects(kind));
        let gone = dice.one_in(3) && after.remove(&name).is_some();
        if !gone {
            after.insert(name.clone(), self.revision);
        }
        self.log.entry(kind).or_default().push(Change { revision: self.revision, name, gone, after });
    }

    fn asked(&self) -> Asked {
        let mut marks: Marks = KINDS.iter().map(|watched| (watched.kind, Mark::default())).collect();
        for kind in CHANGING {
            let mark = marks.get_mut(&KINDS[kind].kind).unwrap();
            for (name, version) in self.objects(kind) {
                mark.change(None, Some(version_hash("default", &name, &version.to_string())));
            }
        }
        // A list says how many writes there were, of whatever kind.
        marks.values_mut().for_each(|mark| mark.newest = self.revision);
        Asked { marks, nodes: (0..AGENTS).map(|number| number.to_string()).collect() }
    }

    /// Whether these were the objects of a kind at a revision, or have been since.
    fn had(&self, kind: Index, objects: &Objects, revision: u64) -> bool {
        let log = self.log.get(&kind).map_or(&[][..], Vec::as_slice);
        let ends = log.iter().skip(1).map(|next| next.revision).chain([u64::MAX]);
        let first = log.first().map_or(u64::MAX, |change| change.revision);
        first > revision && objects.is_empty()
            || log.iter().zip(ends).any(|(change, end)| end > revision && change.after == *objects)
    }
}

struct Agent {
    store: Store,
    /// Changes of a kind that it has heard, and what it has.
    heard: BTreeMap<Index, (usize, Objects)>,
    /// What others read of it, and what is behind that.
    published: Option<(Marks, BTreeMap<Index, Objects>)>,
    cut_off: bool,
}

impl Agent {
    fn new() -> Self {
        let mut store = Store::new("kubernetes".into());
        for kind in 0..KINDS.len() {
            store.take(kind, Word::Event(Told::Init));
            store.take(kind, Word::Event(Told::InitDone));
        }
        Self { store, heard: BTreeMap::new(), published: None, cut_off: false }
    }

    fn hear(&mut self, server: &Server, kind: Index, most: usize) {
        let log = server.log.get(&kind).map_or(&[][..], Vec::as_slice);
        let (heard, objects) = self.heard.entry(kind).or_default();
        for change in log.iter().skip(*heard).take(most) {
            let object = object(&change.name, change.revision);
            let told = if change.gone { Told::Delete(object) } else { Told::Apply(object) };
            self.store.take(kind, Word::Event(told));
            *heard += 1;
            *objects = change.after.clone();
        }
    }

    /// What it has heard already.
    fn hear_again(&mut self, server: &Server, kind: Index) {
        let heard = self.heard.get(&kind).map_or(0, |(heard, _)| *heard);
        for change in server.log.get(&kind).iter().flat_map(|log| &log[..heard]) {
            let object = object(&change.name, change.revision);
            let told = if change.gone { Told::Delete(object) } else { Told::Apply(object) };
            self.store.take(kind, Word::Event(told));
        }
    }

    /// Lists a kind anew; half of it only, if it is cut off meanwhile.
    fn list(&mut self, server: &Server, kind: Index, half: bool) {
        let objects = server.objects(kind);
        self.store.take(kind, Word::Event(Told::Init));
        let count = if half { objects.len() / 2 } else { objects.len() };
        for (name, version) in objects.iter().take(count) {
            self.store.take(kind, Word::Event(Told::InitApply(object(name, *version))));
        }
        if !half {
            self.store.take(kind, Word::Event(Told::InitDone));
            self.heard.insert(kind, (server.log.get(&kind).map_or(0, Vec::len), objects));
        }
    }

    fn publish(&mut self) {
        let Some(marks) = self.store.marks() else { return };
        let objects = CHANGING.map(|kind| (kind, self.heard.get(&kind).cloned().unwrap_or_default().1));
        self.published = Some((marks, objects.into()));
    }
}

fn object(name: &str, version: u64) -> Listed {
    let metadata = json!({"name": name, "namespace": "default", "resourceVersion": version.to_string()});
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
    let OfKind::<false>(listed) =
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    listed
}

/// Who is believed to have read back all that there is now.
fn believed(server: &Server, agents: &[Agent]) -> Vec<usize> {
    let words = (0..).zip(agents).filter_map(|(number, agent): (usize, _)| {
        let (kinds, _) = agent.published.as_ref()?;
        Some((number.to_string(), Ok((ReadBack { revision: 1, kinds: kinds.clone() }, Duration::ZERO))))
    });
    let said = Said { head: server.revision, nodes: words.collect() };
    let lagging = laggards(&server.asked(), &said);
    let lags = |number: &usize| lagging.iter().any(|laggard| laggard.node == number.to_string());
    (0..agents.len()).filter(|number| !lags(number)).collect()
}

/// One history; how often somebody was believed, and how often not.
fn run(seed: u64) -> [u64; 2] {
    let (mut dice, mut server) = (Dice(seed), Server { revision: 1000, ..Server::default() });
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| Agent::new()).collect();
    let mut counts = [0; 2];
    for _ in 0..STEPS {
        let (kind, agent) = (CHANGING[dice.below(2)], &mut agents[dice.below(AGENTS)]);
        match dice.below(30) {
            0 => server.change(kind, &mut dice),
            // Somebody writes something else.
            1 if dice.one_in(2) => server.revision += 1,
            2 => agent.cut_off = dice.one_in(3),
            _ if agent.cut_off => {}
            3..14 => agent.hear(&server, kind, 1 + dice.below(4)),
            14 => agent.hear_again(&server, kind),
            15..17 => agent.list(&server, kind, dice.one_in(3)),
            _ => agent.publish(),
        }
        let fine = believed(&server, &agents);
        counts[0] += fine.len() as u64;
        counts[1] += (AGENTS - fine.len()) as u64;
        for number in fine {
            let (_, objects) = agents[number].published.as_ref().unwrap();
            for (kind, objects) in objects {
                assert!(
                    server.had(*kind, objects, server.revision),
                    "seed {seed}: agent {number} is believed to have {} of revision {}, and has {objects:?}",
                    KINDS[*kind].name,
                    server.revision
                );
            }
        }
    }
    for agent in &mut agents {
        for kind in CHANGING {
            if agent.store.kinds[kind].listing.is_some() {
                agent.list(&server, kind, false);
            }
            agent.hear(&server, kind, usize::MAX);
        }
        agent.publish();
    }
    assert_eq!(believed(&server, &agents), [0, 1, 2], "seed {seed}: all have read everything");
    counts
}

#[test]
fn nobody_is_believed_to_have_read_what_he_has_not() {
    let mut sum = [0; 2];
    for seed in 0..RUNS {
        let counts = run(seed);
        (sum[0], sum[1]) = (sum[0] + counts[0], sum[1] + counts[1]);
    }
    // Both happen all the time.
    assert!(sum.iter().all(|count| *count > RUNS * STEPS / 10), "{sum:?}");
}
