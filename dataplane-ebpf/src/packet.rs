//! What is this packet? Parsed once, into a value that everything else reads.

use aya_ebpf::programs::TcContext;
use causeway_schema::{FlowKey, Port, V4, Verdict, protocol};
use network_types::{arp::ArpHdr, eth::EthHdr, ip::Ipv4Hdr};

use crate::family::Family;

/// A packet whose headers are sound.
pub struct Packet<A> {
    /// Addresses, ports and protocol; ports are [`Port::NONE`] when the packet
    /// shows none (other protocols, later fragments).
    pub key: FlowKey<A>,
    pub ttl: u8,
    /// Flag byte of the TCP header, 0 for other protocols.
    pub tcp_flags: u8,
    /// IPv4 options: the L4 header is not at its usual place.
    pub options: bool,
    pub fragment: bool,
}

impl<A: Family> Packet<A> {
    /// TCP or UDP with the ports where the fast path expects them.
    #[inline(always)]
    pub fn is_plain_l4(&self) -> bool {
        !self.options && !self.fragment && self.key.src_port.raw() != 0
    }

    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.key.protocol == protocol::TCP
    }

    /// The first packet of a TCP connection: SYN without ACK.
    #[inline(always)]
    pub fn opens_connection(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// Carries a flag that moves the connection's state.
    #[inline(always)]
    pub fn changes_connection(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) != 0
    }

    #[inline(always)]
    pub fn closes_connection(&self) -> bool {
        self.tcp_flags & (TCP_FIN | TCP_RST) != 0
    }
}

const TCP_FIN: u8 = 1;
const TCP_SYN: u8 = 2;
const TCP_RST: u8 = 4;
const TCP_ACK: u8 = 16;

/// Offset of the flag byte in the TCP header (RFC 9293, section 3.1).
const TCP_FLAGS: usize = 13;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// EtherTypes as they lie in memory.
const ETHER_IPV4: u16 = 0x0800_u16.to_be();
const ETHER_ARP: u16 = 0x0806_u16.to_be();
const ETHER_VLAN: u16 = 0x8100_u16.to_be();
const ETHER_QINQ: u16 = 0x88a8_u16.to_be();
const ETHER_TYPE: usize = 12;

/// Fragment offset and "more fragments", as they lie in memory (RFC 791).
const FRAGMENT: u16 = 0x3fff_u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

/// What the Ethernet header announces.
pub enum Frame {
    Ipv4,
    Arp,
    End(Verdict),
}

/// A pointer to `length` bytes at `offset` of the linear part of the packet.
#[inline(always)]
pub fn bytes(ctx: &TcContext, offset: usize, length: usize) -> Option<*mut u8> {
    let start = ctx.data();
    if start + offset + length > ctx.data_end() {
        return None;
    }
    Some((start + offset) as *mut u8)
}

/// As [`bytes`], but first brings the bytes into the linear part if the packet
/// has them elsewhere (only packets from raw sockets and taps do).
#[inline(always)]
fn pulled(ctx: &TcContext, offset: usize, length: usize) -> Option<*mut u8> {
    if let Some(bytes) = bytes(ctx, offset, length) {
        return Some(bytes);
    }
    if (ctx.len() as usize) < offset + length {
        return None;
    }
    ctx.pull_data((offset + length) as u32).ok()?;
    bytes(ctx, offset, length)
}

/// Reads a number as it lies in memory. Header fields are aligned to their size
/// in every frame the kernel hands us (NET_IP_ALIGN), and BPF loads do not fault.
///
/// # Safety
/// `at` points into checked packet bytes.
#[inline(always)]
unsafe fn read<T: Copy>(base: *const u8, at: usize) -> T {
    // SAFETY: the caller has checked the bounds.
    unsafe { *base.add(at).cast::<T>() }
}

/// Looks at the Ethernet header.
#[inline(always)]
pub fn frame(ctx: &TcContext) -> Frame {
    // SAFETY: the context is valid for the whole run of the program.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return Frame::End(Verdict::StackVlan);
    }
    let Some(eth) = pulled(ctx, 0, EthHdr::LEN) else {
        return Frame::End(Verdict::DropTruncated);
    };
    // SAFETY: `pulled` has checked the header's length.
    match unsafe { read::<u16>(eth, ETHER_TYPE) } {
        ETHER_IPV4 => Frame::Ipv4,
        ETHER_ARP => Frame::Arp,
        ETHER_VLAN | ETHER_QINQ => Frame::End(Verdict::StackVlan),
        _ => Frame::End(Verdict::StackNotIpv4),
    }
}

/// The ARP header of an ARP frame.
#[inline(always)]
pub fn arp(ctx: &TcContext) -> Option<*mut ArpHdr> {
    pulled(ctx, EthHdr::LEN, ArpHdr::LEN).map(<*mut u8>::cast)
}

/// Parses an IPv4 packet as far as the pipeline needs it.
#[inline(always)]
pub fn ipv4(ctx: &TcContext) -> Result<Packet<V4>, Verdict> {
    let ip = pulled(ctx, EthHdr::LEN, Ipv4Hdr::LEN).ok_or(Verdict::DropTruncated)?;
    // SAFETY (this block and the next): `pulled` has checked the header's length.
    let (version_length, total, fragment, ttl, protocol, src, dst) = unsafe {
        (
            read::<u8>(ip, 0),
            u16::from_be(read(ip, core::mem::offset_of!(Ipv4Hdr, tot_len))),
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
    // Total length 0 is a super-packet above 64 KiB (BIG TCP); its true length
    // is the buffer's.
    if total != 0 {
        if u32::from(total) < header {
            return Err(Verdict::DropMalformed);
        }
        if EthHdr::LEN as u32 + u32::from(total) > ctx.len() {
            return Err(Verdict::DropTruncated);
        }
    } else if unsafe { (*ctx.skb.skb).gso_segs } == 0 {
        return Err(Verdict::DropMalformed);
    }

    let mut packet = Packet {
        key: FlowKey { src, dst, src_port: Port::NONE, dst_port: Port::NONE, protocol, pad: [0; 3] },
        ttl,
        tcp_flags: 0,
        options: header != Ipv4Hdr::LEN as u32,
        fragment: fragment & FRAGMENT != 0,
    };
    let l4_header = match protocol {
        protocol::TCP => TCP_HEADER,
        protocol::UDP => UDP_HEADER,
        _ => return Ok(packet),
    };
    if fragment & FRAGMENT_OFFSET != 0 {
        return Ok(packet);
    }
    // The L4 header belongs to the datagram, not to the frame's padding.
    let first_fragment = packet.fragment;
    if total != 0 && !first_fragment && u32::from(total) < header + l4_header as u32 {
        return Err(Verdict::DropTruncated);
    }
    if packet.options {
        // Off the fast path: two ports at a variable offset, by copy.
        let ports: [Port; 2] = ctx.load(EthHdr::LEN + header as usize).map_err(|_| Verdict::DropTruncated)?;
        [packet.key.src_port, packet.key.dst_port] = ports;
        return Ok(packet);
    }
    if packet.fragment {
        let ports: [Port; 2] = ctx.load(V4::L4).map_err(|_| Verdict::DropTruncated)?;
        [packet.key.src_port, packet.key.dst_port] = ports;
        return Ok(packet);
    }
    if protocol == protocol::TCP {
        let tcp = pulled(ctx, V4::L4, TCP_HEADER).ok_or(Verdict::DropTruncated)?;
        // SAFETY: `pulled` has checked the header's length.
        unsafe {
            packet.key.src_port = read(tcp, 0);
            packet.key.dst_port = read(tcp, 2);
            packet.tcp_flags = read(tcp, TCP_FLAGS);
        }
    } else {
        let udp = pulled(ctx, V4::L4, UDP_HEADER).ok_or(Verdict::DropTruncated)?;
        // SAFETY: as above.
        unsafe {
            packet.key.src_port = read(udp, 0);
            packet.key.dst_port = read(udp, 2);
        }
    }
    Ok(packet)
}
