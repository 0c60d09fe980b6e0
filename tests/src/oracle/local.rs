//! Who has the gateway? It answers its containers, and nobody else: ARP, and
//! neighbour discovery.

use std::net::{Ipv4Addr, Ipv6Addr};

use causeway_schema::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, Verdict, protocol};

use super::{End, Leaving, Outcome, Scene, ifindex_of, is_link_local};
use crate::{
    inspect::{checksum, pseudo_header},
    parse::{Parsed, address},
};

/// ARP from a container (RFC 826).
pub(super) fn arp(scene: &Scene) -> Outcome {
    let frame = scene.frame;
    let ifindex = scene.side.ifindex();
    let Some(body) = frame.get(14..42) else { return Err(Verdict::DropTruncated.into()) };
    if body[..6] != [0, 1, 8, 0, 6, 4] {
        return Err(Verdict::DropArp.into());
    }
    let sender = Ipv4Addr::new(body[14], body[15], body[16], body[17]);
    let own = ifindex_of(scene.world, sender.into()) == Some(ifindex);
    match [body[6], body[7]] {
        // The container answers the host, which asked for it, or announces itself.
        [0, 2] if own => return Err(Verdict::StackHost.into()),
        [0, 1] if own && body[14..18] == body[24..28] => return Err(Verdict::StackHost.into()),
        [0, 1] if body[24..28] == GATEWAY_V4.0 && (own || sender.is_unspecified()) => {}
        _ => return Err(Verdict::DropArp.into()),
    }
    let (sha, spa) = (&body[8..14], &body[14..18]);
    let mut out =
        [sha, &GATEWAY_MAC, &frame[12..20], &[0, 2], &GATEWAY_MAC, &GATEWAY_V4.0, sha, spa].concat();
    out.extend(&frame[42..]);
    Ok(Leaving { fresh: true, ..Leaving::new(Verdict::GatewayArp, ifindex, out) })
}

/// Neighbour discovery from a container, if a message is of that (RFC 4861).
pub(super) fn neighbour(scene: &Scene, packet: &Parsed, kind: u8) -> Option<Outcome> {
    let end = |verdict: Verdict| Some(Err(End::from(verdict)));
    match kind {
        // Router advertisement.
        134 => end(Verdict::DropRogueServer),
        135 => Some(solicited(scene, packet)),
        136 => {
            let Some(bytes) = scene.frame.get(packet.l4 + 8..packet.l4 + 24) else {
                return end(Verdict::DropNd);
            };
            let target = address(bytes, 0, true);
            let own = is_link_local(target) || !scene.is_foreign(target);
            end(if own { Verdict::StackHost } else { Verdict::DropNd })
        }
        _ => None,
    }
}

/// The answer to a solicitation of the gateway.
fn solicited(scene: &Scene, packet: &Parsed) -> Outcome {
    let frame = scene.frame;
    let gateway = Ipv6Addr::from(GATEWAY_V6);
    let wanted = packet.l4 == 54 && packet.ttl == 255 && frame.len() >= 54 + 32;
    // Behind the target, an option: the asker's hardware address. Who has no
    // address yet looks whether one is free, and hears nothing.
    if !wanted || frame[62..78] != gateway.octets() || frame[78] != 1 || frame[22] == 0 {
        return Err(Verdict::DropNd.into());
    }
    let mut icmp = frame[54..86].to_vec();
    icmp[0] = 136;
    icmp[2..4].fill(0);
    icmp[4..8].copy_from_slice(&[0xe0, 0, 0, 0]);
    icmp[24] = 2;
    icmp[26..32].copy_from_slice(&GATEWAY_MAC);
    let pseudo = pseudo_header(gateway.into(), packet.src.ip(), protocol::ICMPV6, icmp.len());
    let check = checksum(&[&pseudo[..], &icmp].concat());
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    let mut out = [&frame[6..12], &GATEWAY_MAC, &frame[12..18], &[0, 32], &frame[20..22]].concat();
    out.extend(gateway.octets());
    out.extend(&frame[22..38]);
    out.extend(icmp);
    out.extend(&frame[86..]);
    Ok(Leaving { fresh: true, ..Leaving::new(Verdict::GatewayNd, scene.side.ifindex(), out) })
}
