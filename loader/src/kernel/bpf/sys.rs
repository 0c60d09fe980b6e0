//! How do we call bpf(2)? One function a command, for the commands that aya
//! keeps to itself or lacks. Field order is the kernel's (`union bpf_attr` in
//! `include/uapi/linux/bpf.h`); a shorter attribute than the kernel's counts
//! as zero beyond its end.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use bytemuck::{Pod, Zeroable};

mod list;
mod look;

pub use list::list;
pub use look::{ProgramName, program_by_id};

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const MAP_DELETE_BATCH: libc::c_int = 27;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// `enum bpf_attach_type`, the second since Linux 6.6.
const XDP: u32 = 37;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// Before every program that is there, when no relative is named.
const F_BEFORE: u32 = 1 << 3;
/// In the driver, not in the stack's imitation of it (`linux/if_link.h`).
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

pub fn map_lookup<K: Pod, V: Pod>(map: &impl AsFd, key: &K) -> io::Result<Option<V>> {
    let mut value = V::zeroed();
    let found = map_lookup_bytes(map, key, bytemuck::bytes_of_mut(&mut value))?;
    Ok(found.then_some(value))
}

/// For per-CPU maps, whose value is an array; false when there is no such key.
pub fn map_lookup_bytes<K: Pod>(map: &impl AsFd, key: &K, value: &mut [u8]) -> io::Result<bool> {
    let mut attr = Element::new(map, key, value.as_mut_ptr() as u64);
    match call(MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

pub fn map_update<K: Pod, V: Pod>(map: &impl AsFd, key: &K, value: &V) -> io::Result<()> {
    call(MAP_UPDATE_ELEM, &mut Element::new(map, key, value as *const V as u64)).map(drop)
}

/// For per-CPU maps, whose value is an array.
pub fn map_update_bytes<K: Pod>(map: &impl AsFd, key: &K, value: &[u8]) -> io::Result<()> {
    call(MAP_UPDATE_ELEM, &mut Element::new(map, key, value.as_ptr() as u64)).map(drop)
}

/// Deleting what is not there succeeds.
pub fn map_delete<K: Pod>(map: &impl AsFd, key: &K) -> io::Result<()> {
    match call(MAP_DELETE_ELEM, &mut Element::new(map, key, 0)) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

#[derive(Clone, Copy)]
pub enum BatchCommand {
    Lookup = MAP_LOOKUP_BATCH as isize,
    Update = MAP_UPDATE_BATCH as isize,
    Delete = MAP_DELETE_BATCH as isize,
}

/// Addresses of the arrays of a batch; 0 for what the command does not use.
#[derive(Clone, Copy, Default)]
pub struct BatchBuffers {
    pub cursor_in: u64,
    pub cursor_out: u64,
    pub keys: u64,
    pub values: u64,
}

/// The result and the number of elements done, which also counts on failure
/// (unless the kernel refused the call as a whole and left it as it was).
///
/// # Safety
/// Each buffer that the command uses must have room for `count` elements.
pub unsafe fn map_batch(
    command: BatchCommand,
    map: &impl AsFd,
    buffers: BatchBuffers,
    count: u32,
) -> (io::Result<()>, u32) {
    let mut attr = Batch {
        cursor_in: buffers.cursor_in,
        cursor_out: buffers.cursor_out,
        keys: buffers.keys,
        values: buffers.values,
        count,
        map: raw(map),
        ..Zeroable::zeroed()
    };
    let result = call(command as libc::c_int, &mut attr).map(drop);
    (result, attr.count)
}

/// Pins a map, program or link to a path that does not exist.
pub fn pin(object: &impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    call(OBJ_PIN, &mut Pinned { path: path.as_ptr() as u64, fd: raw(object), flags: 0 }).map(drop)
}

/// Opens what is pinned at a path.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let fd = call(OBJ_GET, &mut Pinned { path: path.as_ptr() as u64, fd: 0, flags: 0 })?;
    // SAFETY: the command returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct bpf_map_info`, its first fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct MapInfo {
    pub kind: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// `struct bpf_prog_info`, its first fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ProgramInfo {
    pub kind: u32,
    pub id: u32,
}

/// `struct bpf_link_info` of a link to an interface or a cgroup, its first fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LinkInfo {
    pub kind: u32,
    pub id: u32,
    pub program: u32,
    pad: u32,
    /// The interface's index, or the low half of the cgroup's id; 0 when the
    /// link is detached or its interface gone.
    pub target: u32,
    /// Of a tcx link; the other half of the cgroup's id.
    pub attach_type: u32,
}

/// One of the `*Info` types above, by the kind of descriptor.
pub fn info<T: Pod>(object: &impl AsFd) -> io::Result<T> {
    let mut info = T::zeroed();
    let address = &raw mut info as u64;
    call(OBJ_GET_INFO_BY_FD, &mut Info { fd: raw(object), len: size_of::<T>() as u32, address })?;
    Ok(info)
}

/// Which packets of an interface a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those that come in by it.
    Ingress,
    /// Those that the host sends out of it.
    Egress,
}

impl Direction {
    fn attach_type(self) -> u32 {
        match self {
            Direction::Ingress => TCX_INGRESS,
            Direction::Egress => TCX_EGRESS,
        }
    }
}

/// Puts the program before all others at the interface.
pub fn tcx_create(program: &impl AsFd, ifindex: u32, direction: Direction) -> io::Result<OwnedFd> {
    link_create(program, ifindex, direction.attach_type(), F_BEFORE)
}

/// Gives the program to the interface's driver; `EOPNOTSUPP` from drivers
/// that run none, `EBUSY` when another is there.
pub fn xdp_create(program: &impl AsFd, ifindex: u32) -> io::Result<OwnedFd> {
    link_create(program, ifindex, XDP, XDP_FLAGS_DRV_MODE)
}

/// Lets the program look at the sockets of a cgroup's processes, beside the
/// programs that are there.
pub fn cgroup_create(program: &impl AsFd, cgroup: &impl AsFd, attach_type: u32) -> io::Result<OwnedFd> {
    link_create(program, raw(cgroup), attach_type, 0)
}

fn link_create(program: &impl AsFd, target: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate { program: raw(program), target, attach_type, flags, ..Zeroable::zeroed() };
    let fd = call(LINK_CREATE, &mut attr)?;
    // SAFETY: the command returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Exchanges the link's program in one step; `ENOLINK` when it is detached.
pub fn link_update(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let mut attr = LinkUpdate { link: raw(link), program: raw(program), ..Zeroable::zeroed() };
    call(LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches now, whoever else still holds the link.
pub fn link_detach(link: &impl AsFd) -> io::Result<()> {
    call(LINK_DETACH, &mut LinkDetach { link: raw(link) }).map(drop)
}

/// Programs at the interface's tcx hook, in order, each with its link's id
/// (0 for a program attached without a link). `EINVAL` from kernels before 6.6.
pub fn tcx_query(ifindex: u32, direction: Direction) -> io::Result<Vec<(u32, u32)>> {
    // The kernel allows 64 programs at a hook (BPF_MPROG_MAX).
    let mut programs = [0u32; 64];
    let mut links = [0u32; 64];
    let mut attr = Query {
        ifindex,
        attach_type: direction.attach_type(),
        programs: programs.as_mut_ptr() as u64,
        links: links.as_mut_ptr() as u64,
        count: programs.len() as u32,
        ..Zeroable::zeroed()
    };
    call(PROG_QUERY, &mut attr)?;
    let count = (attr.count as usize).min(programs.len());
    Ok(programs.into_iter().zip(links).take(count).collect())
}

/// Runs a program once; the result is its return value and the length of the
/// packet that it left in `out`.
pub fn test_run(
    program: &impl AsFd,
    context: &[u8],
    packet: &[u8],
    out: &mut [u8],
) -> io::Result<(u32, usize)> {
    let mut attr = TestRun {
        program: raw(program),
        data_len: packet.len() as u32,
        data: packet.as_ptr() as u64,
        out_len: out.len() as u32,
        out: out.as_mut_ptr() as u64,
        context_len: context.len() as u32,
        // An address without a length is refused, and an empty slice has one.
        context: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        repeat: 1,
        ..Zeroable::zeroed()
    };
    call(PROG_TEST_RUN, &mut attr)?;
    Ok((attr.result, attr.out_len as usize))
}

fn call<T: Pod>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is as long as said; the addresses in it are of buffers
    // that the caller keeps borrowed, of the lengths that it states.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn raw(object: &impl AsFd) -> u32 {
    object.as_fd().as_raw_fd() as u32
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new<K: Pod>(map: &impl AsFd, key: &K, value: u64) -> Self {
        Self { map: raw(map), pad: 0, key: key as *const K as u64, value, flags: 0 }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Batch {
    cursor_in: u64,
    cursor_out: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Pinned {
    path: u64,
    fd: u32,
    flags: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Info {
    fd: u32,
    len: u32,
    address: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    /// An interface's index, or a cgroup's descriptor.
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkDetach {
    link: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    pad: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TestRun {
    program: u32,
    result: u32,
    data_len: u32,
    out_len: u32,
    data: u64,
    out: u64,
    repeat: u32,
    duration: u32,
    context_len: u32,
    context_out_len: u32,
    context: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}
