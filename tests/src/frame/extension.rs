//! IPv6 extension headers, in any order.

use std::net::Ipv6Addr;

use super::transport::{long, short};

pub(super) const HOP_BY_HOP: u8 = 0;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const DESTINATION: u8 = 60;

/// What it holds behind its next header and length; six bytes and a multiple
/// of eight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    HopByHop(Vec<u8>),
    Routing(Vec<u8>),
    Destination(Vec<u8>),
    Fragment(Piece),
}

/// Which part of a datagram a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub id: u32,
    /// In bytes; a multiple of eight.
    pub offset: usize,
    pub more: bool,
}

impl Piece {
    /// An "atomic" fragment (RFC 6946) has all the datagram.
    pub fn is_whole(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

impl Extension {
    /// `options` are padded.
    pub fn hop_by_hop(options: &[u8]) -> Self {
        Extension::HopByHop(padded(options))
    }

    /// `options` are padded.
    pub fn destination(options: &[u8]) -> Self {
        Extension::Destination(padded(options))
    }

    /// The form of types 0 and 2: `left` of `stops` are yet to be visited.
    pub fn routing(kind: u8, left: u8, stops: &[Ipv6Addr]) -> Self {
        let mut content = vec![kind, left, 0, 0, 0, 0];
        content.extend(stops.iter().flat_map(Ipv6Addr::octets));
        Extension::Routing(content)
    }

    pub(super) fn kind(&self) -> u8 {
        match self {
            Extension::HopByHop(_) => HOP_BY_HOP,
            Extension::Routing(_) => ROUTING,
            Extension::Destination(_) => DESTINATION,
            Extension::Fragment(_) => FRAGMENT,
        }
    }

    /// Where a packet to `dst` ends up: pseudo-headers name that (RFC 8200, 8.1).
    pub(super) fn final_stop(&self) -> Option<Ipv6Addr> {
        match self {
            Extension::Routing(content) if matches!(content[0], 0 | 2) && content[1] > 0 => {
                let last: [u8; 16] = content.last_chunk().copied().filter(|_| content.len() >= 22)?;
                Some(last.into())
            }
            _ => None,
        }
    }

    fn bytes(&self, next: u8) -> Vec<u8> {
        let content = match self {
            Extension::Fragment(piece) => {
                let mut bytes = vec![next, 0];
                bytes.extend((piece.offset as u16 | u16::from(piece.more)).to_be_bytes());
                bytes.extend(piece.id.to_be_bytes());
                return bytes;
            }
            Extension::HopByHop(content) | Extension::Routing(content) | Extension::Destination(content) => {
                content
            }
        };
        assert!(content.len() % 8 == 6, "an extension header of {} bytes", content.len() + 2);
        [&[next, (content.len() / 8) as u8][..], content].concat()
    }
}

/// The first header's number, and all of them in front of `last`.
pub(super) fn write(chain: &[Extension], last: u8) -> (u8, Vec<u8>) {
    let (mut next, mut bytes) = (last, Vec::new());
    for extension in chain.iter().rev() {
        bytes = [extension.bytes(next), bytes].concat();
        next = extension.kind();
    }
    (next, bytes)
}

/// Reads headers as far as they are there, up to a later fragment's data; what
/// follows them, and its number.
pub(super) fn read(mut next: u8, mut bytes: &[u8]) -> (Vec<Extension>, u8, &[u8]) {
    let mut chain = Vec::new();
    loop {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                bytes.get(1).map_or(usize::MAX, |&length| 8 + usize::from(length) * 8)
            }
            FRAGMENT => 8,
            _ => return (chain, next, bytes),
        };
        let Some((header, rest)) = bytes.split_at_checked(length) else { return (chain, next, bytes) };
        let content = || header[2..].to_vec();
        let extension = match next {
            HOP_BY_HOP => Extension::HopByHop(content()),
            ROUTING => Extension::Routing(content()),
            DESTINATION => Extension::Destination(content()),
            _ => {
                let word = short(header, 2);
                let offset = usize::from(word & 0xfff8);
                Extension::Fragment(Piece { id: long(header, 4), offset, more: word & 1 != 0 })
            }
        };
        let later = matches!(extension, Extension::Fragment(piece) if piece.offset > 0);
        (next, bytes) = (header[0], rest);
        chain.push(extension);
        if later {
            return (chain, next, bytes);
        }
    }
}

pub(super) fn is_extension(number: u8) -> bool {
    matches!(number, HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT)
}

/// With `Pad1` or `PadN` up to the next boundary.
fn padded(options: &[u8]) -> Vec<u8> {
    let missing = (6 + 8 - options.len() % 8) % 8;
    let mut content = options.to_vec();
    match missing {
        0 => {}
        1 => content.push(0),
        _ => {
            content.extend([1, missing as u8 - 2]);
            content.extend(vec![0; missing - 2]);
        }
    }
    content
}
