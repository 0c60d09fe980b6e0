//! What do we know, and from whom? One slot per source; the desired state is
//! what they say together, and every part of it can name its origin.

pub mod desired;
mod merge;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::event::{Batch, Kind, Object, ObjectKey, Origin, PodObject, Problem};

use desired::{DesiredState, ServiceId};

/// Namespace and name of a service object.
type ServiceName = (Arc<str>, Arc<str>);

/// What a source has said, as it stands.
#[derive(Debug)]
struct Slot {
    source: Arc<str>,
    synced: bool,
    objects: BTreeMap<ObjectKey, (Arc<Object>, Arc<Origin>)>,
    problems: Vec<Problem>,
}

/// What a batch changed.
#[derive(Debug, Default, PartialEq)]
pub struct Touched {
    pub services: BTreeSet<ServiceId>,
    pub nodes: bool,
}

impl Touched {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.nodes
    }

    pub fn extend(&mut self, other: Touched) {
        self.services.extend(other.services);
        self.nodes |= other.nodes;
    }
}

#[derive(Debug)]
pub struct Model {
    /// In order of precedence: where two sources have one service, the first
    /// gives its frontends; backends are added up.
    slots: Vec<Slot>,
    /// The slices of each service, by slot and key.
    slices: Index<ServiceName>,
    /// The pods of each node, likewise.
    pods: Index<Arc<str>>,
    desired: DesiredState,
}

/// Objects by what they belong to; each by slot and key, sorted. Most lists
/// have one member: a tree for each would cost more than all objects.
type Index<K> = HashMap<K, Vec<(usize, ObjectKey)>>;

/// A batch of so many events leaves maps with as much room as rows.
const LARGE: usize = 1000;

/// What a batch bears on.
#[derive(Default)]
struct Affected {
    services: BTreeSet<ServiceName>,
    nodes: BTreeSet<Arc<str>>,
}

impl Model {
    /// A model of these sources, the first of them the most trusted.
    pub fn new(sources: &[Arc<str>]) -> Self {
        let slot = |source: &Arc<str>| Slot {
            source: source.clone(),
            synced: false,
            objects: BTreeMap::new(),
            problems: Vec::new(),
        };
        let slots = sources.iter().map(slot).collect();
        Self { slots, slices: HashMap::new(), pods: HashMap::new(), desired: DesiredState::default() }
    }

    pub fn desired(&self) -> &DesiredState {
        &self.desired
    }

    /// Every source has said all it knows at least once.
    pub fn synced(&self) -> bool {
        self.slots.iter().all(|slot| slot.synced)
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
        self.pods.get(node).into_iter().flatten().filter_map(|(index, key)| {
            match &*self.slots.get(*index)?.objects.get(key)?.0 {
                Object::Pod(pod) => Some((key, pod)),
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
        for event in batch.events {
            self.take(index, event.key, event.object, &mut affected);
        }
        let slot = &mut self.slots[index];
        slot.problems = batch.problems;
        slot.synced |= batch.synced;

        let mut touched = Touched::default();
        for name in &affected.services {
            self.merge_service(name, &mut touched);
        }
        for name in affected.nodes {
            self.merge_node(name, &mut touched);
        }
        if !touched.is_empty() {
            self.desired.revision += 1;
        }
        if large {
            // Collected anew, a map fills its nodes.
            pack(&mut self.slots[index].objects);
            pack(&mut self.desired.services);
        }
        touched
    }

    /// Puts one object into its slot, and notes what it bears on.
    fn take(
        &mut self,
        index: usize,
        key: ObjectKey,
        object: Option<(Arc<Object>, Arc<Origin>)>,
        affected: &mut Affected,
    ) {
        let place = (index, key);
        let slot = &mut self.slots[index];
        let new = object.as_ref().map(|(object, _)| object.clone());
        let old = match object {
            Some(object) => slot.objects.insert(place.1.clone(), object),
            None => slot.objects.remove(&place.1),
        };
        for (object, stays) in [(old.map(|(object, _)| object), false), (new, true)] {
            let Some(object) = object else { continue };
            let key = &place.1;
            match &*object {
                Object::Service(_) => {
                    affected.services.insert((key.namespace.clone(), key.name.clone()));
                }
                Object::Slice(slice) => {
                    let name = (key.namespace.clone(), slice.service.clone());
                    put(&mut self.slices, &name, &place, stays);
                    affected.services.insert(name);
                }
                Object::Node(_) => {
                    affected.nodes.insert(key.name.clone());
                }
                Object::Pod(pod) => {
                    if let Some(node) = &pod.node {
                        put(&mut self.pods, node, &place, stays);
                        affected.nodes.insert(node.clone());
                    }
                }
            }
        }
    }

    /// Puts together what all sources say of one node.
    fn merge_node(&mut self, name: Arc<str>, touched: &mut Touched) {
        let key = ObjectKey { kind: Kind::Node, namespace: "".into(), name: name.clone() };
        let object = self.slots.iter().find_map(|slot| slot.objects.get(&key));
        let merged = object.and_then(|(object, _)| merge::node(object, self.pods_on(&name)));
        if merged.as_ref() == self.desired.nodes.get(&name) {
            return;
        }
        touched.nodes = true;
        match merged {
            Some(node) => drop(self.desired.nodes.insert(name, node)),
            None => drop(self.desired.nodes.remove(&name)),
        }
    }

    /// Puts together what all sources say of one service object.
    fn merge_service(&mut self, name: &ServiceName, touched: &mut Touched) {
        let (namespace, service) = name;
        let key = ObjectKey { kind: Kind::Service, namespace: namespace.clone(), name: service.clone() };
        let object = self.slots.iter().find_map(|slot| slot.objects.get(&key));
        let slices = self.slices.get(name).into_iter().flatten();
        let slices: Vec<_> =
            slices.filter_map(|(index, key)| self.slots.get(*index)?.objects.get(key)).collect();
        let merged = merge::service(name, object, &slices);

        let first = ServiceId { namespace: namespace.clone(), name: service.clone(), port: "".into() };
        let known = self.desired.services.range(first..);
        let known = known.take_while(|(id, _)| (&id.namespace, &id.name) == (namespace, service));
        let gone: Vec<ServiceId> =
            known.map(|(id, _)| id).filter(|id| !merged.contains_key(*id)).cloned().collect();
        for id in gone {
            self.desired.services.remove(&id);
            touched.services.insert(id);
        }
        for (id, service) in merged {
            let known = self.desired.services.get(&id);
            if known.is_some_and(|known| **known == service) {
                continue;
            }
            // That an object moved within its file is no change of what it says.
            if known.is_none_or(|known| !known.serves_alike(&service)) {
                touched.services.insert(id.clone());
            }
            self.desired.services.insert(id, Arc::new(service));
        }
    }
}

fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

fn put<K: Clone + Eq + std::hash::Hash>(
    index: &mut Index<K>,
    owner: &K,
    place: &(usize, ObjectKey),
    stays: bool,
) {
    let places = index.entry(owner.clone()).or_default();
    match (places.binary_search(place), stays) {
        (Err(at), true) => {
            places.reserve_exact(1);
            places.insert(at, place.clone());
        }
        (Ok(at), false) => drop(places.remove(at)),
        _ => {}
    }
    if places.is_empty() {
        index.remove(owner);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
