//! What should become of a packet? A slow model of the dataplane that knows
//! nothing of its maps, caches and helpers: it parses with slices, keeps flows
//! in ordered maps, and recomputes what it rewrites.

mod forward;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use causeway_schema::{Event, HAIRPIN_V4, Hop, TraceRecord, Verdict, nat, protocol};

use self::forward::{echo, hash_of, headers, hop_of, ifindex_of, plain, translated, way};
use crate::{
    parse::{Parsed, Part},
    refusal,
    world::World,
};

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
    /// `None`: the packet is sent in anew, and counted then.
    pub verdict: Option<Verdict>,
    /// Interface it leaves through, 0 for none.
    pub ifindex: u32,
    pub service: u32,
    /// The packet that leaves; `None` for a drop.
    pub packet: Option<Vec<u8>>,
    /// That packet is a new one: its checksums are right, not as right as the
    /// old one's.
    pub fresh: bool,
    pub events: Vec<Event>,
}

/// A direction of a flow.
type Key = (u8, SocketAddrV4, SocketAddrV4);

#[derive(Clone, Debug)]
struct Flow {
    /// The packet's ends when it leaves.
    src: SocketAddrV4,
    dst: SocketAddrV4,
    is_reply: bool,
    replied: bool,
    closing: bool,
    service: u32,
    generation: u32,
    hop: Hop,
    /// The interface its packets come by, if the sender is a container.
    ingress: Option<u32>,
}

impl Flow {
    /// The key of the other direction.
    fn twin(&self, protocol: u8) -> Key {
        (protocol, self.dst, self.src)
    }

    fn comes_by(&self, side: Side) -> bool {
        self.ingress.is_none_or(|ifindex| ifindex == side.ifindex())
    }
}

/// What the fragments of a datagram have in common.
type Datagram = (Ipv4Addr, Ipv4Addr, u16, u8);

/// Fragments of a datagram that can wait.
const WAITING: usize = 64;

/// The model: what it remembers of flows and fragments.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    established: BTreeMap<Key, Flow>,
    embryonic: BTreeMap<Key, Flow>,
    fragments: BTreeMap<Datagram, Flow>,
    waiting: BTreeMap<Datagram, usize>,
    events: Vec<Event>,
}

/// Where a packet goes once its addresses are final.
enum Way {
    Container { ifindex: u32, mac: [u8; 6] },
    Out { ifindex: u32 },
}

/// What a packet's judge knows besides it.
struct Scene<'a> {
    world: &'a World,
    routes: &'a dyn Fn(Ipv4Addr) -> Route,
    side: Side,
}

/// A packet that leaves: verdict, interface, bytes.
type Leaving = (Verdict, u32, Vec<u8>);

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
        let scene = Scene { world, routes, side };
        let mut service = TraceRecord::NONE;
        let outcome = self.walk(&scene, frame, &mut service);
        let mut expected =
            Expected { verdict: None, ifindex: 0, service, packet: None, fresh: false, events: Vec::new() };
        match outcome {
            None => {}
            Some(Ok((verdict, ifindex, packet))) => {
                expected.verdict = Some(verdict);
                expected.ifindex = ifindex;
                expected.packet = Some(packet);
            }
            Some(Err(verdict)) => {
                expected.verdict = Some(verdict);
                if verdict.is_drop() {
                    let parsed = Parsed::read(frame).ok().filter(|_| frame[12..14] == [8, 0]);
                    let answer = parsed.and_then(|packet| refusal::of(frame, &packet, side, verdict));
                    if let Some(answer) = answer {
                        self.events.push(Event::Refused);
                        expected.ifindex = side.ifindex();
                        expected.packet = Some(answer);
                        expected.fresh = true;
                    }
                } else if verdict != Verdict::HeldFragment {
                    expected.packet = Some(frame.to_vec());
                }
            }
        }
        expected.events.clone_from(&self.events);
        expected
    }

    /// `Err` is the end of a packet that leaves as it came, or not at all;
    /// `None` of one that is sent in anew.
    fn walk(&mut self, scene: &Scene, frame: &[u8], service: &mut u32) -> Option<Result<Leaving, Verdict>> {
        let packet = match headers(scene.world, scene.side, frame) {
            Ok(packet) => packet,
            Err(end) => return Some(end),
        };
        let world = scene.world;
        let spoofed = match scene.side {
            Side::Container { ifindex } => ifindex_of(world, *packet.src.ip()) != Some(ifindex),
            Side::Uplink { .. } => false,
        };
        if packet.protocol == protocol::ICMP
            && packet.part != Part::Later
            && !spoofed
            && let Some(answer) = echo(scene, frame, &packet)
        {
            return Some(Ok(answer));
        }
        let datagram = (*packet.src.ip(), *packet.dst.ip(), packet.id, packet.protocol);
        let later = packet.part == Part::Later && matches!(packet.protocol, protocol::TCP | protocol::UDP);
        if later && let Some(flow) = self.fragments.get(&datagram).filter(|flow| flow.comes_by(scene.side)) {
            *service = flow.service;
            return Some(translated(scene, frame, &packet, flow));
        }
        if packet.part == Part::First && self.waiting.remove(&datagram).is_some() {
            return None;
        }
        let mut flow = if packet.has_ports { self.find(scene, &packet) } else { None };
        if flow.is_none() {
            let container = matches!(scene.side, Side::Container { .. });
            if container && packet.protocol == protocol::UDP && [67, 547].contains(&packet.src.port()) {
                return Some(Err(Verdict::DropRogueServer));
            }
            let multicast = packet.dst.ip().octets()[0] >= 224;
            if spoofed && !(multicast && packet.src.ip().is_unspecified()) {
                return Some(Err(Verdict::DropSpoofed));
            }
            if multicast {
                return Some(Err(Verdict::StackMulticast));
            }
            if later && world.is_service_address(datagram.1) {
                let waiting = self.waiting.entry(datagram).or_default();
                *waiting += 1;
                let held = *waiting <= WAITING;
                return Some(Err(if held { Verdict::HeldFragment } else { Verdict::DropFragment }));
            }
            flow = match self.new_flow(scene, &packet, service) {
                Ok(flow) => flow,
                Err(verdict) => return Some(Err(verdict)),
            };
        }
        let Some(flow) = flow else { return Some(plain(scene, frame, &packet)) };
        *service = flow.service;
        let left = translated(scene, frame, &packet, &flow);
        if packet.part == Part::First && left.is_ok() {
            self.fragments.insert(datagram, flow);
        }
        Some(left)
    }

    /// The flow that a packet begins, if it begins one.
    fn new_flow(
        &mut self,
        scene: &Scene,
        packet: &Parsed,
        service: &mut u32,
    ) -> Result<Option<Flow>, Verdict> {
        if !packet.has_ports {
            return Ok(None);
        }
        if let Some(id) = scene.world.frontend(packet.dst, packet.protocol) {
            *service = id;
            return self.begin(scene, packet, id).map(Some);
        }
        let reply = (packet.protocol, packet.dst, packet.src);
        let known = self.established.contains_key(&reply) || self.embryonic.contains_key(&reply);
        let goes_on = match way(scene, hop_of(scene.world, *packet.dst.ip()), *packet.dst.ip()) {
            Ok(Way::Container { .. }) => true,
            Ok(Way::Out { .. }) => matches!(scene.side, Side::Container { .. }),
            Err(_) => false,
        };
        if packet.opens_connection() && known && goes_on {
            return self.create(scene, packet, (packet.src, packet.dst), TraceRecord::NONE, 0).map(Some);
        }
        Ok(None)
    }

    /// The flow a packet belongs to, moved on by it.
    fn find(&mut self, scene: &Scene, packet: &Parsed) -> Option<Flow> {
        let world = scene.world;
        let key = (packet.protocol, packet.src, packet.dst);
        let established = self.established.contains_key(&key);
        let table = if established { &mut self.established } else { &mut self.embryonic };
        let flow = table.get(&key)?.clone();
        if !flow.comes_by(scene.side) {
            return None;
        }
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
                table.remove(&flow.twin(packet.protocol));
                table.remove(&key);
                return None;
            }
        }
        if packet.closes_connection()
            && let Some(flow) = table.get_mut(&key)
        {
            flow.closing = true;
        }
        let flow = table.get(&key)?.clone();
        if !established {
            self.advance(&key, &flow);
        }
        Some(flow)
    }

    /// The first answer marks the flow, the next request establishes it.
    fn advance(&mut self, key: &Key, flow: &Flow) {
        let other = flow.twin(key.0);
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
    fn begin(&mut self, scene: &Scene, packet: &Parsed, id: u32) -> Result<Flow, Verdict> {
        let world = scene.world;
        let service = world.services.get(&id).ok_or(Verdict::DropInconsistent)?;
        let (_, backend) = world.choose(id, hash_of(packet)).ok_or(Verdict::DropNoBackend)?;
        let hop = hop_of(world, *backend.ip());
        if matches!(scene.side, Side::Uplink { .. }) && hop == Hop::NONE {
            return Err(Verdict::DropRemoteBackend);
        }
        let mut source = packet.src;
        if source.ip() == backend.ip() {
            source.set_ip(HAIRPIN_V4.into());
        }
        self.create(scene, packet, (source, backend), id, service.generation)
    }

    /// A new flow from `source` to `backend`, from another port if others wait
    /// for answers to that one.
    fn create(
        &mut self,
        scene: &Scene,
        packet: &Parsed,
        (mut source, backend): (SocketAddrV4, SocketAddrV4),
        service: u32,
        generation: u32,
    ) -> Result<Flow, Verdict> {
        let protocol = packet.protocol;
        let key = (protocol, packet.src, packet.dst);
        for attempt in 0..nat::TRIES {
            let reply_key = (protocol, backend, source);
            if self.make_free(&reply_key, &key) {
                let hop = hop_of(scene.world, *backend.ip());
                let by = |hop: Hop| scene.world.tenant(hop).map(|slot| slot.ifindex);
                let client = scene.world.hop(*packet.src.ip()).unwrap_or(Hop::NONE);
                let request = Flow {
                    src: source,
                    dst: backend,
                    is_reply: false,
                    replied: false,
                    closing: false,
                    service,
                    generation,
                    hop,
                    ingress: by(client),
                };
                let reply = Flow {
                    src: packet.dst,
                    dst: packet.src,
                    is_reply: true,
                    hop: client,
                    ingress: by(hop),
                    ..request.clone()
                };
                self.embryonic.insert(reply_key, reply);
                self.embryonic.insert(key, request.clone());
                self.events.push(Event::FlowCreated);
                if source != packet.src {
                    self.events.push(Event::FlowTranslated);
                }
                return Ok(request);
            }
            source.set_port(nat::Ports::ALL.pick(hash_of(packet), attempt + 1).get());
        }
        Err(Verdict::DropNoPort)
    }

    /// As the programs do: closed flows and one's own leavings are no hindrance.
    fn make_free(&mut self, reply_key: &Key, request: &Key) -> bool {
        let Some(reply) = self.established.get(reply_key) else {
            return self.embryonic.get(reply_key).is_none_or(|reply| reply.twin(reply_key.0) == *request);
        };
        let other = reply.twin(reply_key.0);
        let closed = reply.closing && self.established.get(&other).is_none_or(|request| request.closing);
        if other != *request && !closed {
            return false;
        }
        self.established.remove(&other);
        self.established.remove(reply_key);
        true
    }
}
