//! An IP packet of either family read byte by byte, and why one cannot be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_schema::{Verdict, protocol};

use crate::packet::tcp;

/// Extension headers that are walked at most.
const EXTENSIONS: usize = 6;
const FRAGMENT: u8 = 44;

#[derive(Clone, Debug)]
pub struct Parsed {
    /// Ports are 0 unless `has_ports`.
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: u8,
    pub ttl: u8,
    pub part: Part,
    /// Of a fragment; 0 if there is none.
    pub id: u32,
    pub dont_fragment: bool,
    pub has_ports: bool,
    pub tcp_flags: u8,
    /// Offset of the L4 header in the frame, and where the datagram ends.
    pub l4: usize,
    pub end: usize,
}

/// Which part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    Later,
}

impl Parsed {
    /// Reads the frame behind its Ethernet header, by its type.
    pub fn read(frame: &[u8]) -> Result<Self, Verdict> {
        let mut parsed = if is_v6(frame) { v6(frame)? } else { v4(frame)? };
        let header = match parsed.protocol {
            protocol::TCP => 20,
            protocol::UDP => 8,
            _ if parsed.is_icmp() => 8,
            _ => return Ok(parsed),
        };
        if parsed.part == Part::Later {
            return Ok(parsed);
        }
        // What a first fragment hides of its L4 header, nobody can translate.
        if parsed.l4 + header > parsed.end {
            let first = parsed.part == Part::First;
            return Err(if first { Verdict::DropFragment } else { Verdict::DropTruncated });
        }
        if parsed.is_icmp() {
            return Ok(parsed);
        }
        let l4 = &frame[parsed.l4..];
        parsed.src.set_port(u16::from_be_bytes([l4[0], l4[1]]));
        parsed.dst.set_port(u16::from_be_bytes([l4[2], l4[3]]));
        // Port 0 is no port: nobody could answer it.
        parsed.has_ports = parsed.src.port() != 0;
        if parsed.protocol == protocol::TCP {
            parsed.tcp_flags = l4[13];
        }
        Ok(parsed)
    }

    pub fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }

    /// Of the packet's own family.
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.is_v6() { protocol::ICMPV6 } else { protocol::ICMP }
    }

    /// Options or extension headers stand before the L4 header.
    pub fn has_options(&self) -> bool {
        self.l4 > 14 + self.header()
    }

    /// Length of the IP header without options.
    pub fn header(&self) -> usize {
        if self.is_v6() { 40 } else { 20 }
    }

    pub fn closes_connection(&self) -> bool {
        self.tcp_flags & (tcp::FIN | tcp::RST) != 0
    }

    /// SYN without ACK.
    pub fn opens_connection(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}

pub fn is_v6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
}

/// The address at `at`; there are enough bytes.
pub fn address(bytes: &[u8], at: usize, six: bool) -> IpAddr {
    if six {
        let octets: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
        Ipv6Addr::from(octets).into()
    } else {
        Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]).into()
    }
}

fn v4(frame: &[u8]) -> Result<Parsed, Verdict> {
    let ip = frame.get(14..).filter(|ip| ip.len() >= 20).ok_or(Verdict::DropTruncated)?;
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if ip[0] >> 4 != 4 || header < 20 || total == 0 {
        return Err(Verdict::DropMalformed);
    }
    if total > ip.len() {
        return Err(Verdict::DropTruncated);
    }
    if total < header {
        return Err(Verdict::DropMalformed);
    }
    let fragment = u16::from_be_bytes([ip[6], ip[7]]);
    Ok(Parsed {
        src: SocketAddr::new(address(ip, 12, false), 0),
        dst: SocketAddr::new(address(ip, 16, false), 0),
        protocol: ip[9],
        ttl: ip[8],
        part: part(fragment & 0x1fff, fragment & 0x2000 != 0),
        id: u16::from_be_bytes([ip[4], ip[5]]).into(),
        dont_fragment: fragment & 0x4000 != 0,
        has_ports: false,
        tcp_flags: 0,
        l4: 14 + header,
        end: 14 + total,
    })
}

fn v6(frame: &[u8]) -> Result<Parsed, Verdict> {
    let ip = frame.get(14..).filter(|ip| ip.len() >= 40).ok_or(Verdict::DropTruncated)?;
    let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    if ip[0] >> 4 != 6 || payload == 0 {
        return Err(Verdict::DropMalformed);
    }
    let end = 54 + payload;
    if end > frame.len() {
        return Err(Verdict::DropTruncated);
    }
    let mut parsed = Parsed {
        src: SocketAddr::new(address(ip, 8, true), 0),
        dst: SocketAddr::new(address(ip, 24, true), 0),
        protocol: ip[6],
        ttl: ip[7],
        part: Part::Whole,
        id: 0,
        dont_fragment: true,
        has_ports: false,
        tcp_flags: 0,
        l4: 54,
        end,
    };
    let mut walked = 0;
    // Hop-by-hop, routing, fragment and destination headers (RFC 8200, section 4).
    while matches!(parsed.protocol, 0 | 43 | FRAGMENT | 60) && parsed.part != Part::Later {
        if walked == EXTENSIONS {
            return Err(Verdict::DropExtensions);
        }
        walked += 1;
        if parsed.l4 + 8 > end {
            return Err(Verdict::DropTruncated);
        }
        let head = &frame[parsed.l4..parsed.l4 + 8];
        if parsed.protocol == FRAGMENT {
            let field = u16::from_be_bytes([head[2], head[3]]);
            parsed.part = part(field >> 3, field & 1 != 0);
            parsed.id = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            parsed.l4 += 8;
        } else {
            parsed.l4 += (usize::from(head[1]) + 1) * 8;
        }
        parsed.protocol = head[0];
    }
    if parsed.l4 > end {
        return Err(Verdict::DropTruncated);
    }
    Ok(parsed)
}

fn part(offset: u16, more: bool) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    }
}
