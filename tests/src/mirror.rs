//! A world of IPv4 in the other family: each address a.b.c.d is fd00::a.b.c.d.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway::plan::Image;
use causeway_schema::{V4, V6};

use crate::world::World;

pub fn v6(address: V4) -> V6 {
    if address == V4([0; 4]) {
        return V6([0; 16]);
    }
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[12..].copy_from_slice(&address.0);
    V6(bytes)
}

pub fn host(address: Ipv4Addr) -> Ipv6Addr {
    v6(address.into()).into()
}

/// The address that was mirrored, or that is of IPv4.
pub fn back(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => {
            let last: [u8; 4] = *address.octets().last_chunk()?;
            Some(last.into()).filter(|&back| host(back) == address)
        }
    }
}

/// As it is, or mirrored.
pub fn of_family(address: Ipv4Addr, six: bool) -> IpAddr {
    if six { host(address).into() } else { address.into() }
}

/// What the maps must hold of the mirrored world.
pub fn image(world: &World) -> Image<V6> {
    world.mirrored().image()
}
