//! How does a sender learn that its packet goes nowhere? At once: a TCP reset,
//! or an ICMP error, made of the packet itself and sent back where it came
//! from (RFC 9293 section 3.10.7.1, RFC 792, RFC 4443).

use aya_ebpf::{
    helpers::{bpf_clone_redirect, bpf_skb_change_head, bpf_skb_change_tail},
    programs::TcContext,
};
use causeway_schema::{Addr, Port, V4, V6, Verdict, checksum, protocol};
use network_types::eth::EthHdr;

use crate::{
    act::{Decision, Exit},
    context::Context,
    deliver::{self, Way},
    family::Family,
    icmp::{self, Icmp, swap_macs},
    loose::{Loose, Part, Read},
    packet::{self, TCP_ACK, TCP_FIN, TCP_HEADER, TCP_RST, TCP_SYN},
    pipeline::Side,
    rewrite::{self, L4},
    trace,
};

/// Hop count of what we send ourselves.
const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();

/// An ICMP error: type, code, and the word that goes with them, as it lies in memory.
#[derive(Clone, Copy)]
pub struct Message {
    kind: u8,
    code: u8,
    rest: u32,
}

/// How an address family writes its own headers.
pub trait Refuse: Read + Icmp {
    const PORT_UNREACHABLE: Message;
    const NO_ROUTE: Message;
    const TIME_EXCEEDED: Message;

    fn too_big(mtu: u16) -> Message;

    /// Writes an IP header without options and returns nothing else than that
    /// its checksum, if it has one, is right.
    ///
    /// # Safety
    /// `ip` points at `HEADER` writable bytes.
    unsafe fn write_header(ip: *mut u8, src: Self, dst: Self, protocol: u8, payload: u16);
}

impl Refuse for V4 {
    const PORT_UNREACHABLE: Message = Message { kind: 3, code: 3, rest: 0 };
    const NO_ROUTE: Message = Message { kind: 3, code: 0, rest: 0 };
    const TIME_EXCEEDED: Message = Message { kind: 11, code: 0, rest: 0 };

    #[inline(always)]
    fn too_big(mtu: u16) -> Message {
        // The lower half of the word (RFC 1191, section 4).
        Message { kind: 3, code: 4, rest: u32::from(mtu).to_be() }
    }

    #[inline(always)]
    unsafe fn write_header(ip: *mut u8, src: V4, dst: V4, protocol: u8, payload: u16) {
        let total = (payload + V4::HEADER as u16).to_be();
        let words =
            [u16::from_ne_bytes([0x45, 0]), total, 0, DONT_FRAGMENT, u16::from_ne_bytes([TTL, protocol]), 0];
        let sum = words.iter().map(|&word| u32::from(word)).sum::<u32>() + src.sum() + dst.sum();
        // SAFETY: the caller vouches for the header.
        unsafe {
            *ip.cast::<[u16; 6]>() = words;
            *ip.add(10).cast::<u16>() = !checksum::fold(sum);
            *ip.add(12).cast::<[V4; 2]>() = [src, dst];
        }
    }
}

impl Refuse for V6 {
    const PORT_UNREACHABLE: Message = Message { kind: 1, code: 4, rest: 0 };
    const NO_ROUTE: Message = Message { kind: 1, code: 0, rest: 0 };
    const TIME_EXCEEDED: Message = Message { kind: 3, code: 0, rest: 0 };

    #[inline(always)]
    fn too_big(mtu: u16) -> Message {
        Message { kind: 2, code: 0, rest: u32::from(mtu).to_be() }
    }

    #[inline(always)]
    unsafe fn write_header(ip: *mut u8, src: V6, dst: V6, protocol: u8, payload: u16) {
        // SAFETY: the caller vouches for the header.
        unsafe {
            *ip.cast::<[u8; 4]>() = [0x60, 0, 0, 0];
            *ip.add(4).cast::<u16>() = payload.to_be();
            *ip.add(6).cast::<[u8; 2]>() = [protocol, TTL];
            *ip.add(8).cast::<[V6; 2]>() = [src, dst];
        }
    }
}

/// The MTU that an ICMP message at `at` tells of, if it is such a one.
#[inline(always)]
pub fn told_mtu<A: Refuse>(ctx: &TcContext, at: u32) -> Option<u16> {
    let Message { kind, code, .. } = A::too_big(0);
    let head: [u8; 2] = ctx.load(at as usize).ok()?;
    let [_, _, high, low]: [u8; 4] = ctx.load(at as usize + 4).ok()?;
    (head == [kind, code]).then_some(u16::from_be_bytes([high, low]))
}

/// Whether senders are told of a verdict.
#[inline(always)]
pub fn is_told(side: Side, verdict: Verdict) -> bool {
    match verdict {
        Verdict::DropNoBackend
        | Verdict::DropNoFrontend
        | Verdict::DropNoRoute
        | Verdict::DropTooBig
        | Verdict::DropExpired
        | Verdict::DropPolicyReject => true,
        // On the uplink, other routers count for themselves.
        Verdict::DropTtl => side == Side::Container,
        _ => false,
    }
}

/// Turns a dropped packet into what its sender has to be told; false when
/// there is no way to.
#[inline(always)]
pub fn tell<A: Refuse>(ctx: &TcContext, loose: &Loose<A>) -> bool {
    let packet = &loose.packet;
    let key = &packet.key;
    // Nobody to tell, or nothing to be told from (RFC 1122, section 3.2.2).
    if loose.part == Part::Later || A::is_multicast(key.src) || key.src == A::UNSPECIFIED {
        return false;
    }
    if packet.key.protocol == A::ICMP && is_error::<A>(ctx, loose) {
        return false;
    }
    let message = match loose.verdict {
        Verdict::DropNoBackend
        | Verdict::DropNoFrontend
        | Verdict::DropExpired
        | Verdict::DropPolicyReject => {
            if packet.is_tcp() {
                return packet.tcp_flags & TCP_RST == 0 && reset(ctx, loose).is_some();
            }
            A::PORT_UNREACHABLE
        }
        Verdict::DropNoRoute => A::NO_ROUTE,
        Verdict::DropTtl => A::TIME_EXCEEDED,
        _ if loose.mtu != 0 => A::too_big(loose.mtu),
        _ => match way(ctx, loose) {
            Way::TooBig(mtu) => A::too_big(mtu),
            _ => return false,
        },
    };
    error(ctx, loose, message).is_some()
}

/// The way that the packet was to go, with the addresses that it was to have.
#[inline(always)]
fn way<A: Refuse>(ctx: &TcContext, loose: &Loose<A>) -> Way {
    let key = &loose.packet.key;
    let (mut src, mut dst) = (key.src, key.dst);
    if loose.translated
        && let Some(pair) = A::pair()
    {
        // SAFETY: as in `new_flow::pair`.
        unsafe { (src, dst) = ((*pair).request.src, (*pair).request.dst) };
    }
    deliver::way(ctx, &loose.packet, src, dst)
}

#[inline(always)]
fn is_error<A: Refuse>(ctx: &TcContext, loose: &Loose<A>) -> bool {
    ctx.load::<u8>(loose.l4 as usize).is_ok_and(A::is_error)
}

/// Ends a connection by one of its segments: its sender gets the reset that
/// answers it, its receiver one in its place. Says where that goes.
#[inline(always)]
pub fn cut_off<A: Refuse>(ctx: &TcContext, loose: &Loose<A>) -> Option<Decision> {
    let packet = &loose.packet;
    let key = &packet.key;
    if loose.part != Part::Whole || packet.tcp_flags & TCP_RST != 0 || loose.l4 != A::L4 as u32 {
        return None;
    }
    let sequence: [u8; 4] = ctx.load(A::L4 + 4).ok()?;
    if !trace::is_dry(ctx) {
        reset(ctx, loose)?;
        // SAFETY: the context is valid for the whole run of the program.
        unsafe { bpf_clone_redirect(ctx.skb.skb, ctx.ifindex(), 0) };
        segment::<A>(ctx, key.src, key.dst, [key.src_port, key.dst_port], [sequence, [0; 4]], TCP_RST)?;
    }
    Some(match deliver::endpoint(key.dst) {
        Some((_, endpoint)) => deliver::local(ctx, packet, endpoint, None, L4::Absent),
        None => deliver::remote(ctx, packet, key.src, key.dst, None, L4::Absent),
    })
}

/// To a sender who is not behind the host that the packet came from.
#[inline(always)]
pub fn home<A: Family>(ctx: &TcContext, loose: &Loose<A>) -> Decision {
    let key = &loose.packet.key;
    match deliver::way(ctx, &loose.packet, key.dst, key.src) {
        Way::Out(ifindex) => Decision::new(Verdict::Forwarded, Exit::Neighbour, ifindex),
        _ => Decision::end(loose.verdict),
    }
}

/// Makes a TCP segment the reset that answers it.
#[inline(always)]
fn reset<A: Refuse>(ctx: &TcContext, loose: &Loose<A>) -> Option<()> {
    if loose.l4 != A::L4 as u32 {
        return None;
    }
    let key = &loose.packet.key;
    let flags = loose.packet.tcp_flags;
    let [sequence, acknowledgement]: [[u8; 4]; 2] = ctx.load(A::L4 + 4).ok()?;
    let data = loose.end.saturating_sub(loose.l4 + u32::from(loose.packet.l4_header));
    let length = data + u32::from(flags & TCP_SYN != 0) + u32::from(flags & TCP_FIN != 0);
    let (sequence, acknowledgement, flags) = if flags & TCP_ACK != 0 {
        (acknowledgement, [0; 4], TCP_RST)
    } else {
        let next = u32::from_be_bytes(sequence).wrapping_add(length);
        ([0; 4], next.to_be_bytes(), TCP_RST | TCP_ACK)
    };
    segment::<A>(ctx, key.dst, key.src, [key.dst_port, key.src_port], [sequence, acknowledgement], flags)
}

/// Makes a frame a TCP segment without data, for whom it came from.
#[inline(always)]
fn segment<A: Refuse>(
    ctx: &TcContext,
    src: A,
    dst: A,
    ports: [Port; 2],
    [sequence, acknowledgement]: [[u8; 4]; 2],
    flags: u8,
) -> Option<()> {
    cut(ctx, A::L4 + TCP_HEADER)?;
    let frame = packet::bytes(ctx, 0, A::L4 + TCP_HEADER)?;
    let pseudo = pseudo_sum(src, dst, protocol::TCP, TCP_HEADER as u16);
    let offset_flags = [(TCP_HEADER as u8 / 4) << 4, flags];
    // SAFETY: `bytes` has checked the length.
    unsafe {
        swap_macs(frame);
        A::write_header(frame.add(EthHdr::LEN), src, dst, protocol::TCP, TCP_HEADER as u16);
        let tcp = frame.add(A::L4);
        *tcp.cast::<[Port; 2]>() = ports;
        *tcp.add(4).cast::<[[u8; 4]; 2]>() = [sequence, acknowledgement];
        *tcp.add(12).cast::<[u8; 2]>() = offset_flags;
        // Window, checksum, urgent pointer.
        *tcp.add(14).cast::<[u16; 3]>() = [0; 3];
    }
    let half = |bytes: [u8; 4]| {
        u32::from(u16::from_ne_bytes([bytes[0], bytes[1]]))
            + u32::from(u16::from_ne_bytes([bytes[2], bytes[3]]))
    };
    let header = u32::from(ports[0].raw())
        + u32::from(ports[1].raw())
        + half(sequence)
        + half(acknowledgement)
        + u32::from(u16::from_ne_bytes(offset_flags));
    rewrite::finish_checksum(ctx, A::L4 as u32, pseudo, header)
}

/// Leaves the first `length` bytes of a frame.
#[inline(always)]
fn cut(ctx: &TcContext, length: usize) -> Option<()> {
    // SAFETY: the context is valid for the whole run of the program.
    let cut = unsafe { bpf_skb_change_tail(ctx.skb.skb, length as u32, 0) };
    (cut == 0).then_some(())
}

/// Makes a packet the ICMP error about itself.
#[inline(always)]
fn error<A: Refuse>(ctx: &TcContext, loose: &Loose<A>, message: Message) -> Option<()> {
    if loose.packet.is_tcp() {
        embed::<A, TCP_HEADER>(ctx, loose, message)
    } else {
        embed::<A, 8>(ctx, loose, message)
    }
}

/// `L4`: bytes behind the IP header that the error shows.
#[inline(always)]
fn embed<A: Refuse, const L4: usize>(ctx: &TcContext, loose: &Loose<A>, message: Message) -> Option<()> {
    let key = &loose.packet.key;
    let shown = A::HEADER + L4;
    cut(ctx, EthHdr::LEN + shown)?;
    // The Ethernet header that is there becomes the end of the ICMP header.
    // SAFETY: the context is valid for the whole run of the program.
    let grown = unsafe { bpf_skb_change_head(ctx.skb.skb, (A::HEADER + icmp::HEADER as usize) as u32, 0) };
    if grown != 0 {
        return None;
    }
    let length = icmp::HEADER as usize + shown;
    let frame = packet::bytes(ctx, 0, A::L4 + length)?;
    // SAFETY: `bytes` has checked the length.
    unsafe {
        let [to, from] = *frame.add(A::HEADER + icmp::HEADER as usize).cast::<[[u8; 6]; 2]>();
        *frame.cast::<[[u8; 6]; 2]>() = [from, to];
        *frame.add(12).cast::<u16>() = A::ETHER_TYPE;
        A::write_header(frame.add(EthHdr::LEN), key.dst, key.src, A::ICMP, length as u16);
        let icmp = frame.add(A::L4);
        *icmp.cast::<[u8; 4]>() = [message.kind, message.code, 0, 0];
        *icmp.add(4).cast::<u32>() = message.rest;
        let mut sum =
            if A::ICMP_COVERS_ADDRESSES { pseudo_sum(key.dst, key.src, A::ICMP, length as u16) } else { 0 };
        let mut at = 0;
        while at < length {
            sum += u32::from(*icmp.add(at).cast::<u16>());
            at += 2;
        }
        *icmp.add(icmp::CHECKSUM as usize).cast::<u16>() = !checksum::fold(sum);
    }
    Some(())
}

/// The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline(always)]
pub fn pseudo_sum<A: Family>(src: A, dst: A, protocol: u8, length: u16) -> u32 {
    src.sum() + dst.sum() + u32::from(u16::from(protocol).to_be()) + u32::from(length.to_be())
}
