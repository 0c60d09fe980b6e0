//! Where the programs are run over single packets: a namespace with an uplink,
//! containers' links and routes of every kind, in both families alike: the twin
//! of a.b.c.d is fd00::a.b.c.d (see [`mirror`]).

use std::net::{IpAddr, Ipv4Addr};

use crate::{
    link,
    mirror::{self, of_family},
    netns::Netns,
    oracle::{Route, Side},
};

pub const UPLINK_MAC: [u8; 6] = [0x02, 0, 0, 0, 1, 0];
pub const NEIGHBOUR_MAC: [u8; 6] = [0x02, 0, 0, 0, 1, 1];
/// The host's own address.
pub const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
/// A host on the uplink.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 11);
/// In a network that an unreachable route forbids.
pub const FORBIDDEN: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 1);
/// To which no route leads.
pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// Behind the neighbour, on a way of [`NARROW_MTU`] bytes.
pub const NARROW: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 1);
/// Somewhere in the world, behind the neighbour.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

pub const MTU: u16 = 1500;
pub const NARROW_MTU: u16 = 1280;

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
        // So that routes mean the same from every side; see below.
        forwards(&netns, "up0");
        for six in [false, true] {
            let host = |address: Ipv4Addr| of_family(address, six);
            let own = if six { 96 } else { 0 };
            link::address(&netns, "up0", &format!("{}/{}", host(OWN), own + 24));
            let neighbour = host(NEIGHBOUR);
            netns.ip(&format!(
                "neigh add {neighbour} lladdr {} dev up0 nud permanent",
                mac_text(NEIGHBOUR_MAC)
            ));
            let via = format!("via {neighbour}");
            let network = |address: [u8; 4]| format!("{}/{}", host(address.into()), own + 24);
            link::route(&netns, &network([10, 244, 1, 0]), &via);
            link::route(&netns, &network([198, 51, 100, 0]), &via);
            link::route(&netns, &network([10, 244, 2, 0]), &format!("{via} mtu lock {NARROW_MTU}"));
            let family = if six { "-6" } else { "-4" };
            netns.ip(&format!("{family} route replace unreachable {}", network([10, 244, 9, 0])));
        }
        for number in 1..=CONTAINERS {
            let name = format!("h{number}");
            link::pair(&netns, &name, &peers, &format!("c{number}"));
            // As `endpoint attach` does: the FIB helper asks for it.
            forwards(&netns, &name);
            link::route(&netns, &address(number).to_string(), &format!("dev {name}"));
            link::route(&netns, &mirror::host(address(number)).to_string(), &format!("dev {name}"));
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

    /// What the routing table says of a packet's ends.
    pub fn route(&self, source: IpAddr, destination: IpAddr) -> Route {
        // Nobody routes what is of one link only (RFC 4291, section 2.5).
        let stays = |address: IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => {
                address.is_unicast_link_local() || address.is_multicast() || address.is_loopback()
            }
        };
        if stays(source) || stays(destination) {
            return Route::Stack;
        }
        let six = destination.is_ipv6();
        let Some(destination) = mirror::back(destination) else { return Route::Stack };
        let out = |mtu| Route::Out { ifindex: self.uplink, mtu };
        match destination.octets() {
            [10, 244, 0, number @ 1..=CONTAINERS] => Route::Out { ifindex: self.link(number), mtu: MTU },
            [10, 244, 1, _] | [198, 51, 100, _] => out(MTU),
            [10, 244, 2, _] => out(NARROW_MTU),
            [10, 244, 9, _] => Route::Refused,
            // The host's own, and all hosts' (IPv4) or all routers' (IPv6); since
            // Linux 5.14 the lowest address is one like others.
            [192, 168, 77, 10] => Route::Stack,
            [192, 168, 77, 255] if !six => Route::Stack,
            [192, 168, 77, 0] if six => Route::Stack,
            [192, 168, 77, _] => out(MTU),
            _ => Route::Stack,
        }
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

fn forwards(netns: &Netns, link: &str) {
    for family in ["ipv4", "ipv6"] {
        netns.set_sysctl(&format!("net/{family}/conf/{link}/forwarding"), "1");
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
