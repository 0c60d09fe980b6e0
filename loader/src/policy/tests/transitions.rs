//! Is every endpoint treated by its old or its new rules while the rows of a
//! commit are written, one after the other?

use std::{collections::BTreeMap, sync::Arc};

use causeway_schema::Port;
use causeway_schema::policy::{EndpointPolicy, OTHERS, Outcome, PolicyStep, SetKey, place};
use ipnet::IpNet;

use super::super::Delta;
use super::generator::{Chance, Change};
use super::*;

/// The maps, as a program reads them.
#[derive(Default)]
struct Maps {
    classes: BTreeMap<IpNet, u32>,
    sets: BTreeMap<SetKey, Arc<[PolicyStep]>>,
    endpoints: BTreeMap<Arc<str>, EndpointPolicy>,
}

impl Maps {
    fn outcome(&self, endpoint: &str, flow: Flow) -> Outcome {
        let sets = self.endpoints.get(endpoint).copied().unwrap_or_default();
        let set = match flow.direction {
            Direction::Ingress => sets.ingress,
            Direction::Egress => sets.egress,
        };
        if set == 0 {
            return Outcome::Allow;
        }
        let longest = self.classes.iter().filter(|(prefix, _)| prefix.contains(&flow.peer));
        let class = longest.max_by_key(|(prefix, _)| prefix.prefix_len()).map_or(OTHERS, |(_, class)| *class);
        let row = self.sets.get(&SetKey { set, class });
        let steps = row.unwrap_or_else(|| &self.sets[&SetKey { set, class: OTHERS }]);
        let place = place(flow.protocol, Port::new(flow.port));
        steps.iter().rev().find(|step| step.from <= place).unwrap().outcome()
    }

    /// Writes in the order that [`Compiler::commit`] asks for, and looks after
    /// each write; true after the change of the endpoints.
    fn write(&mut self, delta: &Delta, mut look: impl FnMut(&Self, bool)) {
        for (key, steps) in &delta.sets.put {
            self.sets.insert(*key, steps.clone());
            look(self, false);
        }
        for (prefix, class) in &delta.classes.put {
            self.classes.insert(*prefix, *class);
            look(self, false);
        }
        for prefix in &delta.classes.gone {
            self.classes.remove(prefix);
            look(self, false);
        }
        self.endpoints.retain(|name, _| !delta.endpoints.gone.contains(name));
        self.endpoints.extend(delta.endpoints.put.iter().map(|(name, sets)| (name.clone(), *sets)));
        look(self, true);
        for key in &delta.sets.gone {
            self.sets.remove(key);
            look(self, true);
        }
    }
}

#[test]
fn rules_change_over_at_once_and_peers_one_by_one() {
    let mut changed = 0;
    for seed in 0..400 {
        let mut chance = Chance(4 << 32 | seed);
        let mut cluster = Cluster::default();
        (0..40).for_each(|_| cluster.change(chance.change()));
        let mut compiler = Compiler::default();
        cluster.tell(&mut compiler);
        let mut maps = Maps::default();
        maps.write(&compiler.commit(), |_, _| {});
        for _ in 0..20 {
            // One kind of change: rules, or one of their peers.
            let change = chance.change();
            let rules = matches!(change, Change::Policy(..) | Change::Endpoint(..));
            for change in [change].into_iter().chain(rules.then(|| chance.change())) {
                if rules && !matches!(change, Change::Policy(..) | Change::Endpoint(..)) {
                    continue;
                }
                cluster.change(change.clone());
                super::random::tell(&mut compiler, change);
            }
            let flows: Vec<(&str, Flow)> =
                (0..12).map(|_| (chance.of(&["e1", "e2", "e3"]), chance.flow())).collect();
            let ask = |maps: &Maps| flows.iter().map(|(name, flow)| maps.outcome(name, *flow)).collect();
            let before: Vec<Outcome> = ask(&maps);
            let after: Vec<Outcome> =
                flows.iter().map(|(name, flow)| reference::decide(&cluster, name, *flow).0).collect();
            maps.write(&compiler.commit(), |maps, turned| {
                let now: Vec<Outcome> = ask(maps);
                for (index, now) in now.iter().enumerate() {
                    let fair = match (rules, turned) {
                        (_, true) => *now == after[index],
                        (true, false) => *now == before[index],
                        (false, false) => *now == before[index] || *now == after[index],
                    };
                    assert!(fair, "seed {seed}: {:?} {now:?} between {before:?} and {after:?}", flows[index]);
                }
            });
            changed += usize::from(before != after);
            if chance.once_in(3) {
                compiler.release(u64::MAX);
            }
        }
    }
    assert!(changed > 1000, "only {changed} changes changed anything");
}
