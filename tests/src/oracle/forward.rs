//! How does a packet leave that has been judged? By slices of its bytes.

use std::net::{Ipv4Addr, SocketAddrV4};

use causeway_schema::{GATEWAY_MAC, GATEWAY_V4, Hop, Port, V4, Verdict, hash::flow_hash};

use super::{Flow, Leaving, Route, Scene, Side, Way};
use crate::{
    parse::{Parsed, Part},
    world::World,
};

impl Side {
    pub fn ifindex(self) -> u32 {
        match self {
            Side::Container { ifindex } | Side::Uplink { ifindex, .. } => ifindex,
        }
    }
}

/// The packet in a frame, or the end of a frame that needs no more.
pub(super) fn headers(world: &World, side: Side, frame: &[u8]) -> Result<Parsed, Result<Leaving, Verdict>> {
    if frame.len() < 14 {
        return Err(Err(Verdict::DropTruncated));
    }
    if let Side::Uplink { mac, .. } = side
        && frame[..6] != mac
        && frame[0] & 1 == 0
    {
        return Err(Err(Verdict::StackForeign));
    }
    match (u16::from_be_bytes([frame[12], frame[13]]), side) {
        (0x8100 | 0x88a8, _) => Err(Err(Verdict::StackVlan)),
        (0x0806, Side::Container { ifindex }) => Err(arp(world, frame, ifindex)),
        (0x0800, _) => Parsed::read(frame).map_err(Err),
        _ => Err(Err(Verdict::StackNotIp)),
    }
}

pub(super) fn hash_of(packet: &Parsed) -> u64 {
    let ends = [packet.src, packet.dst].map(|end| (V4::from(*end.ip()), Port::new(end.port())));
    let [(client, client_port), (frontend, frontend_port)] = ends;
    flow_hash(&client, client_port, &frontend, frontend_port, packet.protocol)
}

/// The hop of an endpoint that is there.
pub(super) fn hop_of(world: &World, address: Ipv4Addr) -> Hop {
    world.hop(address).filter(|&hop| world.tenant(hop).is_some()).unwrap_or(Hop::NONE)
}

/// The interface that leads to an address.
pub(super) fn ifindex_of(world: &World, address: Ipv4Addr) -> Option<u32> {
    world.tenant(hop_of(world, address)).map(|slot| slot.ifindex)
}

/// A ping of a service's address.
pub(super) fn echo(scene: &Scene, frame: &[u8], packet: &Parsed) -> Option<Leaving> {
    let address = *packet.dst.ip();
    if frame.get(packet.l4) != Some(&8) || !scene.world.is_service_address(address) {
        return None;
    }
    let mut out = frame.to_vec();
    let field = out.get_mut(packet.l4 + 2..packet.l4 + 4)?;
    // One word less by the request's type (RFC 1624).
    let check = u16::from_be_bytes([field[0], field[1]]);
    let sum = u32::from(!check) + u32::from(!0x0800_u16);
    let folded = (sum & 0xffff) + (sum >> 16);
    field.copy_from_slice(&(!(folded as u16)).to_be_bytes());
    out[packet.l4] = 0;
    out[..12].copy_from_slice(&[&frame[6..12], &frame[..6]].concat());
    out[22] = 64;
    out[26..34].copy_from_slice(&[&frame[30..34], &frame[26..30]].concat());
    Some((Verdict::EchoReply, scene.side.ifindex(), out))
}

/// A packet of a flow.
pub(super) fn translated(
    scene: &Scene,
    frame: &[u8],
    packet: &Parsed,
    flow: &Flow,
) -> Result<Leaving, Verdict> {
    match way(scene, flow.hop, *flow.dst.ip()) {
        Ok(way) => leave(frame, packet, way, Some((flow.src, flow.dst))),
        // The stack would see a translated packet it knows nothing of.
        Err(_) => Err(Verdict::DropNoRoute),
    }
}

/// A packet to no service.
pub(super) fn plain(scene: &Scene, frame: &[u8], packet: &Parsed) -> Result<Leaving, Verdict> {
    let dst = *packet.dst.ip();
    let hop = hop_of(scene.world, dst);
    if hop == Hop::NONE {
        if scene.world.is_service_address(dst) {
            return Err(Verdict::DropNoFrontend);
        }
        if matches!(scene.side, Side::Uplink { .. }) {
            return Err(Verdict::StackForeign);
        }
    }
    leave(frame, packet, way(scene, hop, dst)?, None)
}

/// By `hop` while it holds, by address when its tenant left, else by route.
pub(super) fn way(scene: &Scene, hop: Hop, dst: Ipv4Addr) -> Result<Way, Verdict> {
    let world = scene.world;
    if hop != Hop::NONE {
        let moved = || world.hop(dst).and_then(|hop| world.tenant(hop));
        if let Some(slot) = world.tenant(hop).or_else(moved) {
            return Ok(Way::Container { ifindex: slot.ifindex, mac: slot.mac });
        }
    }
    match (scene.routes)(dst) {
        Route::Out { ifindex } => Ok(Way::Out { ifindex }),
        Route::Stack => Err(Verdict::StackHost),
        Route::Refused => Err(Verdict::DropNoRoute),
    }
}

/// The packet one hop on, with new ends if it is translated.
pub(super) fn leave(
    frame: &[u8],
    packet: &Parsed,
    way: Way,
    ends: Option<(SocketAddrV4, SocketAddrV4)>,
) -> Result<Leaving, Verdict> {
    if packet.ttl <= 1 {
        return Err(Verdict::DropTtl);
    }
    let mut out = frame.to_vec();
    out[22] -= 1;
    if let Some((src, dst)) = ends {
        out[26..30].copy_from_slice(&src.ip().octets());
        out[30..34].copy_from_slice(&dst.ip().octets());
        if packet.part != Part::Later {
            let l4 = packet.l4;
            out[l4..l4 + 2].copy_from_slice(&src.port().to_be_bytes());
            out[l4 + 2..l4 + 4].copy_from_slice(&dst.port().to_be_bytes());
        }
    }
    match way {
        Way::Container { ifindex, mac } => {
            out[..6].copy_from_slice(&mac);
            out[6..12].copy_from_slice(&GATEWAY_MAC);
            Ok((Verdict::Delivered, ifindex, out))
        }
        // The kernel writes the neighbour's address on the way out.
        Way::Out { ifindex } => Ok((Verdict::Forwarded, ifindex, out)),
    }
}

/// ARP from a container: the gateway answers, and nobody else.
pub(super) fn arp(world: &World, frame: &[u8], ifindex: u32) -> Result<(Verdict, u32, Vec<u8>), Verdict> {
    let Some(body) = frame.get(14..42) else { return Err(Verdict::DropTruncated) };
    if body[..6] != [0, 1, 8, 0, 6, 4] {
        return Err(Verdict::DropArp);
    }
    let sender = Ipv4Addr::new(body[14], body[15], body[16], body[17]);
    let own = ifindex_of(world, sender) == Some(ifindex);
    match [body[6], body[7]] {
        // The container answers the host, which asked for it.
        [0, 2] if own => return Err(Verdict::StackHost),
        [0, 1] if body[24..28] == GATEWAY_V4.0 && (own || sender.is_unspecified()) => {}
        _ => return Err(Verdict::DropArp),
    }
    let (sha, spa) = (&body[8..14], &body[14..18]);
    let mut out =
        [sha, &GATEWAY_MAC, &frame[12..20], &[0, 2], &GATEWAY_MAC, &GATEWAY_V4.0, sha, spa].concat();
    out.extend(&frame[42..]);
    Ok((Verdict::GatewayArp, ifindex, out))
}
