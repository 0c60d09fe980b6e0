//! Which interface leads to the other nodes?

use std::{fs, io, path::Path};

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

impl Uplink {
    /// Whether the kernel's routing lookup answers for what comes by it.
    pub fn forwards(&self, is_ipv4: bool) -> bool {
        let family = if is_ipv4 { "ipv4" } else { "ipv6" };
        let path = Path::new("/proc/sys/net").join(family).join("conf").join(&self.name).join("forwarding");
        fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    }
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
