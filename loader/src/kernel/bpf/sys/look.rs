//! What is a program called? Asked of one that is somebody else's, by its id.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use bytemuck::{Pod, Zeroable};

const PROG_GET_FD_BY_ID: libc::c_int = 13;

/// `struct bpf_prog_info` as far as the name.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ProgramName {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    uid: u32,
    map_count: u32,
    map_ids: u64,
    /// Ends with zeros.
    pub name: [u8; 16],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Id {
    id: u32,
    next: u32,
    flags: u32,
}

/// Opens a loaded program.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let fd = super::call(PROG_GET_FD_BY_ID, &mut Id { id, next: 0, flags: 0 })?;
    // SAFETY: the command returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
