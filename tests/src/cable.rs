//! Two hosts of both families on one cable, whose frames are finished when
//! they are seen: where a plain kernel is asked what it sends and takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    frame::{Datagram, Frame},
    link,
    netns::Netns,
    offload,
    raw::Raw,
};

pub const LEFT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const RIGHT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// IPv4, IPv6.
pub const LEFT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
pub const RIGHT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))];

/// The end that each host has of the cable.
pub const END: &str = "eth0";

pub struct Cable {
    pub left: Netns,
    pub right: Netns,
}

impl Cable {
    pub fn new() -> Self {
        let [left, right] = [(); 2].map(|()| Netns::new());
        for netns in [&left, &right] {
            link::no_address_detection(netns);
            // A test provokes more errors in a second than a host would send.
            netns.set_sysctl("net/ipv4/icmp_ratemask", "0");
            netns.set_sysctl("net/ipv6/icmp/ratelimit", "0");
        }
        link::pair(&left, END, &right, END);
        for (netns, mac, addresses) in
            [(&left, "02:00:00:00:00:01", LEFT), (&right, "02:00:00:00:00:02", RIGHT)]
        {
            netns.ip(&format!("link set {END} address {mac}"));
            for address in addresses {
                let length = if address.is_ipv6() { 64 } else { 24 };
                link::address(netns, END, &format!("{address}/{length}"));
            }
            offload::off(netns, END);
        }
        Self { left, right }
    }

    /// A way to put packets on the cable, from the left host to the right one.
    pub fn left_sends(&self) -> impl Fn(Datagram) {
        let raw = Raw::open(&self.left, END);
        move |packet| raw.send(&Frame::new(packet).macs(LEFT_MAC, RIGHT_MAC).bytes())
    }
}

impl Default for Cable {
    fn default() -> Self {
        Self::new()
    }
}
