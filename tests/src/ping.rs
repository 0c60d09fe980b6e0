//! Echo requests from a raw socket, counted back.

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

/// ICMP and ICMPv6 types of an echo's request and reply.
const V4: (u8, u8) = (8, 0);
const V6: (u8, u8) = (128, 129);

/// Sends `count` echo requests, one after the other; how many were answered by
/// the address that was asked, each within `patience`.
///
/// # Errors
/// When no raw socket can be had or written to.
pub fn ping(to: IpAddr, count: u16, patience: Duration) -> io::Result<u16> {
    let (domain, protocol, (request, reply)) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, V4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, V6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(patience))?;
    // Each has its own, as programs that ping draw theirs.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let id = (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    let mut answered = 0;
    for sequence in 0..count {
        let mut message = vec![request, 0, 0, 0];
        message.extend(id.to_be_bytes());
        message.extend(sequence.to_be_bytes());
        message.extend([0x5a; 24]);
        if to.is_ipv4() {
            // The kernel makes the checksum of ICMPv6 itself.
            let words = message.chunks(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])));
            let check = !causeway_schema::checksum::fold(words.sum());
            message[2..4].copy_from_slice(&check.to_ne_bytes());
        }
        socket.send_to(&message, &SocketAddr::new(to, 0).into())?;
        answered += u16::from(answer(&socket, to, reply, &message[4..]));
    }
    Ok(answered)
}

/// Whether the answer comes; other messages are passed over.
fn answer(socket: &Socket, from: IpAddr, reply: u8, rest: &[u8]) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 256];
    while let Ok((length, sender)) = socket.recv_from(&mut buffer) {
        // SAFETY: the kernel has written so many bytes.
        let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        // An IPv4 raw socket shows the IP header, an IPv6 one does not.
        let icmp = if from.is_ipv4() { &bytes[usize::from(bytes[0] & 15) * 4..] } else { &bytes[..] };
        let sender = sender.as_socket().map(|sender| sender.ip());
        if icmp[0] == reply && icmp[4..] == *rest && sender == Some(from) {
            return true;
        }
    }
    false
}
