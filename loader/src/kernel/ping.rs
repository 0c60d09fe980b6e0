//! Does an echo come back of a packet of a certain size? ICMP echo messages (RFC 792,
//! RFC 4443), whole or not at all.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::frame;

/// In the place of a program's own identifier, as [`echo`](super::echo) has another.
const ID: [u8; 2] = 0xca06_u16.to_be_bytes();
const HEADER: usize = 8;
/// Behind the header: which of our pings it is.
const NONCE: usize = 8;

/// How long the echo of an IP packet of `length` bytes takes, whatever is known of the
/// path's MTU.
///
/// # Errors
/// `TimedOut`; `EMSGSIZE` when the interface does not take so much; without
/// CAP_NET_RAW.
pub fn ping(to: IpAddr, length: usize, timeout: Duration) -> io::Result<Duration> {
    let (domain, protocol, kinds, header) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, [8, 0], 20),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, [128, 129], 40),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    never_fragment(&socket, to)?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    let nonce = nonce();
    let message = message(kinds[0], nonce, length.saturating_sub(header));
    let begun = Instant::now();
    socket.write_all(&message)?;
    let mut buffer = vec![0; length + header + HEADER];
    loop {
        // The socket counts microseconds, and none of them is for ever.
        let left = timeout.checked_sub(begun.elapsed()).filter(|left| left.as_micros() > 0);
        socket.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        let received = socket.read(&mut buffer)?;
        // An IPv4 raw socket shows the IP header, an IPv6 one does not.
        let begin = if to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let answer = buffer.get(begin..received).unwrap_or_default();
        if answer.len() == message.len()
            && answer[0] == kinds[1]
            && answer[4..6] == ID
            && answer[HEADER..HEADER + NONCE] == nonce
        {
            return Ok(begun.elapsed());
        }
    }
}

/// Nobody has to guess it, but others ping as well.
fn nonce() -> [u8; NONCE] {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(ID).to_ne_bytes()
}

fn message(kind: u8, nonce: [u8; NONCE], length: usize) -> Vec<u8> {
    let mut message = vec![0; length.max(HEADER + NONCE)];
    message[0] = kind;
    message[4..6].copy_from_slice(&ID);
    message[HEADER..HEADER + NONCE].copy_from_slice(&nonce);
    // The kernel makes the checksum of ICMPv6 itself.
    let check = frame::checksum(&message);
    message[2..4].copy_from_slice(&check);
    message
}

fn never_fragment(socket: &Socket, to: IpAddr) -> io::Result<()> {
    let set = |level, name, value: libc::c_int| {
        let length = size_of_val(&value) as u32;
        // SAFETY: the kernel copies `length` bytes before the call returns.
        let done =
            unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    match to {
        IpAddr::V4(_) => set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        IpAddr::V6(_) => {
            set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            set(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
        }
    }
}
