//! Which addresses can be served? Unicast ones that a packet can carry from
//! one host to another.

use std::net::IpAddr;

use super::Refusal;

pub fn unicast(text: &str, field: &str) -> Result<IpAddr, Refusal> {
    let address: IpAddr =
        text.parse().map_err(|_| Refusal::new(field, format!("{text:?} is no IP address")))?;
    let (kind, bad) = match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => ("unspecified", true),
        IpAddr::V4(v4) if v4.is_link_local() => ("link-local", true),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => ("reserved", true),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => ("link-local", true),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => ("IPv4-mapped", true),
        other if other.is_unspecified() => ("unspecified", true),
        other if other.is_loopback() => ("loopback", true),
        other if other.is_multicast() => ("multicast", true),
        _ => ("", false),
    };
    if bad {
        let message = format!("{text} is a {kind} address: use a unicast address that hosts can route");
        return Err(Refusal::new(field, message));
    }
    Ok(address)
}
