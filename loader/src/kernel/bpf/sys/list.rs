//! What does a program say of each of a map's rows?

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, FromRawFd, OwnedFd},
};

use bytemuck::{Pod, Zeroable};

use super::{LINK_CREATE, call, raw};

const ITER_CREATE: libc::c_int = 33;
/// `BPF_TRACE_ITER` of `enum bpf_attach_type`.
const TRACE_ITER: u32 = 28;

/// Up to `flags` as for every link; what follows is a union.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    /// Address and length of `union bpf_iter_link_info`, which begins with a map.
    what: u64,
    length: u32,
    pad: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct IterCreate {
    link: u32,
    flags: u32,
}

/// All that the program writes (Linux 5.9).
pub fn list(program: &impl AsFd, map: &impl AsFd) -> io::Result<Vec<u8>> {
    let map = raw(map);
    let what = (&raw const map) as u64;
    let attach_type = TRACE_ITER;
    let length = size_of::<u32>() as u32;
    let mut attr = LinkCreate { program: raw(program), attach_type, what, length, ..Zeroable::zeroed() };
    // SAFETY: the command returns a new descriptor that nobody else owns.
    let link = unsafe { OwnedFd::from_raw_fd(call(LINK_CREATE, &mut attr)?) };
    let mut attr = IterCreate { link: raw(&link), flags: 0 };
    // SAFETY: as above.
    let mut file = unsafe { File::from_raw_fd(call(ITER_CREATE, &mut attr)?) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
