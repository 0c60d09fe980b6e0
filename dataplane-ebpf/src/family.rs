//! What does the pipeline need of an address family? Its maps, and where its
//! header keeps what gets rewritten. IPv6 is one more implementation.

use causeway_schema::{Addr, Backend, EndpointKey, Flow, FlowKey, Frontend, FrontendKey, Hop, V4, checksum};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};

use crate::{cache::Line, maps};

pub trait Family: Addr {
    /// `AF_INET` or `AF_INET6`, as `bpf_fib_lookup` and `bpf_redirect_neigh` take it.
    const AF: u8;
    /// Length of a header without options.
    const HEADER: usize;
    /// Offset of the L4 header in a frame without options or VLAN tag.
    const L4: usize = EthHdr::LEN + Self::HEADER;
    /// Offsets in the frame.
    const SRC: usize;
    const DST: usize;
    const TTL: usize;

    fn frontend(key: &FrontendKey<Self>) -> Option<Frontend>;
    fn backend(id: u32) -> Option<Backend<Self>>;
    fn endpoint_hop(address: Self) -> Option<Hop>;

    fn established(key: &FlowKey<Self>) -> Option<*mut Flow<Self>>;
    fn embryonic(key: &FlowKey<Self>) -> Option<*mut Flow<Self>>;
    fn put_established(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool;
    fn put_embryonic(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool;
    fn drop_established(key: &FlowKey<Self>);
    fn drop_embryonic(key: &FlowKey<Self>);

    /// A line of this CPU's flow cache.
    fn cache_line(index: u32) -> Option<*mut Line<Self>>;

    /// Updates the header's own checksum, if it has one, for a changed sum.
    ///
    /// # Safety
    /// `header` points at a whole, writable header.
    unsafe fn update_header_checksum(header: *mut u8, difference: u32);
}

impl Family for V4 {
    const AF: u8 = 2;
    const HEADER: usize = Ipv4Hdr::LEN;
    const SRC: usize = EthHdr::LEN + core::mem::offset_of!(Ipv4Hdr, src_addr);
    const DST: usize = EthHdr::LEN + core::mem::offset_of!(Ipv4Hdr, dst_addr);
    const TTL: usize = EthHdr::LEN + core::mem::offset_of!(Ipv4Hdr, ttl);

    #[inline(always)]
    fn frontend(key: &FrontendKey<Self>) -> Option<Frontend> {
        // SAFETY: rows are replaced whole by userspace; a copy is taken at once.
        unsafe { maps::FRONTENDS_V4.get(key).copied() }
    }

    #[inline(always)]
    fn backend(id: u32) -> Option<Backend<Self>> {
        maps::BACKENDS_V4.get(id).copied()
    }

    #[inline(always)]
    fn endpoint_hop(address: Self) -> Option<Hop> {
        // SAFETY: as for `frontend`.
        unsafe { maps::EP_KEYS_V4.get(EndpointKey(address)).copied() }
    }

    #[inline(always)]
    fn established(key: &FlowKey<Self>) -> Option<*mut Flow<Self>> {
        maps::FLOWS_V4.get_ptr_mut(key)
    }

    #[inline(always)]
    fn embryonic(key: &FlowKey<Self>) -> Option<*mut Flow<Self>> {
        maps::EMBRYONIC_V4.get_ptr_mut(key)
    }

    #[inline(always)]
    fn put_established(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool {
        maps::FLOWS_V4.insert(key, flow, 0).is_ok()
    }

    #[inline(always)]
    fn put_embryonic(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool {
        maps::EMBRYONIC_V4.insert(key, flow, 0).is_ok()
    }

    #[inline(always)]
    fn drop_established(key: &FlowKey<Self>) {
        // Absent is fine: somebody else was quicker.
        let _ = maps::FLOWS_V4.remove(key);
    }

    #[inline(always)]
    fn drop_embryonic(key: &FlowKey<Self>) {
        let _ = maps::EMBRYONIC_V4.remove(key);
    }

    #[inline(always)]
    fn cache_line(index: u32) -> Option<*mut Line<Self>> {
        maps::CACHE_V4.get_ptr_mut(index)
    }

    #[inline(always)]
    unsafe fn update_header_checksum(header: *mut u8, difference: u32) {
        // SAFETY: the caller vouches for the header; IP headers are 2-aligned.
        unsafe {
            let check = header.add(core::mem::offset_of!(Ipv4Hdr, check)).cast::<u16>();
            *check = checksum::update(*check, difference);
        }
    }
}
