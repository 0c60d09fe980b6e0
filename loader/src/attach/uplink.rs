//! Which interface leads to the other nodes?

use std::io;

use ipnet::IpNet;

use crate::netlink::Netlink;

#[derive(Clone, Debug, PartialEq)]
pub struct Uplink {
    pub name: String,
    pub ifindex: u32,
    pub mtu: u32,
    pub mac: [u8; 6],
    /// With the prefix of the link's network.
    pub addresses: Vec<IpNet>,
}

/// The named interface, or the one of the default route.
///
/// # Errors
/// When there is none; the message says what to give.
pub async fn uplink(netlink: &Netlink, name: Option<&str>) -> io::Result<Uplink> {
    let link = match name {
        Some(name) => netlink.link(name).await?.ok_or_else(|| {
            io::Error::other(format!("uplink {name}: no such interface in the node's namespace"))
        })?,
        None => {
            let routes = netlink.routes(None).await?;
            let default = routes.iter().find(|route| route.destination.prefix_len() == 0);
            let ifindex = default.map(|route| route.ifindex);
            let links = netlink.links().await?;
            links.into_iter().find(|link| Some(link.index) == ifindex).ok_or_else(|| {
                io::Error::other("no default route to tell the uplink by: name it with --uplink")
            })?
        }
    };
    let addresses = netlink.addresses(link.index).await?;
    let mac = link.mac.as_slice().try_into().unwrap_or_default();
    Ok(Uplink { name: link.name, ifindex: link.index, mtu: link.mtu, mac, addresses })
}
