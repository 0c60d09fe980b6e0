//! What should become of a packet? A slow model of the dataplane that knows
//! nothing of its maps, caches and helpers: it parses with slices, keeps flows
//! in ordered maps, and recomputes what it rewrites.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use causeway_schema::{
    Event, GATEWAY_MAC, GATEWAY_V4, Hop, Port, TraceRecord, V4, Verdict, hash::flow_hash, protocol,
};

use crate::{parse::Parsed, world::World};

/// Which hook a packet came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Host side of a container's link.
    Container { ifindex: u32 },
    /// The uplink, with the MAC that frames for this host carry.
    Uplink { ifindex: u32, mac: [u8; 6] },
}

/// What the routing table says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Out {
        ifindex: u32,
    },
    /// The host's own address, or no route at all: the stack knows which.
    Stack,
    /// An unreachable, blackhole or prohibit route.
    Refused,
}

/// What the oracle expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub verdict: Verdict,
    /// Interface it leaves through, 0 for none.
    pub ifindex: u32,
    pub service: u32,
    /// The packet that leaves, checksums not filled in; `None` for a drop.
    pub packet: Option<Vec<u8>>,
    pub events: Vec<Event>,
}

/// A direction of a flow.
type Key = (u8, SocketAddrV4, SocketAddrV4);

#[derive(Clone, Debug)]
struct Flow {
    /// Put in place of the destination, or of a reply's source.
    rewrite: SocketAddrV4,
    is_reply: bool,
    replied: bool,
    service: u32,
    generation: u32,
    hop: Hop,
}

/// The model: what it remembers of flows.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    established: BTreeMap<Key, Flow>,
    embryonic: BTreeMap<Key, Flow>,
    events: Vec<Event>,
}

/// Where a packet goes once its addresses are final.
enum Way {
    Container { ifindex: u32, mac: [u8; 6] },
    Out { ifindex: u32 },
}

impl Oracle {
    /// Judges a packet and remembers its flow.
    pub fn judge(
        &mut self,
        world: &World,
        routes: &dyn Fn(Ipv4Addr) -> Route,
        side: Side,
        frame: &[u8],
    ) -> Expected {
        self.events.clear();
        let mut service = TraceRecord::NONE;
        let outcome = self.walk(world, routes, side, frame, &mut service);
        let (verdict, ifindex, packet) = match outcome {
            Ok((verdict, ifindex, packet)) => (verdict, ifindex, Some(packet)),
            Err(verdict) => (verdict, 0, (!verdict.is_drop()).then(|| frame.to_vec())),
        };
        Expected { verdict, ifindex, service, packet, events: self.events.clone() }
    }

    /// `Err` is the end of a packet that leaves as it came, or not at all.
    fn walk(
        &mut self,
        world: &World,
        routes: &dyn Fn(Ipv4Addr) -> Route,
        side: Side,
        frame: &[u8],
        service: &mut u32,
    ) -> Result<(Verdict, u32, Vec<u8>), Verdict> {
        if frame.len() < 14 {
            return Err(Verdict::DropTruncated);
        }
        if let Side::Uplink { mac, .. } = side
            && frame[..6] != mac
            && frame[0] & 1 == 0
        {
            return Err(Verdict::StackForeign);
        }
        match (u16::from_be_bytes([frame[12], frame[13]]), side) {
            (0x8100 | 0x88a8, _) => return Err(Verdict::StackVlan),
            (0x0806, Side::Container { ifindex }) => return arp(frame, ifindex),
            (0x0800, _) => {}
            _ => return Err(Verdict::StackNotIp),
        }
        let packet = Parsed::read(frame)?;
        if packet.dst.ip().octets()[0] >= 224 {
            return Err(Verdict::StackMulticast);
        }

        let mut flow = None;
        // A source port of zero is no port: nobody could answer it.
        if packet.has_ports && packet.src.port() != 0 {
            if packet.is_plain() {
                flow = self.find(world, &packet);
            } else if let Some(known) = self.known(&packet) {
                // Sent on untranslated it would show the wrong address.
                *service = known;
                return Err(if packet.options { Verdict::DropExtensions } else { Verdict::DropFragment });
            }
            if flow.is_none()
                && let Some(id) = world.frontend(packet.dst, packet.protocol)
            {
                *service = id;
                flow = Some(self.begin(world, side, &packet, id)?);
            }
        }
        if let Some(flow) = flow {
            *service = flow.service;
            let (src, dst) =
                if flow.is_reply { (flow.rewrite, packet.dst) } else { (packet.src, flow.rewrite) };
            return match way(world, routes, flow.hop, *dst.ip()) {
                Ok(way) => leave(frame, &packet, way, src, dst),
                // The stack would see a translated packet it knows nothing of.
                Err(_) => Err(Verdict::DropNoRoute),
            };
        }
        let dst = *packet.dst.ip();
        let hop = world.hop(dst).unwrap_or(Hop::NONE);
        if world.tenant(hop).is_none() {
            if world.is_service_address(dst) {
                return Err(Verdict::DropNoFrontend);
            }
            if matches!(side, Side::Uplink { .. }) {
                return Err(Verdict::StackForeign);
            }
        }
        leave(frame, &packet, way(world, routes, hop, dst)?, packet.src, packet.dst)
    }

    /// The service of the flow a packet belongs to.
    fn known(&self, packet: &Parsed) -> Option<u32> {
        let key = (packet.protocol, packet.src, packet.dst);
        self.established.get(&key).or_else(|| self.embryonic.get(&key)).map(|flow| flow.service)
    }

    /// The flow a packet belongs to, moved on by it.
    fn find(&mut self, world: &World, packet: &Parsed) -> Option<Flow> {
        let key = (packet.protocol, packet.src, packet.dst);
        let established = self.established.contains_key(&key);
        let table = if established { &mut self.established } else { &mut self.embryonic };
        let flow = table.get(&key)?.clone();
        if !flow.is_reply {
            let current = world
                .services
                .get(&flow.service)
                .is_some_and(|service| service.generation == flow.generation);
            let anew = if packet.protocol == protocol::TCP {
                packet.opens_connection()
            } else {
                if !current {
                    self.events.push(Event::FlowStale);
                }
                !current
            };
            if anew {
                if established {
                    self.established.remove(&twin(&key, &flow));
                    self.established.remove(&key);
                }
                return None;
            }
        }
        if !established {
            self.advance(&key, &flow);
        }
        Some(flow)
    }

    /// The first answer marks the flow, the next request establishes it.
    fn advance(&mut self, key: &Key, flow: &Flow) {
        let other = twin(key, flow);
        if flow.is_reply {
            if !flow.replied {
                for entry in [key, &other] {
                    if let Some(flow) = self.embryonic.get_mut(entry) {
                        flow.replied = true;
                    }
                }
            }
        } else if flow.replied
            && let Some(reply) = self.embryonic.remove(&other)
        {
            self.embryonic.remove(key);
            self.established.insert(other, reply);
            self.established.insert(*key, flow.clone());
            self.events.push(Event::FlowPromoted);
        }
    }

    /// A new flow to a service.
    fn begin(&mut self, world: &World, side: Side, packet: &Parsed, id: u32) -> Result<Flow, Verdict> {
        if packet.options {
            return Err(Verdict::DropExtensions);
        }
        if packet.fragment {
            return Err(Verdict::DropFragment);
        }
        let service = world.services.get(&id).ok_or(Verdict::DropInconsistent)?;
        let addresses = [packet.src, packet.dst].map(|end| (V4::from(*end.ip()), Port::new(end.port())));
        let [(client, client_port), (frontend, frontend_port)] = addresses;
        let hash = flow_hash(&client, client_port, &frontend, frontend_port, packet.protocol);
        let (_, backend) = world.choose(id, hash).ok_or(Verdict::DropNoBackend)?;
        let hop = world.hop(*backend.ip()).unwrap_or(Hop::NONE);
        if matches!(side, Side::Uplink { .. }) && world.tenant(hop).is_none() {
            return Err(Verdict::DropRemoteBackend);
        }
        let request = Flow {
            rewrite: backend,
            is_reply: false,
            replied: false,
            service: id,
            generation: service.generation,
            hop,
        };
        let reply_hop = world.hop(*packet.src.ip()).unwrap_or(Hop::NONE);
        let reply = Flow { rewrite: packet.dst, is_reply: true, hop: reply_hop, ..request.clone() };
        let key = (packet.protocol, packet.src, packet.dst);
        self.embryonic.insert(twin(&key, &request), reply);
        self.embryonic.insert(key, request.clone());
        self.events.push(Event::FlowCreated);
        Ok(request)
    }
}

/// The key of the flow's other direction.
fn twin(key: &Key, flow: &Flow) -> Key {
    let (protocol, src, dst) = *key;
    if flow.is_reply { (protocol, dst, flow.rewrite) } else { (protocol, flow.rewrite, src) }
}

/// By `hop` while it holds, by address when its tenant left, else by route.
fn way(world: &World, routes: &dyn Fn(Ipv4Addr) -> Route, hop: Hop, dst: Ipv4Addr) -> Result<Way, Verdict> {
    if hop != Hop::NONE {
        let moved = || world.hop(dst).and_then(|hop| world.tenant(hop));
        if let Some(slot) = world.tenant(hop).or_else(moved) {
            return Ok(Way::Container { ifindex: slot.ifindex, mac: slot.mac });
        }
    }
    match routes(dst) {
        Route::Out { ifindex } => Ok(Way::Out { ifindex }),
        Route::Stack => Err(Verdict::StackHost),
        Route::Refused => Err(Verdict::DropNoRoute),
    }
}

/// The packet one hop on, with its final addresses.
fn leave(
    frame: &[u8],
    packet: &Parsed,
    way: Way,
    src: SocketAddrV4,
    dst: SocketAddrV4,
) -> Result<(Verdict, u32, Vec<u8>), Verdict> {
    if packet.ttl <= 1 {
        return Err(Verdict::DropTtl);
    }
    let mut out = frame.to_vec();
    out[22] -= 1;
    out[26..30].copy_from_slice(&src.ip().octets());
    out[30..34].copy_from_slice(&dst.ip().octets());
    // Only translated packets change ports, and those have no options.
    if (src, dst) != (packet.src, packet.dst) {
        out[34..36].copy_from_slice(&src.port().to_be_bytes());
        out[36..38].copy_from_slice(&dst.port().to_be_bytes());
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
fn arp(frame: &[u8], ifindex: u32) -> Result<(Verdict, u32, Vec<u8>), Verdict> {
    let Some(body) = frame.get(14..42) else { return Err(Verdict::DropTruncated) };
    if body[..6] != [0, 1, 8, 0, 6, 4] {
        return Err(Verdict::DropArp);
    }
    match [body[6], body[7]] {
        // The container answers the host, which asked for it.
        [0, 2] => return Err(Verdict::StackHost),
        [0, 1] if body[24..28] == GATEWAY_V4.0 => {}
        _ => return Err(Verdict::DropArp),
    }
    let (sha, spa) = (&body[8..14], &body[14..18]);
    let mut out =
        [sha, &GATEWAY_MAC, &frame[12..20], &[0, 2], &GATEWAY_MAC, &GATEWAY_V4.0, sha, spa].concat();
    out.extend(&frame[42..]);
    Ok((Verdict::GatewayArp, ifindex, out))
}
