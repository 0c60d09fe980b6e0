//! What does a packet look like that we make ourselves, to ask the loaded
//! program about, or a neighbour? Ethernet, IPv4 or IPv6, TCP or UDP, ARP and
//! neighbour solicitations, with right checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_schema::{GATEWAY_MAC, checksum::fold};

use crate::event::Protocol;

/// TCP flag bits (RFC 9293).
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

/// Anything but the gateway's.
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const ICMPV6: u8 = 58;
const ETHER_IPV4: [u8; 2] = 0x0800_u16.to_be_bytes();
const ETHER_IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();

/// A frame from one socket to another, without payload, addressed to the
/// gateway as a container's is. `tcp_flags` count for TCP only. `None` when the
/// sockets are of different families.
pub fn between(
    source: SocketAddr,
    destination: SocketAddr,
    protocol: Protocol,
    tcp_flags: u8,
) -> Option<Vec<u8>> {
    let l4 = match protocol {
        Protocol::Tcp => tcp(source.port(), destination.port(), tcp_flags, 0),
        Protocol::Udp => udp(source.port(), destination.port()),
    };
    framed(source, destination, protocol, l4)
}

/// A packet, without a frame, that acknowledges nothing at this sequence number.
pub fn acknowledgement(source: SocketAddr, destination: SocketAddr, sequence: u32) -> Option<Vec<u8>> {
    let l4 = tcp(source.port(), destination.port(), ACK, sequence);
    framed(source, destination, Protocol::Tcp, l4).map(|mut frame| frame.split_off(ETHERNET))
}

fn framed(source: SocketAddr, destination: SocketAddr, protocol: Protocol, l4: Vec<u8>) -> Option<Vec<u8>> {
    let length = (l4.len() as u16).to_be_bytes();
    let mut frame = Vec::with_capacity(ETHERNET + IPV6 + l4.len());
    frame.extend(GATEWAY_MAC);
    frame.extend(SOURCE_MAC);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend(ETHER_IPV4);
            frame.extend([0x45, 0]);
            frame.extend(((IPV4 + l4.len()) as u16).to_be_bytes());
            // No identification; "don't fragment"; TTL 64.
            frame.extend([0, 0, 0x40, 0, 64, protocol.number(), 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            let check = checksum(&frame[ETHERNET..]);
            frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&check);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend(ETHER_IPV6);
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(length);
            frame.extend([protocol.number(), 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => return None,
    }
    let addresses = if source.is_ipv4() { 8 } else { 32 };
    let pseudo = sum(&frame[frame.len() - addresses..])
        + u32::from(protocol.number())
        + u32::from(u16::from_be_bytes(length));
    let check = !fold(pseudo + sum(&l4));
    let at = frame.len() + if protocol == Protocol::Tcp { 16 } else { 6 };
    frame.extend(l4);
    frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
    Some(frame)
}

/// Whether a frame announces IPv6.
pub fn is_ipv6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ETHER_IPV6)
}

/// Address, port and protocol that a plain frame of TCP or UDP is for.
pub fn destination(frame: &[u8]) -> Option<(IpAddr, u16, Protocol)> {
    let header = frame.get(ETHERNET..)?;
    let (address, protocol, l4): (IpAddr, u8, usize) = match frame.get(12..14)?.try_into().ok()? {
        ETHER_IPV4 => {
            let address: [u8; 4] = header.get(16..20)?.try_into().ok()?;
            (address.into(), *header.get(9)?, usize::from(header.first()? & 15) * 4)
        }
        ETHER_IPV6 => {
            let address: [u8; 16] = header.get(24..40)?.try_into().ok()?;
            (address.into(), *header.get(6)?, IPV6)
        }
        _ => return None,
    };
    let port = header.get(l4 + 2..l4 + 4)?.try_into().ok()?;
    Some((address, u16::from_be_bytes(port), Protocol::from_number(protocol)?))
}

/// The address that containers know as their gateway, as text.
pub const GATEWAY: &str = "169.254.1.1";

/// An ARP request for an address, from one who has none yet (RFC 5227).
pub fn who_has(address: Ipv4Addr) -> Vec<u8> {
    arp_request((SOURCE_MAC, Ipv4Addr::UNSPECIFIED), address, None)
}

/// Asks a neighbour for its hardware address: at the one that is known, or
/// everybody. `None` when asker and neighbour are of different families.
pub fn solicitation(own: ([u8; 6], IpAddr), neighbour: IpAddr, known: Option<[u8; 6]>) -> Option<Vec<u8>> {
    match (own.1, neighbour) {
        (IpAddr::V4(address), IpAddr::V4(neighbour)) => Some(arp_request((own.0, address), neighbour, known)),
        (IpAddr::V6(address), IpAddr::V6(neighbour)) => Some(nd_request((own.0, address), neighbour, known)),
        _ => None,
    }
}

/// Tells everybody on the link who has an address now (RFC 5227, section 3; RFC
/// 4861, section 7.2.6).
pub fn announcement(mac: [u8; 6], address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_request((mac, address), address, None),
        IpAddr::V6(address) => {
            let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            // An advertisement that overrides what is known.
            let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
            message.extend(address.octets());
            // Its hardware address, in units of eight bytes.
            message.extend([2, 1]);
            message.extend(mac);
            nd_message((mac, address), ([0x33, 0x33, 0, 0, 0, 1], everybody), message)
        }
    }
}

/// RFC 826.
fn arp_request(own: ([u8; 6], Ipv4Addr), neighbour: Ipv4Addr, known: Option<[u8; 6]>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + 28);
    frame.extend(known.unwrap_or([0xff; 6]));
    frame.extend(own.0);
    frame.extend(0x0806_u16.to_be_bytes());
    // Ethernet, IPv4, their lengths, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(own.0);
    frame.extend(own.1.octets());
    frame.extend([0; 6]);
    frame.extend(neighbour.octets());
    frame
}

/// A neighbour solicitation (RFC 4861, section 4.3).
fn nd_request(own: ([u8; 6], Ipv6Addr), neighbour: Ipv6Addr, known: Option<[u8; 6]>) -> Vec<u8> {
    let [.., a, b, c] = neighbour.octets();
    let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(neighbour.octets());
    // The asker's hardware address, in units of eight bytes.
    message.extend([1, 1]);
    message.extend(own.0);
    let to = match known {
        Some(mac) => (mac, neighbour),
        None => ([0x33, 0x33, 0xff, a, b, c], everybody),
    };
    nd_message(own, to, message)
}

/// Puts a message of neighbour discovery, of 32 bytes, into a frame.
fn nd_message(own: ([u8; 6], Ipv6Addr), to: ([u8; 6], Ipv6Addr), mut message: Vec<u8>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + IPV6 + 32);
    frame.extend(to.0);
    frame.extend(own.0);
    frame.extend(ETHER_IPV6);
    // Payload length, ICMPv6, and the hop limit that shows it was not forwarded.
    frame.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame.extend(own.1.octets());
    frame.extend(to.1.octets());
    let pseudo = sum(&frame[ETHERNET + 8..]) + 32 + u32::from(ICMPV6);
    let check = !fold(pseudo + sum(&message));
    message[2..4].copy_from_slice(&check.to_be_bytes());
    frame.extend(message);
    frame
}

/// Readdresses a frame that is for the gateway: on the uplink the host itself
/// is the receiver, and would take no notice of another's frame.
pub fn readdress(frame: &mut [u8], mac: [u8; 6]) {
    if let Some(receiver) = frame.get_mut(..6).filter(|receiver| **receiver == GATEWAY_MAC) {
        receiver.copy_from_slice(&mac);
    }
}

fn tcp(source: u16, destination: u16, flags: u8, sequence: u32) -> Vec<u8> {
    let mut header = Vec::from(source.to_be_bytes());
    header.extend(destination.to_be_bytes());
    header.extend(sequence.to_be_bytes());
    // Acknowledgement 0, length of 5 words, window 65535.
    header.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut header = Vec::from(source.to_be_bytes());
    header.extend(destination.to_be_bytes());
    header.extend([0, 8, 0, 0]);
    header
}

/// Sum of big-endian 16-bit words; even lengths only, which ours are.
/// The Internet checksum (RFC 1071) of a message whose own is still 0, as it is sent.
pub fn checksum(message: &[u8]) -> [u8; 2] {
    (!fold(sum(message))).to_be_bytes()
}

/// The last byte of an odd number is the upper half of a word.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arp_request_asks_for_its_address() {
        let gateway: Ipv4Addr = GATEWAY.parse().unwrap();
        assert_eq!(gateway, Ipv4Addr::from(causeway_schema::GATEWAY_V4));
        let frame = who_has(gateway);
        assert_eq!((frame.len(), &frame[12..14], &frame[38..]), (42, &[8, 6][..], &gateway.octets()[..]));
    }

    #[test]
    fn checksums_add_up() {
        let pairs = [("10.0.0.1:40000", "10.96.0.1:80", 20), ("[fd00::1]:40000", "[fd00:96::1]:80", 40)];
        for (source, destination, header) in pairs {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            for (protocol, length) in [(Protocol::Tcp, 20), (Protocol::Udp, 8)] {
                let frame = between(source, destination, protocol, SYN).unwrap();
                let l4 = 14 + header;
                assert_eq!(frame.len(), l4 + length);
                assert_eq!(is_ipv6(&frame), header == 40);
                assert!(header == 40 || fold(sum(&frame[14..34])) == 0xffff);
                let addresses = if header == 40 { &frame[22..54] } else { &frame[26..34] };
                let pseudo = sum(addresses) + u32::from(protocol.number()) + length as u32;
                assert_eq!(fold(pseudo + sum(&frame[l4..])), 0xffff);
            }
        }
        let (v4, v6) = ("10.0.0.1:1".parse().unwrap(), "[fd00::1]:1".parse().unwrap());
        assert!(between(v4, v6, Protocol::Udp, 0).is_none());
    }
}
