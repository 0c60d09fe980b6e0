//! What follows from the changes? Sets of the endpoints concerned, terms that
//! come and go with them, the class of every address concerned, and the rows for
//! new pairs of a set and a class.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use causeway_schema::policy::{EndpointPolicy, SetKey};
use ipnet::IpNet;

use super::{
    Compiler, Delta, Direction, RuleName,
    clauses::{self, Applying, Builder},
    compiler::Endpoint,
    networks::{address, host, span},
    rules::TOO_LONG,
    terms::{TermId, Who},
    world::{Changed, PortName},
};
use crate::event::policy::NamedPort;

impl Compiler {
    /// Brings the image up to date, and says what that changed.
    ///
    /// After every prefix of these writes each endpoint is treated by either its
    /// old or its new rules: sets that are put, classes that are put, classes
    /// that are gone; then the endpoints, all at once if need be; then sets and
    /// rules that are gone. What endpoints and addresses have just left stays
    /// until it has been [released](Compiler::release).
    pub fn commit(&mut self) -> Delta {
        self.revision += 1;
        let changed = self.world.changed();
        self.follow(&changed);
        self.select();
        let now = (self.revision, self.released);
        let sets = self.sets.settle(now, &mut self.image.sets, &mut self.terms, &mut self.rules);
        let (new, gone) = self.terms.settle();
        self.classify(&changed, &new, &gone);
        self.terms.forget(&gone);
        self.write(&sets);
        let cut = self.sets.has_cut();
        self.rules.settle(self.revision, &mut self.image.rules);
        self.image.rules.set(TOO_LONG, cut.then(|| Arc::new(RuleName::TooLong)));
        self.delta()
    }

    /// Gives endpoints their sets.
    fn select(&mut self) {
        // Endpoints that the same policies select have the same set, unless
        // these name ports of the endpoint. A policy is known by its address.
        type Asked = (Direction, Vec<usize>, Option<Arc<[NamedPort]>>);
        let mut known: HashMap<Asked, (u32, BTreeSet<PortName>)> = HashMap::new();
        for name in std::mem::take(&mut self.dirty) {
            let mut sets = None;
            if let Some(mut endpoint) = self.endpoints.remove(&name) {
                endpoint.asked.clear();
                let selecting = |policy: &&Applying<'_>| self.selects(policy.1, &endpoint.subject);
                let policies: Vec<Applying<'_>> =
                    self.policies.iter().map(|(id, policy)| (id, &**policy)).collect();
                let mut policies: Vec<Applying<'_>> = policies.iter().filter(selecting).copied().collect();
                clauses::order(&mut policies);
                let [ingress, egress] = [Direction::Ingress, Direction::Egress].map(|direction| {
                    let mut applying = policies.clone();
                    applying.retain(|(_, policy)| clauses::rules(policy, direction).is_some());
                    let own = (direction == Direction::Ingress).then(|| endpoint.subject.ports.clone());
                    let identity = applying.iter().map(|(_, policy)| std::ptr::from_ref(*policy) as usize);
                    let key = (direction, identity.collect(), own);
                    let (set, asked) = known.entry(key).or_insert_with(|| {
                        let mut builder = Builder {
                            world: &self.world,
                            terms: &mut self.terms,
                            rules: &mut self.rules,
                            direction,
                            ports: &endpoint.subject.ports,
                            asked: BTreeSet::new(),
                        };
                        let clauses = builder.build(&applying);
                        let asked = builder.asked;
                        (self.sets.intern(clauses, &mut self.terms, &mut self.rules), asked)
                    });
                    endpoint.asked.extend(asked.iter().cloned());
                    *set
                });
                self.sets.join(ingress);
                self.sets.join(egress);
                sets = Some(EndpointPolicy { ingress, egress });
                self.endpoints.insert(name.clone(), Endpoint { ..endpoint });
            }
            if let Some(old) = self.image.endpoints.set(name, sets) {
                self.sets.leave(old.ingress);
                self.sets.leave(old.egress);
            }
        }
    }

    /// Gives addresses and networks their classes.
    fn classify(&mut self, changed: &Changed, new: &BTreeSet<TermId>, gone: &BTreeSet<TermId>) {
        let mut touched = BTreeSet::new();
        // Addresses of others that are concerned by terms that come or go: with
        // the former, or none.
        let mut concerned: Vec<(IpAddr, Option<TermId>)> = Vec::new();
        for service in &changed.services {
            self.index.follow(service, &self.world);
        }
        for &id in gone.iter().chain(new) {
            let Some(term) = self.terms.get(id).cloned() else { continue };
            let comes = new.contains(&id);
            if let Some((network, except)) = term.network() {
                match comes {
                    true => self.networks.add(id, network, except),
                    false => self.networks.remove(id, network, except),
                }
                touched.extend(except.iter().chain([network]));
                let within = self.image.classes.rows().range(span(*network)).map(|(key, _)| *key);
                touched.extend(within.filter(|key| !except.iter().any(|part| part.contains(key))));
                continue;
            }
            match comes {
                true => self.index.add(id, &term, &self.world),
                false => self.index.remove(id, &term),
            }
            let mut concerns = |address: IpAddr| {
                if !changed.addresses.contains(&address) {
                    concerned.push((address, comes.then_some(id)));
                }
            };
            if let (Who::Service(service), None) = (&term.who, &term.port) {
                self.world.serving(service).iter().copied().for_each(concerns);
                continue;
            }
            self.world.candidates(&term, |pod| {
                let here = |address: &&IpAddr| self.world.holds(&term, pod, **address);
                pod.1.addresses.iter().filter(here).copied().for_each(&mut concerns);
            });
        }
        if !gone.is_empty() {
            self.index.prune();
        }

        for &address in &changed.addresses {
            let own = self.index.of_address(address, &self.world);
            self.place(host(address), own);
        }
        concerned.sort_unstable();
        for ids in concerned.chunk_by(|one, other| one.0 == other.0) {
            let key = host(ids[0].0);
            let mut own = self.own(&key, gone);
            own.extend(ids.iter().filter_map(|(_, id)| *id));
            own.sort_unstable();
            own.dedup();
            self.place(key, own);
        }
        for key in touched {
            let own = self.own(&key, gone);
            self.place(key, own);
        }
    }

    /// The terms that hold for a row's address because of who has it.
    fn own(&self, key: &IpNet, gone: &BTreeSet<TermId>) -> Vec<TermId> {
        let Some(class) = address(key).and_then(|_| self.image.classes.rows().get(key)) else {
            return Vec::new();
        };
        let terms = self.classes.terms(*class).iter().copied();
        terms.filter(|id| !self.terms.is_network(*id) && !gone.contains(id)).collect()
    }

    /// Gives a row the class of these terms and of the networks it lies in.
    fn place(&mut self, key: IpNet, mut terms: Vec<TermId>) {
        let needed = !terms.is_empty() || self.networks.is_prefix(&key);
        if !needed && !self.image.classes.rows().contains_key(&key) {
            return;
        }
        terms.extend(self.networks.holding(&key, &self.terms));
        terms.sort_unstable();
        self.classes.set(&mut self.image.classes, key, needed.then_some(&terms));
    }

    /// The rows of sets for classes, where either is new.
    fn write(&mut self, new_sets: &BTreeSet<u32>) {
        let rows = &mut self.image.sets;
        let (new_classes, gone) = self.classes.settle(self.revision, self.released);
        for (class, terms) in gone {
            let sets: BTreeSet<u32> = terms.iter().flat_map(|term| self.terms.sets(*term)).collect();
            for set in sets {
                self.sets.clear(rows, SetKey { set, class });
            }
        }
        for &set in new_sets {
            self.sets.write_others(rows, set);
            let terms = self.sets.terms(set);
            let classes: BTreeSet<u32> = terms.iter().flat_map(|term| self.classes.with(*term)).collect();
            for class in classes {
                self.sets.write(rows, set, class, self.classes.terms(class));
            }
        }
        for class in new_classes {
            let terms = self.classes.terms(class);
            let sets: BTreeSet<u32> = terms.iter().flat_map(|term| self.terms.sets(*term)).collect();
            for set in sets.difference(new_sets) {
                self.sets.write(rows, *set, class, terms);
            }
        }
        self.sets.sweep();
    }
}
