//! Programs of a few instructions. One for XDP passes everything: a veth brings what
//! XDP programs send to its other end only where a program is; and an interface
//! that has one takes no second. Another loses frames. A third stands before ours, and
//! more of it leave it no place.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use crate::netns::Netns;

/// Commands and constants of linux/bpf.h and linux/if_link.h.
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const HAS_FRAGS: u32 = 1 << 5;

/// Type of program, attach type, flags of the link.
type Hook = (u32, u32, u32);

/// In the driver.
const XDP: Hook = (6, 37, 1 << 2);
/// At tcx ingress, before all others.
const TCX_FIRST: Hook = (3, 46, 1 << 3);

/// At tcx egress.
const TCX_OUT: Hook = (3, 47, 0);
/// So many have room at a hook (`bpf_mprog_max`).
const ROOM: usize = 63;

/// `r0 = XDP_PASS; exit`
const PASS: [u64; 2] = [0xb7 | 2 << 32, 0x95];

/// `r0 = TCX_NEXT; exit`
const NEXT: [u64; 2] = [0xb7 | 0xffff_ffff << 32, 0x95];

/// `XDP_DROP` for frames of one length: `data_end` less `data`, compared.
fn lose(length: u32) -> [u64; 7] {
    [
        0x61 | 2 << 8 | 1 << 12 | 4 << 16,
        0x61 | 3 << 8 | 1 << 12,
        0x1f | 2 << 8 | 3 << 12,
        0xb7 | 2 << 32,
        0x55 | 2 << 8 | 1 << 16 | u64::from(length) << 32,
        0xb7 | 1 << 32,
        0x95,
    ]
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log: [u32; 4],
    version: u32,
    flags: u32,
}

#[repr(C)]
struct Link {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The program in an interface's driver, until the value goes.
pub struct Pass(#[expect(dead_code, reason = "the kernel detaches when it closes")] OwnedFd);

impl Pass {
    pub fn at(netns: &Netns, interface: &str) -> Self {
        Self(attach(netns, interface, &PASS, XDP, HAS_FRAGS))
    }
}

/// Loses all frames of one length that come to an interface, until the value goes.
pub struct Lose(#[expect(dead_code, reason = "the kernel detaches when it closes")] OwnedFd);

impl Lose {
    pub fn at(netns: &Netns, interface: &str, length: u32) -> Self {
        Self(attach(netns, interface, &lose(length), XDP, 0))
    }
}

/// Sees packets that come to an interface before every other program, and leaves
/// them to the next, until the value goes.
pub struct First(#[expect(dead_code, reason = "the kernel detaches when it closes")] OwnedFd);

impl First {
    pub fn at(netns: &Netns, interface: &str) -> Self {
        Self(attach(netns, interface, &NEXT, TCX_FIRST, 0))
    }
}

/// As many as there is room for see what leaves by an interface, until the value goes.
pub struct Crowd(#[expect(dead_code, reason = "the kernel detaches when they close")] Vec<OwnedFd>);

impl Crowd {
    pub fn at(netns: &Netns, interface: &str) -> Self {
        Self((0..ROOM).map(|_| attach(netns, interface, &NEXT, TCX_OUT, 0)).collect())
    }
}

fn attach(netns: &Netns, interface: &str, code: &[u64], hook: Hook, flags: u32) -> OwnedFd {
    let (kind, attach_type, link_flags) = hook;
    netns.run(|| {
        let load = Load {
            kind,
            instructions: code.len() as u32,
            code: code.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            flags,
            ..Load::default()
        };
        let program = bpf(PROG_LOAD, &load).unwrap();
        let link = Link {
            program: std::os::fd::AsRawFd::as_raw_fd(&program) as u32,
            ifindex: nix::net::if_::if_nametoindex(interface).unwrap(),
            attach_type,
            flags: link_flags,
        };
        bpf(LINK_CREATE, &link).unwrap_or_else(|error| panic!("a program at {interface}: {error}"))
    })
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are those of the command, and what they point to
    // is alive; both commands return a new descriptor.
    unsafe {
        match libc::syscall(libc::SYS_bpf, command, attributes as *const T, size_of::<T>()) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd as i32)),
        }
    }
}
