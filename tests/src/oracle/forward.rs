//! How does a packet leave that has been judged? By slices of its bytes.

use std::net::{IpAddr, SocketAddr};

use causeway_schema::{GATEWAY_MAC, Hop, Port, TraceRecord, V4, V6, Verdict, hash::flow_hash};

use super::{End, Flow, Leaving, Outcome, Route, Scene, Side, local};
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

/// Where a packet goes once its addresses are final.
pub(super) enum Way {
    Container {
        ifindex: u32,
        mac: [u8; 6],
    },
    Out {
        ifindex: u32,
    },
    /// To a socket of the node.
    Host,
}

/// The packet in a frame, or the end of a frame that needs no more.
pub(super) fn headers(scene: &Scene) -> Result<Parsed, Outcome> {
    let frame = scene.frame;
    if frame.len() < 14 {
        return Err(Err(Verdict::DropTruncated.into()));
    }
    if let Side::Uplink { mac, .. } = scene.side
        && frame[..6] != mac
        && frame[0] & 1 == 0
    {
        return Err(Err(Verdict::StackForeign.into()));
    }
    match (u16::from_be_bytes([frame[12], frame[13]]), scene.side) {
        (0x8100 | 0x88a8, _) => Err(Err(Verdict::StackVlan.into())),
        (0x0806, Side::Container { .. }) => Err(local::arp(scene)),
        (0x0800 | 0x86dd, _) => Parsed::read(frame).map_err(|verdict| Err(verdict.into())),
        _ => Err(Err(Verdict::StackNotIp.into())),
    }
}

/// Of a packet's ends and protocol.
pub fn hash_of(packet: &Parsed) -> u64 {
    let [from, to] = [packet.src, packet.dst].map(|end| Port::new(end.port()));
    match (packet.src.ip(), packet.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            flow_hash(&V4::from(src), from, &V4::from(dst), to, packet.protocol)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            flow_hash(&V6::from(src), from, &V6::from(dst), to, packet.protocol)
        }
        (src, dst) => panic!("{src} and {dst} are of two families"),
    }
}

/// The hop of an endpoint that is there.
pub(super) fn hop_of(world: &World, address: IpAddr) -> Hop {
    world.hop(address).filter(|&hop| world.tenant(hop).is_some()).unwrap_or(Hop::NONE)
}

/// The interface that leads to an address.
pub(super) fn ifindex_of(world: &World, address: IpAddr) -> Option<u32> {
    world.tenant(hop_of(world, address)).map(|slot| slot.ifindex)
}

/// A packet of a flow.
pub(super) fn translated(scene: &Scene, packet: &Parsed, flow: &Flow) -> Outcome {
    let host = scene.world.node.address(packet.is_v6()) == Some(flow.dst.ip());
    let by_name = flow.service != TraceRecord::NONE && !flow.is_reply && flow.hop == Hop::NONE;
    if host && by_name {
        return leave(scene, packet, Way::Host, Some((flow.src, flow.dst)));
    }
    match way(scene, flow.hop, flow.src.ip(), flow.dst.ip()) {
        Err(end) if answers_by_here(scene, &end, flow.src.ip()) => {
            leave(scene, packet, Way::Host, Some((flow.src, flow.dst)))
        }
        Ok(way) => leave(scene, packet, way, Some((flow.src, flow.dst))),
        Err(end) if end.verdict == Verdict::DropTooBig => {
            if packet.dont_fragment || packet.ttl <= 1 {
                return Err(end);
            }
            // The stack cuts it, as it is to leave.
            let way = leave(scene, packet, Way::Out { ifindex: 0 }, Some((flow.src, flow.dst)))?;
            Ok(Leaving { ifindex: 0, ..way })
        }
        // The stack would see a translated packet it knows nothing of.
        Err(_) => Err(Verdict::DropNoRoute.into()),
    }
}

/// Whether the node is where a packet goes, and answers by the interface that it
/// came by.
pub(super) fn answers_by_here(scene: &Scene, end: &End, source: IpAddr) -> bool {
    end.verdict == Verdict::StackHost && ifindex_of(scene.world, source) == Some(scene.side.ifindex())
}

/// A packet to no service.
pub(super) fn plain(scene: &Scene, packet: &Parsed) -> Outcome {
    let (src, dst) = (packet.src.ip(), packet.dst.ip());
    let hop = hop_of(scene.world, dst);
    if hop == Hop::NONE {
        if scene.world.owns(dst) {
            return Err(Verdict::DropNoFrontend.into());
        }
        if !scene.is_inside() {
            return Err(Verdict::StackForeign.into());
        }
    }
    match way(scene, hop, src, dst) {
        Ok(way) => leave(scene, packet, way, None),
        Err(end) if end.verdict == Verdict::DropTooBig && !packet.dont_fragment && packet.ttl > 1 => {
            Ok(Leaving::new(Verdict::Forwarded, 0, scene.frame.to_vec()))
        }
        Err(end) => Err(end),
    }
}

/// By `hop` while it holds, by address when its tenant left, else by route.
pub(super) fn way(scene: &Scene, hop: Hop, src: IpAddr, dst: IpAddr) -> Result<Way, End> {
    let world = scene.world;
    if hop != Hop::NONE {
        let moved = || world.hop(dst).and_then(|hop| world.tenant(hop));
        if let Some(slot) = world.tenant(hop).or_else(moved) {
            return Ok(Way::Container { ifindex: slot.ifindex, mac: slot.mac });
        }
    }
    match (scene.routes)(src, dst) {
        Route::Out { mtu, .. } if scene.frame.len() - 14 > usize::from(mtu) => {
            Err(End { verdict: Verdict::DropTooBig, mtu })
        }
        Route::Out { ifindex, .. } => Ok(Way::Out { ifindex }),
        Route::Stack => Err(Verdict::StackHost.into()),
        Route::Refused => Err(Verdict::DropNoRoute.into()),
    }
}

/// The packet one hop on, with new ends if it is translated.
pub(super) fn leave(
    scene: &Scene,
    packet: &Parsed,
    way: Way,
    ends: Option<(SocketAddr, SocketAddr)>,
) -> Outcome {
    if packet.ttl <= 1 {
        return Err(Verdict::DropTtl.into());
    }
    let mut out = scene.frame.to_vec();
    out[if packet.is_v6() { 21 } else { 22 }] -= 1;
    if let Some((src, dst)) = ends {
        readdress(&mut out, 14, src.ip(), dst.ip());
        if packet.part != Part::Later {
            if packet.is_icmp() {
                // An echo message's identifier is the asker's port.
                let id = if src.port() == 0 { dst.port() } else { src.port() };
                put(&mut out, packet.l4 + 4, id);
            } else {
                put(&mut out, packet.l4, src.port());
                put(&mut out, packet.l4 + 2, dst.port());
            }
        }
    }
    Ok(sent(out, way))
}

/// The frame as it leaves.
pub(super) fn sent(mut out: Vec<u8>, way: Way) -> Leaving {
    match way {
        Way::Container { ifindex, mac } => {
            out[..6].copy_from_slice(&mac);
            out[6..12].copy_from_slice(&GATEWAY_MAC);
            Leaving::new(Verdict::Delivered, ifindex, out)
        }
        // The kernel writes the neighbour's address on the way out.
        Way::Out { ifindex } => Leaving::new(Verdict::Forwarded, ifindex, out),
        Way::Host => Leaving::new(Verdict::StackHost, 0, out),
    }
}

/// Gives the IP header at `at` other addresses.
pub(super) fn readdress(frame: &mut [u8], at: usize, src: IpAddr, dst: IpAddr) {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame[at + 12..at + 16].copy_from_slice(&src.octets());
            frame[at + 16..at + 20].copy_from_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame[at + 8..at + 24].copy_from_slice(&src.octets());
            frame[at + 24..at + 40].copy_from_slice(&dst.octets());
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
}

pub(super) fn put(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
