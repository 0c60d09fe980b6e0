//! Who serves a new flow, and under whose name does it go?

use std::net::{IpAddr, SocketAddr};

use causeway_schema::{HAIRPIN_V4, HAIRPIN_V6, Hop, Port, TraceRecord, V4, V6, Verdict, nat::Ports};

use super::{Flow, Oracle, Scene, hash_of, hop_of, ifindex_of, with_ip};
use crate::{
    parse::Parsed,
    world::{Door, ServiceState},
};

impl Oracle {
    /// The flow that a packet to a service begins.
    pub(super) fn serve(&mut self, scene: &Scene, packet: &Parsed, door: Door) -> Result<Flow, Verdict> {
        let world = scene.world;
        if door.restricted && !world.admits(door.service, packet.src.ip()) {
            return Err(Verdict::DropSourceRange);
        }
        let service = world.services.get(&door.service).ok_or(Verdict::DropInconsistent)?;
        let none = if service.silent { Verdict::DropNoLocalBackend } else { Verdict::DropNoBackend };
        let mut backend = self.backend(scene, packet, door, service).ok_or(none)?;
        backend.set_port(backend.port().wrapping_add(door.offset));
        let (mut source, mut ports) = (packet.src, Ports::ALL);
        let host = world.node.address(packet.is_v6()) == Some(backend.ip());
        if !scene.is_inside() && hop_of(world, backend.ip()) == Hop::NONE && !host {
            // The answer must come back this way: it goes to whom it sees.
            let node = world.node.address(packet.is_v6()).ok_or(Verdict::DropRemoteBackend)?;
            ports = world.node.ports;
            source = own_end(packet, node, ports);
        }
        let own = ifindex_of(world, backend.ip()) == Some(scene.side.ifindex());
        if own || source.ip() == backend.ip() {
            let hairpin: IpAddr = if packet.is_v6() {
                std::net::Ipv6Addr::from(HAIRPIN_V6).into()
            } else {
                std::net::Ipv4Addr::from(HAIRPIN_V4).into()
            };
            source = with_ip(source, hairpin);
        }
        self.create(scene, packet, (source, backend), ports, door.service, service.generation)
    }

    /// The backend that a client had, if it is to have it again, or the hash's.
    fn backend(
        &mut self,
        scene: &Scene,
        packet: &Parsed,
        door: Door,
        service: &ServiceState,
    ) -> Option<SocketAddr> {
        let (world, id) = (scene.world, door.service);
        let hash = hash_of(packet);
        let fresh = if packet.is_v6() { world.choose::<V6>(id, hash) } else { world.choose::<V4>(id, hash) }?;
        let Some(group) = service.affinity else { return Some(fresh) };
        let client = (packet.src.ip(), group);
        if let Some(backend) = self.clients.get(&client).and_then(|last| world.member(id, *last)) {
            return Some(backend);
        }
        self.clients.insert(client, fresh.ip());
        Some(fresh)
    }

    /// A flow to no service that leaves as the node's.
    pub(super) fn under_the_nodes_name(&mut self, scene: &Scene, packet: &Parsed) -> Result<Flow, Verdict> {
        let node = &scene.world.node;
        let address = node.address(packet.is_v6()).ok_or(Verdict::DropInconsistent)?;
        let source = own_end(packet, address, node.ports);
        self.create(scene, packet, (source, packet.dst), node.ports, TraceRecord::NONE, 0)
    }
}

/// The node's end that a flow tries first.
fn own_end(packet: &Parsed, node: IpAddr, ports: Ports) -> SocketAddr {
    let port = ports.first(Port::new(packet.src.port()), hash_of(packet));
    SocketAddr::new(node, port.get())
}
