//! A small node's state, as the oracle and the maps both get it: services,
//! containers, the node itself, of both families.

mod image;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use causeway_schema::{Group, Hop, nat::Ports};

use crate::{addresses::any, mirror};

#[derive(Clone, Debug, Default)]
pub struct World {
    /// By id.
    pub services: BTreeMap<u32, ServiceState>,
    /// Addresses attached here, each with its slot.
    pub attached: BTreeMap<IpAddr, u16>,
    /// By slot; a slot that was let go keeps its generation.
    pub slots: BTreeMap<u16, Slot>,
    pub node: Node,
}

#[derive(Clone, Debug, Default)]
pub struct ServiceState {
    /// Addresses and ports with protocols. At the unspecified address: a node port.
    pub frontends: Vec<(SocketAddr, u8)>,
    /// The backends' ports stand for the first of each.
    pub ranges: Vec<Range>,
    /// With weights.
    pub backends: Vec<(SocketAddr, u32)>,
    pub generation: u32,
    /// Frontends' addresses that only `clients` may come to.
    pub restricted: Vec<IpAddr>,
    /// Networks by address and length of the prefix.
    pub clients: Vec<(IpAddr, u8)>,
    /// What its clients are remembered under, if they are.
    pub affinity: Option<Group>,
    /// The backends listen on one port, which stands in the service's row.
    pub common_port: bool,
    /// Without backends it tells nobody so.
    pub silent: bool,
}

/// Ports of an address, both ends in the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub address: IpAddr,
    pub first: u16,
    pub last: u16,
    pub protocol: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub generation: u16,
    pub in_use: bool,
}

/// What the programs are told of the node itself.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where node ports are served; unspecified: nowhere.
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub ports: Ports,
    /// Containers go by the node's address to all but `native` networks.
    pub masquerade: bool,
    pub native: Vec<(IpAddr, u8)>,
    /// Addresses of other nodes: they see containers as they are.
    pub peers: Vec<IpAddr>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            v4: Ipv4Addr::UNSPECIFIED,
            v6: Ipv6Addr::UNSPECIFIED,
            ports: Ports::ALL,
            masquerade: false,
            native: Vec::new(),
            peers: Vec::new(),
        }
    }
}

impl Node {
    /// Its address of a family, if it has one.
    pub fn address(&self, six: bool) -> Option<IpAddr> {
        let address: IpAddr = if six { self.v6.into() } else { self.v4.into() };
        (!address.is_unspecified()).then_some(address)
    }

    /// Whether an address outside sees the node's instead of a container's.
    pub fn hides_from(&self, address: IpAddr) -> bool {
        let is_native = self.native.iter().any(|&network| contains(network, address));
        self.masquerade && !is_native && !self.peers.contains(&address)
    }
}

/// Where a packet knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    pub service: u32,
    /// How far into a range of ports.
    pub offset: u16,
    /// Only for the service's clients.
    pub restricted: bool,
}

impl World {
    pub fn service(&mut self, id: u32, frontend: &str, protocol: u8, backends: &[&str]) {
        let backends = backends.iter().map(|backend| (backend.parse().unwrap(), 1)).collect();
        let frontends = vec![(frontend.parse().unwrap(), protocol)];
        self.services
            .insert(id, ServiceState { frontends, backends, generation: 1, ..ServiceState::default() });
    }

    /// Puts a container at `address` behind `ifindex`; one more address of the
    /// container that the slot has already, if it is that one's.
    pub fn attach(&mut self, address: impl Into<IpAddr>, slot: u16, ifindex: u32, mac: [u8; 6]) {
        let there = self.slots.get(&slot);
        if there.is_none_or(|there| !there.in_use || there.ifindex != ifindex) {
            let generation = there.map_or(1, |slot| slot.generation + 1);
            self.slots.insert(slot, Slot { ifindex, mac, generation, in_use: true });
        }
        self.attached.insert(address.into(), slot);
    }

    /// Lets the container at an address go, with all its addresses.
    pub fn detach(&mut self, address: impl Into<IpAddr>) {
        let Some(&number) = self.attached.get(&address.into()) else { return };
        self.attached.retain(|_, slot| *slot != number);
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.in_use = false;
            slot.generation += 1;
        }
    }

    /// Where an address is delivered now.
    pub fn hop(&self, address: IpAddr) -> Option<Hop> {
        let number = *self.attached.get(&address)?;
        Some(Hop::new(number, self.slots.get(&number)?.generation))
    }

    /// The tenant a hop names, if it is still there.
    pub fn tenant(&self, hop: Hop) -> Option<&Slot> {
        let slot = self.slots.get(&(hop.slot() as u16))?;
        (slot.in_use && slot.generation == hop.generation()).then_some(slot)
    }

    /// The frontend that packets to an address knock at; node ports are served
    /// at the node's own.
    pub fn frontend(&self, to: SocketAddr, protocol: u8) -> Option<Door> {
        let at = |frontend: SocketAddr| {
            let mut services = self.services.iter();
            let (&service, state) =
                services.find(|(_, service)| service.frontends.contains(&(frontend, protocol)))?;
            Some(Door { service, offset: 0, restricted: state.restricted.contains(&frontend.ip()) })
        };
        let of_node = || {
            let node = self.node.address(to.is_ipv6())?;
            (node == to.ip()).then(|| at(SocketAddr::new(any(to.is_ipv6()), to.port())))?
        };
        at(to).or_else(of_node)
    }

    /// The range of ports that a packet to an address falls into: one of some
    /// ports, or else the whole address.
    pub fn range(&self, to: SocketAddr, protocol: u8) -> Option<Door> {
        let mut found: Vec<(bool, Door)> = Vec::new();
        for (&service, state) in &self.services {
            for range in &state.ranges {
                if range.address == to.ip()
                    && range.protocol == protocol
                    && (range.first..=range.last).contains(&to.port())
                {
                    let offset = to.port() - range.first;
                    let restricted = state.restricted.contains(&range.address);
                    found.push((range.is_whole(), Door { service, offset, restricted }));
                }
            }
        }
        found.into_iter().min_by_key(|(whole, _)| *whole).map(|(_, door)| door)
    }

    /// Whether services have an address, and have it for themselves: a node's own
    /// has the node's sockets.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.is_service_address(address) && self.node.address(address.is_ipv6()) != Some(address)
    }

    pub fn is_service_address(&self, address: IpAddr) -> bool {
        self.services.values().any(|service| {
            service.frontends.iter().any(|(frontend, _)| frontend.ip() == address)
                || service.ranges.iter().any(|range| range.address == address)
        })
    }

    /// Whether a client may come to the restricted addresses of a service.
    pub fn admits(&self, service: u32, client: IpAddr) -> bool {
        let service = self.services.get(&service);
        service.is_some_and(|service| service.clients.iter().any(|&network| contains(network, client)))
    }

    /// The backend of a service at an address; of several, that of the lowest port.
    pub fn member(&self, service: u32, address: IpAddr) -> Option<SocketAddr> {
        let backends = self.services.get(&service)?.backends.iter().map(|(backend, _)| *backend);
        backends.filter(|backend| backend.ip() == address).min_by_key(SocketAddr::port)
    }

    /// This world in IPv6: see [`mirror`].
    pub fn mirrored(&self) -> Self {
        let turn = |address: IpAddr| match address {
            IpAddr::V4(address) => mirror::host(address).into(),
            IpAddr::V6(_) => address,
        };
        let end = |end: SocketAddr| SocketAddr::new(turn(end.ip()), end.port());
        let mut world = self.clone();
        for service in world.services.values_mut() {
            service.frontends.iter_mut().for_each(|(frontend, _)| *frontend = end(*frontend));
            service.backends.iter_mut().for_each(|(backend, _)| *backend = end(*backend));
            service.ranges.iter_mut().for_each(|range| range.address = turn(range.address));
            service.restricted.iter_mut().for_each(|address| *address = turn(*address));
        }
        world.attached = world.attached.into_iter().map(|(address, slot)| (turn(address), slot)).collect();
        world
    }
}

impl Range {
    pub fn is_whole(&self) -> bool {
        (self.first, self.last) == (1, u16::MAX)
    }
}

/// Whether a network holds an address of its family.
pub fn contains((network, bits): (IpAddr, u8), address: IpAddr) -> bool {
    let prefix = |octets: &[u8]| -> Vec<bool> {
        (0..usize::from(bits)).map(|bit| octets[bit / 8] & (0x80 >> (bit % 8)) != 0).collect()
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => prefix(&network.octets()) == prefix(&address.octets()),
        (IpAddr::V6(network), IpAddr::V6(address)) => prefix(&network.octets()) == prefix(&address.octets()),
        _ => false,
    }
}
