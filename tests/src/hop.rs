//! A far host behind a link that takes less than the others: for path MTU
//! discovery, with both ends unaware.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    link::{self, Switch},
    netns::Netns,
};

/// On the switch: 192.168.77.254 and fd00:77::254.
const NEAR: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 168, 77, 254), Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x254));
/// Of the far host.
const FAR: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 2), Ipv6Addr::new(0xfd00, 0x198, 0, 0, 0, 0, 0, 2));

/// switch -- `near` -- the narrow link -- `beyond` -- `far`
pub struct Hop {
    /// The router on the switch; routes to whatever `far` is to reach go here.
    pub near: Netns,
    pub beyond: Netns,
    pub far: Netns,
}

impl Hop {
    /// On a switch of 192.168.77.0/24 and fd00:77::/64, as a cluster's is.
    pub fn behind(switch: &mut Switch, mtu: u32) -> Self {
        let [near, beyond, far] = [(); 3].map(|()| Netns::new());
        for router in [&near, &beyond] {
            router.set_sysctl("net/ipv4/ip_forward", "1");
            router.set_sysctl("net/ipv6/conf/all/forwarding", "1");
            link::no_address_detection(router);
        }
        switch.plug(&near, "eth0", NEAR.0, 24);
        link::address(&near, "eth0", &format!("{}/64", NEAR.1));
        link::pair(&near, "narrow", &beyond, "narrow");
        link::pair(&beyond, "wide", &far, "eth0");
        for (netns, name, addresses) in [
            (&near, "narrow", ["203.0.113.1/24", "fd00:203::1/64"]),
            (&beyond, "narrow", ["203.0.113.2/24", "fd00:203::2/64"]),
            (&beyond, "wide", ["198.51.100.1/24", "fd00:198::1/64"]),
        ] {
            for address in addresses {
                link::address(netns, name, address);
            }
        }
        link::address(&far, "eth0", &format!("{}/24", FAR.0));
        link::address(&far, "eth0", &format!("{}/64", FAR.1));
        for (netns, destination, via) in [
            (&near, ["198.51.100.0/24", "fd00:198::/64"], ["203.0.113.2", "fd00:203::2"]),
            (&beyond, ["default", "::/0"], ["203.0.113.1", "fd00:203::1"]),
            (&far, ["default", "::/0"], ["198.51.100.1", "fd00:198::1"]),
        ] {
            for (destination, via) in destination.iter().zip(via) {
                link::route(netns, destination, &format!("via {via}"));
            }
        }
        let hop = Self { near, beyond, far };
        hop.set_mtu(mtu);
        hop
    }

    /// Of the narrow link, both ends.
    pub fn set_mtu(&self, mtu: u32) {
        for router in [&self.near, &self.beyond] {
            link::mtu(router, "narrow", mtu);
        }
    }

    /// Lets `netns` on the switch reach the far host.
    pub fn reach_from(&self, netns: &Netns) {
        link::route(netns, "198.51.100.0/24", &format!("via {}", NEAR.0));
        link::route(netns, "fd00:198::/64", &format!("via {}", NEAR.1));
    }

    pub fn far_address(&self) -> Ipv4Addr {
        FAR.0
    }

    pub fn far_address6(&self) -> Ipv6Addr {
        FAR.1
    }
}
