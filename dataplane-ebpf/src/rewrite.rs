//! How does a packet get its new addresses? By direct writes where the bytes
//! are ours alone, by helper where the kernel keeps a checksum half done.

use aya_ebpf::programs::TcContext;
use causeway_schema::{Flow, GATEWAY_MAC, Port, checksum, protocol};
use network_types::eth::EthHdr;

use crate::{context::Context, family::Family, packet};

/// Offsets of the checksum in the L4 header.
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;

/// Where the L4 header is.
#[derive(Clone, Copy)]
pub enum L4 {
    /// Right behind an IP header without options, in the linear part.
    Plain,
    At(u32),
    /// In another fragment.
    Absent,
}

/// One routed hop: L2 addresses of the delivery (when the destination is a
/// container here) and TTL less one. `flow` adds the translation.
///
/// `None` when the packet cannot be written.
#[inline(always)]
pub fn forward<A: Family, C: Context>(
    ctx: &C,
    mac: Option<&[u8; 6]>,
    flow: Option<&Flow<A>>,
    protocol: u8,
    l4: L4,
) -> Option<()> {
    // Ports are the first four bytes of the L4 header.
    let length = if flow.is_some() && matches!(l4, L4::Plain) { A::L4 + 4 } else { A::L4 };
    let frame = packet::bytes(ctx, 0, length)?;
    // SAFETY: `bytes` has checked the length for everything below.
    unsafe {
        if let Some(mac) = mac {
            packet::write_mac(frame, *mac);
            packet::write_mac(frame.add(6), GATEWAY_MAC);
        }
        let ttl = frame.add(A::TTL);
        let before = u32::from(*ttl);
        *ttl -= 1;
        let mut difference = A::account_ttl(ctx, before);
        if let Some(flow) = flow {
            *frame.add(A::SRC).cast::<A>() = flow.src;
            *frame.add(A::DST).cast::<A>() = flow.dst;
            difference += u32::from(flow.addr_delta);
            if matches!(l4, L4::Plain) {
                *frame.add(A::L4).cast::<[Port; 2]>() = [flow.src_port, flow.dst_port];
            }
        }
        A::update_header_checksum(frame.add(EthHdr::LEN), difference);
    }
    let Some(flow) = flow else { return Some(()) };
    let l4 = match l4 {
        L4::Plain => A::L4 as u32,
        L4::Absent => return Some(()),
        L4::At(offset) if protocol == A::ICMP => return echo(ctx, offset, flow),
        // Never translated: its checksum is no sum (RFC 9260, appendix A).
        L4::At(_) if protocol == protocol::SCTP => return Some(()),
        L4::At(offset) => {
            ctx.store(offset as usize, &[flow.src_port, flow.dst_port])?;
            offset
        }
    };
    let checksum = checksum_at(l4, protocol) as usize;
    ctx.update_checksum::<A>(checksum, protocol, flow.addr_delta, flow.port_delta)
}

/// Writes the checksum of a TCP header that has 0 in its place: `pseudo` is the
/// sum of the pseudo header, `rest` that of all else.
#[inline(always)]
pub fn finish_checksum(ctx: &TcContext, l4: u32, pseudo: u32, rest: u32) -> Option<()> {
    let at = (l4 + TCP_CHECKSUM) as usize;
    // The kernel finishes the checksum of a packet that was made on this
    // machine (CHECKSUM_PARTIAL); of such a packet the helper leaves alone
    // what is not of the pseudo header.
    ctx.l4_csum_replace(at, 0, 1, 0).ok()?;
    let untouched = ctx.load::<u16>(at).ok()? == 0;
    let check = if untouched { checksum::fold(pseudo) } else { !checksum::fold(pseudo + rest) };
    ctx.store(at, &check, 0).ok()
}

/// Offsets in an ICMP header of echo messages (RFC 792, RFC 4443).
const ICMP_CHECKSUM: u32 = 2;
pub const ICMP_ID: u32 = 4;

/// An echo message's identifier stands for the port of who asks.
#[inline(always)]
fn echo<A: Family, C: Context>(ctx: &C, l4: u32, flow: &Flow<A>) -> Option<()> {
    let id = if flow.src_port == Port::NONE { flow.dst_port } else { flow.src_port };
    ctx.store((l4 + ICMP_ID) as usize, &id)?;
    let addresses = if A::ICMP_COVERS_ADDRESSES { flow.addr_delta } else { 0 };
    // A checksum of 0 is one like others, as in TCP.
    ctx.update_checksum::<A>((l4 + ICMP_CHECKSUM) as usize, protocol::TCP, addresses, flow.port_delta)
}

/// Where the checksum of a TCP or UDP header stands.
#[inline(always)]
pub fn checksum_at(l4: u32, protocol: u8) -> u32 {
    l4 + if protocol == protocol::TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }
}
