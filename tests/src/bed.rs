//! Where the programs are run over single packets: a namespace with an uplink,
//! containers' links and routes of every kind.

use std::net::Ipv4Addr;

use crate::{
    link,
    netns::Netns,
    oracle::{Route, Side},
};

pub const UPLINK_MAC: [u8; 6] = [0x02, 0, 0, 0, 1, 0];
/// The host's own address.
pub const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
/// A host on the uplink.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 11);
/// In a network that an unreachable route forbids.
pub const FORBIDDEN: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 1);
/// To which no route leads.
pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Links of containers in the bed; container N (from 1) has address
/// 10.244.0.N. Addresses 10.244.1.0/24 live on the neighbour.
pub const CONTAINERS: u8 = 6;

pub struct Bed {
    pub netns: Netns,
    _peers: Netns,
    uplink: u32,
    links: Vec<u32>,
}

impl Bed {
    pub fn new() -> Self {
        let (netns, peers) = (Netns::new(), Netns::new());
        link::pair(&netns, "up0", &peers, "cable");
        netns.ip(&format!("link set up0 address {}", mac_text(UPLINK_MAC)));
        link::address(&netns, "up0", &format!("{OWN}/24"));
        // So that routes mean the same from every side; see below.
        netns.set_sysctl("net/ipv4/conf/up0/forwarding", "1");
        netns.ip(&format!("neigh add {NEIGHBOUR} lladdr 02:00:00:00:01:01 dev up0 nud permanent"));
        link::route(&netns, "10.244.1.0/24", &format!("via {NEIGHBOUR}"));
        link::route(&netns, "unreachable 10.244.9.0/24", "");
        for number in 1..=CONTAINERS {
            link::pair(&netns, &format!("h{number}"), &peers, &format!("c{number}"));
            // As `endpoint attach` does: the FIB helper asks for it.
            netns.set_sysctl(&format!("net/ipv4/conf/h{number}/forwarding"), "1");
            link::route(&netns, &address(number).to_string(), &format!("dev h{number}"));
        }
        let index =
            |name: String| -> u32 { netns.run(|| nix::net::if_::if_nametoindex(name.as_str())).unwrap() };
        let links = (1..=CONTAINERS).map(|number| index(format!("h{number}"))).collect();
        Self { uplink: index("up0".into()), links, _peers: peers, netns }
    }

    pub fn link(&self, number: u8) -> u32 {
        self.links[usize::from(number) - 1]
    }

    pub fn from_container(&self, number: u8) -> Side {
        Side::Container { ifindex: self.link(number) }
    }

    pub fn from_uplink(&self) -> Side {
        Side::Uplink { ifindex: self.uplink, mac: UPLINK_MAC }
    }

    /// What the routing table says.
    pub fn route(&self, destination: Ipv4Addr) -> Route {
        match destination.octets() {
            [10, 244, 0, number @ 1..=CONTAINERS] => Route::Out { ifindex: self.link(number) },
            [10, 244, 1, _] => Route::Out { ifindex: self.uplink },
            [10, 244, 9, _] => Route::Refused,
            // The subnet's own and broadcast addresses belong to the host.
            [192, 168, 77, 0 | 10 | 255] => Route::Stack,
            [192, 168, 77, _] => Route::Out { ifindex: self.uplink },
            _ => Route::Stack,
        }
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, number)
}

/// The hardware address inside container `number`.
pub fn mac(number: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 0, number]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
