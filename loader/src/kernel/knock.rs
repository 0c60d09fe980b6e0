//! How does the end of a silent connection come to speak? By a segment that
//! it cannot accept and must answer with an acknowledgement of its own (RFC
//! 9293, section 3.10.7.4). The programs then refuse that, with the very
//! sequence number that a reset needs to be believed (RFC 5961).

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};

use crate::frame;

/// Sends what the host's own sockets would not.
#[derive(Default)]
pub struct Knocker {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

/// One of the two is outside of any window.
const SEQUENCES: [u32; 2] = [0, 1 << 31];

impl Knocker {
    /// Makes `end` answer what seems to come from `peer`.
    ///
    /// # Errors
    /// When there is no raw socket to be had, or no way to `end`.
    pub fn knock(&mut self, peer: SocketAddr, end: SocketAddr) -> io::Result<()> {
        for sequence in SEQUENCES {
            let Some(packet) = frame::acknowledgement(peer, end, sequence) else { continue };
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match end {
                SocketAddr::V4(end) => {
                    let socket = opened(&mut self.v4, AddressFamily::Inet)?;
                    // The port of a raw socket's address must be none.
                    let end = SockaddrIn::from(std::net::SocketAddrV4::new(*end.ip(), 0));
                    sendto(socket.as_raw_fd(), &packet, &end, flags)?;
                }
                SocketAddr::V6(end) => {
                    let socket = opened(&mut self.v6, AddressFamily::Inet6)?;
                    let end = SockaddrIn6::from(std::net::SocketAddrV6::new(*end.ip(), 0, 0, 0));
                    sendto(socket.as_raw_fd(), &packet, &end, flags)?;
                }
            }
        }
        Ok(())
    }
}

/// A raw socket to which packets are given with their headers.
fn opened(socket_: &mut Option<OwnedFd>, family: AddressFamily) -> io::Result<&OwnedFd> {
    let opened = match socket_.take() {
        Some(opened) => opened,
        None => socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?,
    };
    Ok(socket_.insert(opened))
}
