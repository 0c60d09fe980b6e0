//! What does a packet look like that we make ourselves, to ask the loaded
//! program about? Ethernet, IPv4, TCP or UDP, with right checksums.

use std::net::SocketAddrV4;

use causeway_schema::{GATEWAY_MAC, checksum::fold};

use crate::event::Protocol;

/// TCP flag bits (RFC 9293).
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

/// Anything but the gateway's.
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// A frame from one socket to another, without payload, addressed to the
/// gateway as a container's is. `tcp_flags` count for TCP only.
pub fn between(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    protocol: Protocol,
    tcp_flags: u8,
) -> Vec<u8> {
    let l4 = match protocol {
        Protocol::Tcp => tcp(source.port(), destination.port(), tcp_flags),
        Protocol::Udp => udp(source.port(), destination.port()),
    };
    let mut frame = Vec::with_capacity(ETHERNET + IPV4 + l4.len());
    frame.extend(GATEWAY_MAC);
    frame.extend(SOURCE_MAC);
    frame.extend(0x0800_u16.to_be_bytes());
    frame.extend([0x45, 0]);
    frame.extend(((IPV4 + l4.len()) as u16).to_be_bytes());
    // No identification; "don't fragment"; TTL 64.
    frame.extend([0, 0, 0x40, 0, 64, protocol.number(), 0, 0]);
    frame.extend(source.ip().octets());
    frame.extend(destination.ip().octets());
    frame.extend(l4);

    let header = sum(&frame[ETHERNET..ETHERNET + IPV4]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&(!fold(header)).to_be_bytes());
    let pseudo = sum(&frame[ETHERNET + 12..ETHERNET + IPV4])
        + u32::from(protocol.number())
        + (frame.len() - ETHERNET - IPV4) as u32;
    let check = !fold(pseudo + sum(&frame[ETHERNET + IPV4..]));
    let at = ETHERNET + IPV4 + if protocol == Protocol::Tcp { 16 } else { 6 };
    frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
    frame
}

/// Readdresses a frame that is for the gateway: on the uplink the host itself
/// is the receiver, and would take no notice of another's frame.
pub fn readdress(frame: &mut [u8], mac: [u8; 6]) {
    if let Some(receiver) = frame.get_mut(..6).filter(|receiver| **receiver == GATEWAY_MAC) {
        receiver.copy_from_slice(&mac);
    }
}

fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = Vec::from(source.to_be_bytes());
    header.extend(destination.to_be_bytes());
    // Sequence and acknowledgement 0, length of 5 words, window 65535.
    header.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut header = Vec::from(source.to_be_bytes());
    header.extend(destination.to_be_bytes());
    header.extend([0, 8, 0, 0]);
    header
}

/// Sum of big-endian 16-bit words; even lengths only, which ours are.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_add_up() {
        let source = SocketAddrV4::new([10, 0, 0, 1].into(), 40_000);
        let destination = SocketAddrV4::new([10, 96, 0, 1].into(), 80);
        for (protocol, length) in [(Protocol::Tcp, 54), (Protocol::Udp, 42)] {
            let frame = between(source, destination, protocol, SYN);
            assert_eq!(frame.len(), length);
            assert_eq!(fold(sum(&frame[14..34])), 0xffff);
            let pseudo = sum(&frame[26..34]) + u32::from(protocol.number()) + (length - 34) as u32;
            assert_eq!(fold(pseudo + sum(&frame[34..])), 0xffff);
        }
    }
}
