//! A world of IPv4 in the other family: each address a.b.c.d is fd00::a.b.c.d.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use causeway::plan::{ById, Image};
use causeway_schema::{Backend, EndpointKey, FrontendKey, V4, V6};

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

/// As it is, or mirrored.
pub fn of_family(address: Ipv4Addr, six: bool) -> IpAddr {
    if six { host(address).into() } else { address.into() }
}

/// What the maps must hold of the mirrored world.
pub fn image(world: &World) -> Image<V6> {
    let image = world.image();
    let key = |key: &FrontendKey<V4>| FrontendKey::new(v6(key.addr), key.port, key.protocol);
    let mut backends = ById::default();
    for (id, row) in image.backends.iter() {
        backends.insert(id, Backend::new(v6(row.addr), row.port));
    }
    Image {
        frontends: image.frontends.iter().map(|(at, row)| (key(at), *row)).collect::<HashMap<_, _>>(),
        services: image.services.clone(),
        backends,
        tables: image.tables.clone(),
        endpoint_keys: image.endpoint_keys.iter().map(|(at, hop)| (EndpointKey(v6(at.0)), *hop)).collect(),
        endpoints: image.endpoints.clone(),
        ..Image::default()
    }
}
