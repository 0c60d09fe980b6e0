//! A host that takes outer headers off, as one with the kernel's `ipip` and
//! `ip6tnl` devices does: what comes as IP-in-IP goes to its stack without.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::Ordering,
};

use causeway_schema::protocol;
use nix::sys::socket::{AddressFamily, MsgFlags, recv, setsockopt, sockopt};

use crate::{netns::Netns, worker::Worker};

const DEVICE: &str = "tunl0";
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// Of linux/if_tun.h: IP packets, nothing before them.
const IFF_TUN: libc::c_short = 1;
const IFF_NO_PI: libc::c_short = 0x1000;

/// Takes headers off until dropped.
pub struct TunnelEnd {
    /// Of IPv4 and IPv6.
    _workers: [Worker<()>; 2],
}

impl TunnelEnd {
    pub fn open(netns: &Netns) -> Self {
        let device = netns.run(device);
        netns.ip(&format!("link set {DEVICE} up"));
        // Clients are not behind the device that their packets come by.
        netns.set_sysctl("net/ipv4/conf/all/rp_filter", "0");
        netns.set_sysctl(&format!("net/ipv4/conf/{DEVICE}/rp_filter"), "0");
        let workers = [(AddressFamily::Inet, protocol::IPV4), (AddressFamily::Inet6, protocol::IPV6)].map(
            |(family, protocol)| {
                let socket = netns.run(|| raw(family, protocol));
                let mut device = device.try_clone().unwrap();
                Worker::start(netns, move |stop| {
                    let mut packet = vec![0; 65_536];
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(length) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) else {
                            continue;
                        };
                        // Of IPv4 the socket shows the outer header.
                        let outer = match family {
                            AddressFamily::Inet => usize::from(packet[0] & 15) * 4,
                            _ => 0,
                        };
                        device.write_all(&packet[outer..length]).unwrap();
                    }
                })
            },
        );
        Self { _workers: workers }
    }
}

fn device() -> File {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: all zero is a value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = IFF_TUN | IFF_NO_PI;
    // SAFETY: the request names an interface and flags, and is alive.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    assert_eq!(done, 0, "open {DEVICE}: {}", std::io::Error::last_os_error());
    device
}

/// A socket for all packets of a protocol.
fn raw(family: AddressFamily, protocol: u8) -> OwnedFd {
    // SAFETY: a plain system call; the descriptor is nobody else's.
    let socket = unsafe {
        let fd = libc::socket(family as i32, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into());
        assert!(fd >= 0, "open a raw socket: {}", std::io::Error::last_os_error());
        std::os::fd::FromRawFd::from_raw_fd(fd)
    };
    let often = nix::sys::time::TimeVal::new(0, 100_000);
    setsockopt(&socket, sockopt::ReceiveTimeout, &often).unwrap();
    socket
}
