//! An IPv4 packet read byte by byte, and why one cannot be.

use std::net::{Ipv4Addr, SocketAddrV4};

use causeway_schema::{Verdict, protocol};

use crate::{inspect::L4, packet::tcp};

#[derive(Clone, Debug)]
pub struct Parsed {
    /// Ports are 0 unless `has_ports`.
    pub src: SocketAddrV4,
    pub dst: SocketAddrV4,
    pub protocol: u8,
    pub ttl: u8,
    pub options: bool,
    pub part: Part,
    pub id: u16,
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
    /// Reads the frame behind its Ethernet header.
    pub fn read(frame: &[u8]) -> Result<Self, Verdict> {
        let ip = frame.get(14..).filter(|ip| ip.len() >= 20).ok_or(Verdict::DropTruncated)?;
        let header = usize::from(ip[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        if ip[0] >> 4 != 4 || header < 20 || total < header {
            return Err(Verdict::DropMalformed);
        }
        if total > ip.len() {
            return Err(Verdict::DropTruncated);
        }
        let fragment = u16::from_be_bytes([ip[6], ip[7]]);
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let mut parsed = Self {
            src: SocketAddrV4::new(address(12), 0),
            dst: SocketAddrV4::new(address(16), 0),
            protocol: ip[9],
            ttl: ip[8],
            options: header > 20,
            part: match (fragment & 0x1fff, fragment & 0x2000) {
                (0, 0) => Part::Whole,
                (0, _) => Part::First,
                _ => Part::Later,
            },
            id: u16::from_ne_bytes([ip[4], ip[5]]),
            dont_fragment: fragment & 0x4000 != 0,
            has_ports: false,
            tcp_flags: 0,
            l4: 14 + header,
            end: 14 + total,
        };
        let Some(l4) = L4::of(parsed.protocol).filter(|_| parsed.part != Part::Later) else {
            return Ok(parsed);
        };
        // What a first fragment hides of its L4 header, nobody can translate.
        if total < header + l4.header() {
            let first = parsed.part == Part::First;
            return Err(if first { Verdict::DropFragment } else { Verdict::DropTruncated });
        }
        let l4 = &ip[header..];
        parsed.src.set_port(u16::from_be_bytes([l4[0], l4[1]]));
        parsed.dst.set_port(u16::from_be_bytes([l4[2], l4[3]]));
        // Port 0 is no port: nobody could answer it.
        parsed.has_ports = parsed.src.port() != 0;
        if parsed.protocol == protocol::TCP {
            parsed.tcp_flags = l4[13];
        }
        Ok(parsed)
    }

    pub fn closes_connection(&self) -> bool {
        self.tcp_flags & (tcp::FIN | tcp::RST) != 0
    }

    /// SYN without ACK.
    pub fn opens_connection(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}
