//! A frame as a value, of either IP family: said by a test or read off a wire,
//! and written as bytes.
//!
//! Reading what was written gives the same value, so what a program or a
//! kernel made is held against what was expected by `==`. Lengths and
//! checksums are right unless a test says otherwise.

mod body;
mod checksum;
mod datagram;
mod display;
mod extension;
mod fragment;
mod icmp;
#[cfg(test)]
mod tests;
mod transport;
mod v4;
mod v6;
mod verify;

use anyhow::{Result, ensure};
use causeway_schema::GATEWAY_MAC;

pub use self::{
    body::Body,
    checksum::Checksum,
    datagram::{Datagram, Header, Quote},
    extension::{Extension, Piece},
    fragment::{fragment, reassemble},
    icmp::{Icmp, Message},
    transport::{Tcp, Udp},
    v4::V4,
    v6::V6,
};
use crate::packet::CONTAINER_MAC;

const VLAN: [u8; 2] = [0x81, 0x00];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub eth_src: [u8; 6],
    pub eth_dst: [u8; 6],
    /// An 802.1Q tag.
    pub vlan: Option<u16>,
    pub packet: Datagram,
    /// Bytes behind the datagram.
    pub padding: usize,
}

impl Frame {
    /// From a container, by its gateway.
    pub fn new(packet: Datagram) -> Self {
        Self { eth_src: CONTAINER_MAC, eth_dst: GATEWAY_MAC, vlan: None, packet, padding: 0 }
    }

    pub fn macs(mut self, src: [u8; 6], dst: [u8; 6]) -> Self {
        (self.eth_src, self.eth_dst) = (src, dst);
        self
    }

    pub fn vlan(mut self, tag: u16) -> Self {
        self.vlan = Some(tag);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [self.eth_dst, self.eth_src].concat();
        if let Some(tag) = self.vlan {
            frame.extend(VLAN);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(if self.packet.is_v6() { IPV6 } else { IPV4 });
        frame.extend(self.packet.bytes());
        frame.extend(vec![0; self.padding]);
        frame
    }

    /// Reads a frame whatever its checksums are; those become part of the value.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() >= 14, "a frame of {} bytes", bytes.len());
        let tagged = bytes[12..14] == VLAN && bytes.len() >= 18;
        let vlan = tagged.then(|| u16::from_be_bytes([bytes[14], bytes[15]]));
        let (ethertype, ip) =
            if tagged { (&bytes[16..18], &bytes[18..]) } else { (&bytes[12..14], &bytes[14..]) };
        ensure!(ethertype == IPV4 || ethertype == IPV6, "not IP: ethertype {ethertype:02x?}");
        let (packet, padding) = Datagram::read(ip)?;
        ensure!(
            packet.is_v6() == (ethertype == IPV6),
            "the ethertype {ethertype:02x?} is of the other family"
        );
        Ok(Self {
            eth_dst: bytes[0..6].try_into()?,
            eth_src: bytes[6..12].try_into()?,
            vlan,
            packet,
            padding,
        })
    }

    /// Reads a frame and insists on every checksum in it.
    pub fn read_right(bytes: &[u8]) -> Result<Self> {
        let frame = Self::read(bytes)?;
        frame.packet.verify()?;
        Ok(frame)
    }
}
