//! What does a process of the host talk to when it names a service? A backend,
//! from the start: its socket is given the backend's address when it connects
//! or sends, so that no packet has to be translated, and what it asks of its
//! peer later is answered with the name that it used.
//!
//! The programs hang at the root of the cgroups, and look at the sockets of the
//! agent's network namespace alone.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use causeway_schema::{
    Event, FlowKey, Port, Service, V4, V6, protocol,
    socket::{Name, Peer},
};

use crate::{
    affinity, count,
    family::Family,
    maps,
    service::{self, Choice, Chosen},
};

/// What a program of these hooks returns: go on, with the address as it stands
/// now; or fail, with the error that was set.
const PROCEED: i32 = 1;
const FAIL: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// What is known of an address that a socket names.
enum Answer<A> {
    /// It is no service's.
    Nobody,
    /// A service's, but nobody serves it.
    Refused,
    Backend(Chosen<A>),
}

/// Before connect(2), and sendto(2) of an unconnected socket.
#[inline(always)]
pub fn name_v4(ctx: &SockAddrContext) -> i32 {
    name(ctx, address_v4(ctx), set_v4)
}

/// Before sendto(2); the kernel takes mapped addresses to the other family's hook.
#[inline(always)]
pub fn name_v6(ctx: &SockAddrContext) -> i32 {
    name(ctx, address_v6(ctx), set_v6)
}

/// Before connect(2), where sockets of both families name IPv4 addresses in
/// IPv6's clothes.
#[inline(always)]
pub fn name_any(ctx: &SockAddrContext) -> i32 {
    let named = address_v6(ctx);
    match V4::of_mapped(named) {
        Some(named) => name(ctx, named, set_mapped),
        None => name(ctx, named, set_v6),
    }
}

/// After recvfrom(2) and in getpeername(2): who is it, in the socket's words?
#[inline(always)]
pub fn rename_v4(ctx: &SockAddrContext) -> i32 {
    if let Some(frontend) = frontend_of(ctx, &Name::new(address_v4(ctx), port(ctx)))
        && let Some(addr) = V4::of_mapped(frontend.addr)
    {
        set_v4(ctx, addr, frontend.port);
    }
    PROCEED
}

#[inline(always)]
pub fn rename_v6(ctx: &SockAddrContext) -> i32 {
    if let Some(frontend) = frontend_of(ctx, &Name::new(address_v6(ctx), port(ctx))) {
        set_v6(ctx, frontend.addr, frontend.port);
    }
    PROCEED
}

#[inline(always)]
fn name<A: Family>(ctx: &SockAddrContext, named: A, set: impl Fn(&SockAddrContext, A, Port)) -> i32 {
    if !is_of_host(ctx) {
        return PROCEED;
    }
    match ask(ctx, named) {
        Answer::Nobody => PROCEED,
        Answer::Refused => refuse(),
        Answer::Backend(backend) => serve(ctx, named, &backend, set),
    }
}

#[inline(always)]
fn ask<A: Family>(ctx: &SockAddrContext, addr: A) -> Answer<A> {
    let protocol = word(ctx, |raw| unsafe { &raw const (*raw).protocol }) as u8;
    if protocol != protocol::TCP && protocol != protocol::UDP {
        return Answer::Nobody;
    }
    // Node ports stand under the unspecified address.
    let at = if addr.is_loopback() { A::UNSPECIFIED } else { addr };
    // SAFETY: a plain helper on a valid context. It has no port yet: what tells
    // one socket from another is its number.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let client = Port((socket as u16).to_ne_bytes());
    let key = FlowKey::new(A::node(), at, client, port(ctx), protocol);
    let (service, offset) = match knock(&key) {
        Some(found) => found,
        None => {
            return if at != A::UNSPECIFIED && service::owns(at) { Answer::Refused } else { Answer::Nobody };
        }
    };
    let Some(row) = service::row::<A>(service) else { return Answer::Refused };
    // Nobody would tell the backend who its client is.
    if row.flags & Service::PROXY != 0 && protocol == protocol::TCP {
        return Answer::Refused;
    }
    let mut choice = service::choose_for(&row, &key);
    if row.flags & Service::AFFINITY != 0 {
        choice = affinity::choose(service, &row, &key, choice, false);
    }
    match choice {
        Choice::Backend(mut backend) => {
            backend.port = Port::new(backend.port.get().wrapping_add(offset));
            Answer::Backend(backend)
        }
        Choice::None | Choice::Broken => Answer::Refused,
    }
}

/// The service, and how far into its range of ports the one named lies. The
/// host itself may come to all of them, whatever their source ranges.
#[inline(always)]
fn knock<A: Family>(key: &FlowKey<A>) -> Option<(u32, u16)> {
    if let Some(frontend) = service::frontend(key) {
        return Some((frontend.service, 0));
    }
    let range = service::in_range(key)?;
    Some((range.service, range.offset(key.dst_port)))
}

#[inline(always)]
fn serve<A: Family>(
    ctx: &SockAddrContext,
    frontend: A,
    backend: &Chosen<A>,
    set: impl Fn(&SockAddrContext, A, Port),
) -> i32 {
    // SAFETY: the context's socket is there for as long as the program runs.
    let peers = unsafe { maps::PEERS.get_or_insert_ptr_mut(ctx, None) };
    // SAFETY: a row of the storage, or null; whoever else writes it writes
    // whole words, and a mixture names a backend that nobody answers as.
    if let Some(peers) = unsafe { peers.as_mut() } {
        peers.remember(Peer {
            frontend: Name::new(frontend, port(ctx)),
            backend: Name::new(backend.addr, backend.port),
        });
    }
    set(ctx, backend.addr, backend.port);
    count::event(Event::SocketServed);
    PROCEED
}

#[inline(always)]
fn refuse() -> i32 {
    count::event(Event::SocketRefused);
    // SAFETY: a plain helper.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    FAIL
}

#[inline(always)]
fn frontend_of(ctx: &SockAddrContext, backend: &Name) -> Option<Name> {
    if !is_of_host(ctx) {
        return None;
    }
    // SAFETY: as in `serve`.
    unsafe { maps::PEERS.get_ptr_mut(ctx).as_ref() }?.frontend(backend)
}

#[inline(always)]
fn is_of_host(ctx: &SockAddrContext) -> bool {
    // SAFETY: a plain helper on a valid context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    maps::CONFIG.get(0).is_some_and(|config| config.netns == [netns as u32, (netns >> 32) as u32])
}

#[inline(always)]
fn address_v4(ctx: &SockAddrContext) -> V4 {
    V4(word(ctx, |raw| unsafe { &raw const (*raw).user_ip4 }).to_ne_bytes())
}

#[inline(always)]
fn address_v6(ctx: &SockAddrContext) -> V6 {
    let mut words = [0; 4];
    for (index, place) in words.iter_mut().enumerate() {
        *place = word(ctx, |raw| unsafe { &raw const (*raw).user_ip6[index] });
    }
    V6(bytemuck::cast(words))
}

#[inline(always)]
fn port(ctx: &SockAddrContext) -> Port {
    Port((word(ctx, |raw| unsafe { &raw const (*raw).user_port }) as u16).to_ne_bytes())
}

#[inline(always)]
fn set_v4(ctx: &SockAddrContext, addr: V4, port: Port) {
    set_word(ctx, |raw| unsafe { &raw mut (*raw).user_ip4 }, addr.word());
    set_port(ctx, port);
}

#[inline(always)]
fn set_v6(ctx: &SockAddrContext, addr: V6, port: Port) {
    for (index, word) in addr.words().into_iter().enumerate() {
        set_word(ctx, |raw| unsafe { &raw mut (*raw).user_ip6[index] }, word);
    }
    set_port(ctx, port);
}

/// The other words stay as they are.
#[inline(always)]
fn set_mapped(ctx: &SockAddrContext, addr: V4, port: Port) {
    set_word(ctx, |raw| unsafe { &raw mut (*raw).user_ip6[3] }, addr.word());
    set_port(ctx, port);
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, port: Port) {
    set_word(ctx, |raw| unsafe { &raw mut (*raw).user_port }, u32::from(port.raw()));
}

/// The verifier takes whole words of the context, one at a time.
#[inline(always)]
fn word(ctx: &SockAddrContext, place: impl Fn(*const bpf_sock_addr) -> *const u32) -> u32 {
    // SAFETY: a field of a valid context.
    unsafe { core::ptr::read_volatile(place(ctx.sock_addr)) }
}

#[inline(always)]
fn set_word(ctx: &SockAddrContext, place: impl Fn(*mut bpf_sock_addr) -> *mut u32, word: u32) {
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(place(ctx.sock_addr), word) }
}
