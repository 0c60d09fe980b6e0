//! A UDP socket of which a test says where it is and whether its datagrams
//! may be cut up.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use crate::netns::Netns;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragments {
    /// "Don't fragment" is set, and the kernel refuses what is longer than the
    /// path takes, as far as it knows.
    Never,
    /// On the way as well as here.
    Allowed,
}

impl Fragments {
    /// For what a socket sends, of whatever protocol.
    pub fn set(self, socket: &impl AsRawFd, six: bool) {
        let never = self == Fragments::Never;
        let discovery = if never { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
        if six {
            set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, discovery);
            // Or the kernel would cut them up at the start.
            set(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, never.into());
        } else {
            set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discovery);
        }
    }
}

pub struct UdpEnd(UdpSocket);

impl UdpEnd {
    /// With the address and port given; port 0 for any.
    pub fn bind(netns: &Netns, local: SocketAddr, fragments: Fragments) -> Self {
        let bound = netns.run(|| UdpSocket::bind(local));
        let socket = bound.unwrap_or_else(|error| panic!("bind UDP {local}: {error}"));
        fragments.set(&socket, local.is_ipv6());
        Self(socket)
    }

    pub fn send(&self, to: impl Into<SocketAddr>, payload: &[u8]) -> io::Result<()> {
        self.0.send_to(payload, to.into()).map(drop)
    }

    /// The next datagram and its sender.
    pub fn receive(&self, patience: Duration) -> io::Result<(Vec<u8>, SocketAddr)> {
        self.0.set_read_timeout(Some(patience))?;
        let mut buffer = vec![0; 65_536];
        let (length, from) = loop {
            match self.0.recv_from(&mut buffer) {
                // With a timeout the kernel does not go back to waiting by itself.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received?,
            }
        };
        buffer.truncate(length);
        Ok((buffer, from))
    }
}

fn set(socket: &impl AsRawFd, level: i32, option: i32, value: i32) {
    let length = size_of_val(&value) as u32;
    // SAFETY: the option's value is an int of `length` bytes.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    assert_eq!(done, 0, "socket option {level}/{option}: {}", io::Error::last_os_error());
}
