//! What is remembered of a flow: two tables, an entry per direction.

use std::net::SocketAddr;

use causeway_schema::{
    Event, Hop, TraceRecord, Verdict,
    nat::{self, Ports},
    protocol,
};

use super::{Oracle, Scene, Side, hash_of, hop_of};
use crate::parse::Parsed;

/// A direction of a flow: protocol, source, destination. Of an echo message,
/// the asker's port is its identifier.
pub type Key = (u8, SocketAddr, SocketAddr);

#[derive(Clone, Debug)]
pub struct Flow {
    /// The packet's ends when it leaves.
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub is_reply: bool,
    pub replied: bool,
    pub closing: bool,
    pub expired: bool,
    pub service: u32,
    pub generation: u32,
    pub hop: Hop,
    /// The interface its packets come by, if the sender is a container.
    pub ingress: Option<u32>,
}

impl Flow {
    /// The key of the other direction.
    pub fn twin(&self, protocol: u8) -> Key {
        (protocol, self.dst, self.src)
    }

    pub fn comes_by(&self, side: Side) -> bool {
        self.ingress.is_none_or(|ifindex| ifindex == side.ifindex())
    }
}

fn key_of(packet: &Parsed) -> Key {
    (packet.protocol, packet.src, packet.dst)
}

impl Oracle {
    pub(super) fn lookup(&self, key: &Key) -> Option<&Flow> {
        self.established.get(key).or_else(|| self.embryonic.get(key))
    }

    /// Whether answers to a packet would be taken for those of a known flow.
    pub(super) fn awaits_answers(&self, packet: &Parsed) -> bool {
        self.lookup(&(packet.protocol, packet.dst, packet.src)).is_some()
    }

    /// The flow a packet belongs to, moved on by it.
    pub(super) fn find(&mut self, scene: &Scene, packet: &Parsed) -> Option<Flow> {
        let key = key_of(packet);
        let established = self.established.contains_key(&key);
        let table = if established { &mut self.established } else { &mut self.embryonic };
        let flow = table.get(&key)?.clone();
        if !flow.comes_by(scene.side) {
            return None;
        }
        if !flow.is_reply {
            let service = scene.world.services.get(&flow.service);
            let current = flow.service == TraceRecord::NONE
                || service.is_some_and(|service| service.generation == flow.generation);
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
                self.embryonic.remove(&key);
                self.anew = true;
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

    /// A new flow from `source` to `backend`, from another port if others wait
    /// for answers to that one.
    pub(super) fn create(
        &mut self,
        scene: &Scene,
        packet: &Parsed,
        (mut source, backend): (SocketAddr, SocketAddr),
        ports: Ports,
        service: u32,
        generation: u32,
    ) -> Result<Flow, Verdict> {
        let key = key_of(packet);
        for attempt in 0..nat::TRIES {
            let reply_key = (packet.protocol, backend, source);
            if self.make_free(&reply_key, &key) {
                let hop = hop_of(scene.world, backend.ip());
                let by = |hop: Hop| scene.world.tenant(hop).map(|slot| slot.ifindex);
                let client = scene.world.hop(packet.src.ip()).unwrap_or(Hop::NONE);
                let request = Flow {
                    src: source,
                    dst: backend,
                    is_reply: false,
                    replied: false,
                    closing: false,
                    expired: false,
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
            source.set_port(ports.pick(hash_of(packet), attempt + 1).get());
        }
        Err(Verdict::DropNoPort)
    }

    /// As the programs do: closed flows and one's own leavings are no hindrance.
    fn make_free(&mut self, reply_key: &Key, request: &Key) -> bool {
        if self.embryonic.get(reply_key).is_some_and(|reply| reply.twin(reply_key.0) != *request) {
            return false;
        }
        let Some(reply) = self.established.get(reply_key) else { return true };
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
