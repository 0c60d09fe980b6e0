//! Which protocols and ports may a rule name?

use std::sync::Arc;

use super::{
    Reader, Refusal, quoted,
    wire::{AdminPort, ClusterProtocol, NetworkPolicyPort, PortRange, ProtocolMatch},
};
use crate::{
    event::policy::{PortMatch, Ports, Transport},
    providers::{
        Names,
        convert::{port::number, wire::IntOrString},
    },
};

/// TCP unless said otherwise, as Kubernetes has it.
pub fn transport(text: Option<&str>, icmp: bool, field: &str) -> Result<Transport, Refusal> {
    match text.unwrap_or("TCP") {
        "TCP" => Ok(Transport::Tcp),
        "UDP" => Ok(Transport::Udp),
        "SCTP" => Ok(Transport::Sctp),
        "ICMP" if icmp => Ok(Transport::Icmp),
        other => {
            let known = if icmp { "TCP, UDP, SCTP or ICMP" } else { "TCP, UDP or SCTP" };
            Err(Refusal::new(field, format!("{} is no protocol here: use {known}", quoted(other))))
        }
    }
}

/// A service name (RFC 6335, section 5.1), in lower case.
pub fn port_name(name: &str, field: &str, names: &mut Names) -> Result<Arc<str>, Refusal> {
    let bytes = name.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let sound = (1..=15).contains(&bytes.len())
        && bytes.iter().all(|byte| plain(byte) || *byte == b'-')
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !name.contains("--");
    if sound {
        return Ok(names.get(name));
    }
    let message = "up to 15 lower-case letters, digits and '-' between them, at least one letter";
    Err(Refusal::new(field, format!("{} is no name of a port: use {message}", quoted(name))))
}

/// From one port to another, both included.
fn range(
    start: Option<i32>,
    end: Option<i32>,
    field: impl Fn(&str) -> String,
    names: [&str; 2],
) -> Result<Ports, Refusal> {
    let first = number(start, &field(names[0]))?;
    let last = number(end, &field(names[1]))?;
    if last < first {
        let message = format!("{last} is below {}, {first}: a range ends where it begins or above", names[0]);
        return Err(Refusal::new(field(names[1]), message));
    }
    Ok(Ports::Range(first, last))
}

impl Reader<'_> {
    pub(super) fn network_port(&mut self, wire: NetworkPolicyPort, path: &str) -> Result<PortMatch, Refusal> {
        let field = |name: &str| format!("{path}.{name}");
        let protocol = transport(wire.protocol.as_deref(), false, &field("protocol"))?;
        let ports = match (wire.port, wire.end_port) {
            (None, None) => Ports::All,
            (Some(IntOrString::Int(port)), None) => {
                let port = number(Some(port), &field("port"))?;
                Ports::Range(port, port)
            }
            (Some(IntOrString::Int(port)), end) => range(Some(port), end, field, ["port", "endPort"])?,
            (Some(IntOrString::String(name)), None) => {
                Ports::Named(port_name(&name, &field("port"), self.names)?)
            }
            (_, Some(_)) => {
                let message = "a range needs a port with a number to begin with: write it as port";
                return Err(Refusal::new(field("endPort"), message));
            }
        };
        Ok(PortMatch { protocol, ports })
    }

    /// `ours`: ICMP, and protocols without a port, may be named.
    pub(super) fn admin_port(
        &mut self,
        wire: AdminPort,
        ours: bool,
        path: &str,
    ) -> Result<Vec<PortMatch>, Refusal> {
        let field = |name: &str| format!("{path}.{name}");
        match wire {
            AdminPort { port_number: Some(wire), port_range: None, named_port: None, protocol: None } => {
                let protocol = transport(wire.protocol.as_deref(), false, &field("portNumber.protocol"))?;
                let port = number(wire.port, &field("portNumber.port"))?;
                Ok(vec![PortMatch { protocol, ports: Ports::Range(port, port) }])
            }
            AdminPort { port_number: None, port_range: Some(wire), named_port: None, protocol: None } => {
                let protocol = transport(wire.protocol.as_deref(), false, &field("portRange.protocol"))?;
                Ok(vec![PortMatch { protocol, ports: self.port_range(&wire, &field("portRange"))? }])
            }
            AdminPort { port_number: None, port_range: None, named_port: Some(name), protocol: None } => {
                self.any_named(&name, &field("namedPort"))
            }
            AdminPort { port_number: None, port_range: None, named_port: None, protocol: Some(text) }
                if ours =>
            {
                let protocol = transport(Some(&text), true, &field("protocol"))?;
                Ok(vec![PortMatch { protocol, ports: Ports::All }])
            }
            _ => {
                let also = if ours { ", or protocol for all its ports" } else { "" };
                let message = format!("write one of portNumber, portRange and namedPort{also}");
                Err(Refusal::new(path, message))
            }
        }
    }

    pub(super) fn cluster_protocol(
        &mut self,
        wire: ClusterProtocol,
        path: &str,
    ) -> Result<Vec<PortMatch>, Refusal> {
        let one = |protocol, ports| Ok(vec![PortMatch { protocol, ports }]);
        match wire {
            ClusterProtocol { tcp: Some(wire), udp: None, sctp: None, destination_named_port: None } => {
                one(Transport::Tcp, self.destination(wire, &format!("{path}.tcp"))?)
            }
            ClusterProtocol { tcp: None, udp: Some(wire), sctp: None, destination_named_port: None } => {
                one(Transport::Udp, self.destination(wire, &format!("{path}.udp"))?)
            }
            ClusterProtocol { tcp: None, udp: None, sctp: Some(wire), destination_named_port: None } => {
                one(Transport::Sctp, self.destination(wire, &format!("{path}.sctp"))?)
            }
            ClusterProtocol { tcp: None, udp: None, sctp: None, destination_named_port: Some(name) } => {
                self.any_named(&name, &format!("{path}.destinationNamedPort"))
            }
            _ => Err(Refusal::new(path, "write one of tcp, udp, sctp and destinationNamedPort")),
        }
    }

    fn destination(&mut self, wire: ProtocolMatch, path: &str) -> Result<Ports, Refusal> {
        let Some(wire) = wire.destination_port else { return Ok(Ports::All) };
        let path = format!("{path}.destinationPort");
        match (wire.number, wire.range) {
            (Some(port), None) => {
                let port = number(Some(port), &format!("{path}.number"))?;
                Ok(Ports::Range(port, port))
            }
            (None, Some(wire)) if wire.protocol.is_none() => self.port_range(&wire, &format!("{path}.range")),
            _ => Err(Refusal::new(path, "write number, or range with start and end")),
        }
    }

    fn port_range(&mut self, wire: &PortRange, path: &str) -> Result<Ports, Refusal> {
        range(wire.start, wire.end, |name| format!("{path}.{name}"), ["start", "end"])
    }

    /// A name alone: of whichever protocol the pod's port is.
    fn any_named(&mut self, name: &str, field: &str) -> Result<Vec<PortMatch>, Refusal> {
        let name = port_name(name, field, self.names)?;
        let named = |protocol| PortMatch { protocol, ports: Ports::Named(name.clone()) };
        Ok(Transport::WITH_PORTS.map(named).into())
    }
}
