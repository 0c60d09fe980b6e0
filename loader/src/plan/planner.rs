//! Which writes follow from a change of the desired state?
//!
//! The planner keeps the wanted image and what it needs to change it in time
//! proportional to the change. Whatever the order in which it learns of the
//! services, the image means the same: a contested frontend belongs to the
//! smallest service that has a place in the maps, tables depend on addresses,
//! ports and weights alone. Only ids and cells differ.

mod options;
mod port_ranges;
mod settle;

pub(super) use settle::full_message;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use causeway_schema::{FrontendKey, Port};

use super::backends::Backends;
use super::by_id::ById;
use super::claims::Claims;
use super::endpoints::Endpoints;
use super::ids::IdPool;
use super::ledger::Ledger;
use super::rivals::Rivals;
use super::tables::TableStore;
use super::wanted::Wanted;
use super::{Capacity, Family, Image, Map, ReadError, Rows, Step, adopt};
use crate::event::Problem;
use crate::model::desired::{Endpoint, Service, ServiceId};

pub struct Planner<A: Family> {
    capacity: Capacity,
    /// What comes by the uplink may go on by it as it is.
    uplink_forwards: bool,
    ledger: Ledger<A>,
    /// Boxed, because a hash table holds room for up to twice its entries.
    services: HashMap<ServiceId, Box<Entry<A>>>,
    /// By service id, for services that have one.
    names: ById<ServiceId>,
    ids: IdPool,
    /// Services of an earlier agent that no desired service has claimed.
    adopted: HashSet<u32>,
    /// Their frontends, those included whose service was claimed by another.
    orphans: HashSet<FrontendKey<A>>,
    rivals: Rivals<A>,
    claims: Claims<A>,
    tables: TableStore,
    backends: Backends<A>,
    endpoints: Endpoints<A>,
    problems: BTreeMap<ServiceId, Vec<Problem>>,
    node_problem: Option<Problem>,
    /// Services that did not fit, wholly or in part.
    waiting: BTreeSet<ServiceId>,
    /// How many of them have not been tried since something came free, and
    /// the one to try first.
    untried: usize,
    retry_from: Option<ServiceId>,
}

/// A desired service and its place in the image.
struct Entry<A> {
    wanted: Wanted<A>,
    place: Option<Place<A>>,
    /// Frontends that a smaller service has.
    lost: Box<[FrontendKey<A>]>,
}

struct Place<A> {
    id: u32,
    /// First cell of its table; none without backends.
    table: Option<u32>,
    /// See [`Wanted::first`].
    first: Option<Port>,
    /// Sorted. A rival may have taken some since.
    frontends: Box<[FrontendKey<A>]>,
}

impl<A: Family> Planner<A> {
    /// A planner for empty maps.
    pub fn new(capacity: Capacity) -> Self {
        Self::with(capacity, adopt::Found::default())
    }

    /// A planner for maps that an earlier agent filled: what is sound in them
    /// is the image to begin with, and keeps its ids. A service claims the id
    /// that one of its frontends already points to.
    pub fn adopt(capacity: Capacity, rows: &impl Rows<A>) -> Result<Self, ReadError> {
        Ok(Self::with(capacity, adopt::find(rows)?))
    }

    fn with(capacity: Capacity, found: adopt::Found<A>) -> Self {
        let ledger = Ledger::new(found.image, found.parked_services, found.parked_endpoints);
        let mut backends = Backends::new(&ledger, capacity.backends, found.stray_backends);
        let tables = TableStore::new(&ledger, &mut backends, capacity.arena, found.tables);
        let adopted: HashSet<u32> = ledger.image().services.keys().collect();
        let markers = |key: &FrontendKey<A>| *key == FrontendKey::whole_address(key.addr);
        let orphans = ledger.image().frontends.keys().copied().filter(|key| !markers(key)).collect();
        let claims = Claims::adopt(&ledger.image().port_ranges);
        Self {
            claims,
            ids: IdPool::adopt(0..capacity.services, adopted.iter().copied(), found.stray_services),
            endpoints: Endpoints::new(&ledger, &capacity, found.stray_slots),
            services: HashMap::new(),
            names: ById::default(),
            rivals: Rivals::default(),
            problems: BTreeMap::new(),
            node_problem: None,
            waiting: BTreeSet::new(),
            untried: 0,
            retry_from: None,
            uplink_forwards: true,
            capacity,
            ledger,
            adopted,
            orphans,
            tables,
            backends,
        }
    }

    /// Says whether direct return by the hardware address can be had, before any
    /// service asks for it. It can unless this says otherwise.
    pub fn uplink_forwards(&mut self, forwards: bool) {
        self.uplink_forwards = forwards;
    }

    /// Plans services that are new, changed (`Some`) or gone (`None`).
    pub fn update<'a, S: Borrow<Service>>(
        &mut self,
        changed: impl IntoIterator<Item = (&'a ServiceId, Option<S>)>,
    ) -> Vec<Step<A>> {
        let mut queue = BTreeSet::new();
        for (name, service) in changed {
            let wanted = service
                .map(|service| Wanted::new(service.borrow()))
                .filter(|wanted| !wanted.frontends.is_empty() || !wanted.ranges().is_empty());
            match wanted {
                Some(wanted) => {
                    match self.services.get_mut(name) {
                        Some(entry) => entry.wanted = wanted,
                        None => {
                            let entry = Entry { wanted, place: None, lost: Box::default() };
                            self.services.insert(name.clone(), Box::new(entry));
                        }
                    }
                    queue.insert(name.clone());
                }
                None => self.remove(name, &mut queue),
            }
        }
        self.settle_all(queue);
        self.ledger.steps()
    }

    /// Plans the endpoints of this node, all of them, by name.
    pub fn set_endpoints(&mut self, desired: &BTreeMap<String, Endpoint>) -> Vec<Step<A>> {
        self.endpoints.set(&mut self.ledger, &self.capacity, desired);
        self.ledger.steps()
    }

    /// Removes what an earlier agent left and nobody wants. To be called once
    /// every source has said everything it knows.
    pub fn prune(&mut self) -> Vec<Step<A>> {
        self.tables.forget_adopted();
        self.backends.forget_adopted();
        for key in std::mem::take(&mut self.orphans) {
            self.ledger.delete_frontend(key);
        }
        self.forget_ranges(None);
        let mut unclaimed: Vec<u32> = std::mem::take(&mut self.adopted).into_iter().collect();
        unclaimed.sort_unstable();
        for id in unclaimed {
            if let Some(base) = self.table_of(id) {
                self.tables.drop(base);
            }
            self.ledger.clear_service(id);
            self.ids.free(id);
        }
        self.endpoints.prune(&mut self.ledger);
        self.sweep();
        self.ledger.steps()
    }

    /// To be called when every step so far has been read back from the
    /// kernel: what was freed becomes free after a grace period. Plans the
    /// services that fit now and did not before. `now` counts from any fixed
    /// point.
    pub fn release(&mut self, now: Duration) -> Vec<Step<A>> {
        let mut room = self.ledger.confirm();
        room |= self.ids.release(now);
        room |= self.backends.release(now);
        room |= self.tables.release(now);
        self.endpoints.release(&mut self.ledger, &self.capacity, now, room);
        if room {
            self.untried = self.waiting.len();
        }
        self.retry();
        self.ledger.steps()
    }

    pub fn image(&self) -> &Image<A> {
        self.ledger.image()
    }

    /// Everything that could not be planned as wanted, now.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten().chain(&self.node_problem).chain(self.endpoints.problems())
    }

    /// Those of one service.
    pub fn problems_of(&self, name: &ServiceId) -> impl Iterator<Item = &Problem> {
        self.problems.get(name).into_iter().flatten()
    }

    /// What keeps services waiting for room in the maps.
    pub fn waiting(&self) -> impl Iterator<Item = &Problem> {
        self.waiting.iter().filter_map(|name| self.problems.get(name)).flatten()
    }

    /// The service that has an id in the maps.
    pub fn service_of(&self, id: u32) -> Option<&ServiceId> {
        self.names.get(&id)
    }

    /// How long flows may be silent, by the id of their service, where that has
    /// a time of its own.
    pub fn idle_timeouts(&self) -> HashMap<u32, Duration> {
        let entries = self.services.values();
        let own = entries.filter_map(|entry| {
            let seconds = entry.wanted.options.as_ref()?.idle_timeout?;
            Some((entry.place.as_ref()?.id, Duration::from_secs(seconds.into())))
        });
        own.collect()
    }

    pub fn service_id(&self, name: &ServiceId) -> Option<u32> {
        Some(self.services.get(name)?.place.as_ref()?.id)
    }

    /// The port is [`Port::NONE`] when the service's target has it.
    pub fn backend_of(&self, id: u32) -> Option<(A, Port)> {
        self.image().backends.get(&id).map(|row| (row.addr, row.port))
    }

    /// Rows used and rows there are.
    pub fn usage(&self) -> [(Map, u64, u64); 9] {
        let (image, capacity) = (self.image(), &self.capacity);
        let cells: usize = image.tables.values().map(|cells| cells.len()).sum();
        [
            (Map::Frontends, image.frontends.len(), capacity.frontends),
            (Map::Services, image.services.len(), capacity.services),
            (Map::Backends, image.backends.len(), capacity.backends),
            (Map::Arena, cells, capacity.arena),
            (Map::EndpointKeys, image.endpoint_keys.len(), capacity.endpoints),
            (Map::Endpoints, image.endpoints.len(), capacity.endpoints),
            (Map::Members, image.members.len(), capacity.members),
            (Map::SourceRanges, image.source_ranges.len(), capacity.source_ranges),
            (Map::PortRanges, image.port_ranges.len(), capacity.port_ranges),
        ]
        .map(|(map, used, rows)| (map, used as u64, u64::from(rows)))
    }
}
