//! The IPv4 header.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::{
    checksum::{Checksum, add, put},
    datagram::{Datagram, Header, Layout},
    extension::Piece,
    transport::short,
};
use crate::inspect::sum;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V4 {
    pub id: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// In bytes; a multiple of eight.
    pub offset: usize,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    pub checksum: Checksum,
}

impl Default for V4 {
    fn default() -> Self {
        Self {
            id: 0x1234,
            dont_fragment: false,
            more_fragments: false,
            offset: 0,
            options: Vec::new(),
            checksum: Checksum::Right,
        }
    }
}

impl V4 {
    pub(super) fn piece(&self) -> Option<Piece> {
        let piece = Piece { id: self.id.into(), offset: self.offset, more: self.more_fragments };
        (!piece.is_whole()).then_some(piece)
    }

    pub(super) fn bytes(
        &self,
        packet: &Datagram,
        (src, dst): (Ipv4Addr, Ipv4Addr),
        protocol: u8,
        body: usize,
    ) -> Vec<u8> {
        let length = 20 + self.options.len();
        assert!(length.is_multiple_of(4) && length <= 60, "IPv4 options of {} bytes", self.options.len());
        let mut header = vec![0x40 | (length / 4) as u8, packet.traffic_class];
        header.extend(((length + body) as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        let flags = u16::from(self.more_fragments) << 13 | u16::from(self.dont_fragment) << 14;
        header.extend((flags | (self.offset / 8) as u16).to_be_bytes());
        header.extend([packet.ttl, protocol, 0, 0]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header.extend(&self.options);
        let field = self.checksum.field(sum(&header));
        put(&mut header, 10, field);
        header
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Layout<'_>> {
        ensure!(bytes.len() >= 20, "an IPv4 header of {} bytes", bytes.len());
        let length = usize::from(bytes[0] & 15) * 4;
        let total = usize::from(short(bytes, 2));
        ensure!(
            (20..=bytes.len()).contains(&length),
            "an IPv4 header that says {length} of {} bytes",
            bytes.len()
        );
        ensure!(total >= length, "IPv4: {total} bytes in all with a header of {length}");
        let word = short(bytes, 6);
        let header = Self {
            id: short(bytes, 4),
            dont_fragment: word & 0x4000 != 0,
            more_fragments: word & 0x2000 != 0,
            offset: usize::from(word & 0x1fff) * 8,
            options: bytes[20..length].to_vec(),
            checksum: Checksum::of(short(bytes, 10), add(sum(&bytes[..10]), sum(&bytes[12..length]))),
        };
        let address =
            |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]).into();
        Ok(Layout {
            src: address(12),
            dst: address(16),
            ttl: bytes[8],
            traffic_class: bytes[1],
            header: Header::V4(header),
            next: bytes[9],
            rest: &bytes[length..],
            expected: total - length,
        })
    }
}
