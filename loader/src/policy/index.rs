//! Which terms may hold for a pod? Found under what they require, so that not
//! all have to be asked.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    Name, Pod,
    selector::Namespace,
    terms::{Term, TermId, Who},
    world::World,
};
use crate::event::policy::{NamedPort, Namespaces};

/// All terms but networks, which hold whoever has the address.
#[derive(Debug, Default)]
pub struct TermIndex {
    in_namespace: HashMap<Arc<str>, ByLabel>,
    by_namespace_label: ByLabel,
    anywhere: ByLabel,
    by_port: HashMap<NamedPort, Vec<Entry>>,
    services: HashMap<Name, Serving>,
    /// What `services` make of addresses.
    at: HashMap<IpAddr, Vec<TermId>>,
}

/// The term for a service, and the addresses under which it stands.
#[derive(Debug)]
struct Serving {
    id: TermId,
    addresses: Arc<[IpAddr]>,
}

type Entry = (TermId, Arc<Term>);

#[derive(Debug, Default)]
struct ByLabel {
    labels: HashMap<Arc<str>, HashMap<Arc<str>, Vec<Entry>>>,
    rest: Vec<Entry>,
}

impl TermIndex {
    pub fn add(&mut self, id: TermId, term: &Arc<Term>, world: &World) {
        self.places(term, &mut |list| list.push((id, term.clone())));
        if let (Who::Service(service), None) = (&term.who, &term.port) {
            self.services.insert(service.clone(), Serving { id, addresses: Arc::default() });
            self.follow(service, world);
        }
    }

    /// To be [pruned](TermIndex::prune) after.
    pub fn remove(&mut self, id: TermId, term: &Arc<Term>) {
        self.places(term, &mut |list| list.retain(|(other, _)| *other != id));
        if let (Who::Service(service), None) = (&term.who, &term.port)
            && let Some(serving) = self.services.remove(service)
        {
            self.leave(&serving);
        }
    }

    /// Forgets what no term asks for.
    pub fn prune(&mut self) {
        self.in_namespace.retain(|_, by_label| {
            by_label.prune();
            !by_label.labels.is_empty() || !by_label.rest.is_empty()
        });
        self.by_namespace_label.prune();
        self.anywhere.prune();
        self.by_port.retain(|_, list| !list.is_empty());
    }

    /// The service has other addresses than it had when last seen.
    pub fn follow(&mut self, service: &Name, world: &World) {
        let Some(mut serving) = self.services.remove(service) else { return };
        self.leave(&serving);
        serving.addresses = world.serving(service);
        for address in serving.addresses.iter() {
            self.at.entry(*address).or_default().push(serving.id);
        }
        self.services.insert(service.clone(), serving);
    }

    fn leave(&mut self, serving: &Serving) {
        for address in serving.addresses.iter() {
            if let Some(ids) = self.at.get_mut(address) {
                ids.retain(|other| *other != serving.id);
                if ids.is_empty() {
                    self.at.remove(address);
                }
            }
        }
    }

    /// The lists in which a term about pods stands.
    fn places(&mut self, term: &Term, put: &mut impl FnMut(&mut Vec<Entry>)) {
        if let Some(port) = &term.port {
            return put(self.by_port.entry(port.clone()).or_default());
        }
        let Who::Pods(selector) = &term.who else { return };
        let by_label = match &selector.namespaces {
            Namespaces::Named(name) => self.in_namespace.entry(name.clone()).or_default(),
            Namespaces::Matching(of_namespace) => match (selector.pods.anchor(), of_namespace.anchor()) {
                (None, Some((key, values))) => return self.by_namespace_label.under(key, values, put),
                _ => &mut self.anywhere,
            },
        };
        match selector.pods.anchor() {
            Some((key, values)) => by_label.under(key, values, put),
            None => put(&mut by_label.rest),
        }
    }

    /// The terms that hold for an address because of who has it, sorted.
    pub fn of_address(&self, address: IpAddr, world: &World) -> Vec<TermId> {
        let mut found = self.at.get(&address).cloned().unwrap_or_default();
        for pod in world.pods_at(address) {
            self.of_pod(pod, address, world, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Adds the terms that hold for a pod at one of its addresses.
    pub fn of_pod(
        &self,
        (name, pod): (&Name, &Pod),
        address: IpAddr,
        world: &World,
        found: &mut Vec<TermId>,
    ) {
        let mut take = |list: &[Entry]| {
            let holding = list.iter().filter(|(_, term)| world.holds(term, (name, pod), address));
            found.extend(holding.map(|(id, _)| id));
        };
        for by_label in self.in_namespace.get(&name.0).into_iter().chain([&self.anywhere]) {
            by_label.visit(pod.labels.iter().map(|(key, value)| (&**key, &**value)), &mut take);
        }
        if !self.by_namespace_label.labels.is_empty() {
            let namespace: Namespace<'_> = world.namespace(&name.0);
            self.by_namespace_label.visit(namespace.labels(), &mut take);
        }
        if !self.by_port.is_empty() {
            for list in pod.ports.iter().filter_map(|port| self.by_port.get(port)) {
                take(list);
            }
        }
    }
}

impl ByLabel {
    fn under(&mut self, key: &Arc<str>, values: &[Arc<str>], put: &mut impl FnMut(&mut Vec<Entry>)) {
        let by_value = self.labels.entry(key.clone()).or_default();
        for value in values {
            put(by_value.entry(value.clone()).or_default());
        }
    }

    fn visit<'a>(&self, labels: impl Iterator<Item = (&'a str, &'a str)>, take: &mut impl FnMut(&[Entry])) {
        take(&self.rest);
        if self.labels.is_empty() {
            return;
        }
        for (key, value) in labels {
            if let Some(list) = self.labels.get(key).and_then(|by_value| by_value.get(value)) {
                take(list);
            }
        }
    }

    fn prune(&mut self) {
        self.labels.retain(|_, by_value| {
            by_value.retain(|_, list| !list.is_empty());
            !by_value.is_empty()
        });
    }
}
