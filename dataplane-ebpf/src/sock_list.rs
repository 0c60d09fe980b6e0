//! Which sockets of the host have named services? The agent reads the answer as a
//! file: for each, its number and what `sock` keeps of it.

use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_get_socket_cookie, bpf_seq_write},
};
use causeway_schema::socket::Peers;
use core::ffi::c_void;

/// `struct bpf_iter__bpf_sk_storage_map` of the kernel.
#[repr(C)]
pub struct Item {
    meta: *const Meta,
    map: *const c_void,
    socket: *mut c_void,
    peers: *const Peers,
}

/// The beginning of `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    file: *mut seq_file,
}

/// Once for each socket, and once more when there are no others.
#[inline(always)]
pub fn list(item: *const Item) -> i32 {
    // SAFETY: the kernel's item is there for as long as the program runs; the verifier
    // knows its pointers' types.
    let Item { meta, socket, peers, .. } = unsafe { core::ptr::read_volatile(item) };
    if socket.is_null() || peers.is_null() {
        return 0;
    }
    // SAFETY: as above; the row is as long as said.
    unsafe {
        let file = (*meta).file;
        let cookie = bpf_get_socket_cookie(socket);
        bpf_seq_write(file, (&raw const cookie).cast(), size_of::<u64>() as u32);
        bpf_seq_write(file, peers.cast(), size_of::<Peers>() as u32);
    }
    0
}
