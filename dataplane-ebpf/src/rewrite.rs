//! How does a packet get its new address? By direct writes where the bytes
//! are ours alone, by helper where the kernel keeps a checksum half done.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use causeway_schema::{Flow, GATEWAY_MAC, Port, checksum, flow::flags, protocol};
use network_types::eth::EthHdr;

use crate::{family::Family, packet};

/// Offsets of the checksum in the L4 header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// One routed hop: L2 addresses of the delivery (when the destination is a
/// container here) and TTL less one. `flow` adds the translation.
///
/// `None` when the packet cannot be written.
#[inline(always)]
pub fn forward<A: Family>(
    ctx: &TcContext,
    mac: Option<&[u8; 6]>,
    flow: Option<&Flow<A>>,
    protocol: u8,
) -> Option<()> {
    // Ports are the first four bytes of the L4 header.
    let length = if flow.is_some() { A::L4 + 4 } else { A::L4 };
    let frame = packet::bytes(ctx, 0, length)?;
    let mut header_difference;
    let mut old_port = Port::NONE;
    // SAFETY: `bytes` has checked the length for everything below.
    unsafe {
        if let Some(mac) = mac {
            *frame.cast::<[u8; 6]>() = *mac;
            *frame.add(6).cast::<[u8; 6]>() = GATEWAY_MAC;
        }
        // TTL is the first byte of its 16-bit word, the protocol the second.
        let ttl = frame.add(A::TTL);
        let word = ttl.cast::<u16>();
        let before = u32::from(*word);
        *ttl -= 1;
        header_difference = checksum::difference(before, u32::from(*word));
        if let Some(flow) = flow {
            let (addr_at, port_at) = if flow.flags & flags::REPLY == 0 { (A::DST, 2) } else { (A::SRC, 0) };
            *frame.add(addr_at).cast::<A>() = flow.addr;
            header_difference += flow.addr_delta;
            let port = frame.add(A::L4 + port_at).cast::<Port>();
            old_port = *port;
            *port = flow.port;
        }
        A::update_header_checksum(frame.add(EthHdr::LEN), header_difference);
    }
    let Some(flow) = flow else { return Some(()) };

    // The L4 checksum of a locally made packet holds only the pseudo header's
    // sum (CHECKSUM_PARTIAL), which this program cannot see but the helper can:
    // addresses belong to that sum, ports do not.
    let (at, mangled) = match protocol {
        protocol::TCP => (A::L4 + TCP_CHECKSUM, 0),
        _ => (A::L4 + UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0)),
    };
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | mangled;
    ctx.l4_csum_replace(at, 0, u64::from(flow.addr_delta), pseudo).ok()?;
    if old_port != flow.port {
        ctx.l4_csum_replace(at, u64::from(old_port.raw()), u64::from(flow.port.raw()), mangled | 2).ok()?;
    }
    Some(())
}
