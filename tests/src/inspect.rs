//! Reading frames back: checksums the slow way, and what differs between two.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use causeway_schema::protocol;

use crate::{
    frame::Frame,
    parse::{self, Parsed, Part},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    Tcp,
    Udp,
}

impl L4 {
    pub fn of(protocol: u8) -> Option<Self> {
        match protocol {
            protocol::TCP => Some(L4::Tcp),
            protocol::UDP => Some(L4::Udp),
            _ => None,
        }
    }

    /// Offset of the checksum in the header.
    pub fn checksum_at(self) -> usize {
        match self {
            L4::Tcp => 16,
            L4::Udp => 6,
        }
    }

    pub fn header(self) -> usize {
        match self {
            L4::Tcp => 20,
            L4::Udp => 8,
        }
    }
}

/// The one's complement sum of network-order words (RFC 1071), never 0 unless
/// all of `bytes` is.
pub fn sum(bytes: &[u8]) -> u16 {
    fold(words(bytes))
}

pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Of either family (RFC 793, RFC 8200 8.1); both addresses of the same.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            [&src.octets()[..], &dst.octets(), &[0, protocol], &(length as u16).to_be_bytes()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            [&src.octets()[..], &dst.octets(), &(length as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// A checksum in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    pub what: &'static str,
    /// Offset in the frame.
    pub at: usize,
    /// What it and all that it covers sum up to, as far as it is here: 0xffff
    /// where the checksum is right, and the same before and after a rewrite
    /// where it was wrong before, or where the rest is elsewhere.
    pub residual: u16,
}

/// The checksums of a packet, and of the packet that it quotes; those that a
/// sender has left out are not among them.
pub fn residuals(frame: &[u8]) -> Vec<Check> {
    if !matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd])) {
        return Vec::new();
    }
    let Ok(packet) = Parsed::read(frame) else { return Vec::new() };
    let six = packet.is_v6();
    let mut checks = Vec::new();
    if !six {
        checks.push(Check { what: "IPv4", at: 24, residual: sum(&frame[14..packet.l4]) });
    }
    if packet.part == Part::Later {
        return checks;
    }
    let l4 = &frame[packet.l4..packet.end];
    let pseudo = pseudo_sum(packet.src.ip(), packet.dst.ip(), packet.protocol, l4.len());
    if let Some(kind) = L4::of(packet.protocol) {
        checks.extend(transport(kind, packet.l4, l4, pseudo));
    } else if packet.is_icmp() {
        let covered = if six { pseudo } else { 0 };
        checks.push(Check { what: "ICMP", at: packet.l4 + 2, residual: add(covered, l4) });
        if is_icmp_error(l4[0], six) {
            checks.extend(quoted(&frame[..packet.end], packet.l4 + 8, six));
        }
    }
    checks
}

fn transport(kind: L4, at: usize, l4: &[u8], pseudo: u64) -> Option<Check> {
    let field = l4.get(kind.checksum_at()..kind.checksum_at() + 2)?;
    if kind == L4::Udp && field == [0, 0] {
        return None;
    }
    Some(Check { what: "TCP or UDP", at: at + kind.checksum_at(), residual: add(pseudo, l4) })
}

/// Those of an embedded packet, whose end may be missing.
fn quoted(frame: &[u8], at: usize, six: bool) -> Vec<Check> {
    let Some(quote) = Quoted::read(frame, at, six) else { return Vec::new() };
    let mut checks = Vec::new();
    if !six {
        checks.push(Check { what: "quoted IPv4", at: at + 10, residual: sum(&frame[at..quote.l4]) });
    }
    let pseudo = pseudo_sum(quote.src.ip(), quote.dst.ip(), quote.protocol, 0);
    let l4 = &frame[quote.l4..];
    match L4::of(quote.protocol) {
        Some(kind) => checks.extend(transport(kind, quote.l4, l4, pseudo)),
        None => {
            let covered = if six { pseudo } else { 0 };
            checks.push(Check { what: "quoted ICMP", at: quote.l4 + 2, residual: add(covered, l4) });
        }
    }
    checks
}

/// Destination unreachable, time exceeded and their like (RFC 792, RFC 4443).
pub fn is_icmp_error(kind: u8, six: bool) -> bool {
    if six { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) }
}

/// The TCP or UDP packet, or the echo request, that an ICMP error is about.
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    /// Its port is an echo request's identifier.
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: u8,
    /// Offset of its L4 header in the frame, and of what tells flows apart there:
    /// two ports, or an identifier.
    pub l4: usize,
    pub names: usize,
}

impl Quoted {
    /// Reads it at `at` of a frame, which ends with its datagram.
    pub fn read(frame: &[u8], at: usize, six: bool) -> Option<Self> {
        let ip = frame.get(at..)?;
        let header = if six { 40 } else { usize::from(ip.first()? & 15) * 4 };
        let version = if six { 6 } else { 4 };
        if ip.len() < if six { 40 } else { 20 } || ip[0] >> 4 != version || header < 20 {
            return None;
        }
        let protocol = if six { ip[6] } else { ip[9] };
        let later = !six && (ip[6] & 0x1f | ip[7]) != 0;
        let echo = if six { (protocol::ICMPV6, 128) } else { (protocol::ICMP, 8) };
        let is_echo = (protocol, *ip.get(header)?) == echo;
        if later || !is_echo && L4::of(protocol).is_none() {
            return None;
        }
        let names = if is_echo { header + 4 } else { header };
        let id = |at| ip.get(at..at + 2);
        let [from, to] = [id(names)?, id(names + 2)?];
        let ports = [from, if is_echo { &[0, 0] } else { to }];
        let (src, dst) = if six { (8, 24) } else { (12, 16) };
        let end = |at, port: &[u8]| {
            SocketAddr::new(parse::address(ip, at, six), u16::from_be_bytes([port[0], port[1]]))
        };
        let (src, dst) = (end(src, ports[0]), end(dst, ports[1]));
        Some(Self { src, dst, protocol, l4: at + header, names: at + names })
    }
}

/// A frame with its checksum fields zeroed, to compare with another whose
/// checksums are held against [`residuals`].
pub fn without_checksums(frame: &[u8]) -> Vec<u8> {
    let checks = residuals(frame);
    let mut frame = frame.to_vec();
    checks.iter().for_each(|check| frame[check.at..check.at + 2].fill(0));
    frame
}

fn pseudo_sum(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> u64 {
    let of = |address: IpAddr| match address {
        IpAddr::V4(address) => words(&address.octets()),
        IpAddr::V6(address) => words(&address.octets()),
    };
    of(src) + of(dst) + u64::from(protocol) + length as u64
}

fn add(sum: u64, bytes: &[u8]) -> u16 {
    fold(sum + words(bytes))
}

fn words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A frame in a form that a person can hold against another.
pub fn describe(frame: &[u8]) -> String {
    let mut text = match Frame::read(frame) {
        Ok(frame) => frame.to_string(),
        Err(error) => format!("unreadable: {error:#}"),
    };
    text.push_str(", bytes ");
    for byte in frame {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
