//! What do all sources together say of services, and of which is it another word
//! than before a batch?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::event::{Event, Kind, Object, ObjectKey, Protocol, SliceEndpoint};

use super::{
    Model, Said, ServiceName,
    desired::{Frontend, Service, ServiceId},
    members, merge,
    selection::Here,
};

impl Model {
    /// What all sources say of one service now.
    pub fn service(&self, id: &ServiceId) -> Option<Service> {
        let object = self.service_object(&id.namespace, &id.name)?;
        let slices = self.slices(&(id.namespace.clone(), id.name.clone()));
        merge::service(id, object, &slices, self.seen_from(&self.here))
    }

    /// The word of the first source that has a service object.
    pub fn service_object(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Said> {
        let key = ObjectKey { kind: Kind::Service, namespace: namespace.clone(), name: name.clone() };
        self.slots.iter().find_map(|slot| slot.objects.get(&key))
    }

    /// Who serves a service now, at any of its ports; sorted.
    pub fn backend_addresses(&self, name: &(Arc<str>, Arc<str>)) -> Vec<IpAddr> {
        let backends = self.services_of(name).flat_map(|(_, service)| service.backends);
        let addresses: BTreeSet<IpAddr> = backends.map(|backend| backend.address).collect();
        addresses.into_iter().collect()
    }

    /// The same with protocols and ports, a range's first for all of it.
    pub fn backend_ports(&self, name: &(Arc<str>, Arc<str>)) -> BTreeSet<(Protocol, SocketAddr)> {
        let mut found = BTreeSet::new();
        for (_, service) in self.services_of(name) {
            let Some(Frontend { protocol, .. }) = service.frontends.first() else { continue };
            let at = service.backends.iter().map(|backend| SocketAddr::new(backend.address, backend.port));
            found.extend(at.map(|at| (*protocol, at)));
        }
        found
    }

    pub(super) fn service_names(&self) -> impl Iterator<Item = ServiceName> {
        let objects = self.slots.iter().flat_map(|slot| slot.objects.keys());
        let named = objects.filter(|key| key.kind == Kind::Service);
        named.map(|key| (key.namespace.clone(), key.name.clone()))
    }

    /// Those that may be served by others in another zone.
    pub(super) fn services_by_zone(&self) -> impl Iterator<Item = ServiceName> {
        let hinted = |endpoint: &SliceEndpoint| {
            endpoint.place.as_ref().is_some_and(|place| !place.for_zones.is_empty())
        };
        let objects = self.slots.iter().flat_map(|slot| &slot.objects);
        objects.filter_map(move |(key, (object, _))| {
            let (by_zone, name) = match &**object {
                Object::Service(service) => {
                    (service.options.as_ref()?.traffic.distribution.is_some(), &key.name)
                }
                Object::Slice(slice) => (slice.endpoints.iter().any(hinted), &slice.service),
                _ => return None,
            };
            by_zone.then(|| (key.namespace.clone(), name.clone()))
        })
    }

    /// Whether an event may bring this node to another zone.
    pub(super) fn moves_us(&self, event: &Event) -> bool {
        let zone = match event.object.as_ref().map(|(object, _)| &**object) {
            Some(Object::Node(node)) => Some(node.zone.as_deref()),
            // Another source may know the node.
            _ => None,
        };
        let here = self.seen_from(&self.here);
        event.key.kind == Kind::Node && event.key.name == self.here && zone != Some(here.zone)
    }

    pub(super) fn slices(&self, name: &ServiceName) -> Vec<&Said> {
        members(&self.slices, name.clone())
            .filter_map(|(index, key)| self.slots.get(index)?.objects.get(key))
            .collect()
    }

    /// A node as the selection of endpoints knows it.
    pub(super) fn seen_from<'a>(&'a self, node: &'a str) -> Here<'a> {
        Here { node, zone: self.nodes.get(node).and_then(|node| node.zone.as_deref()) }
    }

    /// The services of an object, one after the other.
    fn services_of(&self, name: &ServiceName) -> impl Iterator<Item = (ServiceId, Service)> {
        let said = self.service_object(&name.0, &name.1);
        let slices = if said.is_some() { self.slices(name) } else { Vec::new() };
        merge::ids(name, said).into_iter().filter_map(move |id| {
            let service = merge::service(&id, said?, &slices, self.seen_from(&self.here))?;
            Some((id, service))
        })
    }

    pub(super) fn merged(&self, names: &BTreeSet<ServiceName>) -> BTreeMap<ServiceId, Service> {
        names.iter().flat_map(|name| self.services_of(name)).collect()
    }

    /// The services of these objects that are not as they were.
    pub(super) fn compare(
        &mut self,
        names: &BTreeSet<ServiceName>,
        mut before: BTreeMap<ServiceId, Service>,
    ) -> BTreeSet<ServiceId> {
        let mut changed = BTreeSet::new();
        let mut new = 0;
        for (id, now) in names.iter().flat_map(|name| self.services_of(name)) {
            let known = before.remove(&id);
            new += usize::from(known.is_none());
            // That an object moved within its file is no change of what it says.
            if !known.is_some_and(|known| known.serves_alike(&now)) {
                changed.insert(id);
            }
        }
        self.services = self.services + new - before.len();
        changed.extend(before.into_keys());
        changed
    }
}
