//! Who has the gateway, in IPv6? We do: a container's neighbour solicitation
//! becomes its advertisement, in place (RFC 4861).

use aya_ebpf::programs::TcContext;
use causeway_schema::{Addr, GATEWAY_MAC, GATEWAY_V6, V6, Verdict, checksum};
use network_types::eth::EthHdr;

use crate::{act::Decision, deliver, family::Family, loose::Loose, packet};

pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// A solicitation with the one option that matters, the asker's address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Solicitation {
    kind: u8,
    code: u8,
    check: u16,
    flags: [u8; 4],
    target: V6,
    option: u8,
    option_length: u8,
    mac: [u8; 6],
}

const LENGTH: usize = size_of::<Solicitation>();
/// Source link-layer address, target link-layer address, both of 8 bytes.
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
/// From a router, asked for, takes the place of what was known.
const ROUTER_SOLICITED_OVERRIDE: u8 = 0xe0;
/// Nothing of ND may have been forwarded by anyone.
const HOPS: u8 = 255;

/// A container answers the host, which asked for it: in its own name.
#[inline(always)]
pub fn advertised(ctx: &TcContext, loose: &Loose<V6>) -> Verdict {
    // The target stands behind type, code, checksum and flags.
    let Ok(target) = ctx.load::<V6>(loose.l4 as usize + 8) else { return Verdict::DropNd };
    if V6::is_link_local(target) || deliver::is_own_source(ctx, target) {
        Verdict::StackHost
    } else {
        Verdict::DropNd
    }
}

/// Answers a container's solicitation for its gateway, in place.
#[inline(always)]
pub fn answer(ctx: &TcContext, loose: &Loose<V6>) -> Decision {
    if loose.l4 != V6::L4 as u32 || loose.packet.ttl != HOPS {
        return Decision::end(Verdict::DropNd);
    }
    let Some(frame) = packet::pulled(ctx, 0, V6::L4 + LENGTH) else {
        return Decision::end(Verdict::DropNd);
    };
    // SAFETY: `pulled` has checked the length; fields are of bytes or aligned.
    let asked = unsafe { *frame.add(V6::L4).cast::<Solicitation>() };
    let asker = loose.packet.key.src;
    // Without a source a container only looks whether the address is free for
    // itself: silence means yes, and this one is not.
    if asked.target != GATEWAY_V6 || asked.option != SOURCE_MAC || asker.0[0] == 0 {
        return Decision::end(Verdict::DropNd);
    }
    let mut answer = Solicitation {
        kind: NEIGHBOUR_ADVERTISEMENT,
        check: 0,
        flags: [ROUTER_SOLICITED_OVERRIDE, 0, 0, 0],
        option: TARGET_MAC,
        mac: GATEWAY_MAC,
        ..asked
    };
    // SAFETY: as above, for all that is written to the frame.
    unsafe {
        // Addresses: the multicast destination leaves the sum, the gateway comes.
        let words = |words: &Solicitation| -> u32 {
            let words: [u16; LENGTH / 2] = core::mem::transmute_copy(words);
            let mut sum = 0;
            for word in words {
                sum += u32::from(word);
            }
            sum
        };
        let pseudo = asker.sum()
            + GATEWAY_V6.sum()
            + u32::from((LENGTH as u16).to_be())
            + u32::from(u16::from(V6::ICMP).to_be());
        answer.check = !checksum::fold(pseudo + words(&answer));
        *frame.cast::<[u8; 6]>() = *frame.add(6).cast::<[u8; 6]>();
        *frame.add(6).cast::<[u8; 6]>() = GATEWAY_MAC;
        // Payload length and hop limit as the answer needs them.
        *frame.add(EthHdr::LEN + 4).cast::<u16>() = (LENGTH as u16).to_be();
        *frame.add(V6::SRC).cast::<V6>() = GATEWAY_V6;
        *frame.add(V6::DST).cast::<V6>() = asker;
        *frame.add(V6::L4).cast::<Solicitation>() = answer;
    }
    Decision::answer(ctx, Verdict::GatewayNd)
}
