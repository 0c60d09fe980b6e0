//! Where do the programs for sockets hang? At the root of the cgroups, over
//! every process there is; they look at the agent's network namespace alone.

use std::{fs::File, io, os::fd::AsRawFd};

/// What is attached there, in the order in which it is to be: what tells a
/// socket the name it used comes before what gives it another.
pub use causeway_schema::SOCKETS;

/// The attach types of [`SOCKETS`] (`enum bpf_attach_type`).
const TYPES: [u32; SOCKETS.len()] = [29, 30, 19, 20, 14, 15, 10, 11];

/// `SO_NETNS_COOKIE` (Linux 5.14), which libc does not know everywhere.
const NETNS_COOKIE: libc::c_int = 71;

pub fn attach_type(program: &str) -> Option<u32> {
    let place = SOCKETS.iter().position(|name| *name == program)?;
    TYPES.get(place).copied()
}

/// The root of the unified hierarchy, wherever it is mounted.
///
/// # Errors
/// When it is not, or cannot be opened.
pub fn root() -> io::Result<File> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|fields| fields.get(2) == Some(&"cgroup2"));
    let path = mount.and_then(|fields| fields.get(1).copied());
    File::open(path.ok_or_else(|| io::Error::other("no cgroup2 file system is mounted"))?)
}

/// What the kernel calls the network namespace of the calling thread.
///
/// # Errors
/// When it cannot be asked (Linux before 5.14).
pub fn netns_cookie() -> io::Result<u64> {
    let socket =
        std::net::UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| std::net::UdpSocket::bind(("::", 0)))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_its_type() {
        assert_eq!(attach_type("sock_connect4"), Some(10));
        assert_eq!(attach_type("sock_getpeername6"), Some(30));
        assert_eq!(attach_type("sock_recvmsg4"), Some(19));
        assert_eq!(attach_type("from_uplink"), None);
    }

    #[test]
    fn a_namespace_has_one_cookie() {
        assert_eq!(netns_cookie().unwrap(), netns_cookie().unwrap());
        assert_ne!(netns_cookie().unwrap(), 0);
    }
}
