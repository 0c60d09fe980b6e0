//! Frames straight onto an interface.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket},
};

use crate::netns::Netns;

/// Sends on one interface until dropped.
pub struct Raw(OwnedFd);

impl Raw {
    pub fn open(netns: &Netns, link: &str) -> Self {
        // Of no protocol: nothing that comes in is queued here.
        Self(packet_socket(netns, link, None))
    }

    /// The whole frame, as it stands.
    pub fn send(&self, frame: &[u8]) {
        assert!(self.offer(frame), "no room for a frame of {} bytes", frame.len());
    }

    /// The same; false when the link has no room for it now.
    pub fn offer(&self, frame: &[u8]) -> bool {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty());
        if matches!(sent, Err(Errno::ENOBUFS | Errno::EAGAIN)) {
            return false;
        }
        assert_eq!(sent, Ok(frame.len()), "send a frame of {} bytes", frame.len());
        true
    }
}

/// An `AF_PACKET` socket bound to one interface of `netns`.
pub(crate) fn packet_socket(netns: &Netns, link: &str, protocol: Option<SockProtocol>) -> OwnedFd {
    netns.run(|| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)
            .unwrap_or_else(|error| panic!("open a packet socket: {error}"));
        let index = nix::net::if_::if_nametoindex(link)
            .unwrap_or_else(|error| panic!("interface {link} in {}: {error}", netns.name()));
        // SAFETY: all zero is a value of this plain C structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.map_or(0, |_| (libc::ETH_P_ALL as u16).to_be());
        address.sll_ifindex = index as i32;
        let length = size_of_val(&address) as u32;
        // SAFETY: `address` is a sockaddr_ll of `length` bytes and outlives the call.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "bind to {link}: {}", std::io::Error::last_os_error());
        socket
    })
}
