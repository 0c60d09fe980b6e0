//! What does the dataplane remember of a flow? One entry per direction, with
//! all that a packet of that direction needs, so that an established packet
//! costs one hash lookup.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, Hop, Port, V4, V6, checksum};

/// A direction of a flow, as its packets arrive at the hook.
///
/// Forward: client -> frontend. Reply: backend -> client (or the address that
/// the client was translated to).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FlowKey<A> {
    pub src: A,
    pub dst: A,
    pub src_port: Port,
    pub dst_port: Port,
    pub protocol: u8,
    // Two scalars: LLVM copies an array of three bytes one by one.
    pub pad: u8,
    pub pad2: u16,
}

impl<A: Addr> PartialEq for FlowKey<A> {
    /// Without a branch for each field: the verifier would walk them all.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ports =
            (self.src_port.raw() ^ other.src_port.raw()) | (self.dst_port.raw() ^ other.dst_port.raw());
        let addresses = self.src.difference(&other.src) | self.dst.difference(&other.dst);
        addresses | u32::from(ports) | u32::from(self.protocol ^ other.protocol) == 0
    }
}

impl<A: Addr> Eq for FlowKey<A> {}

impl<A: Addr> FlowKey<A> {
    #[inline(always)]
    pub fn new(src: A, dst: A, src_port: Port, dst_port: Port, protocol: u8) -> Self {
        Self { src, dst, src_port, dst_port, protocol, pad: 0, pad2: 0 }
    }

    /// The tuple of an answer to a packet of this one.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self::new(self.dst, self.src, self.dst_port, self.src_port, self.protocol)
    }
}

/// What to do with a packet of this direction: both addresses and both ports
/// as they are to leave, whether they change or not, so that requests and
/// replies, with and without translation of the source, are one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow<A> {
    pub src: A,
    pub dst: A,
    pub src_port: Port,
    pub dst_port: Port,
    /// The service's id, index of its [`Service`](crate::Service) row.
    pub service: u32,
    /// The service's generation when the backend was chosen. A datagram whose
    /// service has moved on is treated as the first of a new flow. Of a TCP flow
    /// that began with a header, [`Flow::start`] instead.
    pub generation: u32,
    /// The backend's id, for operators: the rewrite does not need it.
    pub backend: u32,
    /// Where the packet goes after the rewrite; checked against the endpoint's
    /// row at every use, so a stale one costs a lookup and never a wrong delivery.
    pub hop: Hop,
    /// Kernel ticks (low 32 bits of jiffies) when a packet last passed,
    /// written at most once a second.
    pub last_seen: u32,
    /// `flags::*`.
    pub flags: u16,
    /// What the rewrite of the addresses adds to a sum of 16-bit words, and
    /// what that of the ports adds (RFC 1624): computed once per flow.
    pub addr_delta: u16,
    pub port_delta: u16,
    /// Low half of the index of the interface that the sender is behind; 0 when
    /// it is no container here. Packets by another one are none of this flow.
    pub ingress: u16,
}

impl<A: Addr> Flow<A> {
    /// The entry that turns packets of `before` into packets of `after`; the
    /// caller says to which service and where they go.
    #[inline(always)]
    pub fn translating(before: &FlowKey<A>, after: &FlowKey<A>) -> Self {
        let addresses =
            checksum::difference(before.src.sum() + before.dst.sum(), after.src.sum() + after.dst.sum());
        let ports = checksum::difference(
            u32::from(before.src_port.raw()) + u32::from(before.dst_port.raw()),
            u32::from(after.src_port.raw()) + u32::from(after.dst_port.raw()),
        );
        Self {
            src: after.src,
            dst: after.dst,
            src_port: after.src_port,
            dst_port: after.dst_port,
            service: 0,
            generation: 0,
            backend: 0,
            hop: Hop::NONE,
            last_seen: 0,
            flags: 0,
            addr_delta: checksum::normal(addresses),
            port_delta: checksum::normal(ports),
            ingress: 0,
        }
    }

    /// The tuple of packets that have been through this entry.
    #[inline(always)]
    pub fn after(&self, protocol: u8) -> FlowKey<A> {
        FlowKey::new(self.src, self.dst, self.src_port, self.dst_port, protocol)
    }

    /// Of a TCP flow with [`flags::PROXY`]: the sequence number of the first byte
    /// that the sender of this direction's packets has to say, host order. Of
    /// replies it is known once the backend has answered.
    #[inline(always)]
    pub fn start(&self) -> u32 {
        self.generation
    }

    #[inline(always)]
    pub fn set_start(&mut self, start: u32) {
        self.generation = start;
    }

    /// The key under which packets of the other direction look the flow up.
    #[inline(always)]
    pub fn twin(&self, protocol: u8) -> FlowKey<A> {
        self.after(protocol).reversed()
    }
}

/// Bits of [`Flow::flags`].
pub mod flags {
    /// The entry translates replies (source rewritten), not requests.
    pub const REPLY: u16 = 1;
    /// The backend has answered; set on the forward entry.
    pub const REPLIED: u16 = 2;
    /// A FIN or RST has passed: the entry may go soon.
    pub const CLOSING: u16 = 4;
    /// The entry stands in the table of established flows.
    pub const ESTABLISHED: u16 = 8;
    /// Silent too long: whoever still sends is told that it is over.
    pub const EXPIRED: u16 = 16;
    /// Packets go as they are to `dst`, in an outer header from `src` unless
    /// [`ON_LINK`] says otherwise. The answers pass elsewhere, so there is no second entry: with a source port of none,
    /// [`Flow::twin`](super::Flow::twin) is the key of no flow.
    pub const TUNNELLED: u16 = 32;
    /// Of such a flow: there is no outer header, packets go as they are on the way
    /// to `dst`.
    pub const ON_LINK: u16 = 64;
    /// Packets go on, translated as any, in an outer header to the node that holds
    /// their container's [egress address](crate::egress::Egress).
    pub const EGRESS: u16 = 128;
    /// The backend has not acknowledged the header that tells it of its client
    /// ([`Service::PROXY`](crate::Service::PROXY)); on both entries.
    pub const PROXY: u16 = 256;
    /// On the entry of replies: the backend has answered, and lacks the header.
    pub const HEADER_DUE: u16 = 512;
    /// On the entry of requests: it has been sent.
    pub const HEADER_SENT: u16 = 1024;
    /// Begun by a SYN under an [egress address](crate::egress::Egress), which has its
    /// connections wherever it is held: until an answer shows that this is one more,
    /// its port may be that of one begun elsewhere. On both entries.
    pub const OPENED: u16 = 2048;
    /// On the entry of replies of such a flow, which is all that is left of it: the
    /// port is another's.
    pub const TAKEN: u16 = 4096;
    /// On the entry of requests: the backend is a socket of this node.
    pub const HOST: u16 = 8192;
}

// SAFETY: `repr(C)`, every field is Pod, and the sizes asserted below equal the
// sum of the fields, so there is no padding for either family.
unsafe impl<A: Addr> Zeroable for FlowKey<A> {}
unsafe impl<A: Addr> Pod for FlowKey<A> {}
unsafe impl<A: Addr> Zeroable for Flow<A> {}
unsafe impl<A: Addr> Pod for Flow<A> {}

const _: () = {
    assert!(size_of::<FlowKey<V4>>() == 16 && align_of::<FlowKey<V4>>() == 4);
    assert!(size_of::<FlowKey<V6>>() == 40 && align_of::<FlowKey<V6>>() == 4);
    assert!(size_of::<Flow<V4>>() == 40 && align_of::<Flow<V4>>() == 4);
    assert!(size_of::<Flow<V6>>() == 64 && align_of::<Flow<V6>>() == 4);
};
