//! Frames as a test writes them: only what matters is said, lengths and
//! checksums are computed.

use std::net::{Ipv4Addr, SocketAddrV4};

use causeway_schema::{GATEWAY_MAC, protocol};

use crate::inspect::{L4, checksum, pseudo_header};

pub const CONTAINER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x11];

/// TCP flag bytes.
pub mod tcp {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// An IPv4 packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Packet {
    pub eth_src: [u8; 6],
    pub eth_dst: [u8; 6],
    /// A VLAN tag in the frame.
    pub vlan: Option<u16>,
    pub src: SocketAddrV4,
    pub dst: SocketAddrV4,
    pub protocol: u8,
    pub tcp_flags: u8,
    pub ttl: u8,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    /// In units of eight bytes.
    pub fragment_offset: u16,
    pub more_fragments: bool,
    pub dont_fragment: bool,
    /// False: UDP without a checksum.
    pub udp_checksum: bool,
    pub payload: Vec<u8>,
    /// Bytes behind the datagram.
    pub padding: usize,
}

impl Packet {
    /// From a container, by its gateway.
    pub fn new(protocol: u8, src: SocketAddrV4, dst: SocketAddrV4) -> Self {
        Self {
            eth_src: CONTAINER_MAC,
            eth_dst: GATEWAY_MAC,
            vlan: None,
            src,
            dst,
            protocol,
            tcp_flags: tcp::SYN,
            ttl: 64,
            options: Vec::new(),
            fragment_offset: 0,
            more_fragments: false,
            dont_fragment: false,
            udp_checksum: true,
            payload: b"payload!".to_vec(),
            padding: 0,
        }
    }

    /// A SYN; addresses as text, `10.244.0.1:1000`.
    pub fn tcp(src: &str, dst: &str) -> Self {
        Self::new(protocol::TCP, src.parse().unwrap(), dst.parse().unwrap())
    }

    pub fn udp(src: &str, dst: &str) -> Self {
        Self::new(protocol::UDP, src.parse().unwrap(), dst.parse().unwrap())
    }

    pub fn flags(mut self, flags: u8) -> Self {
        self.tcp_flags = flags;
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        (self.fragment_offset, self.more_fragments) = (offset, more);
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub fn to_mac(mut self, mac: [u8; 6]) -> Self {
        self.eth_dst = mac;
        self
    }

    pub fn vlan(mut self, tag: u16) -> Self {
        self.vlan = Some(tag);
        self
    }

    /// The answer a server would send: ends swapped.
    pub fn reply(&self, from: SocketAddrV4) -> Self {
        let flags = tcp::SYN | tcp::ACK;
        Self { src: from, dst: self.src, ..self.clone() }.flags(flags)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let l4 = self.l4();
        let mut frame = [&self.eth_dst[..], &self.eth_src].concat();
        if let Some(tag) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([0x08, 0x00]);
        frame.extend(self.ip_header(l4.len()));
        frame.extend(l4);
        frame.extend(vec![0; self.padding]);
        frame
    }

    fn ip_header(&self, l4: usize) -> Vec<u8> {
        let length = 20 + self.options.len();
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + l4) as u16).to_be_bytes());
        header.extend([0x12, 0x34]);
        let flags = u16::from(self.more_fragments) << 13 | u16::from(self.dont_fragment) << 14;
        header.extend((flags | self.fragment_offset).to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.src.ip().octets());
        header.extend(self.dst.ip().octets());
        header.extend(&self.options);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn l4(&self) -> Vec<u8> {
        let ports = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        if self.fragment_offset != 0 {
            return self.payload.clone();
        }
        let mut bytes = match self.protocol {
            protocol::TCP => {
                [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.tcp_flags, 0x20, 0, 0, 0, 0, 0]].concat()
            }
            protocol::UDP => [&ports[..], &(8 + self.payload.len() as u16).to_be_bytes(), &[0, 0]].concat(),
            _ => Vec::new(),
        };
        bytes.extend(&self.payload);
        let Some(l4) = L4::of(self.protocol) else { return bytes };
        if l4 == L4::Udp && !self.udp_checksum {
            return bytes;
        }
        let pseudo =
            pseudo_header((*self.src.ip()).into(), (*self.dst.ip()).into(), self.protocol, bytes.len());
        let sum = match checksum(&[&pseudo[..], &bytes].concat()) {
            // RFC 768: zero means "none", so a computed zero is sent as its twin.
            0 if l4 == L4::Udp => 0xffff,
            sum => sum,
        };
        bytes[l4.checksum_at()..][..2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    /// 1: request, 2: reply.
    pub operation: u16,
    pub sender_mac: [u8; 6],
    pub sender: Ipv4Addr,
    pub target_mac: [u8; 6],
    pub target: Ipv4Addr,
}

impl Arp {
    /// `sender` asks who has `target`.
    pub fn request(sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self { operation: 1, sender_mac: CONTAINER_MAC, sender, target_mac: [0; 6], target }
    }

    /// In a frame to everybody.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_to([0xff; 6])
    }

    pub fn bytes_to(&self, eth_dst: [u8; 6]) -> Vec<u8> {
        let mut frame = [&eth_dst[..], &self.sender_mac, &[0x08, 0x06, 0, 1, 8, 0, 6, 4]].concat();
        frame.extend(self.operation.to_be_bytes());
        frame.extend(self.sender_mac);
        frame.extend(self.sender.octets());
        frame.extend(self.target_mac);
        frame.extend(self.target.octets());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::residuals;

    /// Somebody else's parser finds what was built, and its checksums right.
    #[test]
    fn another_parser_agrees() {
        let packet = Packet::tcp("10.0.0.1:1000", "10.96.0.1:80").ttl(9);
        let bytes = packet.bytes();
        let sliced = etherparse::SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else { panic!("{sliced:?}") };
        let header = ip.header().to_header();
        assert_eq!((header.time_to_live, header.calc_header_checksum()), (9, header.header_checksum));
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!() };
        assert!(tcp.syn() && tcp.destination_port() == 80);
        assert_eq!(
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap(),
            tcp.checksum()
        );

        let bytes = Packet::udp("10.0.0.1:1000", "10.96.0.1:53").options(&[1; 8]).bytes();
        let sliced = etherparse::SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else { panic!("{sliced:?}") };
        let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { panic!() };
        let header = udp.to_header();
        let sum =
            header.calc_checksum_ipv4_raw(ip.header().source(), ip.header().destination(), udp.payload());
        assert_eq!(sum.unwrap(), header.checksum);
        assert_eq!(ip.header().options(), [1; 8]);
    }

    #[test]
    fn what_is_built_has_no_residual() {
        for packet in [Packet::tcp("10.0.0.1:1", "10.0.0.2:2"), Packet::udp("10.0.0.1:1", "10.0.0.2:2")] {
            let residuals: Vec<_> = residuals(&packet.bytes()).iter().map(|check| check.residual).collect();
            assert_eq!(residuals, [0xffff, 0xffff]);
        }
    }
}
