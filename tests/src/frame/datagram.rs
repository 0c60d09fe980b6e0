//! An IP packet of either family as a value.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail, ensure};

use super::{
    body::Body,
    checksum::{Checksum, Cover},
    extension::{self, Extension, Piece},
    icmp::Message,
    transport::{Tcp, Udp},
    v4::V4,
    v6::V6,
};
use crate::packet::tcp;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub src: IpAddr,
    /// As the header has it: with a routing header, the next stop.
    pub dst: IpAddr,
    /// IPv6: hop limit.
    pub ttl: u8,
    pub traffic_class: u8,
    /// What only one family has.
    pub header: Header,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    V4(V4),
    V6(V6),
}

/// The front of a packet, as ICMP errors hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    pub packet: Datagram,
    /// Bytes that the packet had behind these.
    pub missing: usize,
}

/// A packet whose fixed header has been read.
pub(super) struct Layout<'a> {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub traffic_class: u8,
    pub header: Header,
    pub next: u8,
    pub rest: &'a [u8],
    /// What the header says that `rest` has at least.
    pub expected: usize,
}

impl Datagram {
    pub fn new(src: IpAddr, dst: IpAddr, body: Body) -> Self {
        assert_eq!(src.is_ipv6(), dst.is_ipv6(), "{src} and {dst} are of two families");
        let header = if src.is_ipv6() { Header::V6(V6::default()) } else { Header::V4(V4::default()) };
        Self { src, dst, ttl: 64, traffic_class: 0, header, body }
    }

    /// A SYN; addresses as text, `10.244.0.1:1000`, `[fd00::1]:1000`.
    pub fn tcp(src: &str, dst: &str) -> Self {
        let [src, dst]: [SocketAddr; 2] = [src, dst].map(|end| end.parse().unwrap());
        Self::new(src.ip(), dst.ip(), Body::Tcp(Tcp::new(src.port(), dst.port())))
    }

    /// What answers a segment that nobody waits for.
    pub fn rst(src: &str, dst: &str, seq: u32) -> Self {
        Self::tcp(src, dst).with_tcp(|segment| (segment.flags, segment.seq) = (tcp::RST, seq))
    }

    pub fn udp(src: &str, dst: &str, payload: &[u8]) -> Self {
        let [src, dst]: [SocketAddr; 2] = [src, dst].map(|end| end.parse().unwrap());
        Self::new(src.ip(), dst.ip(), Body::Udp(Udp::new(src.port(), dst.port(), payload)))
    }

    /// ICMP of the family of the addresses.
    pub fn icmp(src: &str, dst: &str, message: Message) -> Self {
        Self::new(src.parse().unwrap(), dst.parse().unwrap(), Body::icmp(message))
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn with_v4(mut self, change: impl FnOnce(&mut V4)) -> Self {
        let Header::V4(header) = &mut self.header else { panic!("no IPv4: {self}") };
        change(header);
        self
    }

    pub fn with_v6(mut self, change: impl FnOnce(&mut V6)) -> Self {
        let Header::V6(header) = &mut self.header else { panic!("no IPv6: {self}") };
        change(header);
        self
    }

    pub fn with_tcp(mut self, change: impl FnOnce(&mut Tcp)) -> Self {
        let Body::Tcp(segment) = &mut self.body else { panic!("no TCP: {self}") };
        change(segment);
        self
    }

    /// Appends an extension header.
    pub fn extension(self, extension: Extension) -> Self {
        self.with_v6(|header| header.extensions.push(extension))
    }

    /// Of TCP, UDP or ICMP.
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        match &mut self.body {
            Body::Tcp(tcp) => tcp.checksum = checksum,
            Body::Udp(udp) => udp.checksum = checksum,
            Body::Icmp(icmp) => icmp.checksum = checksum,
            Body::Raw { .. } => panic!("no checksum: {self}"),
        }
        self
    }

    pub fn is_v6(&self) -> bool {
        matches!(self.header, Header::V6(_))
    }

    pub fn protocol(&self) -> u8 {
        self.body.protocol(self.is_v6())
    }

    /// Which part of a datagram this is, if not a plain whole one.
    pub fn piece(&self) -> Option<Piece> {
        match &self.header {
            Header::V4(header) => header.piece(),
            Header::V6(header) => header.piece(),
        }
    }

    pub fn ports(&self) -> Option<(u16, u16)> {
        self.body.ports().filter(|_| self.piece().is_none_or(|piece| piece.offset == 0))
    }

    pub fn bytes(&self) -> Vec<u8> {
        let body = self.body.bytes(&self.cover(true));
        match (&self.header, self.src, self.dst) {
            (Header::V4(header), IpAddr::V4(src), IpAddr::V4(dst)) => {
                [header.bytes(self, (src, dst), self.protocol(), body.len()), body].concat()
            }
            (Header::V6(header), IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (next, chain) = extension::write(&header.extensions, self.protocol());
                [header.bytes(self, (src, dst), next, chain.len() + body.len()), chain, body].concat()
            }
            _ => panic!("addresses {} and {} under a header of another family", self.src, self.dst),
        }
    }

    /// The first `length` bytes, as an error quotes them.
    pub fn head(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.truncate(length);
        bytes
    }

    /// The packet, and how many bytes lie behind it.
    pub fn read(bytes: &[u8]) -> Result<(Self, usize)> {
        let layout = Layout::read(bytes)?;
        let (there, expected) = (layout.rest.len(), layout.expected);
        ensure!(there >= expected, "{there} bytes behind an IP header that says {expected}");
        Ok((layout.finish(true)?, there - expected))
    }

    /// A packet of which only the front may be there.
    pub fn read_quote(bytes: &[u8]) -> Result<Quote> {
        let layout = Layout::read(bytes)?;
        let missing = layout.expected.saturating_sub(layout.rest.len());
        Ok(Quote { packet: layout.finish(missing == 0)?, missing })
    }

    pub(super) fn cover(&self, whole: bool) -> Cover {
        let stop = match &self.header {
            Header::V4(_) => None,
            Header::V6(header) => header.extensions.iter().find_map(Extension::final_stop),
        };
        Cover { src: self.src, dst: stop.map_or(self.dst, IpAddr::V6), whole }
    }
}

impl<'a> Layout<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => V4::read(bytes),
            Some(6) => V6::read(bytes),
            version => bail!("IP of version {version:?}"),
        }
    }

    /// Reads the rest; `complete` unless the packet goes on behind it.
    fn finish(mut self, complete: bool) -> Result<Datagram> {
        let mut rest = &self.rest[..self.expected.min(self.rest.len())];
        if let Header::V6(header) = &mut self.header {
            (header.extensions, self.next, rest) = extension::read(self.next, rest);
        }
        let body = Body::raw(self.next, rest);
        let mut packet = Datagram {
            src: self.src,
            dst: self.dst,
            ttl: self.ttl,
            traffic_class: self.traffic_class,
            header: self.header,
            body,
        };
        let piece = packet.piece();
        if piece.is_some_and(|piece| piece.offset > 0) {
            return Ok(packet);
        }
        let whole = complete && piece.is_none_or(|piece| piece.is_whole());
        ensure!(
            !whole || !packet.is_v6() || !extension::is_extension(self.next),
            "extension header {} is cut short",
            self.next
        );
        packet.body = Body::read(self.next, rest, &packet.cover(whole))?;
        Ok(packet)
    }
}
