//! What do we know, and from whom? One slot per source; the desired state is
//! what they say together, and every part of it can name its origin.

pub mod desired;
mod merge;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::event::{Batch, Kind, Object, ObjectKey, Origin, Problem};

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
    slices: HashMap<ServiceName, BTreeSet<(usize, ObjectKey)>>,
    desired: DesiredState,
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
        Self { slots, slices: HashMap::new(), desired: DesiredState::default() }
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

    /// Takes a batch in. The revision rises by one if it changed anything.
    pub fn apply(&mut self, batch: Batch) -> Touched {
        let Some(index) = self.slots.iter().position(|slot| slot.source == batch.source) else {
            tracing::error!(source = %batch.source, "a batch of an unknown source is ignored: a bug");
            return Touched::default();
        };
        let mut names = BTreeSet::new();
        let mut nodes = false;
        for event in batch.events {
            nodes |= matches!(event.key.kind, Kind::Node | Kind::Pod);
            self.take(index, event.key, event.object, &mut names);
        }
        let slot = &mut self.slots[index];
        slot.problems = batch.problems;
        slot.synced |= batch.synced;

        let mut touched = Touched::default();
        for name in &names {
            self.merge_service(name, &mut touched);
        }
        if nodes {
            let objects = self.slots.iter().map(|slot| &slot.objects);
            let merged = merge::nodes(objects);
            touched.nodes = merged != self.desired.nodes;
            self.desired.nodes = merged;
        }
        if !touched.is_empty() {
            self.desired.revision += 1;
        }
        touched
    }

    /// Puts one object into its slot, and notes the services it bears on.
    fn take(
        &mut self,
        index: usize,
        key: ObjectKey,
        object: Option<(Arc<Object>, Arc<Origin>)>,
        names: &mut BTreeSet<ServiceName>,
    ) {
        let namespace = key.namespace.clone();
        let service_of = |object: &Object| match object {
            Object::Service(_) => Some(key.name.clone()),
            Object::Slice(slice) => Some(slice.service.clone()),
            Object::Node(_) | Object::Pod(_) => None,
        };
        let new = object.as_ref().and_then(|(object, _)| service_of(object));
        let slot = &mut self.slots[index];
        let old = match object {
            Some(object) => slot.objects.insert(key.clone(), object),
            None => slot.objects.remove(&key),
        };
        let old = old.and_then(|(object, _)| service_of(&object));
        let is_slice = matches!(key.kind, Kind::EndpointSlice | Kind::Endpoints);
        for (name, stays) in [(old, false), (new, true)] {
            let Some(name) = name else { continue };
            let name = (namespace.clone(), name);
            if is_slice {
                let slices = self.slices.entry(name.clone()).or_default();
                if stays {
                    slices.insert((index, key.clone()));
                } else {
                    slices.remove(&(index, key.clone()));
                }
                if slices.is_empty() {
                    self.slices.remove(&name);
                }
            }
            names.insert(name);
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
            if self.desired.services.get(&id).is_none_or(|known| **known != service) {
                self.desired.services.insert(id.clone(), Arc::new(service));
                touched.services.insert(id);
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
