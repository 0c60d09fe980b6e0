//! How does a backend learn who its client is where it cannot see that? By a
//! header before the client's first byte (HAProxy's proxy-protocol.txt, version
//! 2, section 2.2), which stands where the backend looks for sequence numbers
//! that the client has never used.
//!
//! The client's SYN says S; the backend hears S - N, N being the header's length,
//! and the client that its S was acknowledged. From then on both mean the same
//! by a number: what the backend misses before S + 1 is the header. So no number
//! has to be translated once it has acknowledged that, and the flow is like any.
//!
//! Until then nothing of what a client says may come to stand in the header's
//! place. What it sends before S + 1, before the backend has answered, or as an
//! answer to what this backend has not said (a cookie for another SYN, RFC 4987
//! section 3.6), goes on without its data. A backend waits for the header before
//! it speaks (section 2), so a client has nothing but the SYN to acknowledge.

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{bpf_clone_redirect, bpf_skb_change_tail},
    programs::TcContext,
};
use causeway_schema::{Addr, Flow, FlowKey, Port, V4, Verdict, checksum, flow::flags, protocol};
use network_types::eth::EthHdr;

use crate::{
    act::{self, Decision},
    cache,
    context::Context,
    family::Family,
    flow, jump,
    loose::{self, Loose, Part},
    packet::{self, TCP_ACK, TCP_FIN, TCP_HEADER, TCP_OFFSET_FLAGS, TCP_PSH, TCP_RST, TCP_SYN, TCP_URG},
    refuse::{self, Refuse},
    rewrite, slow, trace,
};

/// The header: who speaks to whom, as the client knows them.
#[repr(C)]
struct Header<A> {
    signature: [u32; 3],
    /// Version 2 and "on behalf of", family and protocol.
    kind: [u8; 2],
    /// Of what follows, in network order.
    length: u16,
    src: A,
    dst: A,
    ports: [Port; 2],
}

const SIGNATURE: [u32; 3] =
    [u32::from_ne_bytes(*b"\r\n\r\n"), u32::from_ne_bytes(*b"\0\r\nQ"), u32::from_ne_bytes(*b"UIT\n")];
const PROXY: u8 = 0x21;

impl<A: Family> Header<A> {
    const LENGTH: u32 = size_of::<Self>() as u32;

    #[inline(always)]
    fn of(loose: &Loose<A>) -> Self {
        let key = &loose.packet.key;
        Self {
            signature: SIGNATURE,
            kind: [PROXY, A::PROXY],
            length: (Self::LENGTH as u16 - 16).to_be(),
            src: key.src,
            dst: key.dst,
            ports: [key.src_port, key.dst_port],
        }
    }

    /// The sum of its 16-bit words.
    #[inline(always)]
    fn sum(&self) -> u32 {
        let signature = self.signature.iter().map(|&word| sum(word)).sum::<u32>();
        let kind = u32::from(u16::from_ne_bytes(self.kind)) + u32::from(self.length);
        let ports = u32::from(self.ports[0].raw()) + u32::from(self.ports[1].raw());
        signature + kind + self.src.sum() + self.dst.sum() + ports
    }
}

/// The sum of the halves of a word as it lies in memory.
#[inline(always)]
fn sum(word: u32) -> u32 {
    V4(word.to_ne_bytes()).sum()
}

const SEQUENCE: u32 = 4;
const ACKNOWLEDGEMENT: u32 = 8;
const WINDOW: u32 = 14;

/// Whether a flow may begin with the packet at hand: of a connection that is
/// under way, nobody knows what its backend has heard. A SYN leaves its number.
#[inline(always)]
pub fn may_begin<A: Refuse>(ctx: &TcContext, loose: &mut Loose<A>) -> bool {
    if loose.begins.flags & flags::PROXY == 0 {
        return true;
    }
    if !loose.packet.is_tcp() {
        loose.begins.flags &= !flags::PROXY;
        return true;
    }
    let Ok(sequence) = ctx.load::<[u8; 4]>((loose.l4 + SEQUENCE) as usize) else { return false };
    loose.begins.serving.generation = u32::from_be_bytes(sequence).wrapping_add(1);
    loose.packet.opens_connection()
}

/// Goes on for a slow program with a packet of such a flow, which stands where
/// flows are made; what becomes of it is carried on as others are.
#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext) -> i32 {
    let (Some(loose), Some(pair)) = (loose::held::<A>(), A::pair()) else { return act::broken(ctx) };
    // SAFETY: as in `new_flow::pair`.
    let flow = unsafe { &(*pair).request };
    (loose.service, loose.backend) = (flow.service, flow.backend);
    let side = loose.side;
    let verdict = match prepare(ctx, loose, flow) {
        Ok(target) => {
            jump::to(ctx, side, target);
            Verdict::DropInconsistent
        }
        Err(verdict) => verdict,
    };
    slow::finish(ctx, side, loose, Decision::end(verdict))
}

/// Who goes on with the packet once it is what its receiver is to get.
#[inline(always)]
fn prepare<A: Refuse>(
    ctx: &TcContext,
    loose: &mut Loose<A>,
    flow: &Flow<A>,
) -> Result<jump::Target, Verdict> {
    if trace::is_dry(ctx) || loose.part == Part::Later || !loose.packet.is_tcp() {
        return Ok(A::TO_CARRY);
    }
    if flow.flags & flags::REPLY != 0 {
        answer(ctx, loose, flow)?;
        return Ok(A::TO_CARRY);
    }
    let (key, other) = (loose.packet.key, flow.twin(loose.packet.key.protocol));
    let (own, twin) = entries(&key, flow)?;
    let [sequence, acknowledgement] = numbers(ctx, loose)?;
    // Of the two, what replies say counts.
    if twin.flags & flags::PROXY == 0 {
        own.flags &= !(flags::PROXY | flags::HEADER_SENT);
        return Ok(A::TO_CARRY);
    }
    let answered = (twin.flags & flags::HEADER_DUE) | (own.flags & flags::HEADER_SENT) != 0;
    if !loose.packet.opens_connection() {
        let exact = answered && acknowledgement == twin.start();
        ask(ctx, loose, sequence, exact, own, twin)?;
        return Ok(A::TO_CARRY);
    }
    let again = flow.flags & flags::REPLIED != 0;
    if again && !answered || sequence.wrapping_add(1) != own.start() {
        // Another connection, or one to another backend.
        A::drop_established(&other);
        A::drop_established(&key);
        cache::invalidate();
        A::drop_embryonic(&other);
        A::drop_embryonic(&key);
        return Ok(A::TO_SLOW);
    }
    // Without data that it may have (RFC 7413): the client sends that again.
    remake(ctx, loose, sequence.wrapping_sub(Header::<A>::LENGTH), loose.packet.tcp_flags, None)?;
    Ok(A::TO_CARRY)
}

/// Where both sides of a flow stand, that of packets of this tuple first.
#[inline(always)]
fn entries<A: Family>(
    key: &FlowKey<A>,
    flow: &Flow<A>,
) -> Result<(&'static mut Flow<A>, &'static mut Flow<A>), Verdict> {
    let other = flow.twin(key.protocol);
    // Twice: they may be moving from one table to the other.
    let own = flow::entry(key).or_else(|| flow::entry(key));
    let twin = flow::entry(&other).or_else(|| flow::entry(&other));
    let (Some(own), Some(twin)) = (own, twin) else { return Err(Verdict::DropExpired) };
    // SAFETY: map values stay readable until the program ends (RCU).
    let (own, twin) = unsafe { (&mut *own, &mut *twin) };
    if twin.twin(key.protocol) != *key {
        return Err(Verdict::DropExpired);
    }
    Ok((own, twin))
}

/// A segment's sequence and acknowledgement numbers.
#[inline(always)]
fn numbers<A>(ctx: &TcContext, loose: &Loose<A>) -> Result<[u32; 2], Verdict> {
    let numbers: [[u8; 4]; 2] =
        ctx.load((loose.l4 + SEQUENCE) as usize).map_err(|_| Verdict::DropTruncated)?;
    Ok(numbers.map(u32::from_be_bytes))
}

/// Makes a backend's segment what the client is to get.
#[inline(always)]
pub fn answer<A: Refuse>(ctx: &TcContext, loose: &Loose<A>, flow: &Flow<A>) -> Result<(), Verdict> {
    let (own, request) = entries(&loose.packet.key, flow)?;
    let [sequence, acknowledgement] = numbers(ctx, loose)?;
    if request.flags & flags::PROXY == 0 {
        own.flags &= !(flags::PROXY | flags::HEADER_DUE);
        return Ok(());
    }
    let tcp_flags = loose.packet.tcp_flags;
    if tcp_flags & TCP_ACK == 0 {
        return Ok(());
    }
    let start = request.start();
    let first = acknowledgement == start.wrapping_sub(Header::<A>::LENGTH);
    let mut window = 0;
    if first && tcp_flags & TCP_SYN != 0 {
        own.set_start(sequence.wrapping_add(1));
        own.flags |= flags::HEADER_DUE;
        // Not scaled yet (RFC 7323, section 2.2), and some of it is for the header.
        window = Header::<A>::LENGTH as u16;
    } else if first && tcp_flags & TCP_RST != 0 {
        // It refuses the connection.
    } else if (own.flags & flags::HEADER_DUE) | (request.flags & flags::HEADER_SENT) == 0 {
        // To some other connection of these ports.
        return Ok(());
    } else if is_before(acknowledgement, start) {
        own.flags |= flags::HEADER_DUE;
    } else {
        if request.flags & flags::HEADER_SENT != 0 {
            request.flags &= !(flags::PROXY | flags::HEADER_SENT);
            own.flags &= !(flags::PROXY | flags::HEADER_DUE);
        }
        return Ok(());
    }
    // The client knows of nothing before its own first byte.
    acknowledge(ctx, loose, acknowledgement, start, window).ok_or(Verdict::DropRewrite)
}

/// From the client, after its SYN; `exact` if it acknowledges the backend's.
#[inline(always)]
fn ask<A: Refuse>(
    ctx: &TcContext,
    loose: &mut Loose<A>,
    sequence: u32,
    exact: bool,
    own: &mut Flow<A>,
    reply: &mut Flow<A>,
) -> Result<(), Verdict> {
    let tcp_flags = loose.packet.tcp_flags;
    let start = own.start();
    let before = start.wrapping_sub(Header::<A>::LENGTH);
    let due = reply.flags & flags::HEADER_DUE != 0;
    if tcp_flags & TCP_RST != 0 {
        // A reset has to be at the very number that comes next (RFC 5961, section 3).
        return if due && sequence == start { remake(ctx, loose, before, tcp_flags, None) } else { Ok(()) };
    }
    let has_data = loose.end > loose.l4 + u32::from(loose.packet.l4_header);
    if !exact || tcp_flags & TCP_ACK == 0 {
        let bare = tcp_flags & !(TCP_FIN | TCP_PSH | TCP_URG);
        // What follows in later fragments is data, too.
        let is_bare = !has_data && loose.part == Part::Whole;
        return if is_bare { Ok(()) } else { remake(ctx, loose, sequence, bare, None) };
    }
    let follows = (has_data || tcp_flags & TCP_FIN != 0) && !is_before(sequence, start);
    if follows && !due && own.flags & flags::HEADER_SENT != 0 {
        return Ok(());
    }
    if loose.part != Part::Whole {
        return Err(Verdict::DropFragment);
    }
    own.flags |= flags::HEADER_SENT;
    reply.flags &= !flags::HEADER_DUE;
    if follows {
        // It comes in anew, behind the header.
        // SAFETY: the context is valid for the whole run of the program.
        unsafe { bpf_clone_redirect(ctx.skb.skb, ctx.ifindex(), u64::from(BPF_F_INGRESS)) };
    }
    let header = Header::of(loose);
    remake(ctx, loose, before, tcp_flags & !(TCP_FIN | TCP_URG) | TCP_PSH, Some(&header))
}

/// Whether one sequence number comes before another (RFC 9293, section 3.4).
#[inline(always)]
fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

/// Makes a segment one of other sequence number and flags, and of no data but a
/// header, if it is to have one.
#[inline(always)]
fn remake<A: Refuse>(
    ctx: &TcContext,
    loose: &mut Loose<A>,
    sequence: u32,
    tcp_flags: u8,
    header: Option<&Header<A>>,
) -> Result<(), Verdict> {
    if loose.part != Part::Whole {
        return Err(Verdict::DropFragment);
    }
    let of_tcp = u32::from(loose.packet.l4_header);
    if of_tcp < TCP_HEADER as u32 || loose.l4 + of_tcp > loose.end {
        return Err(Verdict::DropMalformed);
    }
    let segment = of_tcp + if header.is_some() { Header::<A>::LENGTH } else { 0 };
    loose.end = loose.l4 + segment;
    lengthen::<A>(ctx, loose.end).ok_or(Verdict::DropRewrite)?;
    write(ctx, loose, sequence, tcp_flags, header).ok_or(Verdict::DropRewrite)
}

/// Makes the frame end elsewhere, and its IP header say so.
#[inline(always)]
fn lengthen<A: Family>(ctx: &TcContext, end: u32) -> Option<()> {
    // SAFETY: the context is valid for the whole run of the program.
    let resize = |end| unsafe { bpf_skb_change_tail(ctx.skb.skb, end, 0) } == 0;
    // Once too long: what a NIC has summed up of the frame (CHECKSUM_COMPLETE) is
    // forgotten when it grows. Not before it was cut: super-packets cannot grow.
    if !resize(end) || !resize(end + Header::<A>::LENGTH) || !resize(end) {
        return None;
    }
    let frame = packet::bytes(ctx, 0, A::L4)?;
    // SAFETY: `bytes` has checked the length.
    unsafe {
        let length = frame.add(A::LENGTH).cast::<u16>();
        let after = (end.wrapping_sub(A::UNCOUNTED as u32) as u16).to_be();
        let difference = checksum::difference(u32::from(*length), u32::from(after));
        *length = after;
        A::update_header_checksum(frame.add(EthHdr::LEN), difference);
    }
    Some(())
}

/// Longest TCP header, in words.
const WORDS: u32 = 15;

#[inline(always)]
fn write<A: Refuse>(
    ctx: &TcContext,
    loose: &Loose<A>,
    sequence: u32,
    tcp_flags: u8,
    header: Option<&Header<A>>,
) -> Option<()> {
    let (key, l4, segment) = (&loose.packet.key, loose.l4, loose.end - loose.l4);
    let of_tcp = u32::from(loose.packet.l4_header);
    ctx.store((l4 + SEQUENCE) as usize, &sequence.to_be(), 0).ok()?;
    ctx.store(l4 as usize + TCP_OFFSET_FLAGS + 1, &tcp_flags, 0).ok()?;
    ctx.store(rewrite::checksum_at(l4, protocol::TCP) as usize, &0u16, 0).ok()?;
    let mut rest = 0;
    for word in 0..WORDS {
        if word * 4 >= of_tcp {
            break;
        }
        rest += sum(ctx.load::<u32>((l4 + word * 4) as usize).ok()?);
    }
    if let Some(header) = header {
        ctx.store((l4 + of_tcp) as usize, header, 0).ok()?;
        rest += header.sum();
    }
    let pseudo = refuse::pseudo_sum(key.src, key.dst, protocol::TCP, segment as u16);
    rewrite::finish_checksum(ctx, l4, pseudo, rest)
}

/// Writes another acknowledgement into a segment, and takes so much off its window.
#[inline(always)]
fn acknowledge<A: Family>(ctx: &TcContext, loose: &Loose<A>, from: u32, to: u32, less: u16) -> Option<()> {
    let at = loose.l4 + WINDOW;
    let before = ctx.load::<u16>(at as usize).ok()?;
    let after = u16::from_be(before).saturating_sub(less).to_be();
    ctx.store(at as usize, &after, 0).ok()?;
    ctx.store((loose.l4 + ACKNOWLEDGEMENT) as usize, &to.to_be(), 0).ok()?;
    let difference =
        checksum::difference(sum(from.to_be()) + u32::from(before), sum(to.to_be()) + u32::from(after));
    let checksum = rewrite::checksum_at(loose.l4, protocol::TCP) as usize;
    ctx.update_checksum::<A>(checksum, protocol::TCP, 0, checksum::normal(difference))
}
