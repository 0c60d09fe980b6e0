//! Reading frames back: checksums the slow way, and what differs between two.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

use causeway_schema::protocol;

use crate::frame::Frame;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    Tcp,
    Udp,
}

impl L4 {
    pub fn of(protocol: u8) -> Option<Self> {
        match protocol {
            protocol::TCP => Some(L4::Tcp),
            protocol::UDP => Some(L4::Udp),
            _ => None,
        }
    }

    /// Offset of the checksum in the header.
    pub fn checksum_at(self) -> usize {
        match self {
            L4::Tcp => 16,
            L4::Udp => 6,
        }
    }

    pub fn header(self) -> usize {
        match self {
            L4::Tcp => 20,
            L4::Udp => 8,
        }
    }
}

/// The one's complement sum of network-order words (RFC 1071), never 0 unless
/// all of `bytes` is.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Of either family (RFC 793, RFC 8200 8.1); both addresses of the same.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            [&src.octets()[..], &dst.octets(), &[0, protocol], &(length as u16).to_be_bytes()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            [&src.octets()[..], &dst.octets(), &(length as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// What an IPv4 frame's headers sum up to, the IP header's and the L4 one's:
/// 0xffff where the checksum is right, and the same before and after a rewrite
/// where it was wrong before. `None` where there is no L4 checksum to look at.
pub fn residuals(frame: &[u8]) -> (u16, Option<u16>) {
    let Some(ip) = frame.get(14..34) else { return (0, None) };
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let (Some(whole), Some(l4_bytes)) = (frame.get(14..14 + header), frame.get(14 + header..14 + total))
    else {
        return (0, None);
    };
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    let l4 = L4::of(ip[9]).filter(|l4| !fragment && l4_bytes.len() >= l4.header());
    let none = |l4: L4| l4 == L4::Udp && l4_bytes[6..8] == [0, 0];
    let residual = l4.filter(|&l4| !none(l4)).map(|_| {
        let [src, dst] =
            [&ip[12..16], &ip[16..20]].map(|part| Ipv4Addr::new(part[0], part[1], part[2], part[3]).into());
        sum(&[&pseudo_header(src, dst, ip[9], l4_bytes.len())[..], l4_bytes].concat())
    });
    (sum(whole), residual)
}

/// A frame with its checksum fields zeroed, to compare with another whose
/// checksums are held against [`residuals`].
pub fn without_checksums(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame.len() < 34 || frame[12..14] != [8, 0] {
        return frame;
    }
    frame[24..26].fill(0);
    let l4_at = 14 + usize::from(frame[14] & 15) * 4;
    let later_fragment = u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff != 0;
    if let Some(l4) = L4::of(frame[23]).filter(|_| !later_fragment)
        && let Some(field) = frame.get_mut(l4_at + l4.checksum_at()..l4_at + l4.checksum_at() + 2)
    {
        field.fill(0);
    }
    frame
}

/// A frame in a form that a person can hold against another.
pub fn describe(frame: &[u8]) -> String {
    let mut text = match Frame::read(frame) {
        Ok(frame) => frame.to_string(),
        Err(error) => format!("unreadable: {error:#}"),
    };
    text.push_str(", bytes ");
    for byte in frame {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
