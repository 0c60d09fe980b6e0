//! Who has the gateway? We do, for every container, with one address
//! (RFC 826); nothing on the host owns it and no proxy_arp is needed.

use aya_ebpf::programs::TcContext;
use causeway_schema::{GATEWAY_MAC, GATEWAY_V4, V4, Verdict};
use network_types::{arp::ArpHdr, eth::EthHdr};

use crate::{act::Decision, deliver, packet};

const REQUEST: [u8; 2] = 1_u16.to_be_bytes();
const REPLY: [u8; 2] = 2_u16.to_be_bytes();
/// Hardware type Ethernet, protocol IPv4, lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Answers a container's request for its gateway, in place.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> Decision {
    let Some(arp) = packet::pulled(ctx, EthHdr::LEN, ArpHdr::LEN) else {
        return Decision::end(Verdict::DropTruncated);
    };
    // SAFETY: `pulled` has checked the length; the struct is of bytes.
    let arp = unsafe { &mut *arp.cast::<ArpHdr>() };
    let kind = [arp.htype[0], arp.htype[1], arp.ptype[0], arp.ptype[1], arp.hlen, arp.plen];
    if kind != ETHERNET_IPV4 {
        return Decision::end(Verdict::DropArp);
    }
    let own = deliver::is_own_source(ctx, V4(arp.spa));
    if own && (arp.oper == REPLY || arp.oper == REQUEST && arp.tpa == arp.spa) {
        // The container answers the host, which asked for it, or announces
        // another hardware address of its own.
        return Decision::end(Verdict::StackHost);
    }
    // One without an address yet asks without one (RFC 5227).
    if arp.oper != REQUEST || arp.tpa != GATEWAY_V4.0 || !(own || arp.spa == [0; 4]) {
        return Decision::end(Verdict::DropArp);
    }
    let asker = ArpHdr { tha: arp.sha, tpa: arp.spa, ..*arp };
    *arp = ArpHdr { oper: REPLY, sha: GATEWAY_MAC, spa: GATEWAY_V4.0, ..asker };
    let Some(eth) = packet::bytes(ctx, 0, EthHdr::LEN) else {
        return Decision::end(Verdict::DropTruncated);
    };
    // SAFETY: length checked by `bytes`.
    unsafe {
        *eth.cast::<[u8; 6]>() = asker.tha;
        *eth.add(6).cast::<[u8; 6]>() = GATEWAY_MAC;
    }
    Decision::answer(ctx, Verdict::GatewayArp)
}
