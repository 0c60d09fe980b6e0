//! What is this packet? The fast programs ask only whether it is a plain one:
//! whole TCP or UDP, every header where it usually is. `loose` reads the rest.

use causeway_schema::{FlowKey, Port, V4, V6, protocol};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{context::Context, family::Family};

/// What every step of the pipeline reads of a packet.
pub struct Packet<A> {
    /// Addresses, ports and protocol; ports are [`Port::NONE`] when the packet
    /// shows none (other protocols, later fragments).
    pub key: FlowKey<A>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Flag byte of the TCP header, 0 for other protocols.
    pub tcp_flags: u8,
    /// Length of the L4 header in bytes, as far as segmentation repeats it.
    pub l4_header: u8,
}

impl<A: Family> Packet<A> {
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

pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;
pub const TCP_PSH: u8 = 8;
pub const TCP_ACK: u8 = 16;
pub const TCP_URG: u8 = 32;

/// Offset of the data offset (upper half, in words) and of the flag byte behind
/// it in the TCP header (RFC 9293, section 3.1).
pub const TCP_OFFSET_FLAGS: usize = 12;
pub const TCP_HEADER: usize = 20;
pub const UDP_HEADER: usize = 8;

/// The UDP header's length as TCP would write its own.
const UDP_OFFSET: u8 = 0x20;

/// The header's length in bytes by its data offset.
#[inline(always)]
pub fn header_length(data_offset: u8) -> u8 {
    (data_offset >> 4) * 4
}

/// EtherTypes as they lie in memory.
const ETHER_IPV4: u16 = 0x0800_u16.to_be();
const ETHER_IPV6: u16 = 0x86dd_u16.to_be();
const ETHER_ARP: u16 = 0x0806_u16.to_be();
const ETHER_VLAN: u16 = 0x8100_u16.to_be();
const ETHER_QINQ: u16 = 0x88a8_u16.to_be();
const ETHER_TYPE: usize = 12;

/// Fragment offset and "more fragments", as they lie in memory (RFC 791).
pub const FRAGMENT: u16 = 0x3fff_u16.to_be();

/// What the Ethernet header announces.
pub enum Frame {
    Ipv4,
    Ipv6,
    Arp,
    Vlan,
    Other,
    Truncated,
}

/// A pointer to `length` bytes at `offset` of the linear part of the packet.
#[inline(always)]
pub fn bytes<C: Context>(ctx: &C, offset: usize, length: usize) -> Option<*mut u8> {
    let start = ctx.start();
    if start + offset + length > ctx.end() {
        return None;
    }
    Some((start + offset) as *mut u8)
}

/// As [`bytes`], but first brings the bytes into the linear part if the packet
/// has them elsewhere (only packets from raw sockets and taps do).
#[inline(always)]
pub fn pulled<C: Context>(ctx: &C, offset: usize, length: usize) -> Option<*mut u8> {
    if let Some(bytes) = bytes(ctx, offset, length) {
        return Some(bytes);
    }
    if (ctx.length() as usize) < offset + length || !ctx.pull((offset + length) as u32) {
        return None;
    }
    bytes(ctx, offset, length)
}

/// Reads a number as it lies in memory. Header fields are aligned to their size
/// in every frame the kernel hands us (NET_IP_ALIGN), and BPF loads do not fault.
///
/// # Safety
/// `at` points into checked packet bytes.
#[inline(always)]
pub unsafe fn read<T: Copy>(base: *const u8, at: usize) -> T {
    // SAFETY: the caller has checked the bounds.
    unsafe { *base.add(at).cast::<T>() }
}

/// Writes a hardware address in two stores: the compiler would call a loop
/// over its bytes.
///
/// # Safety
/// `to` points at six writable bytes.
#[inline(always)]
pub unsafe fn write_mac(to: *mut u8, mac: [u8; 6]) {
    let [a, b, c, d, e, f] = mac;
    // SAFETY: the caller vouches for the bytes; BPF stores need no alignment.
    unsafe {
        *to.cast::<u32>() = u32::from_ne_bytes([a, b, c, d]);
        *to.add(4).cast::<u16>() = u16::from_ne_bytes([e, f]);
    }
}

/// Looks at the Ethernet header.
#[inline(always)]
pub fn frame<C: Context>(ctx: &C) -> Frame {
    if ctx.has_tag() {
        return Frame::Vlan;
    }
    let Some(eth) = pulled(ctx, 0, EthHdr::LEN) else {
        return Frame::Truncated;
    };
    // SAFETY: `pulled` has checked the header's length.
    match unsafe { read::<u16>(eth, ETHER_TYPE) } {
        ETHER_IPV4 => Frame::Ipv4,
        ETHER_IPV6 => Frame::Ipv6,
        ETHER_ARP => Frame::Arp,
        ETHER_VLAN | ETHER_QINQ => Frame::Vlan,
        _ => Frame::Other,
    }
}

/// A plain IPv4 packet; `None` for every other, sound or not.
#[inline(always)]
pub fn ipv4<C: Context>(ctx: &C) -> Option<Packet<V4>> {
    let ip = bytes(ctx, EthHdr::LEN, Ipv4Hdr::LEN)?;
    // SAFETY: `bytes` has checked the header's length.
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
    if version_length != 0x45 || fragment & FRAGMENT != 0 {
        return None;
    }
    let payload = u32::from(total).wrapping_sub(Ipv4Hdr::LEN as u32);
    plain(ctx, src, dst, protocol, ttl, payload)
}

/// A plain IPv6 packet; `None` for every other, sound or not.
#[inline(always)]
pub fn ipv6<C: Context>(ctx: &C) -> Option<Packet<V6>> {
    let ip = bytes(ctx, EthHdr::LEN, Ipv6Hdr::LEN)?;
    // SAFETY: `bytes` has checked the header's length.
    let (version, payload, next, hops, src, dst) = unsafe {
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
        return None;
    }
    plain(ctx, src, dst, next, hops, u32::from(payload))
}

/// `payload`: bytes after the IP header, by the header's own word.
#[inline(always)]
fn plain<A: Family, C: Context>(
    ctx: &C,
    src: A,
    dst: A,
    protocol: u8,
    ttl: u8,
    payload: u32,
) -> Option<Packet<A>> {
    let header = match protocol {
        protocol::TCP => TCP_HEADER,
        protocol::UDP => UDP_HEADER,
        _ => return None,
    };
    // A payload below the header's length, and one that wrapped below zero.
    if payload.wrapping_sub(header as u32) > u32::from(u16::MAX) || A::L4 as u32 + payload > ctx.length() {
        return None;
    }
    let l4 = bytes(ctx, A::L4, header)?;
    // SAFETY: `bytes` has checked the header's length.
    let (src_port, dst_port, [l4_header, tcp_flags]) = unsafe {
        let tcp = protocol == protocol::TCP;
        let offset_flags = if tcp { read::<[u8; 2]>(l4, TCP_OFFSET_FLAGS) } else { [UDP_OFFSET, 0] };
        (read::<Port>(l4, 0), read::<Port>(l4, 2), offset_flags)
    };
    // Port 0 in our maps means "no port"; no service and no flow has it.
    if src_port == Port::NONE || A::is_multicast(dst) {
        return None;
    }
    let key = FlowKey::new(src, dst, src_port, dst_port, protocol);
    Some(Packet { key, ttl, tcp_flags, l4_header: header_length(l4_header) })
}
