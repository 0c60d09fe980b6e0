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
    pub fragment: bool,
    pub has_ports: bool,
    pub tcp_flags: u8,
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
            fragment: fragment & 0x3fff != 0,
            has_ports: false,
            tcp_flags: 0,
        };
        let Some(l4) = L4::of(parsed.protocol).filter(|_| fragment & 0x1fff == 0) else { return Ok(parsed) };
        // A first fragment may be shorter than the header, but not than the ports;
        // the frame's padding may stand in for what it lacks.
        if !parsed.fragment && total < header + l4.header() {
            return Err(Verdict::DropTruncated);
        }
        let ports = ip.get(header..header + 4).ok_or(Verdict::DropTruncated)?;
        parsed.src.set_port(u16::from_be_bytes([ports[0], ports[1]]));
        parsed.dst.set_port(u16::from_be_bytes([ports[2], ports[3]]));
        parsed.has_ports = true;
        if parsed.protocol == protocol::TCP && parsed.is_plain() {
            parsed.tcp_flags = ip[header + 13];
        }
        Ok(parsed)
    }

    /// Neither options nor a fragment.
    pub fn is_plain(&self) -> bool {
        !self.options && !self.fragment
    }

    /// SYN without ACK.
    pub fn opens_connection(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}
