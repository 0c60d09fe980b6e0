//! Two containers routed by the kernel: what a veth costs without us, and where
//! those stand who do our work otherwise.

use std::net::Ipv4Addr;

use anyhow::Result;
use causeway_testkit::{link, netns::Netns, topology::widen};

use crate::load;

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 2);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 2);
/// Of both, as a cluster's pod network.
pub const NETWORK: &str = "10.1.0.0/16";

pub struct Routed {
    pub client: Netns,
    pub router: Netns,
    _server: Netns,
}

impl Routed {
    /// With servers of every workload.
    pub fn new() -> Result<Self> {
        let (router, client, server) = (Netns::new(), Netns::new(), Netns::new());
        router.set_sysctl("net/ipv4/ip_forward", "1");
        let sides = [(&client, "r1", CLIENT, "10.1.1.1"), (&server, "r2", SERVER, "10.1.2.1")];
        for (netns, port, address, gateway) in sides {
            link::pair(netns, "eth0", &router, port);
            link::address(netns, "eth0", &format!("{address}/32"));
            link::address(&router, port, &format!("{gateway}/32"));
            link::route(&router, &format!("{address}/32"), &format!("dev {port}"));
            link::route(netns, &format!("{gateway}/32"), "dev eth0 scope link");
            link::route(netns, "default", &format!("via {gateway} onlink dev eth0"));
        }
        widen(&client);
        load::serve(&server)?;
        Ok(Self { client, router, _server: server })
    }
}
