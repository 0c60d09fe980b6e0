//! The programs of the dataplane. Each parses its packet once, decides on the
//! value, and acts at the top; ARCHITECTURE.md draws the packet paths.
#![no_std]
#![no_main]
// For one atomic addition (see `cache`).
#![feature(asm_experimental_arch)]

mod act;
mod affinity;
mod arp;
mod cache;
mod context;
mod count;
mod decap;
mod decide;
mod deliver;
mod egress;
mod encap;
mod family;
mod flow;
mod fragment;
mod gateway;
mod host;
mod icmp;
mod jump;
mod loose;
mod maps;
mod nat;
mod nd;
mod new_flow;
mod outer_error;
mod own_socket;
mod packet;
mod pipeline;
mod policy;
mod port_range;
mod proxy;
mod refuse;
mod rewrite;
mod service;
mod slow;
mod sock;
mod sock_list;
mod source_range;
mod sweep;
mod tables;
mod trace;
mod xdp;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use causeway_schema::{V4, V6};
use pipeline::Side;

/// Ingress of a container's host-side interface: what the container sends.
#[classifier]
pub fn from_container(ctx: TcContext) -> i32 {
    pipeline::enter(&ctx, Side::Container)
}

/// Ingress of the uplink: what other nodes and the world send.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    pipeline::enter(&ctx, Side::Uplink)
}

/// Egress of a container's host-side interface, and of the uplink where services
/// have the node itself as a backend: what the host's own stack sends.
#[classifier]
pub fn from_host(ctx: TcContext) -> i32 {
    host::enter(&ctx)
}

/// The uplink's driver, where the operator wants it: see `xdp`.
#[xdp(frags)]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    xdp::enter(&ctx)
}

// Processes of the host that name a service: see `sock`.

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    sock::name_v4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    sock::name_any(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::name_v4(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::name_v6(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::rename_v4(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::rename_v6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    sock::rename_v4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    sock::rename_v6(&ctx)
}

/// Of the sockets that the programs above have given a backend.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn sock_list(item: *const sock_list::Item) -> i32 {
    sock_list::list(item)
}

// Reached by tail call only: `jump`.

#[classifier]
pub fn container_v6(ctx: TcContext) -> i32 {
    pipeline::fast_v6(&ctx, Side::Container)
}

#[classifier]
pub fn uplink_v6(ctx: TcContext) -> i32 {
    pipeline::fast_v6(&ctx, Side::Uplink)
}

#[classifier]
pub fn slow_container_v4(ctx: TcContext) -> i32 {
    slow::run::<V4>(&ctx, Side::Container)
}

#[classifier]
pub fn slow_container_v6(ctx: TcContext) -> i32 {
    slow::run::<V6>(&ctx, Side::Container)
}

#[classifier]
pub fn slow_uplink_v4(ctx: TcContext) -> i32 {
    slow::run::<V4>(&ctx, Side::Uplink)
}

#[classifier]
pub fn slow_uplink_v6(ctx: TcContext) -> i32 {
    slow::run::<V6>(&ctx, Side::Uplink)
}

#[classifier]
pub fn icmp_container_v4(ctx: TcContext) -> i32 {
    slow::icmp::<V4>(&ctx, Side::Container)
}

#[classifier]
pub fn icmp_container_v6(ctx: TcContext) -> i32 {
    slow::icmp::<V6>(&ctx, Side::Container)
}

#[classifier]
pub fn icmp_uplink_v4(ctx: TcContext) -> i32 {
    slow::icmp::<V4>(&ctx, Side::Uplink)
}

#[classifier]
pub fn icmp_uplink_v6(ctx: TcContext) -> i32 {
    slow::icmp::<V6>(&ctx, Side::Uplink)
}

#[classifier]
pub fn carry_container_v4(ctx: TcContext) -> i32 {
    slow::carry::<V4>(&ctx, Side::Container)
}

#[classifier]
pub fn carry_container_v6(ctx: TcContext) -> i32 {
    slow::carry::<V6>(&ctx, Side::Container)
}

#[classifier]
pub fn carry_uplink_v4(ctx: TcContext) -> i32 {
    slow::carry::<V4>(&ctx, Side::Uplink)
}

#[classifier]
pub fn carry_uplink_v6(ctx: TcContext) -> i32 {
    slow::carry::<V6>(&ctx, Side::Uplink)
}

#[classifier]
pub fn begin_v4(ctx: TcContext) -> i32 {
    slow::begin::<V4>(&ctx)
}

#[classifier]
pub fn begin_v6(ctx: TcContext) -> i32 {
    slow::begin::<V6>(&ctx)
}

#[classifier]
pub fn affinity_v4(ctx: TcContext) -> i32 {
    affinity::run::<V4>(&ctx)
}

#[classifier]
pub fn affinity_v6(ctx: TcContext) -> i32 {
    affinity::run::<V6>(&ctx)
}

#[classifier]
pub fn port_range_v4(ctx: TcContext) -> i32 {
    port_range::run::<V4>(&ctx)
}

#[classifier]
pub fn port_range_v6(ctx: TcContext) -> i32 {
    port_range::run::<V6>(&ctx)
}

#[classifier]
pub fn policy_v4(ctx: TcContext) -> i32 {
    policy::run::<V4>(&ctx)
}

#[classifier]
pub fn policy_v6(ctx: TcContext) -> i32 {
    policy::run::<V6>(&ctx)
}

#[classifier]
pub fn encap_v4(ctx: TcContext) -> i32 {
    encap::run::<V4>(&ctx)
}

#[classifier]
pub fn encap_v6(ctx: TcContext) -> i32 {
    encap::run::<V6>(&ctx)
}

#[classifier]
pub fn decap_v4(ctx: TcContext) -> i32 {
    decap::run::<V4>(&ctx)
}

#[classifier]
pub fn decap_v6(ctx: TcContext) -> i32 {
    decap::run::<V6>(&ctx)
}

#[classifier]
pub fn egress_v4(ctx: TcContext) -> i32 {
    gateway::run::<V4>(&ctx)
}

#[classifier]
pub fn egress_v6(ctx: TcContext) -> i32 {
    gateway::run::<V6>(&ctx)
}

#[classifier]
pub fn proxy_v4(ctx: TcContext) -> i32 {
    proxy::run::<V4>(&ctx)
}

#[classifier]
pub fn proxy_v6(ctx: TcContext) -> i32 {
    proxy::run::<V6>(&ctx)
}

#[classifier]
pub fn refuse_v4(ctx: TcContext) -> i32 {
    slow::refuse::<V4>(&ctx)
}

#[classifier]
pub fn refuse_v6(ctx: TcContext) -> i32 {
    slow::refuse::<V6>(&ctx)
}

#[classifier]
pub fn release_v4(ctx: TcContext) -> i32 {
    slow::release::<V4>(&ctx)
}

#[classifier]
pub fn release_v6(ctx: TcContext) -> i32 {
    slow::release::<V6>(&ctx)
}

/// Never attached: the agent runs it with a list of flows that looked idle, so
/// that the check and the removal happen here, beside the traffic.
#[classifier]
pub fn sweep_v4(ctx: TcContext) -> i32 {
    sweep::run::<V4>(&ctx);
    act::PASS
}

#[classifier]
pub fn sweep_v6(ctx: TcContext) -> i32 {
    sweep::run::<V6>(&ctx);
    act::PASS
}

/// The verifier rejects a program that could reach this.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Helpers that only GPL-compatible programs may call are used, so the object
/// is dual-licensed.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
