//! What is there, whosever it is? For those who look and change nothing.

use std::io;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    address::AddressMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp},
};

use super::{Link, Netlink, Route, address, is_held, link, route, to_io};

/// A link with what is asked of it at a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub link: Link,
    /// Whether it is set up.
    pub is_up: bool,
    /// Whether there is something at its other end.
    pub has_carrier: bool,
    pub is_loopback: bool,
    /// Id of the XDP program that its driver or the stack runs.
    pub xdp: Option<u32>,
    /// Without those that we hold there.
    pub addresses: Vec<IpNet>,
}

/// A route of the main table, and who has set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRoute {
    pub route: Route,
    /// `RTPROT_*`.
    pub protocol: u8,
}

impl Netlink {
    /// Every link.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub async fn survey_links(&self) -> io::Result<Vec<Seen>> {
        let links: Vec<LinkMessage> = self.0.link().get().execute().try_collect().await.map_err(to_io)?;
        let addresses: Vec<AddressMessage> =
            self.0.address().get().execute().try_collect().await.map_err(to_io)?;
        let of = |index: u32| {
            let here = addresses.iter().filter(|message| message.header.index == index);
            here.filter(|message| !is_held(message)).filter_map(address).collect()
        };
        Ok(links
            .into_iter()
            .map(|message| {
                let flags = message.header.flags;
                Seen {
                    is_up: flags.contains(LinkFlags::Up),
                    has_carrier: flags.contains(LinkFlags::LowerUp),
                    is_loopback: flags.contains(LinkFlags::Loopback),
                    xdp: message.attributes.iter().find_map(xdp),
                    addresses: of(message.header.index),
                    link: link(message),
                }
            })
            .collect())
    }

    /// Every route of the main table, of both families.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub async fn survey_routes(&self) -> io::Result<Vec<SeenRoute>> {
        let messages = self.route_messages().await?;
        let main = messages.iter().filter(|message| message.header.table == libc::RT_TABLE_MAIN);
        Ok(main
            .filter_map(|message| {
                Some(SeenRoute { route: route(message)?, protocol: message.header.protocol.into() })
            })
            .collect())
    }
}

fn xdp(attribute: &LinkAttribute) -> Option<u32> {
    let LinkAttribute::Xdp(parts) = attribute else { return None };
    parts.iter().find_map(|part| match part {
        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
        _ => None,
    })
}
