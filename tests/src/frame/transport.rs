//! TCP segments and UDP datagrams.

use anyhow::{Result, ensure};
use causeway_schema::protocol;

use super::checksum::{Checksum, Cover, put};
use crate::packet::tcp;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub src: u16,
    pub dst: u16,
    pub seq: u32,
    pub ack: u32,
    /// Bits of [`crate::packet::tcp`].
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub checksum: Checksum,
}

impl Tcp {
    /// A SYN.
    pub fn new(src: u16, dst: u16) -> Self {
        Self {
            src,
            dst,
            seq: 1,
            ack: 0,
            flags: tcp::SYN,
            window: 0x2000,
            urgent: 0,
            options: Vec::new(),
            payload: Vec::new(),
            checksum: Checksum::Right,
        }
    }

    pub(super) fn bytes(&self, cover: &Cover) -> Vec<u8> {
        let header = 20 + self.options.len();
        assert!(header.is_multiple_of(4) && header <= 60, "TCP options of {} bytes", self.options.len());
        let mut bytes = [self.src.to_be_bytes(), self.dst.to_be_bytes()].concat();
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([(header as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(&self.options);
        bytes.extend(&self.payload);
        let field = self.checksum.field(cover.rest(protocol::TCP, &bytes, 16));
        put(&mut bytes, 16, field);
        bytes
    }

    pub(super) fn read(bytes: &[u8], cover: &Cover) -> Result<Self> {
        ensure!(bytes.len() >= 20, "a TCP header of {} bytes", bytes.len());
        let header = usize::from(bytes[12] >> 4) * 4;
        ensure!(
            (20..=bytes.len()).contains(&header),
            "a TCP header that says {header} of {} bytes",
            bytes.len()
        );
        Ok(Self {
            src: short(bytes, 0),
            dst: short(bytes, 2),
            seq: long(bytes, 4),
            ack: long(bytes, 8),
            flags: bytes[13],
            window: short(bytes, 14),
            urgent: short(bytes, 18),
            options: bytes[20..header].to_vec(),
            payload: bytes[header..].to_vec(),
            checksum: cover.read(protocol::TCP, bytes, 16),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    pub src: u16,
    pub dst: u16,
    /// Other than what is here: a first fragment has the length of the whole.
    pub length: Option<u16>,
    pub payload: Vec<u8>,
    pub checksum: Checksum,
}

impl Udp {
    pub fn new(src: u16, dst: u16, payload: &[u8]) -> Self {
        Self { src, dst, length: None, payload: payload.to_vec(), checksum: Checksum::Right }
    }

    pub(super) fn bytes(&self, cover: &Cover) -> Vec<u8> {
        let length = self.length.unwrap_or(8 + self.payload.len() as u16);
        let mut bytes = [self.src, self.dst, length, 0].map(u16::to_be_bytes).concat();
        bytes.extend(&self.payload);
        let field = match self.checksum.field(cover.rest(protocol::UDP, &bytes, 6)) {
            // RFC 768: zero means "none", so a computed zero is sent as its twin.
            0 if matches!(self.checksum, Checksum::Right | Checksum::Off(_)) => 0xffff,
            field => field,
        };
        put(&mut bytes, 6, field);
        bytes
    }

    pub(super) fn read(bytes: &[u8], cover: &Cover) -> Result<Self> {
        ensure!(bytes.len() >= 8, "a UDP header of {} bytes", bytes.len());
        let length = short(bytes, 4);
        Ok(Self {
            src: short(bytes, 0),
            dst: short(bytes, 2),
            length: (usize::from(length) != bytes.len()).then_some(length),
            payload: bytes[8..].to_vec(),
            checksum: if short(bytes, 6) == 0 {
                Checksum::Absent
            } else {
                cover.read(protocol::UDP, bytes, 6)
            },
        })
    }
}

pub(super) fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(short(bytes, at)) << 16 | u32::from(short(bytes, at + 2))
}
