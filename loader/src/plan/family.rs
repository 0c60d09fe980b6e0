//! What userspace needs of an address family beyond its bytes.

use std::net::IpAddr;

use causeway_schema::{Addr, V4, V6};

pub trait Family: Addr + Send + Sync {
    /// Ends the name of each map of the family in the BPF object.
    const MAP_SUFFIX: &'static str;
    /// The maps of the family that are pinned: frontends, services, backends,
    /// arena, endpoint keys, endpoints, established flows, embryonic flows,
    /// affinity, members, source ranges, port ranges, classes, egress.
    const MAPS: [&'static str; 14];

    /// `None` when the address is of the other family.
    fn from_ip(address: IpAddr) -> Option<Self>;
    fn to_ip(self) -> IpAddr;
}

impl Family for V4 {
    const MAP_SUFFIX: &'static str = "_V4";
    const MAPS: [&'static str; 14] = [
        "FRONTENDS_V4",
        "SERVICES_V4",
        "BACKENDS_V4",
        "ARENA_V4",
        "EP_KEYS_V4",
        "ENDPOINTS_V4",
        "FLOWS_V4",
        "EMBRYONIC_V4",
        "AFFINITY_V4",
        "MEMBERS_V4",
        "SRC_RANGES_V4",
        "PORT_RANGES_V4",
        "CLASSES_V4",
        "EGRESS_V4",
    ];

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.into()),
            IpAddr::V6(_) => None,
        }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }
}

impl Family for V6 {
    const MAP_SUFFIX: &'static str = "_V6";
    const MAPS: [&'static str; 14] = [
        "FRONTENDS_V6",
        "SERVICES_V6",
        "BACKENDS_V6",
        "ARENA_V6",
        "EP_KEYS_V6",
        "ENDPOINTS_V6",
        "FLOWS_V6",
        "EMBRYONIC_V6",
        "AFFINITY_V6",
        "MEMBERS_V6",
        "SRC_RANGES_V6",
        "PORT_RANGES_V6",
        "CLASSES_V6",
        "EGRESS_V6",
    ];

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.into()),
        }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }
}
