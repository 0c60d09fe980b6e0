//! What must the maps hold of a world?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use causeway::plan::{Family, Image};
use causeway_schema::{
    Algorithm, Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Member, MemberKey, Network,
    NodeConfig, Port, PortRange, PortRanges, Service, SourceRange, SourceRangeKey, Target,
    choice::{Lot, RENDEZVOUS_MAX, maglev, rendezvous},
    config::flags,
    egress::NETWORKS,
    hash,
    source_range::NODES,
};

use super::{ServiceState, World};

/// Ids by what their rows hold: a port of 0 stands in the service's row.
type BackendIds = BTreeMap<SocketAddr, u32>;

impl World {
    /// Seconds after which clients are forgotten: longer than every run, for
    /// tests do it by hand.
    pub const AFFINITY: u32 = 1 << 20;

    /// The backend of a service for a flow hash, by the shared choice over a
    /// table of this service alone.
    pub fn choose<A: Family>(&self, service: u32, hash: u64) -> Option<SocketAddr> {
        let service = self.services.get(&service)?;
        let ids = self.backend_ids();
        let (cells, target) = table::<A>(service, &ids, 0);
        let id = causeway_schema::choice::choose(cells.as_slice(), target, hash)?;
        let mut backends = service.backends.iter().map(|(backend, _)| *backend);
        backends.find(|backend| ids.get(&row_of(service, *backend)) == Some(&id))
    }

    /// What the maps of a family must hold.
    pub fn image<A: Family>(&self) -> Image<A> {
        let mut image = Image::default();
        let ids = self.backend_ids();
        for (end, &id) in &ids {
            if let Some(addr) = A::from_ip(end.ip()) {
                image.backends.insert(id, Backend::new(addr, Port::new(end.port())));
            }
        }
        let mut base = 0;
        for (&id, service) in &self.services {
            let (cells, target) = table::<A>(service, &ids, base);
            base += cells.len() as u32;
            if !cells.is_empty() {
                image.tables.insert(target.base(), Arc::from(cells));
            }
            let affinity = if service.affinity.is_some() { Service::AFFINITY } else { 0 };
            let flags = affinity | if service.silent { Service::SILENT } else { 0 };
            image.services.insert(id, Service { target, generation: service.generation, flags });
            frontends(&mut image, id, service);
            options(&mut image, &ids, id, service);
        }
        self.ranges(&mut image);
        for addr in self.node.peers.iter().filter_map(|&address| A::from_ip(address)) {
            let key = SourceRangeKey::client(NODES, addr);
            image.source_ranges.insert(key, SourceRange { prefix: key.prefix });
        }
        for &address in self.attached.keys() {
            if let Some(addr) = A::from_ip(address) {
                image.endpoint_keys.insert(EndpointKey(addr), self.hop(address).unwrap_or(Hop::NONE));
            }
        }
        for (&number, slot) in &self.slots {
            let ifindex = if slot.in_use { slot.ifindex } else { 0 };
            let row = Endpoint { ifindex, generation: slot.generation, flags: 0, mac: slot.mac, policy: 0 };
            image.endpoints.insert(u32::from(number), row);
        }
        image
    }

    /// What the programs are told of the node.
    pub fn config(&self) -> NodeConfig {
        let node = &self.node;
        NodeConfig {
            node_v4: node.v4.into(),
            node_v6: node.v6.into(),
            ports: node.ports,
            flags: if node.masquerade { flags::MASQUERADE } else { 0 },
            native_v4: networks(&node.native),
            native_v6: networks(&node.native),
            ..NodeConfig::new()
        }
    }

    fn ranges<A: Family>(&self, image: &mut Image<A>) {
        let mut by_address: BTreeMap<A, Vec<PortRange>> = BTreeMap::new();
        for (&id, service) in &self.services {
            for range in &service.ranges {
                let Some(addr) = A::from_ip(range.address) else { continue };
                by_address.entry(addr).or_default().push(PortRange {
                    first: Port::new(range.first),
                    last: Port::new(range.last),
                    protocol: range.protocol,
                    flags: flags_of(service, range.address) as u16,
                    service: id,
                    ..PortRange::NONE
                });
                mark(image, addr);
            }
        }
        image.port_ranges = by_address.into_iter().map(|(addr, row)| (addr, PortRanges::of(row))).collect();
    }

    /// Ids by address, so that they do not depend on the order of services.
    fn backend_ids(&self) -> BackendIds {
        let rows: BTreeSet<SocketAddr> = self
            .services
            .values()
            .flat_map(|service| service.backends.iter().map(|(backend, _)| row_of(service, *backend)))
            .collect();
        // Id 0 is as good as any; starting elsewhere shows a reader that adds up.
        rows.into_iter().zip(7..).collect()
    }
}

/// What a backend's row says of it.
fn row_of(service: &ServiceState, backend: SocketAddr) -> SocketAddr {
    if service.common_port { SocketAddr::new(backend.ip(), 0) } else { backend }
}

fn flags_of(service: &ServiceState, address: IpAddr) -> u32 {
    if service.restricted.contains(&address) { Frontend::SOURCE_RANGES } else { 0 }
}

fn mark<A: Family>(image: &mut Image<A>, addr: A) {
    let marker = Frontend { service: Frontend::WHOLE_ADDRESS, flags: 0 };
    image.frontends.insert(FrontendKey::whole_address(addr), marker);
}

fn frontends<A: Family>(image: &mut Image<A>, id: u32, service: &ServiceState) {
    for (frontend, protocol) in &service.frontends {
        let Some(addr) = A::from_ip(frontend.ip()) else { continue };
        let key = FrontendKey::new(addr, Port::new(frontend.port()), *protocol);
        let flags = flags_of(service, frontend.ip());
        image.frontends.insert(key, Frontend { service: id, flags });
        mark(image, addr);
    }
}

/// Source ranges and affinity.
fn options<A: Family>(image: &mut Image<A>, ids: &BackendIds, id: u32, service: &ServiceState) {
    for &(network, bits) in &service.clients {
        if let Some(addr) = A::from_ip(network) {
            let key = SourceRangeKey::new(id, addr, bits);
            image.source_ranges.insert(key, SourceRange { prefix: key.prefix });
        }
    }
    let Some(group) = service.affinity else { return };
    image.members.insert(MemberKey::settings(id), Member::settings(group, World::AFFINITY));
    let mut backends: Vec<_> = service.backends.iter().map(|(backend, _)| *backend).collect();
    // The lowest port's comes last, and stays.
    backends.sort_unstable_by(|one, other| other.cmp(one));
    for backend in backends {
        if let Some(addr) = A::from_ip(backend.ip()) {
            let row = Member::backend(ids[&row_of(service, backend)]);
            image.members.insert(MemberKey::new(id, addr), row);
        }
    }
}

fn networks<A: Family>(networks: &[(IpAddr, u8)]) -> [Network<A>; NETWORKS] {
    let mut rows = [Network::NONE; NETWORKS];
    let own = networks.iter().filter_map(|&(network, bits)| Some((A::from_ip(network)?, bits)));
    for (row, (addr, bits)) in rows.iter_mut().zip(own) {
        let mut mask = A::UNSPECIFIED;
        for bit in 0..usize::from(bits) {
            bytemuck::bytes_of_mut(&mut mask)[bit / 8] |= 0x80 >> (bit % 8);
        }
        *row = Network { addr, mask };
    }
    rows
}

/// The table of a service's backends of a family and the target that names it.
fn table<A: Family>(service: &ServiceState, ids: &BackendIds, base: u32) -> (Vec<Cell>, Target) {
    let of_family = service.backends.iter().filter_map(|&(end, weight)| {
        let addr = A::from_ip(end.ip())?;
        let seed = hash::backend_seed(&addr, Port::new(end.port()));
        Some(Lot { seed, weight, backend: ids[&row_of(service, end)] })
    });
    let mut lots: Vec<_> = of_family.collect();
    let Some(first) = service.backends.first().filter(|_| !lots.is_empty()) else {
        return (Vec::new(), Target::EMPTY);
    };
    let port = if service.common_port { Port::new(first.0.port()) } else { Port::NONE };
    lots.sort_unstable();
    if lots.len() > RENDEZVOUS_MAX {
        let length = maglev::length(lots.len());
        let mut cells = vec![Cell::ZERO; maglev::cells(length, lots.len())];
        maglev::fill(&lots, length, &mut vec![maglev::Walk::default(); lots.len()], &mut cells);
        return (cells, Target::new(base, length, Algorithm::Maglev, port));
    }
    let mut cells = vec![Cell::ZERO; rendezvous::cells(lots.len())];
    rendezvous::fill(&lots, &mut cells);
    let weighted = lots.iter().any(|lot| lot.weight != lots[0].weight);
    let algorithm = if weighted { Algorithm::RendezvousWeighted } else { Algorithm::Rendezvous };
    (cells, Target::new(base, lots.len() as u32, algorithm, port))
}
