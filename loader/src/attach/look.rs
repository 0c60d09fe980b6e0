//! Is an endpoint wired as it was?

use std::{io, net::IpAddr};

use super::{INSIDE, open};
use crate::{model::desired::Endpoint, netlink::Netlink, snapshot::AttachRequest};

/// Both ends of the pair, and the addresses inside.
///
/// # Errors
/// In words, what is not.
pub async fn is_whole(netlink: &Netlink, request: &AttachRequest, endpoint: &Endpoint) -> Result<(), String> {
    let read = |error: io::Error| format!("read the interfaces: {error}");
    let outside = netlink.link(&endpoint.interface).await.map_err(read)?;
    let outside = outside.filter(|link| link.index == endpoint.ifindex);
    let outside = outside.ok_or_else(|| format!("interface {} is gone", endpoint.interface))?;
    if request.handover {
        return Ok(());
    }
    let netns = open(request).map_err(|error| error.to_string())?;
    let inside = request.interface.clone().unwrap_or_else(|| INSIDE.into());
    let name = inside.clone();
    let found = netns.run(async move |netlink| {
        let Some(link) = netlink.link(&name).await? else { return Ok(None) };
        let addresses: Vec<IpAddr> =
            netlink.addresses(link.index).await?.iter().map(|network| network.addr()).collect();
        Ok(Some((link, addresses)))
    });
    let found = found.await.map_err(|error| format!("read the interfaces inside: {error}"))?;
    let (link, addresses) = found.ok_or_else(|| format!("the container has no interface {inside}"))?;
    if !outside.is_pair_of(&link) {
        return Err(format!("the container's {inside} is another than was made for it"));
    }
    match request.addresses.iter().find(|address| !addresses.contains(address)) {
        Some(missing) => Err(format!("the container's {inside} has no address {missing}")),
        None => Ok(()),
    }
}
