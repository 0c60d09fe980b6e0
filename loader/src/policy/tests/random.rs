//! Do compiled rows say what the policies say, however they came about?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use causeway_schema::policy::{EndpointPolicy, OTHERS, PolicyStep, SetKey};

use super::super::{Changes, Compiler, Delta, PolicyImage, image::Table};
use super::generator::{Chance, Change};
use super::{Cluster, decision, reference, settle};

const ENDPOINTS: [&str; 3] = ["e1", "e2", "e3"];

pub fn tell(compiler: &mut Compiler, change: Change) {
    match change {
        Change::Namespace(name, labels) => compiler.set_namespace(name, labels),
        Change::Pod(name, pod) => compiler.set_pod(name, pod),
        Change::Service(name, addresses) => compiler.set_service(name, addresses),
        Change::Policy(id, policy) => compiler.set_policy(id, policy),
        Change::Endpoint(name, subject) => compiler.set_endpoint(name, subject),
    }
}

/// Asks compiler and reference about some flows, and counts the outcomes.
fn agree(
    (compiler, cluster): (&Compiler, &Cluster),
    chance: &mut Chance,
    (flows, seed): (usize, u64),
    counts: &mut [usize; 4],
) {
    for _ in 0..flows {
        let (endpoint, flow) = (chance.of(&ENDPOINTS), chance.flow());
        let (compiled, said) =
            (decision(compiler, endpoint, flow), reference::decide(cluster, endpoint, flow));
        assert_eq!(compiled, said, "seed {seed}: {endpoint}, {flow:?}\n{cluster:#?}");
        counts[compiled.0 as usize] += 1;
    }
}

/// So many flows were asked about, and no outcome is rare.
fn enough(counts: [usize; 4]) {
    let flows: usize = counts.iter().sum();
    assert!(flows >= 100_000 && counts.iter().all(|count| count * 25 > flows), "{counts:?}");
}

#[test]
fn rows_decide_as_the_reference_does() {
    let mut counts = [0; 4];
    for seed in 0..4000 {
        let mut chance = Chance(seed);
        let mut cluster = Cluster::default();
        let changes = 20 + chance.below(60);
        (0..changes).for_each(|_| cluster.change(chance.change()));
        agree((&cluster.compile(), &cluster), &mut chance, (30, seed), &mut counts);
    }
    enough(counts);
}

/// What the caller has written, as the deltas told it.
#[derive(Default)]
struct Written {
    classes: BTreeMap<ipnet::IpNet, u32>,
    sets: BTreeMap<SetKey, Arc<[PolicyStep]>>,
    endpoints: BTreeMap<Arc<str>, EndpointPolicy>,
    rules: BTreeMap<u32, Arc<super::RuleName>>,
    /// What went, and when: until that is released, it may only come again as it was.
    gone: BTreeMap<SetKey, (u64, Arc<[PolicyStep]>)>,
}

impl Written {
    fn take(&mut self, delta: Delta, image: &PolicyImage) {
        for (key, steps) in &delta.sets.put {
            assert!(!self.sets.contains_key(key), "the row {key:?} was written again");
            let before = self.gone.get(key);
            assert!(before.is_none_or(|(_, before)| before == steps), "the numbers of {key:?} did not rest");
        }
        for key in &delta.sets.gone {
            self.gone.insert(*key, (delta.revision, self.sets[key].clone()));
        }
        replay(&mut self.classes, delta.classes, &image.classes);
        replay(&mut self.sets, delta.sets, &image.sets);
        replay(&mut self.endpoints, delta.endpoints, &image.endpoints);
        replay(&mut self.rules, delta.rules, &image.rules);
        for (name, policy) in &self.endpoints {
            for set in [policy.ingress, policy.egress].into_iter().filter(|set| *set != 0) {
                assert!(
                    self.sets.contains_key(&SetKey { set, class: OTHERS }),
                    "{name} has set {set}, which has no rows"
                );
            }
        }
        for step in self.sets.values().flat_map(|steps| steps.iter()).filter(|step| step.rule() != 0) {
            assert!(self.rules.contains_key(&step.rule()), "{step:?} names nobody");
        }
    }
}

fn replay<K: Ord + Clone + std::fmt::Debug, V: PartialEq + Clone + std::fmt::Debug>(
    written: &mut BTreeMap<K, V>,
    changes: Changes<K, V>,
    table: &Table<K, V>,
) {
    for key in changes.gone {
        assert!(written.remove(&key).is_some(), "{key:?} was not there");
    }
    for (key, value) in changes.put {
        assert_ne!(written.insert(key.clone(), value.clone()), Some(value), "{key:?} was the same");
    }
    assert_eq!(written, table.rows());
}

#[test]
fn changes_in_any_order_lead_to_the_same() {
    let mut counts = [0; 4];
    for seed in 0..500 {
        let mut chance = Chance(1 << 32 | seed);
        let mut cluster = Cluster::default();
        let mut compiler = Compiler::default();
        let mut written = Written::default();
        for _ in 0..40 {
            for _ in 0..1 + chance.below(4) {
                let change = chance.change();
                cluster.change(change.clone());
                tell(&mut compiler, change);
            }
            let delta = compiler.commit();
            written.take(delta, compiler.image());
            agree((&compiler, &cluster), &mut chance, (10, seed), &mut counts);
            if chance.once_in(5) {
                let released = compiler.revision - chance.below(3).min(compiler.revision as usize) as u64;
                compiler.release(released);
                written.gone.retain(|_, (revision, _)| *revision > released);
            }
        }
        settle(&mut compiler);
        let fresh = cluster.compile();
        let (one, other) = (compiler.image(), fresh.image());
        assert_eq!(one.classes.rows().len(), other.classes.rows().len(), "seed {seed}");
        assert!(one.classes.rows().keys().eq(other.classes.rows().keys()), "seed {seed}");
        let classes: BTreeSet<u32> = one.classes.rows().values().copied().chain([OTHERS]).collect();
        assert!(one.sets.rows().keys().all(|key| classes.contains(&key.class)), "a row is for nobody");
        assert_eq!(one.sets.rows().len(), other.sets.rows().len(), "seed {seed}");
        assert!(one.rules.rows().values().collect::<BTreeSet<_>>() == other.rules.rows().values().collect());
        assert_eq!(compiler.sizes(), fresh.sizes(), "seed {seed}");
    }
    enough(counts);
}

#[test]
fn after_everything_has_gone_nothing_is_left() {
    for seed in 0..100 {
        let mut chance = Chance(2 << 32 | seed);
        let mut cluster = Cluster::default();
        (0..60).for_each(|_| cluster.change(chance.change()));
        let mut compiler = cluster.compile();
        let mut last: Vec<Change> = Vec::new();
        last.extend(cluster.pods.keys().map(|name| Change::Pod(name.clone(), None)));
        last.extend(cluster.namespaces.keys().map(|name| Change::Namespace(name.clone(), None)));
        last.extend(cluster.policies.keys().map(|id| Change::Policy(id.clone(), None)));
        last.extend(cluster.endpoints.keys().map(|name| Change::Endpoint(name.clone(), None)));
        while !last.is_empty() {
            tell(&mut compiler, last.swap_remove(chance.below(last.len())));
            compiler.commit();
        }
        settle(&mut compiler);
        let image = compiler.image();
        assert!(image.classes.rows().is_empty() && image.sets.rows().is_empty(), "seed {seed}: {image:?}");
        assert!(image.endpoints.rows().is_empty() && image.rules.rows().is_empty(), "seed {seed}: {image:?}");
    }
}
