//! What do we know, and from whom? One slot per source; the desired state is
//! what they say together, and every part of it can name its origin.
//!
//! Services are put together when they are asked for: kept, they would take as
//! much memory as all that the sources say.

pub mod desired;
mod explain;
mod heard;
mod merge;
pub mod selection;
mod services;
mod workloads;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::event::{Batch, Kind, Object, ObjectKey, Origin, PodObject, Problem};

use desired::{DesiredState, Node, PodName, PolicyId, ServiceId};
pub use explain::HealthCheck;
pub use merge::Selected;

/// An object, and who said it.
pub type Said = (Arc<Object>, Arc<Origin>);

/// Namespace and name of a service object.
pub type ServiceName = (Arc<str>, Arc<str>);

/// What a source has said, as it stands.
#[derive(Debug)]
struct Slot {
    source: Arc<str>,
    synced: bool,
    /// As [`Batch::containers`], once.
    containers: bool,
    objects: BTreeMap<ObjectKey, Said>,
    problems: Vec<Problem>,
}

/// What a batch changed.
#[derive(Debug, Default, PartialEq)]
pub struct Touched {
    pub services: BTreeSet<ServiceId>,
    pub nodes: bool,
    /// Came, went, or have other labels.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Came, went, or are otherwise than they were.
    pub pods: BTreeSet<PodName>,
    pub policies: BTreeSet<PolicyId>,
    /// Some object of the kind.
    pub egress: bool,
}

impl Touched {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.nodes && !self.egress && !self.policy()
    }

    /// Something that policies look at.
    pub fn policy(&self) -> bool {
        !(self.namespaces.is_empty() && self.pods.is_empty() && self.policies.is_empty())
    }

    pub fn extend(&mut self, other: Touched) {
        self.services.extend(other.services);
        self.nodes |= other.nodes;
        self.namespaces.extend(other.namespaces);
        self.pods.extend(other.pods);
        self.policies.extend(other.policies);
        self.egress |= other.egress;
    }
}

#[derive(Debug)]
pub struct Model {
    /// The name of the node that all this is for.
    here: Arc<str>,
    /// In order of precedence: where two sources have one service, the first
    /// gives its frontends; backends are added up.
    slots: Vec<Slot>,
    /// The slices of each service, by slot and key.
    slices: Index<ServiceName>,
    /// The pods of each node, likewise.
    pods_of_nodes: Index<Arc<str>>,
    /// See [`DesiredState`].
    revision: u64,
    services: usize,
    policies: usize,
    nodes: BTreeMap<Arc<str>, Node>,
}

/// Objects by what they belong to; each by slot and key. One flat set: most
/// owners have one member, and a list for each would cost more than all of it.
type Index<K> = BTreeSet<(K, usize, ObjectKey)>;

/// A batch of so many events leaves maps with as much room as rows.
const LARGE: usize = 1000;

/// What a batch bears on.
#[derive(Default)]
struct Affected {
    services: BTreeSet<ServiceName>,
    nodes: BTreeSet<Arc<str>>,
}

impl Model {
    /// A model of these sources, the first of them the most trusted, for a node.
    pub fn new(sources: &[Arc<str>], here: &str) -> Self {
        let slot = |source: &Arc<str>| Slot {
            source: source.clone(),
            synced: false,
            containers: false,
            objects: BTreeMap::new(),
            problems: Vec::new(),
        };
        let slots = sources.iter().map(slot).collect();
        Self {
            here: here.into(),
            slots,
            slices: BTreeSet::new(),
            pods_of_nodes: BTreeSet::new(),
            revision: 0,
            services: 0,
            policies: 0,
            nodes: BTreeMap::new(),
        }
    }

    /// Everything, put together now.
    pub fn desired(&self) -> DesiredState {
        let names = self.service_names().collect();
        let pods = self.pods().map(|(key, pod)| ((key.namespace.clone(), key.name.clone()), pod.clone()));
        DesiredState {
            revision: self.revision,
            services: self.merged(&names),
            nodes: self.nodes.clone(),
            namespaces: self.namespaces().map(|(name, labels)| (name.clone(), labels.clone())).collect(),
            pods: pods.collect(),
            policies: self.policies().map(|(id, policy)| (id.clone(), policy)).collect(),
            egresses: self.egresses().map(|(name, egress)| (name.clone(), egress)).collect(),
        }
    }

    /// Raised by each batch that changed something.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many services there are.
    pub fn services(&self) -> usize {
        self.services
    }

    pub fn nodes(&self) -> &BTreeMap<Arc<str>, Node> {
        &self.nodes
    }

    /// Every source has said all it knows at least once.
    pub fn synced(&self) -> bool {
        self.slots.iter().all(|slot| slot.synced)
    }

    /// As [`synced`](Self::synced), but for one source.
    pub fn synced_but(&self, source: &str) -> bool {
        self.slots.iter().all(|slot| slot.synced || &*slot.source == source)
    }

    /// As [`Batch::containers`], of every source.
    pub fn containers_known(&self) -> bool {
        self.slots.iter().all(|slot| slot.containers)
    }

    /// As [`containers_known`](Self::containers_known), but for one source.
    pub fn containers_known_but(&self, source: &str) -> bool {
        self.slots.iter().all(|slot| slot.containers || &*slot.source == source)
    }

    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.slots.iter().flat_map(|slot| &slot.problems)
    }

    /// Name, synced, number of objects and of problems of each source.
    pub fn sources(&self) -> impl Iterator<Item = (&Arc<str>, bool, usize, usize)> {
        self.slots.iter().map(|slot| (&slot.source, slot.synced, slot.objects.len(), slot.problems.len()))
    }

    /// The pods that sources place on a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = (&ObjectKey, &PodObject)> {
        members(&self.pods_of_nodes, node.into()).filter_map(|(index, key)| {
            match &*self.slots.get(index)?.objects.get(key)?.0 {
                Object::Pod(pod) => Some((key, &**pod)),
                _ => None,
            }
        })
    }

    /// Takes a batch in. The revision rises by one if it changed anything.
    pub fn apply(&mut self, batch: Batch) -> Touched {
        let Some(index) = self.slots.iter().position(|slot| slot.source == batch.source) else {
            tracing::error!(source = %batch.source, "a batch of an unknown source is ignored: a bug");
            return Touched::default();
        };
        let mut affected = Affected::default();
        let large = batch.events.len() >= LARGE;
        let mut workloads = workloads::Before::new();
        for event in &batch.events {
            self.remember(&event.key, &mut workloads);
            let known = self.slots[index].objects.get(&event.key);
            for (object, _) in known.into_iter().chain(&event.object) {
                affected.by(&event.key, object);
            }
        }
        if batch.events.iter().any(|event| self.moves_us(event)) {
            affected.services.extend(self.services_by_zone());
        }
        let before = self.merged(&affected.services);
        for event in batch.events {
            self.take(index, event.key, event.object);
        }
        let slot = &mut self.slots[index];
        slot.problems = batch.problems;
        slot.synced |= batch.synced;
        slot.containers |= batch.containers || batch.synced;

        let mut touched = Touched::default();
        // First, because services depend on this node's zone.
        for name in affected.nodes {
            self.merge_node(name, &mut touched);
        }
        touched.services = self.compare(&affected.services, before);
        self.compare_workloads(workloads, &mut touched);
        if !touched.is_empty() {
            self.revision += 1;
        }
        if large {
            // Collected anew, a map fills its nodes.
            pack(&mut self.slots[index].objects);
            self.slices = std::mem::take(&mut self.slices).into_iter().collect();
            self.pods_of_nodes = std::mem::take(&mut self.pods_of_nodes).into_iter().collect();
        }
        touched
    }

    /// Puts one object into its slot.
    fn take(&mut self, index: usize, key: ObjectKey, object: Option<Said>) {
        let objects = &mut self.slots[index].objects;
        let new = object.as_ref().map(|(object, _)| object.clone());
        let old = match object {
            Some(object) => objects.insert(key.clone(), object),
            None => objects.remove(&key),
        };
        for (object, stays) in [(old.map(|(object, _)| object), false), (new, true)] {
            match object.as_deref() {
                Some(Object::Slice(slice)) => {
                    let service = (key.namespace.clone(), slice.service.clone());
                    put(&mut self.slices, (service, index, key.clone()), stays);
                }
                Some(Object::Pod(pod)) => {
                    if let Some(node) = &pod.node {
                        put(&mut self.pods_of_nodes, (node.clone(), index, key.clone()), stays);
                    }
                }
                _ => {}
            }
        }
    }

    /// Puts together what all sources say of one node.
    fn merge_node(&mut self, name: Arc<str>, touched: &mut Touched) {
        let key = ObjectKey { kind: Kind::Node, namespace: "".into(), name: name.clone() };
        let object = self.slots.iter().find_map(|slot| slot.objects.get(&key));
        let merged = object.and_then(|(object, _)| merge::node(object, self.pods_on(&name)));
        if merged.as_ref() == self.nodes.get(&name) {
            return;
        }
        touched.nodes = true;
        match merged {
            Some(node) => drop(self.nodes.insert(name, node)),
            None => drop(self.nodes.remove(&name)),
        }
    }
}

impl Affected {
    /// Notes what an object bears on.
    fn by(&mut self, key: &ObjectKey, object: &Object) {
        match object {
            Object::Service(_) => {
                self.services.insert((key.namespace.clone(), key.name.clone()));
            }
            Object::Slice(slice) => {
                self.services.insert((key.namespace.clone(), slice.service.clone()));
            }
            Object::Node(_) => {
                self.nodes.insert(key.name.clone());
            }
            Object::Pod(pod) => self.nodes.extend(pod.node.clone()),
            Object::Namespace(_) | Object::Policy(_) | Object::Egress(_) => {}
        }
    }
}

fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

fn put<K: Ord>(index: &mut Index<K>, member: (K, usize, ObjectKey), stays: bool) {
    if stays {
        index.insert(member);
    } else {
        index.remove(&member);
    }
}

/// What belongs to an owner, by slot and key.
fn members<K: Ord + Clone>(index: &Index<K>, owner: K) -> impl Iterator<Item = (usize, &ObjectKey)> {
    let least = ObjectKey { kind: Kind::Service, namespace: Arc::default(), name: Arc::default() };
    let from = index.range((owner.clone(), 0, least)..);
    from.take_while(move |(of, ..)| *of == owner).map(|(_, slot, key)| (*slot, key))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
