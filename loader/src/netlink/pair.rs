//! How does a veth pair come to be? Each end in its namespace from its first
//! moment: to be moved there, it would have to wait for all packets of the host.

use std::{io, os::fd::RawFd};

use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{Netlink, to_io};

/// One end of a pair that is to be made.
pub struct End<'a> {
    pub name: &'a str,
    pub mac: [u8; 6],
    pub mtu: u32,
}

impl End<'_> {
    fn message<T>(&self, message: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
        message.name(self.name).address(self.mac.to_vec()).mtu(self.mtu)
    }
}

impl Netlink {
    /// Makes a pair, both ends down: one here, one in the namespace `netns`.
    ///
    /// # Errors
    /// When a name is taken, or the kernel refuses.
    pub async fn add_veth(&self, here: &End<'_>, there: &End<'_>, netns: RawFd) -> io::Result<()> {
        let peer = there.message(LinkMessageBuilder::<LinkUnspec>::new()).setns_by_fd(netns).build();
        let pair = here.message(LinkVeth::new(here.name, there.name));
        let pair = pair.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        self.0.link().add(pair).execute().await.map_err(to_io)
    }
}
