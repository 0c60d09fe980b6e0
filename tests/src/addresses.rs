//! Who has which address in a cluster? See [`crate::topology`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of a socket that takes whichever of its family.
pub fn any(six: bool) -> IpAddr {
    if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

pub fn node_address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, 10 + index)
}

pub fn outside_address() -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, 200)
}

pub fn node_address6(index: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x10 + u16::from(index))
}

pub fn outside_address6() -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x200)
}

/// A virtual address by its last byte.
pub fn vip6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, host.into())
}

/// A virtual address by its last byte.
pub fn vip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, host)
}
