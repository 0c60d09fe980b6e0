//! Who computes checksums, cuts segments and writes VLAN tags? A veth leaves
//! all that to a device that never comes; a test that looks at frames wants
//! them finished.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::netns::Netns;

/// Commands of linux/ethtool.h: checksums, TCP segments, generic segments on
/// the way out, coalescing on the way in, and flags (among them VLAN tags
/// beside the frame).
const COMMANDS: [u32; 5] = [0x17, 0x1f, 0x24, 0x2c, 0x26];

#[repr(C)]
struct Value {
    command: u32,
    on: u32,
}

/// From now on frames leave `link` as they would leave a plain network card.
pub fn off(netns: &Netns, link: &str) {
    netns.run(|| {
        let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
        for command in COMMANDS {
            let mut value = Value { command, on: 0 };
            // SAFETY: all zero is a value of this plain C structure.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            assert!(link.len() < request.ifr_name.len(), "{link} is no name of an interface");
            for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_data = (&raw mut value).cast();
            // SAFETY: the request names an interface and an ethtool_value, both alive.
            let done = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
            assert_eq!(done, 0, "ethtool {command:#x} {link}: {}", std::io::Error::last_os_error());
        }
    });
}
