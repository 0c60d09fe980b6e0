//! A small node's state, as the oracle and the maps both get it: services,
//! containers, routes.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use causeway::plan::Image;
use causeway_schema::{
    Algorithm, Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Port, Service, Target, V4,
    choice::{Lot, RENDEZVOUS_MAX, maglev, rendezvous},
    hash,
};

#[derive(Clone, Debug, Default)]
pub struct World {
    /// By id.
    pub services: BTreeMap<u32, ServiceState>,
    /// Addresses attached here, each with its slot.
    pub attached: BTreeMap<Ipv4Addr, u16>,
    /// By slot; a slot that was let go keeps its generation.
    pub slots: BTreeMap<u16, Slot>,
}

#[derive(Clone, Debug, Default)]
pub struct ServiceState {
    pub frontends: Vec<(SocketAddrV4, u8)>,
    /// With weights.
    pub backends: Vec<(SocketAddrV4, u32)>,
    pub generation: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub generation: u16,
    pub in_use: bool,
}

/// A service's backends in the order of their ids in [`World::image`].
type BackendIds = BTreeMap<SocketAddrV4, u32>;

impl World {
    pub fn service(&mut self, id: u32, frontend: &str, protocol: u8, backends: &[&str]) {
        let backends = backends.iter().map(|backend| (backend.parse().unwrap(), 1)).collect();
        let frontends = vec![(frontend.parse().unwrap(), protocol)];
        self.services.insert(id, ServiceState { frontends, backends, generation: 1 });
    }

    /// Puts a container at `address` behind `ifindex`.
    pub fn attach(&mut self, address: Ipv4Addr, slot: u16, ifindex: u32, mac: [u8; 6]) {
        let generation = self.slots.get(&slot).map_or(1, |slot| slot.generation + 1);
        self.slots.insert(slot, Slot { ifindex, mac, generation, in_use: true });
        self.attached.insert(address, slot);
    }

    pub fn detach(&mut self, address: Ipv4Addr) {
        if let Some(slot) = self.attached.remove(&address).and_then(|slot| self.slots.get_mut(&slot)) {
            slot.in_use = false;
            slot.generation += 1;
        }
    }

    /// Where an address is delivered now.
    pub fn hop(&self, address: Ipv4Addr) -> Option<Hop> {
        let number = *self.attached.get(&address)?;
        Some(Hop::new(number, self.slots.get(&number)?.generation))
    }

    /// The tenant a hop names, if it is still there.
    pub fn tenant(&self, hop: Hop) -> Option<&Slot> {
        let slot = self.slots.get(&(hop.slot() as u16))?;
        (slot.in_use && slot.generation == hop.generation()).then_some(slot)
    }

    /// The service at a frontend.
    pub fn frontend(&self, address: SocketAddrV4, protocol: u8) -> Option<u32> {
        let mut services = self.services.iter();
        services.find(|(_, service)| service.frontends.contains(&(address, protocol))).map(|(&id, _)| id)
    }

    pub fn is_service_address(&self, address: Ipv4Addr) -> bool {
        let mut frontends = self.services.values().flat_map(|service| &service.frontends);
        frontends.any(|(frontend, _)| *frontend.ip() == address)
    }

    /// The backend of a service for a flow hash, by the shared choice over a
    /// table of this service alone; its id as in [`World::image`].
    pub fn choose(&self, service: u32, hash: u64) -> Option<(u32, SocketAddrV4)> {
        let backends = &self.services.get(&service)?.backends;
        let ids = self.backend_ids();
        let (cells, target) = table(backends, &ids, 0);
        let id = causeway_schema::choice::choose(cells.as_slice(), target, hash)?;
        ids.iter().find(|(_, other)| **other == id).map(|(&address, _)| (id, address))
    }

    /// What the maps must hold.
    pub fn image(&self) -> Image<V4> {
        let mut image = Image::default();
        let ids = self.backend_ids();
        for (address, &id) in &ids {
            let row = Backend::new((*address.ip()).into(), Port::new(address.port()));
            image.backends.insert(id, row);
        }
        let mut base = 0;
        for (&id, service) in &self.services {
            let (cells, target) = table(&service.backends, &ids, base);
            base += cells.len() as u32;
            if !cells.is_empty() {
                image.tables.insert(target.base(), cells.into());
            }
            image.services.insert(id, Service { target, generation: service.generation, flags: 0 });
            for (frontend, protocol) in &service.frontends {
                let addr = V4::from(*frontend.ip());
                let key = FrontendKey::new(addr, Port::new(frontend.port()), *protocol);
                image.frontends.insert(key, Frontend { service: id, flags: 0 });
                let marker = Frontend { service: Frontend::WHOLE_ADDRESS, flags: 0 };
                image.frontends.insert(FrontendKey::whole_address(addr), marker);
            }
        }
        for &address in self.attached.keys() {
            let hop = self.hop(address).unwrap_or(Hop::NONE);
            image.endpoint_keys.insert(EndpointKey(address.into()), hop);
        }
        for (&number, slot) in &self.slots {
            let ifindex = if slot.in_use { slot.ifindex } else { 0 };
            let row = Endpoint { ifindex, generation: slot.generation, flags: 0, mac: slot.mac, policy: 0 };
            image.endpoints.insert(u32::from(number), row);
        }
        image
    }

    /// Ids by address, so that they do not depend on the order of services.
    fn backend_ids(&self) -> BackendIds {
        let all = self.services.values().flat_map(|service| &service.backends);
        let mut addresses: Vec<_> = all.map(|(address, _)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        // Id 0 is as good as any; starting elsewhere shows a reader that adds up.
        addresses.into_iter().zip(7..).collect()
    }
}

/// The table of a set of backends and the target that names it.
fn table(backends: &[(SocketAddrV4, u32)], ids: &BackendIds, base: u32) -> (Vec<Cell>, Target) {
    if backends.is_empty() {
        return (Vec::new(), Target::EMPTY);
    }
    let mut lots: Vec<_> = backends
        .iter()
        .map(|&(address, weight)| Lot {
            seed: hash::backend_seed(&V4::from(*address.ip()), Port::new(address.port())),
            weight,
            backend: ids[&address],
        })
        .collect();
    lots.sort_unstable();
    if lots.len() > RENDEZVOUS_MAX {
        let length = maglev::length(lots.len());
        let mut cells = vec![Cell::ZERO; maglev::cells(length, lots.len())];
        maglev::fill(&lots, length, &mut vec![maglev::Walk::default(); lots.len()], &mut cells);
        return (cells, Target::new(base, length, Algorithm::Maglev, Port::NONE));
    }
    let mut cells = vec![Cell::ZERO; rendezvous::cells(lots.len())];
    rendezvous::fill(&lots, &mut cells);
    let weighted = lots.iter().any(|lot| lot.weight != lots[0].weight);
    let algorithm = if weighted { Algorithm::RendezvousWeighted } else { Algorithm::Rendezvous };
    (cells, Target::new(base, lots.len() as u32, algorithm, Port::NONE))
}
