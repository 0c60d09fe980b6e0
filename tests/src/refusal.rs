//! What is a sender told whose packet goes nowhere? A TCP reset or an ICMP
//! error, written by the book.

use std::net::IpAddr;

use causeway_schema::{Verdict, protocol};

use crate::{
    inspect::{checksum, is_icmp_error, pseudo_header},
    oracle::{End, Side},
    packet::tcp,
    parse::{Parsed, Part},
};

/// The frame that goes back, if one does.
pub fn of(frame: &[u8], packet: &Parsed, side: Side, end: End) -> Option<Vec<u8>> {
    let six = packet.is_v6();
    let src = packet.src.ip();
    if packet.part == Part::Later || is_multicast(src) || src.is_unspecified() {
        return None;
    }
    // Errors are not told of errors (RFC 1122, section 3.2.2).
    if packet.is_icmp() && is_icmp_error(frame[packet.l4], six) {
        return None;
    }
    let mut rest = 0_u32;
    let (kind, code) = match end.verdict {
        Verdict::DropNoBackend | Verdict::DropNoFrontend | Verdict::DropExpired
            if packet.protocol == protocol::TCP =>
        {
            return reset(frame, packet);
        }
        Verdict::DropNoBackend | Verdict::DropNoFrontend | Verdict::DropExpired => {
            if six {
                (1, 4)
            } else {
                (3, 3)
            }
        }
        Verdict::DropNoRoute => {
            if six {
                (1, 0)
            } else {
                (3, 0)
            }
        }
        Verdict::DropTtl if matches!(side, Side::Container { .. }) => {
            if six {
                (3, 0)
            } else {
                (11, 0)
            }
        }
        Verdict::DropTooBig => {
            rest = end.mtu.into();
            if six { (2, 0) } else { (3, 4) }
        }
        _ => return None,
    };
    // Enough of the packet to tell whose it was (RFC 792).
    let shown = packet.header() + if packet.protocol == protocol::TCP { 20 } else { 8 };
    let mut original = frame[14..frame.len().min(14 + shown)].to_vec();
    original.resize(shown, 0);
    let mut icmp = [&[kind, code, 0, 0][..], &rest.to_be_bytes(), &original].concat();
    let protocol = if six { protocol::ICMPV6 } else { protocol::ICMP };
    let pseudo =
        if six { pseudo_header(packet.dst.ip(), packet.src.ip(), protocol, icmp.len()) } else { Vec::new() };
    let check = checksum(&[&pseudo[..], &icmp].concat());
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    Some(back(frame, packet, protocol, &icmp))
}

/// To many, or to all (RFC 5771, RFC 4291).
pub fn is_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] >= 224,
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// The answer to a segment of no connection (RFC 9293, section 3.10.7.1).
fn reset(frame: &[u8], packet: &Parsed) -> Option<Vec<u8>> {
    let flags = packet.tcp_flags;
    if packet.has_options() || flags & tcp::RST != 0 {
        return None;
    }
    let segment = &frame[packet.l4..];
    let word = |at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().unwrap());
    let header = usize::from(segment[12] >> 4) * 4;
    let data = packet.end.saturating_sub(packet.l4 + header) as u32;
    let length = data + u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
    let (sequence, acknowledgement, flags) = match flags & tcp::ACK {
        0 => (0, word(4).wrapping_add(length), tcp::RST | tcp::ACK),
        _ => (word(8), 0, tcp::RST),
    };
    let mut answer = [&segment[2..4], &segment[0..2]].concat();
    answer.extend(sequence.to_be_bytes());
    answer.extend(acknowledgement.to_be_bytes());
    answer.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    let pseudo = pseudo_header(packet.dst.ip(), packet.src.ip(), protocol::TCP, answer.len());
    let check = checksum(&[&pseudo[..], &answer].concat());
    answer[16..18].copy_from_slice(&check.to_be_bytes());
    Some(back(frame, packet, protocol::TCP, &answer))
}

/// A fresh packet from where `frame` was sent to, to where it came from.
fn back(frame: &[u8], packet: &Parsed, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut out = [&frame[6..12], &frame[..6], &frame[12..14]].concat();
    if packet.is_v6() {
        out.extend([0x60, 0, 0, 0]);
        out.extend((l4.len() as u16).to_be_bytes());
        out.extend([protocol, 64]);
        out.extend(&frame[38..54]);
        out.extend(&frame[22..38]);
    } else {
        out.extend([0x45, 0]);
        out.extend(((20 + l4.len()) as u16).to_be_bytes());
        out.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        out.extend(&frame[30..34]);
        out.extend(&frame[26..30]);
        let check = checksum(&out[14..34]);
        out[24..26].copy_from_slice(&check.to_be_bytes());
    }
    out.extend(l4);
    out
}
