//! What should become of a packet? A slow model of the dataplane that knows
//! nothing of its maps, caches and helpers: it parses with slices, keeps flows
//! in ordered maps, and recomputes what it rewrites.
//!
//! All that it says is exact: verdict, events, interface, service and bytes,
//! source ports among them (which ones are tried is part of the contract, see
//! `causeway_schema::nat`, as is the choice of backends). It does not model
//! what depends on time or on the sizes of maps: flows expire and clients are
//! forgotten when a test says so, and tests stay below what the maps hold. Nor
//! what frames cannot show: packets that the kernel cuts or joins (GSO), and
//! hardware tags. Checksums it leaves to [`residuals`](crate::inspect::residuals):
//! as right as they were.

mod flows;
mod forward;
mod icmp;
mod local;
mod service;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use causeway_schema::{Event, Group, Hop, TraceRecord, Verdict, nat::Ports, protocol};

pub use self::forward::hash_of;
use self::{
    flows::{Flow, Key},
    forward::{headers, hop_of, ifindex_of, plain, translated, way},
};
use crate::{
    inspect::is_icmp_error,
    parse::{Parsed, Part, is_v6},
    refusal::{self, is_multicast},
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
        /// In bytes, from the IP header on.
        mtu: u16,
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
    /// It ends a flow that was known. A trace does not, and so may find that
    /// flow in the way where a new one is to begin.
    pub anew: bool,
    pub events: Vec<Event>,
}

/// The end of a packet that leaves as it came, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub verdict: Verdict,
    /// What a packet that is too big would have had to fit.
    pub mtu: u16,
}

impl From<Verdict> for End {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, mtu: 0 }
    }
}

/// A packet that leaves.
struct Leaving {
    verdict: Verdict,
    /// 0: by the stack.
    ifindex: u32,
    frame: Vec<u8>,
    fresh: bool,
}

impl Leaving {
    fn new(verdict: Verdict, ifindex: u32, frame: Vec<u8>) -> Self {
        Self { verdict, ifindex, frame, fresh: false }
    }
}

type Outcome = Result<Leaving, End>;

/// What the fragments of a datagram have in common.
type Datagram = (IpAddr, IpAddr, u32, u8);

/// Fragments of a datagram that can wait, and the longest frame that can.
const WAITING: usize = 64;
const LONGEST: usize = 1592;

/// The model: what it remembers of flows, fragments and clients.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    established: BTreeMap<Key, Flow>,
    embryonic: BTreeMap<Key, Flow>,
    /// How first ones went: by a flow, or as they came by an interface.
    fragments: BTreeMap<Datagram, Result<Flow, u32>>,
    waiting: BTreeMap<Datagram, usize>,
    clients: BTreeMap<(IpAddr, Group), IpAddr>,
    events: Vec<Event>,
    anew: bool,
}

/// What a packet's judge knows besides it.
struct Scene<'a> {
    world: &'a World,
    routes: &'a dyn Fn(IpAddr, IpAddr) -> Route,
    side: Side,
    frame: &'a [u8],
}

impl Scene<'_> {
    /// The packet comes from a container.
    fn is_inside(&self) -> bool {
        matches!(self.side, Side::Container { .. })
    }

    /// From a container, with a source that is not its own.
    fn is_foreign(&self, source: IpAddr) -> bool {
        self.is_inside() && ifindex_of(self.world, source) != Some(self.side.ifindex())
    }

    /// Who has no address yet may say so to all, and what is link-local goes no
    /// further than the host.
    fn is_spoofed(&self, packet: &Parsed) -> bool {
        let (src, dst) = (packet.src.ip(), packet.dst.ip());
        let stays = is_multicast(dst) || is_link_local(dst);
        self.is_foreign(src) && !(stays && (src.is_unspecified() || is_link_local(src)))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

impl Oracle {
    /// Judges a packet and remembers its flow.
    pub fn judge(
        &mut self,
        world: &World,
        routes: &dyn Fn(IpAddr, IpAddr) -> Route,
        side: Side,
        frame: &[u8],
    ) -> Expected {
        self.events.clear();
        self.anew = false;
        let scene = Scene { world, routes, side, frame };
        let mut service = TraceRecord::NONE;
        let outcome = self.walk(&scene, &mut service);
        let (fresh, anew) = (false, self.anew);
        let mut expected =
            Expected { verdict: None, ifindex: 0, service, packet: None, fresh, anew, events: Vec::new() };
        match outcome {
            None => {}
            Some(Ok(leaving)) => {
                expected.verdict = Some(leaving.verdict);
                expected.ifindex = leaving.ifindex;
                expected.packet = Some(leaving.frame);
                expected.fresh = leaving.fresh;
            }
            Some(Err(end)) => {
                expected.verdict = Some(end.verdict);
                if end.verdict.is_drop() {
                    let parsed = Parsed::read(frame).ok().filter(|_| is_ip(frame));
                    let answer = parsed.and_then(|packet| refusal::of(frame, &packet, side, end));
                    if let Some(answer) = answer {
                        self.events.push(Event::Refused);
                        expected.ifindex = side.ifindex();
                        expected.packet = Some(answer);
                        expected.fresh = true;
                    }
                } else if end.verdict != Verdict::HeldFragment {
                    expected.packet = Some(frame.to_vec());
                }
            }
        }
        expected.events.clone_from(&self.events);
        expected
    }

    /// The clients of all services are forgotten.
    pub fn forget_clients(&mut self) {
        self.clients.clear();
    }

    /// Every established flow has been silent for too long.
    pub fn expire(&mut self) {
        self.established.values_mut().for_each(|flow| flow.expired = true);
    }

    /// `Err` is the end of a packet that leaves as it came, or not at all;
    /// `None` of one that is sent in anew.
    fn walk(&mut self, scene: &Scene, service: &mut u32) -> Option<Outcome> {
        let packet = match headers(scene) {
            Ok(packet) => packet,
            Err(outcome) => return Some(outcome),
        };
        if packet.is_icmp() && packet.part != Part::Later {
            return Some(self.icmp(scene, &packet, service));
        }
        let (src, dst) = (packet.src.ip(), packet.dst.ip());
        let datagram = (src, dst, packet.id, packet.protocol);
        let tracked = matches!(packet.protocol, protocol::TCP | protocol::UDP);
        let later = packet.part == Part::Later;
        let mut follows = false;
        if later && (tracked || packet.is_icmp()) {
            match self.fragments.get(&datagram) {
                Some(Ok(flow)) if flow.comes_by(scene.side) => {
                    *service = flow.service;
                    return Some(translated(scene, &packet, flow));
                }
                Some(Err(ifindex)) => follows = *ifindex == scene.side.ifindex(),
                _ => {}
            }
        }
        if packet.part == Part::First && self.waiting.remove(&datagram).is_some() {
            return None;
        }
        let mut flow = if packet.has_ports { self.find(scene, &packet) } else { None };
        if let Some(flow) = &flow {
            *service = flow.service;
            if flow.expired {
                return Some(Err(Verdict::DropExpired.into()));
            }
        } else {
            // Ports that DHCP servers send from.
            let source = if packet.part == Part::Later { 0 } else { packet.src.port() };
            if scene.is_inside() && packet.protocol == protocol::UDP && [67, 547].contains(&source) {
                return Some(Err(Verdict::DropRogueServer.into()));
            }
            if scene.is_spoofed(&packet) {
                return Some(Err(Verdict::DropSpoofed.into()));
            }
            if is_multicast(dst) {
                return Some(Err(Verdict::StackMulticast.into()));
            }
            if follows {
                return Some(plain(scene, &packet));
            }
            if later && tracked {
                let awaits = scene.world.owns(dst) || self.leaves(scene, &packet);
                if awaits || may_be_answer(scene, dst) {
                    let held = self.hold(scene, datagram);
                    if awaits || held == Verdict::HeldFragment {
                        return Some(Err(held.into()));
                    }
                }
            }
            flow = match self.new_flow(scene, &packet, service) {
                Ok(flow) => flow,
                Err(verdict) => return Some(Err(verdict.into())),
            };
        }
        let Some(flow) = flow else {
            let left = plain(scene, &packet);
            let goes_on = left.as_ref().map_or_else(|end| !end.verdict.is_drop(), |_| true);
            if packet.part == Part::First && tracked && may_be_answer(scene, dst) && goes_on {
                self.fragments.insert(datagram, Err(scene.side.ifindex()));
            }
            return Some(left);
        };
        Some(self.carry(scene, &packet, datagram, flow))
    }

    /// A packet of a flow; where its first fragment goes, the others will.
    fn carry(&mut self, scene: &Scene, packet: &Parsed, datagram: Datagram, flow: Flow) -> Outcome {
        let left = translated(scene, packet, &flow);
        if packet.part == Part::First && left.is_ok() {
            self.fragments.insert(datagram, Ok(flow));
        }
        left
    }

    /// A later fragment whose first one has not come.
    fn hold(&mut self, scene: &Scene, datagram: Datagram) -> Verdict {
        if scene.frame.len() > LONGEST {
            return Verdict::DropFragment;
        }
        let waiting = self.waiting.entry(datagram).or_default();
        if *waiting == WAITING {
            return Verdict::DropFragment;
        }
        *waiting += 1;
        Verdict::HeldFragment
    }

    /// Whether a packet to no service leaves under the node's name.
    fn leaves(&self, scene: &Scene, packet: &Parsed) -> bool {
        let (world, dst) = (scene.world, packet.dst.ip());
        scene.is_inside()
            && world.node.hides_from(dst)
            && world.node.address(packet.is_v6()).is_some()
            && hop_of(world, dst) == Hop::NONE
            && !world.owns(dst)
            && matches!(way(scene, Hop::NONE, packet.src.ip(), dst), Ok(forward::Way::Out { .. }))
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
        let world = scene.world;
        let dst = packet.dst.ip();
        if let Some(door) = world.frontend(packet.dst, packet.protocol) {
            *service = door.service;
            return self.serve(scene, packet, door).map(Some);
        }
        if world.is_service_address(dst) && hop_of(world, dst) == Hop::NONE {
            match world.range(packet.dst, packet.protocol) {
                Some(door) => {
                    *service = door.service;
                    return self.serve(scene, packet, door).map(Some);
                }
                None if world.owns(dst) => return Err(Verdict::DropNoFrontend),
                None => return Ok(None),
            }
        }
        if self.leaves(scene, packet) {
            return self.under_the_nodes_name(scene, packet).map(Some);
        }
        let goes_on = match way(scene, hop_of(world, dst), packet.src.ip(), dst) {
            Ok(forward::Way::Container { .. }) => true,
            Ok(forward::Way::Out { .. } | forward::Way::Host) => scene.is_inside(),
            Err(end) => scene.is_inside() && end.verdict == Verdict::StackHost,
        };
        if packet.opens_connection() && self.awaits_answers(packet) && goes_on {
            // To a container's own address, but its answers would be taken for
            // a flow's to some service.
            let ends = (packet.src, packet.dst);
            return self.create(scene, packet, ends, Ports::ALL, TraceRecord::NONE, 0).map(Some);
        }
        Ok(None)
    }
}

/// Whether a fragment may be of an answer that gets another source here.
fn may_be_answer(scene: &Scene, dst: IpAddr) -> bool {
    let node = scene.world.node.address(dst.is_ipv6());
    scene.is_inside() || node == Some(dst) || hop_of(scene.world, dst) != Hop::NONE
}

fn is_ip(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) || is_v6(frame)
}

/// Whether a message is an error, by its first byte.
fn is_error(scene: &Scene, packet: &Parsed) -> bool {
    is_icmp_error(scene.frame[packet.l4], packet.is_v6())
}

/// Where a flow's source is another than its packets'.
fn with_ip(end: SocketAddr, address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, end.port())
}
