//! How are neighbours asked for their hardware addresses, and what do they
//! answer? The kernel hears the answers too and does as it always does with
//! them; only an answer that it does not take within a second of the last one
//! (its `locktime`, for ARP) has to be read here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socket};

/// ARP over Ethernet (RFC 826): where its fields stand in a frame.
const OPERATION: usize = 20;
const REPLY: [u8; 2] = 2_u16.to_be_bytes();
const SENDER_MAC: usize = 22;
const SENDER: usize = 28;
const LENGTH: usize = 42;

/// Asks on one interface, until dropped.
pub struct Solicitor {
    asks: Sender,
    hears: OwnedFd,
}

/// Sends frames by one interface, until dropped. Of no protocol: nothing that
/// comes in is queued here.
pub struct Sender(OwnedFd);

impl Sender {
    /// # Errors
    /// As [`Solicitor::open`].
    pub fn open(ifindex: u32) -> io::Result<Self> {
        packet_socket(ifindex, 0).map(Self)
    }

    /// # Errors
    /// When the interface is down or has gone.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(send(self.0.as_raw_fd(), frame, flags).map(drop)?)
    }
}

impl Solicitor {
    /// # Errors
    /// Without CAP_NET_RAW, or when the interface has gone.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        Ok(Self { asks: Sender::open(ifindex)?, hears: packet_socket(ifindex, libc::ETH_P_ARP as u16)? })
    }

    /// # Errors
    /// When the interface is down or has gone.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.asks.send(frame)
    }

    /// ARP replies since the last time: who says to be where.
    pub fn answers(&self) -> Vec<(IpAddr, [u8; 6])> {
        let mut buffer = [0; LENGTH];
        let mut answers = Vec::new();
        while let Ok(length) = recv(self.hears.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            answers.extend(buffer.get(..length).and_then(answer));
        }
        answers
    }
}

fn answer(frame: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    if frame.get(OPERATION..SENDER_MAC)? != REPLY {
        return None;
    }
    let mac = frame.get(SENDER_MAC..SENDER)?.try_into().ok()?;
    let address: [u8; 4] = frame.get(SENDER..SENDER + 4)?.try_into().ok()?;
    Some((Ipv4Addr::from(address).into(), mac))
}

/// Bound to the interface.
fn packet_socket(ifindex: u32, protocol: u16) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Of no protocol until it is bound: nothing of other interfaces is heard.
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    // SAFETY: all zero is a value of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = ifindex as i32;
    let length = size_of_val(&address) as u32;
    // SAFETY: `address` is a sockaddr_ll of `length` bytes and outlives the call.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}
