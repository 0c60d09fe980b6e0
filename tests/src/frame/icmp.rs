//! ICMP of both families: one name for what both have, each with its numbers.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use causeway_schema::protocol;

use super::{
    checksum::{Checksum, Cover, add, put},
    datagram::{Datagram, Quote},
    transport::long,
};
use crate::inspect::sum;

/// Options of neighbour discovery that hold the sender's hardware address.
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    pub message: Message,
    pub checksum: Checksum,
}

/// `original` holds the front of the packet that an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    EchoRequest {
        id: u16,
        seq: u16,
        data: Vec<u8>,
    },
    EchoReply {
        id: u16,
        seq: u16,
        data: Vec<u8>,
    },
    Unreachable {
        code: u8,
        original: Vec<u8>,
    },
    /// IPv4: unreachable, "fragmentation needed".
    TooBig {
        mtu: u32,
        original: Vec<u8>,
    },
    TimeExceeded {
        code: u8,
        original: Vec<u8>,
    },
    RouterSolicitation {
        mac: Option<[u8; 6]>,
    },
    NeighbourSolicitation {
        target: Ipv6Addr,
        mac: Option<[u8; 6]>,
    },
    /// `flags`: router 0x80, solicited 0x40, override 0x20.
    NeighbourAdvertisement {
        flags: u8,
        target: Ipv6Addr,
        mac: Option<[u8; 6]>,
    },
    /// Any other; `rest` is what follows the checksum.
    Other {
        kind: u8,
        code: u8,
        rest: Vec<u8>,
    },
}

impl Message {
    /// The packet that an error is about, as far as it is there.
    pub fn quote(&self) -> Option<Result<Quote>> {
        match self {
            Message::Unreachable { original, .. }
            | Message::TooBig { original, .. }
            | Message::TimeExceeded { original, .. } => Some(Datagram::read_quote(original)),
            _ => None,
        }
    }

    /// Type, code and what follows the checksum.
    fn parts(&self, v6: bool) -> (u8, u8, Vec<u8>) {
        let of = |v4: u8, six: u8| if v6 { six } else { v4 };
        let words = |a: u16, b: u16, data: &[u8]| [&a.to_be_bytes()[..], &b.to_be_bytes(), data].concat();
        let only_v6 = || assert!(v6, "neighbour discovery is of IPv6: {self:?}");
        match self {
            Message::EchoRequest { id, seq, data } => (of(8, 128), 0, words(*id, *seq, data)),
            Message::EchoReply { id, seq, data } => (of(0, 129), 0, words(*id, *seq, data)),
            Message::Unreachable { code, original } => (of(3, 1), *code, words(0, 0, original)),
            Message::TooBig { mtu, original } => {
                (of(3, 2), of(4, 0), [&mtu.to_be_bytes()[..], original].concat())
            }
            Message::TimeExceeded { code, original } => (of(11, 3), *code, words(0, 0, original)),
            Message::RouterSolicitation { mac } => {
                only_v6();
                (133, 0, [vec![0; 4], link_option(SOURCE_LINK, *mac)].concat())
            }
            Message::NeighbourSolicitation { target, mac } => {
                only_v6();
                (135, 0, [&[0; 4][..], &target.octets(), &link_option(SOURCE_LINK, *mac)].concat())
            }
            Message::NeighbourAdvertisement { flags, target, mac } => {
                only_v6();
                (136, 0, [&[*flags, 0, 0, 0][..], &target.octets(), &link_option(TARGET_LINK, *mac)].concat())
            }
            Message::Other { kind, code, rest } => (*kind, *code, rest.clone()),
        }
    }

    /// Whatever has bits that the named messages have no field for is `Other`.
    fn of(v6: bool, kind: u8, code: u8, rest: &[u8]) -> Self {
        let other = || Message::Other { kind, code, rest: rest.to_vec() };
        if rest.len() < 4 {
            return other();
        }
        let word = long(rest, 0);
        let (id, seq, data) = ((word >> 16) as u16, word as u16, rest[4..].to_vec());
        let target = || <[u8; 16]>::try_from(rest.get(4..20)?).ok().map(Ipv6Addr::from);
        let named = match (v6, kind, code) {
            (false, 8, 0) | (true, 128, 0) => Some(Message::EchoRequest { id, seq, data }),
            (false, 0, 0) | (true, 129, 0) => Some(Message::EchoReply { id, seq, data }),
            (false, 3, 4) | (true, 2, 0) => Some(Message::TooBig { mtu: word, original: data }),
            (false, 3, _) | (true, 1, _) => Some(Message::Unreachable { code, original: data }),
            (false, 11, _) | (true, 3, _) => Some(Message::TimeExceeded { code, original: data }),
            (true, 133, 0) => Some(Message::RouterSolicitation { mac: read_link_option(&rest[4..]) }),
            (true, 135, 0) => target()
                .map(|target| Message::NeighbourSolicitation { target, mac: read_link_option(&rest[20..]) }),
            (true, 136, 0) => target().map(|target| Message::NeighbourAdvertisement {
                flags: rest[0],
                target,
                mac: read_link_option(&rest[20..]),
            }),
            _ => None,
        };
        named.filter(|named| named.parts(v6) == (kind, code, rest.to_vec())).unwrap_or_else(other)
    }
}

impl Icmp {
    pub(super) fn bytes(&self, cover: &Cover) -> Vec<u8> {
        let (kind, code, rest) = self.message.parts(cover.src.is_ipv6());
        let mut bytes = vec![kind, code, 0, 0];
        bytes.extend(rest);
        let field = self.checksum.field(Self::rest(&bytes, cover));
        put(&mut bytes, 2, field);
        bytes
    }

    pub(super) fn read(bytes: &[u8], cover: &Cover) -> Result<Self> {
        ensure!(bytes.len() >= 4, "an ICMP message of {} bytes", bytes.len());
        let field = u16::from_be_bytes([bytes[2], bytes[3]]);
        let checksum =
            if cover.whole { Checksum::of(field, Self::rest(bytes, cover)) } else { Checksum::Given(field) };
        Ok(Self { message: Message::of(cover.src.is_ipv6(), bytes[0], bytes[1], &bytes[4..]), checksum })
    }

    /// Of ICMP for IPv4 alone the checksum covers no addresses.
    fn rest(bytes: &[u8], cover: &Cover) -> u16 {
        if cover.src.is_ipv6() {
            cover.rest(protocol::ICMPV6, bytes, 2)
        } else {
            add(sum(&bytes[..2]), sum(&bytes[4..]))
        }
    }
}

fn link_option(kind: u8, mac: Option<[u8; 6]>) -> Vec<u8> {
    mac.map(|mac| [&[kind, 1][..], &mac].concat()).unwrap_or_default()
}

fn read_link_option(options: &[u8]) -> Option<[u8; 6]> {
    options.get(2..8)?.try_into().ok()
}
