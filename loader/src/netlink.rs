//! How do we talk to rtnetlink? Links, addresses, routes and neighbours by a
//! few verbs; adding what is there and deleting what is not are no errors.

mod pair;
mod survey;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo},
    link::{LinkAttribute, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

pub use pair::End;
pub use survey::{Seen, SeenRoute};

/// Who has put an address there (`IFA_PROTO`): we have.
pub const ADDRESS_PROTOCOL: u8 = 202;

/// A link as far as we look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub mac: Vec<u8>,
    /// Index of the link that it leads to, perhaps in another namespace: the
    /// other end of a pair.
    pub peer: Option<u32>,
}

impl Link {
    /// Whether each leads to the other; they may be of different namespaces.
    pub fn is_pair_of(&self, other: &Self) -> bool {
        self.peer == Some(other.index) && other.peer == Some(self.index)
    }
}

/// A route of the main table, as far as we write it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub destination: IpNet,
    /// `None`: the destination is on the link itself.
    pub via: Option<IpAddr>,
    pub ifindex: u32,
}

/// An entry of the neighbour tables that names a hardware address, and that
/// the kernel keeps itself: neither permanent nor of a routing daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub address: IpAddr,
    pub mac: [u8; 6],
    /// Nothing was sent there since it was confirmed (RFC 4861, section 7.3.2).
    pub stale: bool,
    /// Since something was last sent there while it was not confirmed.
    pub used: Duration,
    /// Since it last answered, or was known to be heard by.
    pub confirmed: Duration,
    /// As the kernel has them, to be given back.
    pub flags: NeighbourFlags,
}

/// The requests, in the network namespace that the handle was opened in.
#[derive(Clone)]
pub struct Netlink(Handle);

impl Netlink {
    /// Opens a socket in the calling thread's namespace; needs a runtime.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    pub async fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let found = self.0.link().get().match_name(name).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.map(link)),
            Err(error) => absent_is(to_io(error), None),
        }
    }

    pub async fn links(&self) -> io::Result<Vec<Link>> {
        let messages: Vec<LinkMessage> = self.0.link().get().execute().try_collect().await.map_err(to_io)?;
        Ok(messages.into_iter().map(link).collect())
    }

    /// Changes a link; see [`LinkMessageBuilder`].
    pub async fn set_link(
        &self,
        index: u32,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> io::Result<()> {
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.0.link().set(message).execute().await.map_err(to_io)
    }

    /// True when it was there.
    pub async fn delete_link(&self, name: &str) -> io::Result<bool> {
        let Some(link) = self.link(name).await? else { return Ok(false) };
        match self.0.link().del(link.index).execute().await.map_err(to_io) {
            Ok(()) => Ok(true),
            Err(error) => absent_is(error, false),
        }
    }

    /// Those that are the link's own.
    pub async fn addresses(&self, ifindex: u32) -> io::Result<Vec<IpNet>> {
        let messages = self.address_messages(ifindex).await?;
        Ok(messages.iter().filter(|message| !is_held(message)).filter_map(address).collect())
    }

    /// Those that [`Netlink::hold_address`] has put there.
    pub async fn held_addresses(&self, ifindex: u32) -> io::Result<Vec<IpAddr>> {
        let messages = self.address_messages(ifindex).await?;
        let held = messages.iter().filter(|message| is_held(message)).filter_map(address);
        Ok(held.map(|network| network.addr()).collect())
    }

    async fn address_messages(&self, ifindex: u32) -> io::Result<Vec<AddressMessage>> {
        let request = self.0.address().get().set_link_index_filter(ifindex).execute();
        request.try_collect().await.map_err(to_io)
    }

    /// Adds an address that only passes this way: marked as ours (Linux 5.18),
    /// and none that the host's own connections leave under.
    ///
    /// # Errors
    /// Also when it is there already, somebody else's: to be asked of one that is
    /// not among [`Netlink::held_addresses`].
    pub async fn hold_address(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.0.address().add(ifindex, address, prefix);
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL)));
        if address.is_ipv6() {
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            let mut times = CacheInfo::default();
            (times.ifa_preferred, times.ifa_valid) = (0, u32::MAX);
            attributes.push(AddressAttribute::CacheInfo(times));
        }
        request.execute().await.map_err(to_io).map_err(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => {
                let message = "the uplink has it already, and not from us: remove it there, or take another";
                io::Error::new(io::ErrorKind::AlreadyExists, message)
            }
            _ => error,
        })
    }

    /// Removes an address that [`Netlink::hold_address`] has put there.
    pub async fn release_address(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        for message in self.address_messages(ifindex).await? {
            if is_held(&message) && self::address(&message).is_some_and(|there| there.addr() == address) {
                let deleted = self.0.address().del(message).execute().await.map_err(to_io);
                deleted.or_else(|error| absent_is(error, ()))?;
            }
        }
        Ok(())
    }

    pub async fn add_address(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.0.address().add(ifindex, address, prefix);
        if address.is_ipv6() {
            // Ours to give: nobody else on the link has it, and it is needed now.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        present_is_fine(request.execute().await.map_err(to_io))
    }

    pub async fn delete_address(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let messages: Vec<_> = self
            .0
            .address()
            .get()
            .set_link_index_filter(ifindex)
            .set_address_filter(address)
            .execute()
            .try_collect()
            .await
            .map_err(to_io)?;
        for message in messages {
            self.0.address().del(message).execute().await.map_err(to_io)?;
        }
        Ok(())
    }

    /// Of both families.
    pub async fn neighbours(&self, ifindex: u32) -> io::Result<Vec<Neighbour>> {
        let mut request = self.0.neighbours().get();
        request.message_mut().attributes.push(NeighbourAttribute::IfIndex(ifindex));
        let messages: Vec<NeighbourMessage> = request.execute().try_collect().await.map_err(to_io)?;
        let here = messages.iter().filter(|message| message.header.ifindex == ifindex);
        Ok(here.filter_map(neighbour).collect())
    }

    /// Gives a neighbour this hardware address, as if it had just told it.
    pub async fn set_neighbour(&self, ifindex: u32, known: &Neighbour, mac: [u8; 6]) -> io::Result<()> {
        let request = self.0.neighbours().add(ifindex, known.address).flags(known.flags);
        let request = request.state(NeighbourState::Reachable).link_layer_address(&mac);
        request.replace().execute().await.map_err(to_io)
    }

    /// Makes the kernel take note of when something is next sent there. Its
    /// hardware address stays whatever it is.
    pub async fn rest_neighbour(&self, ifindex: u32, known: &Neighbour) -> io::Result<()> {
        let request = self.0.neighbours().add(ifindex, known.address).flags(known.flags);
        let request = request.state(NeighbourState::Stale).replace();
        match request.execute().await.map_err(to_io) {
            // It has gone meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// # Errors
    /// `AlreadyExists` when there is a route to the destination.
    pub async fn add_route(&self, route: &Route, protocol: u8) -> io::Result<()> {
        self.0.route().add(route_message(route, protocol)?).execute().await.map_err(to_io)
    }

    pub async fn delete_route(&self, route: &Route, protocol: u8) -> io::Result<()> {
        match self.0.route().del(route_message(route, protocol)?).execute().await.map_err(to_io) {
            Ok(()) => Ok(()),
            Err(error) => absent_is(error, ()),
        }
    }

    /// Routes of the main table with this protocol number, of both families;
    /// all of them with `None`.
    pub async fn routes(&self, protocol: Option<u8>) -> io::Result<Vec<Route>> {
        let messages = self.route_messages().await?;
        let ours = |message: &RouteMessage| {
            protocol.is_none_or(|number| message.header.protocol == RouteProtocol::from(number))
                && message.header.table == libc::RT_TABLE_MAIN
        };
        Ok(messages.iter().filter(|message| ours(message)).filter_map(route).collect())
    }

    async fn route_messages(&self) -> io::Result<Vec<RouteMessage>> {
        let every =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        let mut messages: Vec<RouteMessage> = Vec::new();
        for request in every {
            let found = self.0.route().get(request).execute().try_collect::<Vec<_>>().await;
            // A kernel without IPv6 has no such routes.
            messages.extend(found.map_err(to_io).or_else(|error| match error.raw_os_error() {
                Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => Ok(Vec::new()),
                _ => Err(error),
            })?);
        }
        Ok(messages)
    }
}

fn address(message: &AddressMessage) -> Option<IpNet> {
    // On a point-to-point link `Address` is the other side's.
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    IpNet::new(find(true).or_else(|| find(false))?, message.header.prefix_len).ok()
}

fn is_held(message: &AddressMessage) -> bool {
    let mark = AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL));
    message.attributes.contains(&mark)
}

fn link(message: LinkMessage) -> Link {
    let mut link =
        Link { index: message.header.index, name: String::new(), mtu: 0, mac: Vec::new(), peer: None };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            _ => {}
        }
    }
    link
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    use NeighbourState::{Delay, Probe, Reachable, Stale};
    if !matches!(message.header.state, Reachable | Stale | Delay | Probe)
        || message.header.flags.contains(NeighbourFlags::ExtLearned)
    {
        return None;
    }
    let (mut address, mut mac, mut times) = (None, None, (0, 0));
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::CacheInfo(info) => times = (info.used, info.confirmed),
            // Such as those that the kernel refreshes for somebody.
            NeighbourAttribute::ExtFlags(flags) if !flags.is_empty() => return None,
            _ => {}
        }
    }
    Some(Neighbour {
        address: address?,
        mac: mac?,
        stale: message.header.state == Stale,
        used: ticks(times.0),
        confirmed: ticks(times.1),
        flags: message.header.flags,
    })
}

/// Of the clock that the kernel shows to everybody: 100 a second.
fn ticks(count: u32) -> Duration {
    Duration::from_millis(u64::from(count) * 10)
}

fn route_message(route: &Route, protocol: u8) -> io::Result<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(route.ifindex)
        .protocol(RouteProtocol::from(protocol))
        .kind(RouteType::Unicast)
        .scope(if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link })
        .destination_prefix(route.destination.addr(), route.destination.prefix_len())
        .map_err(io::Error::other)?;
    let builder = match route.via {
        // The gateway need not be inside a network of the link.
        Some(via) => builder.gateway(via).map_err(io::Error::other)?.onlink(),
        None => builder,
    };
    Ok(builder.build())
}

fn route(message: &RouteMessage) -> Option<Route> {
    let (mut destination, mut via, mut ifindex) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some((*address).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                destination = Some((*address).into())
            }
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some((*address).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => via = Some((*address).into()),
            RouteAttribute::Oif(index) => ifindex = *index,
            _ => {}
        }
    }
    let everything: IpAddr = match message.header.address_family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let address = destination.unwrap_or(everything);
    let destination = IpNet::new(address, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, via, ifindex })
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn present_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

fn absent_is<T>(error: io::Error, value: T) -> io::Result<T> {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL) => Ok(value),
        _ => Err(error),
    }
}
