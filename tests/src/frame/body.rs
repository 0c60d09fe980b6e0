//! What an IP packet carries.

use anyhow::Result;
use causeway_schema::protocol;

use super::{
    checksum::{Checksum, Cover},
    icmp::{Icmp, Message},
    transport::{Tcp, Udp, short},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Tcp(Tcp),
    Udp(Udp),
    /// Of the packet's own family.
    Icmp(Icmp),
    /// Other protocols, later fragments, and what is too short to be read.
    Raw {
        protocol: u8,
        bytes: Vec<u8>,
    },
}

impl Body {
    pub fn icmp(message: Message) -> Self {
        Body::Icmp(Icmp { message, checksum: Checksum::Right })
    }

    pub fn protocol(&self, v6: bool) -> u8 {
        match self {
            Body::Tcp(_) => protocol::TCP,
            Body::Udp(_) => protocol::UDP,
            Body::Icmp(_) if v6 => protocol::ICMPV6,
            Body::Icmp(_) => protocol::ICMP,
            Body::Raw { protocol, .. } => *protocol,
        }
    }

    pub fn checksum(&self) -> Option<Checksum> {
        match self {
            Body::Tcp(tcp) => Some(tcp.checksum),
            Body::Udp(udp) => Some(udp.checksum),
            Body::Icmp(icmp) => Some(icmp.checksum),
            Body::Raw { .. } => None,
        }
    }

    /// Source and destination port, where the first four bytes are there.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self {
            Body::Tcp(tcp) => Some((tcp.src, tcp.dst)),
            Body::Udp(udp) => Some((udp.src, udp.dst)),
            Body::Raw { protocol: protocol::TCP | protocol::UDP, bytes } if bytes.len() >= 4 => {
                Some((short(bytes, 0), short(bytes, 2)))
            }
            _ => None,
        }
    }

    pub(super) fn bytes(&self, cover: &Cover) -> Vec<u8> {
        match self {
            Body::Tcp(tcp) => tcp.bytes(cover),
            Body::Udp(udp) => udp.bytes(cover),
            Body::Icmp(icmp) => icmp.bytes(cover),
            Body::Raw { bytes, .. } => bytes.clone(),
        }
    }

    pub(super) fn read(protocol: u8, bytes: &[u8], cover: &Cover) -> Result<Self> {
        let v6 = cover.src.is_ipv6();
        let read = match protocol {
            protocol::TCP => Tcp::read(bytes, cover).map(Body::Tcp),
            protocol::UDP => Udp::read(bytes, cover).map(Body::Udp),
            protocol::ICMP if !v6 => Icmp::read(bytes, cover).map(Body::Icmp),
            protocol::ICMPV6 if v6 => Icmp::read(bytes, cover).map(Body::Icmp),
            _ => return Ok(Self::raw(protocol, bytes)),
        };
        // A first fragment and a quotation may end within a header.
        if cover.whole { read } else { read.or_else(|_| Ok(Self::raw(protocol, bytes))) }
    }

    pub(super) fn raw(protocol: u8, bytes: &[u8]) -> Self {
        Body::Raw { protocol, bytes: bytes.to_vec() }
    }
}
