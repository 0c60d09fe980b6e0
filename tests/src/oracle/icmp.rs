//! What do ICMP messages mean? Errors about translated packets are translated
//! back, pings of services are answered, and an echo message that leaves under
//! the node's name is a flow like others.

use causeway_schema::{Event, Verdict};

use super::{
    Leaving, Oracle, Outcome, Scene, flows::Flow, forward::*, is_error, is_multicast, local, with_ip,
};
use crate::{inspect::Quoted, parse::Parsed};

impl Oracle {
    /// A message, or the first fragment of one.
    pub(super) fn icmp(&mut self, scene: &Scene, packet: &Parsed, service: &mut u32) -> Outcome {
        let six = packet.is_v6();
        let kind = scene.frame[packet.l4];
        let [request, reply] = if six { [128, 129] } else { [8, 0] };
        let dst = packet.dst.ip();
        if six
            && scene.is_inside()
            && let Some(outcome) = local::neighbour(scene, packet, kind)
        {
            return outcome;
        }
        if !scene.is_foreign(packet.src.ip()) {
            if is_error(scene, packet)
                && let Some(outcome) = self.error(scene, packet, service)
            {
                return outcome;
            }
            if kind == request && scene.world.owns(dst) {
                return Ok(echoed(scene, packet, reply));
            }
        }
        if scene.is_spoofed(packet) {
            return Err(Verdict::DropSpoofed.into());
        }
        if is_multicast(dst) {
            return Err(Verdict::StackMulticast.into());
        }
        // A question from a container, or an answer to the node.
        let mut named = packet.clone();
        let id = u16::from_be_bytes([scene.frame[packet.l4 + 4], scene.frame[packet.l4 + 5]]);
        let node = scene.world.node.address(six);
        if scene.is_inside() && kind == request {
            named.src.set_port(id);
        } else if !scene.is_inside() && kind == reply && Some(dst) == node {
            named.dst.set_port(id);
        } else {
            return plain(scene, packet);
        }
        let mut flow = self.find(scene, &named);
        if flow.is_none() && self.leaves(scene, packet) {
            flow = Some(self.under_the_nodes_name(scene, &named)?);
        }
        let Some(flow) = flow else { return plain(scene, packet) };
        let datagram = (packet.src.ip(), dst, packet.id, packet.protocol);
        self.carry(scene, packet, datagram, flow)
    }

    /// An error about a packet of a flow: its receiver must see that packet as
    /// it had sent it.
    fn error(&mut self, scene: &Scene, packet: &Parsed, service: &mut u32) -> Option<Outcome> {
        let quote_at = packet.l4 + 8;
        let quote = Quoted::read(&scene.frame[..packet.end], quote_at, packet.is_v6())?;
        let answers = self.lookup(&(quote.protocol, quote.dst, quote.src))?.clone();
        *service = answers.service;
        if packet.ttl <= 1 {
            return Some(Err(Verdict::DropTtl.into()));
        }
        let outcome = translated_error(scene, packet, &quote, quote_at, &answers);
        if outcome.is_ok() {
            self.events.push(Event::IcmpTranslated);
        }
        Some(outcome)
    }
}

fn translated_error(
    scene: &Scene,
    packet: &Parsed,
    quote: &Quoted,
    quote_at: usize,
    answers: &Flow,
) -> Outcome {
    // Outside: to whom the packet came from; as from whom it was sent to, if
    // that host speaks for itself and is not a router on the way.
    let to = with_ip(packet.dst, answers.dst.ip());
    let from =
        if packet.src.ip() == quote.dst.ip() { with_ip(packet.src, answers.src.ip()) } else { packet.src };
    let way = match way(scene, answers.hop, from.ip(), to.ip()) {
        Ok(way) => way,
        Err(end) if end.verdict == Verdict::DropTooBig => return Err(end),
        Err(end) if answers_by_here(scene, &end, from.ip()) => Way::Host,
        Err(_) => return Err(Verdict::DropNoRoute.into()),
    };
    let mut out = scene.frame.to_vec();
    out[if packet.is_v6() { 21 } else { 22 }] -= 1;
    readdress(&mut out, 14, from.ip(), to.ip());
    readdress(&mut out, quote_at, answers.dst.ip(), answers.src.ip());
    put(&mut out, quote.names, answers.dst.port());
    if quote.names == quote.l4 {
        put(&mut out, quote.l4 + 2, answers.src.port());
    }
    Ok(sent(out, way))
}

/// A ping of a service's address.
fn echoed(scene: &Scene, packet: &Parsed, reply: u8) -> Leaving {
    let frame = scene.frame;
    let mut out = frame.to_vec();
    out[packet.l4] = reply;
    out[..12].copy_from_slice(&[&frame[6..12], &frame[..6]].concat());
    out[if packet.is_v6() { 21 } else { 22 }] = 64;
    readdress(&mut out, 14, packet.dst.ip(), packet.src.ip());
    Leaving::new(Verdict::EchoReply, scene.side.ifindex(), out)
}
