//! Echo requests from a raw socket, and what comes of them.

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::parse::address;

/// ICMP and ICMPv6 types: an echo's request and reply, and "time exceeded".
const V4: [u8; 3] = [8, 0, 11];
const V6: [u8; 3] = [128, 129, 3];

/// Sends `count` echo requests, one after the other; how many were answered by
/// the address that was asked, each within `patience`.
///
/// # Errors
/// When no raw socket can be had or written to.
pub fn ping(to: IpAddr, count: u16, patience: Duration) -> io::Result<u16> {
    let echo = Echo::new(to, patience)?;
    let mut answered = 0;
    for sequence in 0..count {
        let request = echo.send(sequence)?;
        let is_answer =
            |from, message: &[u8]| from == to && message[0] == echo.types[1] && message[4..] == request[4..];
        answered += u16::from(echo.hear(is_answer).is_some());
    }
    Ok(answered)
}

/// The router where an echo request of `own` ends that may go so many hops, as a
/// traceroute asks: one that shows this very request.
///
/// # Errors
/// When no raw socket can be had or written to.
pub fn ends_at(own: IpAddr, to: IpAddr, hops: u32, patience: Duration) -> io::Result<Option<IpAddr>> {
    let echo = Echo::new(to, patience)?;
    if to.is_ipv4() { echo.socket.set_ttl_v4(hops) } else { echo.socket.set_unicast_hops_v6(hops) }?;
    let request = echo.send(0)?;
    let (header, ends) = if to.is_ipv4() { (20, [12, 16]) } else { (40, [8, 24]) };
    Ok(echo.hear(|_, message| {
        let quote = &message[8..];
        message[0] == echo.types[2]
            && ends.map(|at| address(quote, at, to.is_ipv6())) == [own, to]
            // All that a router must show of it, its checksum included where it is ours.
            && quote[header..][..2] == request[..2]
            && (to.is_ipv6() || quote[header..][2..4] == request[2..4])
            && quote[header..][4..8] == request[4..8]
    }))
}

struct Echo {
    socket: Socket,
    to: IpAddr,
    types: [u8; 3],
    id: u16,
}

impl Echo {
    fn new(to: IpAddr, patience: Duration) -> io::Result<Self> {
        let (domain, protocol, types) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, V4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, V6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(patience))?;
        // Each has its own, as programs that ping draw theirs.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let id = (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { socket, to, types, id })
    }

    /// The request; of ICMPv6 the kernel makes the checksum itself, behind our back.
    fn send(&self, sequence: u16) -> io::Result<Vec<u8>> {
        let mut message = vec![self.types[0], 0, 0, 0];
        message.extend(self.id.to_be_bytes());
        message.extend(sequence.to_be_bytes());
        message.extend([0x5a; 24]);
        if self.to.is_ipv4() {
            let words = message.chunks(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])));
            let check = !causeway_schema::checksum::fold(words.sum());
            message[2..4].copy_from_slice(&check.to_ne_bytes());
        }
        self.socket.send_to(&message, &SocketAddr::new(self.to, 0).into())?;
        Ok(message)
    }

    /// Who sends the message that is waited for; others are passed over.
    fn hear(&self, good: impl Fn(IpAddr, &[u8]) -> bool) -> Option<IpAddr> {
        let mut buffer = [MaybeUninit::uninit(); 256];
        while let Ok((length, sender)) = self.socket.recv_from(&mut buffer) {
            // SAFETY: the kernel has written so many bytes.
            let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
            // An IPv4 raw socket shows the IP header, an IPv6 one does not.
            let icmp = if self.to.is_ipv4() { &bytes[usize::from(bytes[0] & 15) * 4..] } else { &bytes[..] };
            let sender = sender.as_socket()?.ip();
            if good(sender, icmp) {
                return Some(sender);
            }
        }
        None
    }
}
