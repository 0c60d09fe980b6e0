//! The IPv6 header; its chain of extensions is [`super::extension`].

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};

use super::{
    datagram::{Datagram, Header, Layout},
    extension::{Extension, Piece},
    transport::{long, short},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V6 {
    pub flow_label: u32,
    pub extensions: Vec<Extension>,
}

impl V6 {
    pub(super) fn piece(&self) -> Option<Piece> {
        self.extensions.iter().find_map(|extension| match extension {
            Extension::Fragment(piece) => Some(*piece),
            _ => None,
        })
    }

    /// The fixed header; `next` and `rest` are what follows it.
    pub(super) fn bytes(
        &self,
        packet: &Datagram,
        (src, dst): (Ipv6Addr, Ipv6Addr),
        next: u8,
        rest: usize,
    ) -> Vec<u8> {
        let word = 6 << 28 | u32::from(packet.traffic_class) << 20 | self.flow_label;
        let mut header = word.to_be_bytes().to_vec();
        header.extend((rest as u16).to_be_bytes());
        header.extend([next, packet.ttl]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header
    }

    /// Without the chain.
    pub(super) fn read(bytes: &[u8]) -> Result<Layout<'_>> {
        ensure!(bytes.len() >= 40, "an IPv6 header of {} bytes", bytes.len());
        let word = long(bytes, 0);
        let address =
            |at: usize| -> Result<Ipv6Addr> { Ok(<[u8; 16]>::try_from(&bytes[at..at + 16])?.into()) };
        Ok(Layout {
            src: address(8)?.into(),
            dst: address(24)?.into(),
            ttl: bytes[7],
            traffic_class: (word >> 20) as u8,
            header: Header::V6(Self { flow_label: word & 0xf_ffff, extensions: Vec::new() }),
            next: bytes[6],
            rest: &bytes[40..],
            expected: usize::from(short(bytes, 4)),
        })
    }
}
