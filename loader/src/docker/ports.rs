//! At which ports of the node is a container published? Docker names each of a range;
//! those that follow one another become one again.

use super::words::PortBinding;
use crate::{event::Protocol, snapshot::HostPort};

/// # Errors
/// Names the port, and what to publish instead.
pub fn published(bindings: &[PortBinding]) -> Result<Vec<HostPort>, String> {
    let mut ports: Vec<HostPort> = bindings.iter().map(one).collect::<Result<_, _>>()?;
    ports.sort_by_key(|port| (port.address, port.protocol, port.host, port.container));
    ports.dedup();
    let mut ranges: Vec<HostPort> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some(range) if follows(range, &port) => range.end = Some(port.host),
            _ => ranges.push(port),
        }
    }
    Ok(ranges)
}

/// Whether it is the next of a range, on both sides.
fn follows(range: &HostPort, port: &HostPort) -> bool {
    let width = range.last() - range.host + 1;
    (range.address, range.protocol) == (port.address, port.protocol)
        && range.host.checked_add(width) == Some(port.host)
        && range.container.checked_add(width) == Some(port.container)
}

fn one(binding: &PortBinding) -> Result<HostPort, String> {
    let PortBinding { proto, port, host_ip, host_port, host_port_end } = binding;
    let protocol = Protocol::from_number(*proto)
        .ok_or_else(|| format!("port {port}: only TCP and UDP are published, not protocol {proto}"))?;
    if *host_port == 0 || (*host_port_end != 0 && host_port_end != host_port) {
        return Err(format!("port {port}/{protocol}: say at which port of the node: -p NUMBER:{port}"));
    }
    let address = match host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| format!("port {port}: {text:?} is no address"))?),
    };
    let address = address.filter(|address: &std::net::IpAddr| !address.is_unspecified());
    Ok(HostPort { protocol, host: *host_port, end: None, container: *port, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(proto: u8, host_port: u16, port: u16) -> PortBinding {
        PortBinding { proto, port, host_ip: String::new(), host_port, host_port_end: host_port }
    }

    fn said(bindings: &[PortBinding]) -> Vec<String> {
        let ports = published(bindings).unwrap();
        ports.iter().map(|port| format!("{port}>{}", port.container)).collect()
    }

    #[test]
    fn what_follows_one_another_is_one_range() {
        let many: Vec<_> = (0..10_001).rev().map(|at| binding(6, 20_000 + at, 10_000 + at)).collect();
        assert_eq!(said(&many), ["20000-30000/TCP>10000"]);
        let mixed = [
            binding(6, 80, 8080),
            binding(6, 80, 8080),
            binding(17, 81, 8081),
            binding(6, 81, 8081),
            binding(6, 82, 9000),
            binding(6, 65_535, 65_535),
        ];
        assert_eq!(said(&mixed), ["80-81/TCP>8080", "82/TCP>9000", "65535/TCP>65535", "81/UDP>8081"]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let error = |binding: PortBinding| published(&[binding]).unwrap_err();
        assert!(error(binding(132, 80, 80)).contains("not protocol 132"));
        assert!(error(binding(6, 0, 80)).contains("-p NUMBER:80"));
        assert!(error(PortBinding { host_port_end: 90, ..binding(6, 80, 80) }).contains("-p NUMBER:80"));
        assert!(error(PortBinding { host_ip: "here".into(), ..binding(6, 80, 80) }).contains("\"here\""));
    }
}
