//! What is in a packet that is not plain? Options, extension headers,
//! fragments, other protocols: read by copies, at offsets that vary.

use aya_ebpf::programs::TcContext;
use causeway_schema::{FlowKey, Port, TraceRecord, V4, V6, Verdict, policy::Standing, protocol};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    family::Family,
    icmp,
    nat::Begins,
    packet::{self, Packet, TCP_HEADER, TCP_OFFSET_FLAGS, UDP_HEADER, read},
    pipeline::Side,
    policy::Question,
    rewrite::L4,
};

/// Which part of a datagram a packet carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    Later,
}

/// A packet whose headers are sound, as far as they go.
pub struct Loose<A> {
    pub packet: Packet<A>,
    /// Offset of the L4 header, or of a later fragment's data.
    pub l4: u32,
    /// Where the datagram ends in the frame; what follows is padding.
    pub end: u32,
    pub part: Part,
    /// Identification of a fragment, as it lies in memory.
    pub id: u32,
    /// May not be fragmented on its way: IPv6, or the DF bit.
    pub dont_fragment: bool,
    /// What the packet turns out to belong to, or [`TraceRecord::NONE`].
    pub service: u32,
    pub backend: u32,
    /// How far into a range of ports the packet's own lies, or 0.
    pub offset: u16,
    /// The flow that is to begin, if one is, and the hook that it begins at.
    pub side: Side,
    pub begins: Begins<A>,
    /// What a policy is asked about it, and whether it ends at the node itself.
    pub question: Question,
    pub stays: bool,
    /// By what counted when the first question was asked, all are answered.
    pub standing: Standing,
    /// It is of a connection that is to end, on both sides.
    pub cuts: bool,
    /// What is decided, for the program that goes on: whether a flow
    /// translates the packet, or what the sender is told.
    pub translated: bool,
    pub verdict: Verdict,
    /// The longest packet that would have been taken, where that is known; or 0.
    pub mtu: u16,
    /// It came in an outer header, from another host than sent it.
    pub unwrapped: bool,
}

impl<A: Family> Loose<A> {
    /// A packet of which nothing but its addresses is known yet.
    #[inline(always)]
    fn start(&mut self, packet: Packet<A>, l4: u32, end: u32) {
        self.packet = packet;
        (self.l4, self.end) = (l4, end);
        (self.part, self.id, self.dont_fragment) = (Part::Whole, 0, false);
        (self.service, self.backend) = (TraceRecord::NONE, TraceRecord::NONE);
        (self.offset, self.mtu, self.unwrapped) = (0, 0, false);
        (self.translated, self.verdict) = (false, Verdict::DropInconsistent);
        self.cuts = false;
    }

    #[inline(always)]
    pub fn l4(&self) -> L4 {
        if self.part == Part::Later { L4::Absent } else { L4::At(self.l4) }
    }

    /// TCP or UDP, with ports.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        self.packet.key.src_port != Port::NONE
    }
}

/// What this CPU has read of the packet at hand, for the next program.
#[inline(always)]
pub fn held<A: Family>() -> Option<&'static mut Loose<A>> {
    // SAFETY: as in `new_flow::pair`.
    A::loose(0).map(|loose| unsafe { &mut *loose })
}

/// As [`held`], for a program that may run in the midst of another: where a clone
/// of a packet leaves.
#[inline(always)]
pub fn beside<A: Family>() -> Option<&'static mut Loose<A>> {
    // SAFETY: as in `held`.
    A::loose(1).map(|loose| unsafe { &mut *loose })
}

/// An address family's way through its own headers.
pub trait Read: Family {
    /// Reads a packet into `loose`.
    fn read(ctx: &TcContext, loose: &mut Loose<Self>) -> Result<(), Verdict>;
}

const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
const MORE_FRAGMENTS: u16 = 0x2000_u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

impl Read for V4 {
    #[inline(always)]
    fn read(ctx: &TcContext, loose: &mut Loose<V4>) -> Result<(), Verdict> {
        let ip = packet::pulled(ctx, EthHdr::LEN, Ipv4Hdr::LEN).ok_or(Verdict::DropTruncated)?;
        // SAFETY: `pulled` has checked the header's length.
        let (version_length, total, id, fragment, ttl, protocol, src, dst) = unsafe {
            (
                read::<u8>(ip, 0),
                u16::from_be(read(ip, core::mem::offset_of!(Ipv4Hdr, tot_len))),
                read::<u16>(ip, core::mem::offset_of!(Ipv4Hdr, id)),
                read::<u16>(ip, core::mem::offset_of!(Ipv4Hdr, frags)),
                read::<u8>(ip, core::mem::offset_of!(Ipv4Hdr, ttl)),
                read::<u8>(ip, core::mem::offset_of!(Ipv4Hdr, proto)),
                read::<V4>(ip, core::mem::offset_of!(Ipv4Hdr, src_addr)),
                read::<V4>(ip, core::mem::offset_of!(Ipv4Hdr, dst_addr)),
            )
        };
        if version_length >> 4 != 4 || version_length & 15 < 5 {
            return Err(Verdict::DropMalformed);
        }
        let header = u32::from(version_length & 15) * 4;
        let end = end(ctx, u32::from(total))?;
        let l4 = EthHdr::LEN as u32 + header;
        if end < l4 {
            return Err(Verdict::DropMalformed);
        }
        let part = match (fragment & FRAGMENT_OFFSET, fragment & MORE_FRAGMENTS) {
            (0, 0) => Part::Whole,
            (0, _) => Part::First,
            _ => Part::Later,
        };
        let key = FlowKey::new(src, dst, Port::NONE, Port::NONE, protocol);
        loose.start(Packet { key, ttl, tcp_flags: 0, l4_header: 0 }, l4, end);
        loose.part = part;
        loose.id = u32::from(id);
        loose.dont_fragment = fragment & DONT_FRAGMENT != 0;
        ports(ctx, loose)
    }
}

/// Extension headers that are walked at most (RFC 8200 sends at most seven,
/// and nobody more than two).
const EXTENSIONS: usize = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

impl Read for V6 {
    #[inline(always)]
    fn read(ctx: &TcContext, loose: &mut Loose<V6>) -> Result<(), Verdict> {
        let ip = packet::pulled(ctx, EthHdr::LEN, Ipv6Hdr::LEN).ok_or(Verdict::DropTruncated)?;
        // SAFETY: `pulled` has checked the header's length.
        let (version, payload, next, ttl, src, dst) = unsafe {
            (
                read::<u8>(ip, 0) >> 4,
                u16::from_be(read(ip, core::mem::offset_of!(Ipv6Hdr, payload_len))),
                read::<u8>(ip, core::mem::offset_of!(Ipv6Hdr, next_hdr)),
                read::<u8>(ip, core::mem::offset_of!(Ipv6Hdr, hop_limit)),
                read::<V6>(ip, core::mem::offset_of!(Ipv6Hdr, src_addr)),
                read::<V6>(ip, core::mem::offset_of!(Ipv6Hdr, dst_addr)),
            )
        };
        if version != 6 {
            return Err(Verdict::DropMalformed);
        }
        let total = if payload == 0 { 0 } else { u32::from(payload) + Ipv6Hdr::LEN as u32 };
        let end = end(ctx, total)?;
        let key = FlowKey::new(src, dst, Port::NONE, Port::NONE, next);
        loose.start(Packet { key, ttl, tcp_flags: 0, l4_header: 0 }, V6::L4 as u32, end);
        loose.dont_fragment = true;
        for _ in 0..EXTENSIONS {
            let next = loose.packet.key.protocol;
            if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) || loose.part == Part::Later {
                break;
            }
            if loose.l4 + 8 > end {
                return Err(Verdict::DropTruncated);
            }
            let head: [u8; 8] = ctx.load(loose.l4 as usize).map_err(|_| Verdict::DropTruncated)?;
            loose.packet.key.protocol = head[0];
            if next == FRAGMENT {
                // Offset in eights above three bits, the lowest "more" (RFC 8200, section 4.5).
                let field = u16::from_be_bytes([head[2], head[3]]);
                loose.part = match (field >> 3, field & 1) {
                    // An atomic fragment (RFC 6946) is whole.
                    (0, 0) => Part::Whole,
                    (0, _) => Part::First,
                    _ => Part::Later,
                };
                loose.id = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
                loose.l4 += 8;
            } else {
                loose.l4 += (u32::from(head[1]) + 1) * 8;
            }
        }
        if matches!(loose.packet.key.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
            && loose.part != Part::Later
        {
            return Err(Verdict::DropExtensions);
        }
        if loose.l4 > end {
            return Err(Verdict::DropTruncated);
        }
        ports(ctx, loose)
    }
}

/// Where a datagram of `total` bytes ends.
#[inline(always)]
fn end(ctx: &TcContext, total: u32) -> Result<u32, Verdict> {
    // Total length 0 is a super-packet above 64 KiB (BIG TCP); its true length
    // is the buffer's.
    if total == 0 {
        // SAFETY: the context is valid for the whole run of the program.
        let is_super = unsafe { (*ctx.skb.skb).gso_segs } != 0;
        return if is_super { Ok(ctx.len()) } else { Err(Verdict::DropMalformed) };
    }
    let end = EthHdr::LEN as u32 + total;
    if end > ctx.len() { Err(Verdict::DropTruncated) } else { Ok(end) }
}

/// Reads ports and flags of TCP and UDP; what is shorter than its header, ICMP
/// too, goes no further.
#[inline(always)]
fn ports<A: Family>(ctx: &TcContext, loose: &mut Loose<A>) -> Result<(), Verdict> {
    let header = match loose.packet.key.protocol {
        protocol::TCP => TCP_HEADER as u32,
        protocol::UDP => UDP_HEADER as u32,
        protocol if protocol == A::ICMP => icmp::HEADER,
        _ => return Ok(()),
    };
    if loose.part == Part::Later {
        return Ok(());
    }
    if loose.l4 + header > loose.end {
        // What a first fragment hides of its L4 header, nobody can translate
        // (RFC 1858, RFC 7112).
        let first = loose.part == Part::First;
        return Err(if first { Verdict::DropFragment } else { Verdict::DropTruncated });
    }
    if loose.packet.key.protocol == A::ICMP {
        return Ok(());
    }
    let ports: [Port; 2] = ctx.load(loose.l4 as usize).map_err(|_| Verdict::DropTruncated)?;
    [loose.packet.key.src_port, loose.packet.key.dst_port] = ports;
    if loose.packet.key.protocol == protocol::TCP {
        let [offset, flags]: [u8; 2] =
            ctx.load(loose.l4 as usize + TCP_OFFSET_FLAGS).map_err(|_| Verdict::DropTruncated)?;
        loose.packet.tcp_flags = flags;
        loose.packet.l4_header = packet::header_length(offset);
    }
    Ok(())
}
