//! Who is there? Pods, namespaces and services as they stand, and what changed
//! of them since the last commit.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Name, Pod,
    finder::Finder,
    selector::Namespace,
    terms::{Term, Who},
};
use crate::event::policy::{Labels, NamedPort, Namespaces, Transport};

/// A port's name, with its protocol.
pub type PortName = (Arc<str>, Transport);

#[derive(Debug, Default)]
pub struct World {
    namespaces: HashMap<Arc<str>, Labels>,
    /// By number; `None` is free.
    pods: Vec<Option<(Name, Pod)>>,
    free: Vec<u32>,
    numbers_of: BTreeMap<Name, u32>,
    /// Who has an address. One flat set: nearly every address has one pod.
    at: BTreeSet<(IpAddr, u32)>,
    finder: Finder,
    /// The addresses of backends, sorted.
    services: HashMap<Name, Arc<[IpAddr]>>,
    /// The numbers that pods have given a port name, and how many did.
    numbers: HashMap<PortName, BTreeMap<u16, usize>>,
    changed: Changed,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
pub struct Changed {
    pub addresses: BTreeSet<IpAddr>,
    pub namespaces: BTreeSet<Arc<str>>,
    /// Those that have got another set of numbers.
    pub ports: BTreeSet<PortName>,
    pub services: BTreeSet<Name>,
}

impl World {
    pub fn changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    pub fn set_namespace(&mut self, name: Arc<str>, labels: Option<Labels>) {
        let same = self.namespaces.get(&name) == labels.as_ref();
        if same {
            return;
        }
        let pods: Vec<_> = self.pods_of(&name).flat_map(|(_, pod)| pod.addresses.iter().copied()).collect();
        self.changed.addresses.extend(pods);
        match labels {
            Some(labels) => self.namespaces.insert(name.clone(), labels),
            None => self.namespaces.remove(&name),
        };
        self.changed.namespaces.insert(name);
    }

    pub fn set_pod(&mut self, name: Name, pod: Option<Pod>) {
        let known = self.numbers_of.get(&name).copied();
        if known.and_then(|number| self.pod(number)).map(|(_, pod)| pod) == pod.as_ref() {
            return;
        }
        if let Some(number) = known
            && let Some((name, old)) = self.pods[number as usize].take()
        {
            self.numbers_of.remove(&name);
            self.free.push(number);
            self.finder.remove(number, &old);
            for address in &old.addresses {
                self.at.remove(&(*address, number));
            }
            self.changed.addresses.extend(&old.addresses);
            old.ports.iter().for_each(|port| self.count(port, false));
        }
        let Some(pod) = pod else { return };
        let number = self.free.pop().unwrap_or_else(|| {
            self.pods.push(None);
            self.pods.len() as u32 - 1
        });
        self.finder.add(number, &pod);
        for address in &pod.addresses {
            self.at.insert((*address, number));
        }
        self.changed.addresses.extend(&pod.addresses);
        pod.ports.iter().for_each(|port| self.count(port, true));
        self.numbers_of.insert(name.clone(), number);
        self.pods[number as usize] = Some((name, pod));
    }

    pub fn set_service(&mut self, name: Name, mut addresses: Vec<IpAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        if *self.serving(&name) == *addresses {
            return;
        }
        let old = match addresses.is_empty() {
            false => self.services.insert(name.clone(), addresses.clone().into()),
            true => self.services.remove(&name),
        };
        let old = old.unwrap_or_default();
        let left = old.iter().filter(|address| addresses.binary_search(address).is_err());
        let joined = addresses.iter().filter(|address| old.binary_search(address).is_err());
        self.changed.addresses.extend(left.chain(joined));
        self.changed.services.insert(name);
    }

    fn count(&mut self, port: &NamedPort, more: bool) {
        let name = (port.name.clone(), port.protocol);
        let numbers = self.numbers.entry(name.clone()).or_default();
        let count = numbers.entry(port.port).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        let turned = if more { *count == 1 } else { *count == 0 };
        if !turned {
            return;
        }
        if !more {
            numbers.remove(&port.port);
            if numbers.is_empty() {
                self.numbers.remove(&name);
            }
        }
        self.changed.ports.insert(name);
    }

    pub fn namespace<'a>(&'a self, name: &'a str) -> Namespace<'a> {
        Namespace { name, labels: self.namespaces.get(name) }
    }

    fn pod(&self, number: u32) -> Option<(&Name, &Pod)> {
        self.pods.get(number as usize)?.as_ref().map(|(name, pod)| (name, pod))
    }

    /// Namespaces with pods.
    fn inhabited(&self) -> impl Iterator<Item = &Arc<str>> {
        let mut next = self.numbers_of.keys().next().map(|(namespace, _)| namespace);
        std::iter::from_fn(move || {
            let here = next?;
            // The least string that is greater.
            let after: Arc<str> = format!("{here}\0").into();
            let mut later = self.numbers_of.range((after, Arc::from(""))..);
            next = later.next().map(|((namespace, _), _)| namespace);
            Some(here)
        })
    }

    fn pods_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = (&Name, &Pod)> {
        let first: Name = (namespace.clone(), "".into());
        let same = namespace.clone();
        let here = self.numbers_of.range(first..).take_while(move |((namespace, _), _)| *namespace == same);
        here.filter_map(|(_, number)| self.pod(*number))
    }

    pub fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = (&Name, &Pod)> {
        let here = self.at.range((address, 0)..=(address, u32::MAX));
        here.filter_map(|(_, number)| self.pod(*number))
    }

    /// Calls back with every pod for which a term that asks for pods may hold.
    pub fn candidates(&self, term: &Term, mut found: impl FnMut((&Name, &Pod))) {
        if let Some(port) = &term.port {
            return self.finder.with_port(port).filter_map(|number| self.pod(number)).for_each(found);
        }
        let Who::Pods(selector) = &term.who else { return };
        let labelled = self.finder.matching(&selector.pods);
        match (&selector.namespaces, labelled) {
            (Namespaces::Named(name), Some(labelled)) => {
                match self.pods_of(name).nth(labelled.len()) {
                    // More live there than have the labels.
                    Some(_) => labelled.into_iter().filter_map(|number| self.pod(number)).for_each(found),
                    None => self.pods_of(name).for_each(found),
                }
            }
            (Namespaces::Named(name), None) => self.pods_of(name).for_each(found),
            (Namespaces::Matching(_), Some(labelled)) => {
                labelled.into_iter().filter_map(|number| self.pod(number)).for_each(found);
            }
            (Namespaces::Matching(of_namespace), None) => {
                for name in self.inhabited() {
                    if of_namespace.matches(|key| self.namespace(name).get(key)) {
                        self.pods_of(name).for_each(&mut found);
                    }
                }
            }
        }
    }

    /// The addresses that serve a service, sorted.
    pub fn serving(&self, service: &Name) -> Arc<[IpAddr]> {
        self.services.get(service).cloned().unwrap_or_default()
    }

    /// The numbers that a port name means somewhere.
    pub fn numbers(&self, name: &PortName) -> impl Iterator<Item = u16> {
        self.numbers.get(name).into_iter().flat_map(|numbers| numbers.keys().copied())
    }

    /// Does a term that asks for a pod hold for this one at this address?
    pub fn holds(&self, term: &Term, (name, pod): (&Name, &Pod), address: IpAddr) -> bool {
        let who = match &term.who {
            Who::Pods(selector) => selector.matches(self.namespace(&name.0), &pod.labels),
            who => self.is_at(who, address),
        };
        who && term.port.as_ref().is_none_or(|port| pod.ports.contains(port))
    }

    /// Is one of these at an address, whoever else is?
    pub fn is_at(&self, who: &Who, address: IpAddr) -> bool {
        match who {
            Who::Anybody => true,
            Who::Pods(selector) => {
                let mut pods = self.pods_at(address);
                pods.any(|(name, pod)| selector.matches(self.namespace(&name.0), &pod.labels))
            }
            Who::Block { network, except } => {
                network.contains(&address) && !except.iter().any(|part| part.contains(&address))
            }
            Who::Service(service) => self.serving(service).binary_search(&address).is_ok(),
        }
    }
}
