//! Which addresses can be served? Unicast ones that a packet can carry from
//! one host to another.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Refusal;

pub fn unicast(text: &str, field: &str) -> Result<IpAddr, Refusal> {
    let address: IpAddr = text.parse().map_err(|_| {
        let message = match text.parse::<IpNet>() {
            Ok(net) => format!("{text:?} is a network: write the address alone, {}", net.addr()),
            Err(_) => format!("{text:?} is no IP address: write it like 10.96.0.10 or fd00::10"),
        };
        Refusal::new(field, message)
    })?;
    match special(address) {
        None => Ok(address),
        Some(kind) => {
            let message = format!("{text} is a {kind} address: use a unicast address that hosts can route");
            Err(Refusal::new(field, message))
        }
    }
}

/// Addresses of the object, each family at most once: the plural field, or the
/// singular one where that is all there is. Kubernetes keeps the first of the
/// plural equal to the singular; where they differ it is not for us to guess.
pub fn pair(
    single: Option<String>,
    several: Vec<(String, String)>,
    single_field: &str,
) -> Result<Vec<(String, String)>, Refusal> {
    let single = single.filter(|text| !text.is_empty());
    match (single, several.first()) {
        (Some(single), Some((field, first))) if single != *first => {
            let message = format!("{first:?} is not {single_field}, {single:?}: write the same in both");
            Err(Refusal::new(field.clone(), message))
        }
        (Some(single), None) => Ok(vec![(single_field.to_owned(), single)]),
        _ => Ok(several),
    }
}

/// A network of pods: no bits beyond the prefix, and not all the world.
pub fn network(text: &str, field: &str) -> Result<IpNet, Refusal> {
    let refuse = |message: String| Err(Refusal::new(field, message));
    match text.parse::<IpNet>() {
        Err(_) => refuse(format!("{text:?} is no CIDR: write it like 10.244.1.0/24")),
        Ok(net) if net.trunc() != net => {
            refuse(format!("{text} has bits beyond its prefix: write {}", net.trunc()))
        }
        Ok(net) if net.prefix_len() == 0 => {
            refuse(format!("{text} is every address: name the pods' network"))
        }
        Ok(net) => match special(net.network()) {
            Some(kind) => refuse(format!("{text} holds {kind} addresses: name the pods' network")),
            None => Ok(net),
        },
    }
}

fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("unspecified"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some("reserved"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("IPv4-mapped"),
        other if other.is_unspecified() => Some("unspecified"),
        other if other.is_loopback() => Some("loopback"),
        other if other.is_multicast() => Some("multicast"),
        _ => None,
    }
}
