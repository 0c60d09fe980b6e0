//! Random small nodes, and what an operator or the world may do to them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use causeway_schema::{Group, nat::Ports, protocol};

use crate::{
    bed::{self, Bed, CONTAINERS, FORBIDDEN, NARROW, NEIGHBOUR, NOWHERE, OWN},
    mirror::{self, of_family},
    random::Random,
    world::{Node, Range, ServiceState, World},
};

pub const NODE_PORT: u16 = 30_080;
/// Where ranges of ports begin that are not all.
pub const RANGES: [u16; 2] = [10_000, 20_000];
const BACKEND_PORTS: [u16; 4] = [8080, 8081, 9090, 53];
const PROTOCOLS: [u8; 2] = [protocol::TCP, protocol::UDP];

pub fn world(bed: &Bed, random: &mut Random) -> World {
    let mut world = World { node: node(random), ..World::default() };
    for number in 1..=CONTAINERS {
        if !random.one_in(4) {
            attach(bed, &mut world, random, number);
        }
    }
    for id in 1..=2 + random.below(9) as u32 {
        let service = service(&world, random, id);
        world.services.insert(id, service);
    }
    world
}

fn attach(bed: &Bed, world: &mut World, random: &mut Random, number: u8) {
    // Some have one family only.
    let families = *random.pick(&[[true, true], [true, true], [true, false], [false, true]]);
    for (six, _) in [false, true].into_iter().zip(families).filter(|(_, there)| *there) {
        let address = of_family(bed::address(number), six);
        world.attach(address, number.into(), bed.link(number), bed::mac(number));
    }
}

fn node(random: &mut Random) -> Node {
    let mut node = Node::default();
    if !random.one_in(4) {
        (node.v4, node.v6) = (OWN, mirror::host(OWN));
    }
    // Four ports are soon taken.
    let all = [Ports { first: 1024, last: 29_999 }, Ports { first: 5000, last: 5003 }, Ports::ALL];
    node.ports = *random.pick(&all);
    node.masquerade = random.one_in(2);
    node.native = network(Ipv4Addr::new(10, 244, 0, 0), 16).to_vec();
    if random.one_in(3) {
        node.native.extend(network(Ipv4Addr::new(192, 168, 77, 0), 24));
    }
    if random.one_in(2) {
        node.peers = vec![NEIGHBOUR.into(), mirror::host(NEIGHBOUR).into()];
    }
    node
}

/// A network and its mirrored twin.
fn network(address: Ipv4Addr, bits: u8) -> [(IpAddr, u8); 2] {
    [(address.into(), bits), (mirror::host(address).into(), 96 + bits)]
}

/// A virtual address of services.
pub fn vip(random: &mut Random, six: bool) -> IpAddr {
    of_family(Ipv4Addr::new(10, 96, 0, 1 + random.below(4) as u8), six)
}

/// A service of one family, at addresses and ports that no other has.
fn service(world: &World, random: &mut Random, id: u32) -> ServiceState {
    let six = random.one_in(2);
    let mut service = ServiceState { generation: id, ..ServiceState::default() };
    let mut whole = false;
    for _ in 0..1 + random.below(2) {
        let protocol = *random.pick(&PROTOCOLS);
        match random.below(6) {
            0 => {
                // Node ports stand without an address.
                let any = if six { "[::]" } else { "0.0.0.0" };
                service.frontends.push((format!("{any}:{NODE_PORT}").parse().unwrap(), protocol));
            }
            1 => {
                let first = *random.pick(&RANGES);
                let last = first + random.below(100) as u16;
                service.ranges.push(Range { address: vip(random, six), first, last, protocol });
            }
            2 => {
                whole = true;
                service.ranges.push(Range { address: vip(random, six), first: 1, last: u16::MAX, protocol });
            }
            // An address that the node has, too, or that is a container's.
            3 if random.one_in(4) => {
                let address = *random.pick(&[OWN, bed::address(1)]);
                service.frontends.push((SocketAddr::new(of_family(address, six), 80), protocol));
            }
            _ => {
                let frontend = SocketAddr::new(vip(random, six), *random.pick(&[80, 443, 53]));
                service.frontends.push((frontend, protocol));
            }
        }
    }
    service.frontends.sort_unstable();
    service.frontends.dedup();
    let others = || world.services.values();
    service.frontends.retain(|there| !others().any(|other| other.frontends.contains(there)));
    let clash = |one: &Range, other: &Range| {
        (one.address, one.first, one.protocol) == (other.address, other.first, other.protocol)
    };
    let ranges = std::mem::take(&mut service.ranges);
    for range in ranges {
        let taken = others().flat_map(|other| &other.ranges).chain(&service.ranges);
        if !taken.into_iter().any(|other| clash(&range, other)) {
            service.ranges.push(range);
        }
    }
    // A range's backends need as many ports.
    service.common_port = whole || random.one_in(3);
    service.silent = random.one_in(2);
    let port = if whole { 1 } else { *random.pick(&BACKEND_PORTS) };
    let count = match random.below(8) {
        0 => 0,
        1 => 33 + random.below(10),
        _ => 1 + random.below(5),
    };
    let weighted = random.one_in(2);
    for _ in 0..count {
        let mut backend = backend(random, six);
        if service.common_port {
            backend.set_port(port);
        }
        service.backends.push((backend, if weighted { 1 + random.below(9) as u32 } else { 1 }));
    }
    service.backends.sort_unstable();
    service.backends.dedup_by_key(|(backend, _)| *backend);
    if random.one_in(4) {
        let frontends = service.frontends.iter().map(|(frontend, _)| frontend.ip());
        let all = frontends.chain(service.ranges.iter().map(|range| range.address));
        service.restricted = all.filter(|address| !address.is_unspecified()).collect();
        let clients = [
            (bed::address(2), 32),
            (bed::address(0), 30),
            (Ipv4Addr::new(192, 168, 77, 0), 24),
            (Ipv4Addr::new(10, 244, 0, 0), 15),
        ];
        for _ in 0..random.below(3) {
            let (address, bits) = *random.pick(&clients);
            service.clients.extend(network(address, bits));
        }
    }
    if random.one_in(3) {
        service.affinity = Some(Group::of("default", ["a", "b"][random.below(2)]));
    }
    service
}

/// Where somebody may serve.
pub fn backend(random: &mut Random, six: bool) -> SocketAddr {
    let address = match random.below(14) {
        0 => FORBIDDEN,
        1 => OWN,
        2 => NOWHERE,
        3 => NARROW,
        4..7 => Ipv4Addr::new(10, 244, 1, 1 + random.below(40) as u8),
        _ => bed::address(1 + random.below(CONTAINERS.into()) as u8),
    };
    SocketAddr::new(of_family(address, six), *random.pick(&BACKEND_PORTS))
}

/// Something that happens meanwhile; `busy` was just in use.
pub fn change(bed: &Bed, world: &mut World, random: &mut Random, busy: Option<IpAddr>) {
    let number = 1 + random.below(CONTAINERS.into()) as u8;
    let there = world.attached.values().any(|slot| *slot == u16::from(number));
    let ids: Vec<_> = world.services.keys().copied().collect();
    let service = world.services.get_mut(random.pick(&ids)).unwrap();
    match random.below(8) {
        0 => {
            world.detach(bed::address(number));
            world.detach(mirror::host(bed::address(number)));
        }
        1 if !there => attach(bed, world, random, number),
        2 if !service.backends.is_empty() => {
            service.backends.remove(random.below(service.backends.len()));
            service.generation += 1;
        }
        // The very backend that was just in use leaves its services.
        3 | 4 => {
            for service in world.services.values_mut() {
                let before = service.backends.len();
                service.backends.retain(|(backend, _)| Some(backend.ip()) != busy);
                service.generation += u32::from(service.backends.len() < before);
            }
        }
        5 if random.one_in(3) => {
            service.frontends.clear();
            service.ranges.clear();
            service.backends.clear();
            service.generation += 1;
        }
        6 => world.node.masquerade = random.one_in(2),
        _ => {
            let Some(&(like, _)) = service.backends.first() else { return };
            let mut backend = backend(random, like.is_ipv6());
            if service.common_port {
                backend.set_port(like.port());
            }
            if service.backends.iter().all(|(there, _)| *there != backend) {
                service.backends.push((backend, 1));
            }
        }
    }
}
