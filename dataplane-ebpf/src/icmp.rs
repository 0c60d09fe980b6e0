//! What do ICMP messages mean to us? Errors about packets that we translated
//! are translated back, inside and outside; a ping of a service's address is
//! answered; neighbour discovery has `nd`.

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use causeway_schema::{Event, Flow, FlowKey, Port, V4, V6, Verdict, checksum, flow::flags, protocol};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    act::Decision,
    count, deliver,
    family::Family,
    flow, jump,
    loose::{Loose, Read},
    nd, packet,
    pipeline::Side,
    rewrite::{self, L4},
    service, slow, trace,
};

/// Offset of the checksum in an ICMP header, and its length up to what an
/// error embeds.
pub const CHECKSUM: u32 = 2;
pub const HEADER: u32 = 8;

/// A header within a packet.
pub struct Quoted<A> {
    pub src: A,
    pub dst: A,
    pub protocol: u8,
    /// Whether what follows is of a fragment that is not the first.
    pub is_later: bool,
    /// Offset of what follows it.
    pub payload: u32,
}

/// What ICMP calls things in one family.
pub trait Icmp: Family {
    const ECHO_REQUEST: u8;
    const ECHO_REPLY: u8;

    fn is_error(kind: u8) -> bool;

    /// The tuple of a packet embedded at `at`, and where its L4 header is;
    /// `None` when it shows no ports.
    fn embedded(ctx: &TcContext, at: u32) -> Option<(FlowKey<Self>, u32)>;

    /// What the header at `at` says.
    fn quoted(ctx: &TcContext, at: u32) -> Option<Quoted<Self>>;

    /// Gives the embedded header at `at` other addresses; `difference` is
    /// what they add to a sum. Returns what the whole header then adds.
    fn readdress(ctx: &TcContext, at: u32, src: Self, dst: Self, difference: u16) -> Option<u16>;

    /// Messages that concern a container and its gateway only.
    fn neighbour(ctx: &TcContext, side: Side, loose: &Loose<Self>, kind: u8) -> Option<Decision>;
}

impl Icmp for V4 {
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;

    /// Destination unreachable, time exceeded, parameter problem (RFC 792).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn embedded(ctx: &TcContext, at: u32) -> Option<(FlowKey<V4>, u32)> {
        let header: [u8; Ipv4Hdr::LEN] = ctx.load(at as usize).ok()?;
        let protocol = header[core::mem::offset_of!(Ipv4Hdr, proto)];
        let later = header[6] & 0x1f | header[7];
        if header[0] >> 4 != 4 || header[0] & 15 < 5 || !flow::is_tracked(protocol) || later != 0 {
            return None;
        }
        let src = V4([header[12], header[13], header[14], header[15]]);
        let dst = V4([header[16], header[17], header[18], header[19]]);
        let l4 = at + u32::from(header[0] & 15) * 4;
        let [src_port, dst_port]: [Port; 2] = ctx.load(l4 as usize).ok()?;
        Some((FlowKey::new(src, dst, src_port, dst_port, protocol), l4))
    }

    #[inline(always)]
    fn quoted(ctx: &TcContext, at: u32) -> Option<Quoted<V4>> {
        let first: u8 = ctx.load(at as usize).ok()?;
        let protocol = ctx.load(at as usize + core::mem::offset_of!(Ipv4Hdr, proto)).ok()?;
        let fragment: [u8; 2] = ctx.load(at as usize + core::mem::offset_of!(Ipv4Hdr, frags)).ok()?;
        let [src, dst] = ctx.load(at as usize + core::mem::offset_of!(Ipv4Hdr, src_addr)).ok()?;
        let payload = at + u32::from(first & 15) * 4;
        let is_later = fragment[0] & 0x1f | fragment[1] != 0;
        let is_header = first >> 4 == 4 && first & 15 >= 5;
        is_header.then_some(Quoted { src, dst, protocol, is_later, payload })
    }

    #[inline(always)]
    fn readdress(ctx: &TcContext, at: u32, src: V4, dst: V4, difference: u16) -> Option<u16> {
        let check_at = at as usize + core::mem::offset_of!(Ipv4Hdr, check);
        let check: u16 = ctx.load(check_at).ok()?;
        ctx.store(check_at, &checksum::update(check, u32::from(difference)), 0).ok()?;
        ctx.store(at as usize + core::mem::offset_of!(Ipv4Hdr, src_addr), &[src, dst], 0).ok()?;
        // The header's own checksum makes good for its addresses.
        Some(0)
    }

    #[inline(always)]
    fn neighbour(_: &TcContext, _: Side, _: &Loose<V4>, _: u8) -> Option<Decision> {
        None
    }
}

impl Icmp for V6 {
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;

    /// Unreachable, too big, time exceeded, parameter problem (RFC 4443).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn embedded(ctx: &TcContext, at: u32) -> Option<(FlowKey<V6>, u32)> {
        let head: [u8; 8] = ctx.load(at as usize).ok()?;
        let protocol = head[6];
        if head[0] >> 4 != 6 || !flow::is_tracked(protocol) {
            return None;
        }
        let addresses = at as usize + core::mem::offset_of!(Ipv6Hdr, src_addr);
        let [src, dst]: [V6; 2] = ctx.load(addresses).ok()?;
        let l4 = at + Ipv6Hdr::LEN as u32;
        let [src_port, dst_port]: [Port; 2] = ctx.load(l4 as usize).ok()?;
        Some((FlowKey::new(src, dst, src_port, dst_port, protocol), l4))
    }

    #[inline(always)]
    fn quoted(ctx: &TcContext, at: u32) -> Option<Quoted<V6>> {
        let first: u8 = ctx.load(at as usize).ok()?;
        let protocol = ctx.load(at as usize + core::mem::offset_of!(Ipv6Hdr, next_hdr)).ok()?;
        let [src, dst] = ctx.load(at as usize + core::mem::offset_of!(Ipv6Hdr, src_addr)).ok()?;
        let payload = at + Ipv6Hdr::LEN as u32;
        (first >> 4 == 6).then_some(Quoted { src, dst, protocol, is_later: false, payload })
    }

    #[inline(always)]
    fn readdress(ctx: &TcContext, at: u32, src: V6, dst: V6, difference: u16) -> Option<u16> {
        let addresses = at as usize + core::mem::offset_of!(Ipv6Hdr, src_addr);
        ctx.store(addresses, &[src, dst], 0).ok()?;
        Some(difference)
    }

    #[inline(always)]
    fn neighbour(ctx: &TcContext, side: Side, loose: &Loose<V6>, kind: u8) -> Option<Decision> {
        if side == Side::Uplink {
            return None;
        }
        match kind {
            nd::NEIGHBOUR_SOLICITATION => Some(nd::answer(ctx, loose)),
            nd::NEIGHBOUR_ADVERTISEMENT => Some(Decision::end(nd::advertised(ctx, loose))),
            nd::ROUTER_ADVERTISEMENT => Some(Decision::end(Verdict::DropRogueServer)),
            _ => None,
        }
    }
}

/// Decides about a message that is not simply a packet on its way.
#[inline(always)]
pub fn special<A: Read + Icmp>(ctx: &TcContext, side: Side, loose: &mut Loose<A>) -> Option<Decision> {
    let kind: u8 = ctx.load(loose.l4 as usize).ok()?;
    if let Some(decision) = A::neighbour(ctx, side, loose, kind) {
        return Some(decision);
    }
    if side == Side::Container && !deliver::is_own_source(ctx, loose.packet.key.src) {
        return None;
    }
    if A::is_error(kind) {
        return error(ctx, side, loose);
    }
    if kind == A::ECHO_REQUEST && service::owns(loose.packet.key.dst) {
        return echo(ctx, loose);
    }
    None
}

/// Gives an echo message the ports that its flow would be known by: its
/// identifier, at the end of who asks. Says whether it is the question.
#[inline(always)]
pub fn name_echo<A: Read + Icmp>(ctx: &TcContext, loose: &mut Loose<A>) -> Option<bool> {
    let kind: u8 = ctx.load(loose.l4 as usize).ok()?;
    let id: Port = ctx.load((loose.l4 + rewrite::ICMP_ID) as usize).ok()?;
    let key = &mut loose.packet.key;
    let asks = kind == A::ECHO_REQUEST;
    match (asks, kind == A::ECHO_REPLY) {
        (true, _) => key.src_port = id,
        (_, true) => key.dst_port = id,
        _ => return None,
    }
    Some(asks)
}

/// The tuple of an echo request embedded at `at`, as [`name_echo`] has it, and
/// where the message is.
#[inline(always)]
fn embedded_echo<A: Icmp>(ctx: &TcContext, at: u32) -> Option<(FlowKey<A>, u32)> {
    let Quoted { src, dst, protocol, is_later, payload } = A::quoted(ctx, at)?;
    let kind: u8 = ctx.load(payload as usize).ok()?;
    if protocol != A::ICMP || kind != A::ECHO_REQUEST || is_later {
        return None;
    }
    let id: Port = ctx.load((payload + rewrite::ICMP_ID) as usize).ok()?;
    Some((FlowKey::new(src, dst, id, Port::NONE, protocol), payload))
}

/// Where a message of a flow has what tells it from others: ports, or an
/// identifier and what counts within the flow.
#[inline(always)]
fn names_at<A: Family>(key: &FlowKey<A>, l4: u32) -> u32 {
    if key.protocol == A::ICMP { l4 + rewrite::ICMP_ID } else { l4 }
}

/// An error about a packet that went through one of our flows: its receiver
/// must see the packet as it had sent it.
#[inline(always)]
fn error<A: Read + Icmp>(ctx: &TcContext, side: Side, loose: &mut Loose<A>) -> Option<Decision> {
    let inner_at = loose.l4 + HEADER;
    let (inner, inner_l4) = A::embedded(ctx, inner_at).or_else(|| embedded_echo(ctx, inner_at))?;
    if names_at::<A>(&inner, inner_l4) + 4 > loose.end {
        // Those were no ports, but what lies behind the packet.
        return None;
    }
    // Answers to the embedded packet belong to the entry that we need.
    let entry = flow::lookup(&inner.reversed())?;
    // SAFETY: map values stay readable until the program ends (RCU).
    let entry = unsafe { &*entry };
    (loose.service, loose.backend) = (entry.service, entry.backend);
    if entry.flags & (flags::TUNNELLED | flags::EGRESS) != 0 {
        // About an answer that a backend elsewhere has sent itself, or to a
        // container whose packets leave by another node.
        if let Some(pair) = A::pair() {
            // SAFETY: as in `new_flow::pair`.
            unsafe { (*pair).request = *entry };
            loose.translated = true;
            jump::to(ctx, side, slow::carrier::<A>(entry.flags));
        }
        return Some(Decision::end(Verdict::DropInconsistent));
    }
    if loose.packet.ttl <= 1 {
        return Some(Decision::end(Verdict::DropTtl));
    }
    Some(match translate(ctx, loose, entry, &inner, inner_at, inner_l4) {
        // No error about an error (RFC 1122, section 3.2.2).
        Some(decision) if decision.is_slow() => Decision::end(decision.verdict),
        Some(decision) => {
            if !trace::is_dry(ctx) {
                count::event(Event::IcmpTranslated);
            }
            decision
        }
        None => Decision::end(Verdict::DropRewrite),
    })
}

#[inline(always)]
fn translate<A: Read + Icmp>(
    ctx: &TcContext,
    loose: &Loose<A>,
    entry: &Flow<A>,
    inner: &FlowKey<A>,
    inner_at: u32,
    inner_l4: u32,
) -> Option<Decision> {
    let sent = entry.twin(inner.protocol);
    let within = Flow::translating(inner, &sent);
    let mut difference = u32::from(A::readdress(ctx, inner_at, sent.src, sent.dst, within.addr_delta)?);
    let is_echo = inner.protocol == A::ICMP;
    let names_at = names_at::<A>(inner, inner_l4) as usize;
    if is_echo {
        ctx.store(names_at, &sent.src_port, 0).ok()?;
    } else {
        ctx.store(names_at, &[sent.src_port, sent.dst_port], 0).ok()?;
    }
    difference += u32::from(within.port_delta);
    // The embedded checksum, where the error reaches that far and there is one.
    let covered = if is_echo && !A::ICMP_COVERS_ADDRESSES { 0 } else { u32::from(within.addr_delta) };
    let check_at =
        if is_echo { inner_l4 + CHECKSUM } else { rewrite::checksum_at(inner_l4, inner.protocol) } as usize;
    if check_at + 2 <= loose.end as usize
        && let Ok(check) = ctx.load::<u16>(check_at)
        && !(check == 0 && inner.protocol == protocol::UDP)
    {
        let mut updated = checksum::update(check, covered + u32::from(within.port_delta));
        if updated == 0 && inner.protocol == protocol::UDP {
            // Zero would say that there is none (RFC 768).
            updated = u16::MAX;
        }
        ctx.store(check_at, &updated, 0).ok()?;
        difference += checksum::difference(u32::from(check), u32::from(updated));
    }

    // Outside: to whom the packet came from; as from whom it was sent to, if
    // that host speaks for itself and is not a router on the way.
    let outer = &loose.packet.key;
    let mut after = *outer;
    after.dst = entry.dst;
    if outer.src == inner.dst {
        after.src = entry.src;
    }
    // SAFETY: as in `new_flow::pair`.
    let outside = unsafe { &mut (*A::pair()?).request };
    *outside = Flow { hop: entry.hop, ..Flow::translating(outer, &after) };
    let check_at = (loose.l4 + CHECKSUM) as usize;
    let difference = checksum::normal(difference);
    if difference != 0 {
        ctx.l4_csum_replace(check_at, 0, u64::from(difference), 0).ok()?;
    }
    if A::ICMP_COVERS_ADDRESSES && outside.addr_delta != 0 {
        let pseudo = u64::from(BPF_F_PSEUDO_HDR);
        let delta = u64::from(outside.addr_delta);
        if ctx.l4_csum_replace(check_at, 0, delta, pseudo | A::PSEUDO_FLAG).is_err() {
            ctx.l4_csum_replace(check_at, 0, delta, pseudo).ok()?;
        }
    }
    outside.port_delta = 0;
    Some(match deliver::remembered(outside.hop, outside.dst) {
        Some((_, endpoint)) => deliver::local(ctx, &loose.packet, endpoint, Some(outside), L4::Absent),
        None => deliver::remote(ctx, &loose.packet, outside.src, outside.dst, Some(outside), L4::Absent),
    })
}

/// A fresh packet's TTL.
const TTL: u8 = 64;

/// The answer to a ping of a service's address, made of the question.
#[inline(always)]
fn echo<A: Read + Icmp>(ctx: &TcContext, loose: &Loose<A>) -> Option<Decision> {
    let key = &loose.packet.key;
    // Type and code are one word of the sum; the addresses only change places.
    let [from, to] = [u16::from(A::ECHO_REQUEST), u16::from(A::ECHO_REPLY)];
    let check_at = (loose.l4 + CHECKSUM) as usize;
    let difference = checksum::normal(checksum::difference(u32::from(from), u32::from(to)));
    ctx.l4_csum_replace(check_at, 0, u64::from(difference), 0).ok()?;
    ctx.store(loose.l4 as usize, &A::ECHO_REPLY, 0).ok()?;
    let frame = packet::bytes(ctx, 0, A::L4)?;
    // SAFETY: `bytes` has checked the length.
    unsafe {
        swap_macs(frame);
        *frame.add(A::SRC).cast::<A>() = key.dst;
        *frame.add(A::DST).cast::<A>() = key.src;
        *frame.add(A::TTL) = TTL;
        let difference = checksum::difference(u32::from(loose.packet.ttl), u32::from(TTL));
        A::update_header_checksum(frame.add(EthHdr::LEN), difference);
    }
    Some(Decision::back(ctx, Verdict::EchoReply))
}

/// Sends a frame back to whom it came from.
///
/// # Safety
/// `frame` points at a whole, writable Ethernet header.
#[inline(always)]
pub unsafe fn swap_macs(frame: *mut u8) {
    // SAFETY: the caller vouches for the header.
    unsafe {
        let [to, from] = *frame.cast::<[[u8; 6]; 2]>();
        *frame.cast::<[[u8; 6]; 2]>() = [from, to];
    }
}
