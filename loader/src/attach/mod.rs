//! How does a network namespace become an endpoint? A veth pair, a /32, a
//! link-local gateway; no bridge, no proxy_arp, no sysctl that is not our own
//! interface's.
//!
//! In two steps, so that the maps and programs stand before the first packet:
//! [`prepare`] makes the pair with the inside down, [`activate`] gives it its
//! addresses and brings it up.

mod look;
pub mod mac;
mod netns;
mod settled;
mod store;
mod uplink;

pub use look::is_whole;
pub use netns::Netns;
pub use store::{EndpointStore, Stored};
pub use uplink::{Uplink, uplink};

use std::{io, net::IpAddr};

use causeway_schema::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, hash};
use ipnet::IpNet;

use crate::{
    event::label,
    model::desired::Endpoint,
    netlink::{End, Link, Netlink, Route},
    snapshot::AttachRequest,
    sysctl,
};

/// Of a family, whoever asks.
pub fn gateway(v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(GATEWAY_V4.into()) } else { IpAddr::V6(GATEWAY_V6.into()) }
}

/// Where to who has these addresses sends everything: one of each family.
pub fn gateways(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let both = [gateway(true), gateway(false)];
    let used = |gateway: &IpAddr| addresses.iter().any(|address| address.is_ipv4() == gateway.is_ipv4());
    both.into_iter().filter(used).collect()
}

/// The node's namespace, in which we are.
const OWN: &str = "/proc/thread-self/ns/net";
/// The container's interface unless the request says otherwise.
const INSIDE: &str = "eth0";

/// A step of wiring an endpoint that failed; what it had made is undone.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("endpoint {endpoint}: {field}: {message}")]
    Invalid { endpoint: String, field: &'static str, message: String },
    #[error("endpoint {endpoint}: {step}: {cause}")]
    Step { endpoint: String, step: &'static str, cause: io::Error },
}

/// Checks what can be checked without touching anything.
///
/// # Errors
/// [`AttachError::Invalid`], naming the field.
pub fn validate(request: &AttachRequest) -> Result<(), AttachError> {
    let invalid =
        |field, message: String| Err(AttachError::Invalid { endpoint: request.name.clone(), field, message });
    let name_ok = |name: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
        !name.is_empty() && name.len() <= 253 && name.chars().all(allowed)
    };
    if !name_ok(&request.name) {
        return invalid("name", "use 1 to 253 letters, digits and -_./:".into());
    }
    if request.addresses.is_empty() {
        return invalid("addresses", "an endpoint needs at least one address".into());
    }
    for (index, address) in request.addresses.iter().enumerate() {
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local {
            return invalid("addresses", format!("{address} is no unicast address"));
        }
        if request.addresses[..index].contains(address) {
            return invalid("addresses", format!("{address} is there twice"));
        }
    }
    for (key, value) in &request.labels {
        if let Err(message) = label::key(key).and_then(|()| label::value(value)) {
            return invalid("labels", message);
        }
    }
    if let Some(name) = &request.interface
        && (name.is_empty() || name.len() > 15 || name.contains(['/', ' ']))
    {
        return invalid("interface", format!("{name:?} is no name of an interface"));
    }
    if let Some(mtu) = request.mtu
        && !(576..=65_535).contains(&mtu)
    {
        return invalid("mtu", format!("{mtu} is out of range: use 576 to 65535"));
    }
    mac_of(request)?;
    Ok(())
}

fn mac_of(request: &AttachRequest) -> Result<[u8; 6], AttachError> {
    let invalid = |message| AttachError::Invalid { endpoint: request.name.clone(), field: "mac", message };
    mac::of(request).map_err(invalid)
}

/// Makes the pair, or finds it made: host side up, inside down (unless an
/// earlier attach brought it up), both without addresses.
///
/// # Errors
/// Names the step; nothing is left behind of a pair that could not be finished.
pub async fn prepare(
    netlink: &Netlink,
    request: &AttachRequest,
    uplink_mtu: u32,
) -> Result<Endpoint, AttachError> {
    validate(request)?;
    let host = host_name(&request.name);
    let netns = open(request)?;
    let made = make(netlink, request, &netns, &host, request.mtu.unwrap_or(uplink_mtu)).await;
    if made.is_err() {
        // The cause of the failure matters more than that of the clean-up.
        let _ = netlink.delete_link(&host).await;
    }
    made
}

/// Addresses, gateway, up; of what is handed over the runtime sees to that.
///
/// # Errors
/// Names the step.
pub async fn activate(request: &AttachRequest) -> Result<(), AttachError> {
    if request.handover {
        return Ok(());
    }
    let step = |step| move |cause| AttachError::Step { endpoint: request.name.clone(), step, cause };
    let inside = request.interface.clone().unwrap_or_else(|| INSIDE.into());
    let addresses = request.addresses.clone();
    let netns = open(request)?;
    let configured = netns.run(async move |netlink| configure(&netlink, &inside, &addresses).await).await;
    configured.map_err(step("give the interface inside its addresses and routes"))
}

/// Gives both ends of the pair another MTU. The host side, which tells whether
/// that is still to be done, takes packets of either length meanwhile.
///
/// # Errors
/// Names the step.
pub async fn set_mtu(
    netlink: &Netlink,
    request: &AttachRequest,
    endpoint: &Endpoint,
    (before, mtu): (u32, u32),
) -> Result<(), AttachError> {
    let step = |step| move |cause| AttachError::Step { endpoint: request.name.clone(), step, cause };
    let outside = async |mtu| {
        let set = netlink.set_link(endpoint.ifindex, |link| link.mtu(mtu)).await;
        set.map_err(step("set the host side's MTU"))
    };
    if mtu > before {
        outside(mtu).await?;
    }
    if let Err(error) = set_mtu_inside(request, mtu).await {
        outside(before).await?;
        return Err(error);
    }
    // An interface loses its IPv6 with an MTU below 1280.
    own_sysctls(&endpoint.interface, request.addresses.iter().any(IpAddr::is_ipv6))
        .map_err(step("set the host side's own switches"))?;
    outside(mtu).await
}

async fn set_mtu_inside(request: &AttachRequest, mtu: u32) -> Result<(), AttachError> {
    let step = |step| move |cause| AttachError::Step { endpoint: request.name.clone(), step, cause };
    let inside = request.interface.clone().unwrap_or_else(|| INSIDE.into());
    let netns = open(request)?;
    let set = netns.run(async move |netlink| {
        let link = netlink.link(&inside).await?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        netlink.set_link(link.index, |link| link.mtu(mtu)).await
    });
    set.await.map_err(step("set the MTU inside"))?;
    if mtu < IPV6_MTU {
        return Ok(());
    }
    // The addresses once more, should they have gone with a smaller one.
    activate(request).await
}

/// The least MTU that IPv6 works with (RFC 8200, section 5).
const IPV6_MTU: u32 = 1280;

/// Takes the pair away; true when it was there.
///
/// # Errors
/// When the kernel refuses to delete the link.
pub async fn detach(netlink: &Netlink, endpoint: &Endpoint) -> io::Result<bool> {
    netlink.delete_link(&endpoint.interface).await
}

/// Whether an endpoint's interface is still the one that was made.
///
/// # Errors
/// When the kernel does not answer.
pub async fn is_alive(netlink: &Netlink, endpoint: &Endpoint) -> io::Result<bool> {
    Ok(netlink.link(&endpoint.interface).await?.is_some_and(|link| link.index == endpoint.ifindex))
}

/// Whether a link is the host side of a pair of ours, by its name and address.
pub fn is_ours(link: &Link) -> bool {
    let digits = link.name.strip_prefix("cw").unwrap_or_default();
    digits.len() == 13 && digits.chars().all(|digit| digit.is_ascii_hexdigit()) && link.mac == GATEWAY_MAC
}

/// The host side's name: short, stable, and ours by its prefix.
fn host_name(endpoint: &str) -> String {
    format!("cw{:013x}", name_hash(endpoint) & 0xf_ffff_ffff_ffff)
}

fn name_hash(name: &str) -> u64 {
    let chunks = name.as_bytes().chunks(8);
    chunks.fold(name.len() as u64, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash::mix(hash ^ u64::from_be_bytes(word))
    })
}

fn open(request: &AttachRequest) -> Result<Netns, AttachError> {
    let netns = if request.handover { OWN.as_ref() } else { request.netns.as_path() };
    Netns::open(netns).map_err(|error| AttachError::Invalid {
        endpoint: request.name.clone(),
        field: "netns",
        message: format!("{}: {error}", netns.display()),
    })
}

async fn make(
    netlink: &Netlink,
    request: &AttachRequest,
    netns: &Netns,
    host: &str,
    mtu: u32,
) -> Result<Endpoint, AttachError> {
    let step = |step| move |cause| AttachError::Step { endpoint: request.name.clone(), step, cause };
    let inside = request.interface.clone().unwrap_or_else(|| INSIDE.into());
    let mac = mac_of(request)?;

    let wanted = inside.clone();
    let found = netns.run(async move |netlink| netlink.link(&wanted).await).await;
    let found = found.map_err(step("look into the namespace"))?;
    let outside = netlink.link(host).await.map_err(step("look for the host side"))?;
    // Whoever is inside may have changed the address.
    let ours = found.as_ref().is_some_and(|inside| {
        inside.mac == mac || outside.as_ref().is_some_and(|outside| outside.is_pair_of(inside))
    });
    if found.is_some() && !ours {
        let message = format!("{inside} exists in the namespace and is not ours: remove or rename it");
        return Err(AttachError::Invalid { endpoint: request.name.clone(), field: "interface", message });
    }
    if ours && outside.is_some() {
        redress(netns, inside, mac, mtu).await.map_err(step("set up the interface inside"))?;
    } else {
        // Half a pair, or one that leads into another namespace.
        netlink.delete_link(host).await.map_err(step("remove an older interface"))?;
        let outside = End { name: host, mac: GATEWAY_MAC, mtu };
        let inside = End { name: &inside, mac, mtu };
        netlink.add_veth(&outside, &inside, netns.fd()).await.map_err(step("create the veth pair"))?;
    }
    let outside = netlink.link(host).await.map_err(step("find the host side"))?;
    let outside = outside
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .map_err(step("find the host side"))?;
    own_sysctls(host, request.addresses.iter().any(IpAddr::is_ipv6))
        .map_err(step("set the host side's own switches"))?;
    let change = |link: rtnetlink::LinkMessageBuilder<_>| link.address(GATEWAY_MAC.to_vec()).mtu(mtu).up();
    netlink.set_link(outside.index, change).await.map_err(step("bring the host side up"))?;
    Ok(Endpoint {
        addresses: request.addresses.clone(),
        interface: host.to_owned(),
        ifindex: outside.index,
        mac,
        policy: None,
    })
}

/// What somebody inside may have changed.
async fn redress(netns: &Netns, name: String, mac: [u8; 6], mtu: u32) -> io::Result<()> {
    let dressed = netns.run(async move |netlink| {
        let link = netlink.link(&name).await?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        if link.mac != mac {
            netlink.set_link(link.index, |link| link.address(mac.to_vec())).await?;
        }
        netlink.set_link(link.index, |link| link.mtu(mtu)).await
    });
    dressed.await
}

/// Switches of the interface that is ours alone. `bpf_fib_lookup` answers only
/// for interfaces that forward; where the endpoint has no IPv6 address, the
/// host must not speak it there either.
fn own_sysctls(interface: &str, ipv6: bool) -> io::Result<()> {
    let set = |family: &str, key: &str, value: &str| sysctl::set(family, interface, key, value);
    set("ipv4", "forwarding", "1")?;
    if !sysctl::has_ipv6() {
        return Ok(());
    }
    // Before the interface speaks: what a container says of routes is not for us.
    set("ipv6", "accept_ra", "0")?;
    set("ipv6", "accept_dad", "0")?;
    set("ipv6", "disable_ipv6", if ipv6 { "0" } else { "1" })?;
    set("ipv6", "forwarding", "1")
}

/// The same for the side inside: it takes its address from us alone, and tells
/// the host when it gets another hardware address.
fn inside_sysctls(interface: &str, ipv6: bool) -> io::Result<()> {
    sysctl::set("ipv4", interface, "arp_notify", "1")?;
    if ipv6 {
        let switches =
            [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0"), ("ndisc_notify", "1")];
        for (key, value) in switches {
            sysctl::set("ipv6", interface, key, value)?;
        }
    }
    Ok(())
}

async fn configure(netlink: &Netlink, inside: &str, addresses: &[IpAddr]) -> io::Result<()> {
    if let Some(lo) = netlink.link("lo").await? {
        netlink.set_link(lo.index, rtnetlink::LinkMessageBuilder::up).await?;
    }
    let link = netlink.link(inside).await?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    for there in netlink.addresses(link.index).await? {
        let link_local = matches!(there.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !addresses.contains(&there.addr()) && !link_local {
            netlink.delete_address(link.index, there.addr()).await?;
        }
    }
    inside_sysctls(inside, addresses.iter().any(IpAddr::is_ipv6))?;
    for address in addresses {
        netlink.add_address(link.index, *address).await?;
    }
    netlink.set_link(link.index, rtnetlink::LinkMessageBuilder::up).await?;
    settled::settled(addresses).await?;
    let mut routes = Vec::new();
    for gateway in gateways(addresses) {
        let everything = match gateway {
            IpAddr::V4(_) => IpNet::from(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => ipnet::Ipv6Net::default().into(),
        };
        routes.push(Route { destination: gateway.into(), via: None, ifindex: link.index });
        routes.push(Route { destination: everything, via: Some(gateway), ifindex: link.index });
    }
    for route in routes {
        match netlink.add_route(&route, libc::RTPROT_STATIC).await {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
