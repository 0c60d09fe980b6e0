//! Service -> frontends.

use std::net::IpAddr;

use super::{
    Converted, Names, Refusal, address, key, options, port, port_range,
    port_range::Range,
    quoted,
    wire::{IntOrString, LoadBalancerStatus, Service, ServicePort as WirePort, ServiceSpec},
};
use crate::event::{Kind, Object, ServiceObject, ServicePort};

/// Names another proxy, whose service it is alone.
const PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Cluster addresses and ports. Headless and ExternalName services have no
/// frontend here, which is no error. External addresses and those that a load
/// balancer has given are served like the cluster's own; of `ipMode: Proxy` the
/// load balancer wants to see the packets itself.
pub fn service(service: Service, names: &mut Names) -> Converted {
    let key = match key(Kind::Service, &service.metadata, names) {
        Ok(key) => key,
        Err(refusal) => return Converted::refused(vec![refusal]),
    };
    let (metadata, spec) = (service.metadata, service.spec.unwrap_or_default());
    if metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_LABEL)) {
        return Converted::default();
    }
    let mut refusals = Vec::new();
    match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        "ExternalName" => {
            let object =
                ServiceObject { addresses: Vec::new(), cluster: 0, ports: Vec::new(), options: None };
            return Converted { objects: vec![(key, Object::Service(object))], refusals };
        }
        other => {
            let message = format!("{} is no type of service: use ClusterIP", quoted(other));
            return Converted::refused(vec![Refusal::new("spec.type", message)]);
        }
    }
    let balancer = service.status.and_then(|status| status.load_balancer).unwrap_or_default();
    let (mut addresses, headless) = match addresses(&spec, &mut refusals) {
        Ok(addresses) => addresses,
        Err(refusal) => {
            refusals.push(refusal);
            return Converted::refused(refusals);
        }
    };
    let mut balanced = Vec::new();
    let cluster = addresses.len();
    if !headless {
        let external = external(&spec, &balancer, &addresses, &mut refusals);
        balanced = external.balanced;
        addresses.extend(external.addresses);
    }
    let options = options::options(&metadata, &spec, balanced, &mut refusals);
    let ranges = port_range::annotated(&metadata, &mut refusals);
    let ports = ports(spec.ports.unwrap_or_default(), ranges, names, &mut refusals);
    if ports.is_empty() && !headless {
        if refusals.is_empty() {
            let message = "missing: a service with an address needs at least one port";
            refusals.push(Refusal::new("spec.ports", message));
        }
        return Converted::refused(refusals);
    }
    if addresses.is_empty() && !headless {
        return Converted::refused(refusals);
    }
    let object = ServiceObject { addresses, cluster, ports, options };
    Converted { objects: vec![(key, Object::Service(object))], refusals }
}

/// The addresses, and whether the service asks for none. An error leaves
/// nothing to serve; a refusal costs one address.
fn addresses(spec: &ServiceSpec, refusals: &mut Vec<Refusal>) -> Result<(Vec<IpAddr>, bool), Refusal> {
    let several = spec.cluster_ips.clone().unwrap_or_default().into_iter().enumerate();
    let several: Vec<_> = several.map(|(index, text)| (format!("spec.clusterIPs[{index}]"), text)).collect();
    let listed = address::pair(spec.cluster_ip.clone(), several, "spec.clusterIP")?;
    if listed.is_empty() {
        let message = "missing: give the service an address, or None for a headless one";
        return Err(Refusal::new("spec.clusterIP", message));
    }
    if let Some((field, _)) = listed.iter().find(|(_, text)| text == "None") {
        return match listed.len() {
            1 => Ok((Vec::new(), true)),
            _ => Err(Refusal::new(field, "None stands alone: a headless service has no address")),
        };
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, (field, text)) in listed.into_iter().enumerate() {
        let address = match address::unicast(&text, &field) {
            Ok(address) => address,
            Err(refusal) => {
                refusals.push(refusal);
                continue;
            }
        };
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            let message = format!("{text} is a second {family} address: a service has one of each family");
            refusals.push(Refusal::new(field, message));
        } else if families.get(index).is_some_and(|named| named != family) {
            let message = format!("{} is not the family of {text}: write {family}", quoted(&families[index]));
            refusals.push(Refusal::new(format!("spec.ipFamilies[{index}]"), message));
        } else {
            addresses.push(address);
        }
    }
    Ok((addresses, false))
}

/// Addresses beside the cluster's, each once.
#[derive(Default)]
struct External {
    addresses: Vec<IpAddr>,
    /// Those of them that a load balancer has given.
    balanced: Vec<IpAddr>,
}

fn external(
    spec: &ServiceSpec,
    balancer: &LoadBalancerStatus,
    cluster: &[IpAddr],
    refusals: &mut Vec<Refusal>,
) -> External {
    let given = spec.external_ips.iter().flatten().enumerate();
    let given = given.map(|(index, text)| (format!("spec.externalIPs[{index}]"), text, false));
    let ingress = balancer.ingress.iter().flatten().enumerate();
    let ingress = ingress.filter(|(_, ingress)| ingress.ip_mode.as_deref() != Some("Proxy"));
    let ingress = ingress.filter_map(|(index, ingress)| {
        Some((format!("status.loadBalancer.ingress[{index}].ip"), ingress.ip.as_ref()?, true))
    });
    let mut external = External::default();
    for (field, text, balanced) in given.chain(ingress) {
        let address = match address::unicast(text, &field) {
            Ok(address) if cluster.contains(&address) => continue,
            Ok(address) => address,
            Err(refusal) => {
                refusals.push(refusal);
                continue;
            }
        };
        let lists = [(true, &mut external.addresses), (balanced, &mut external.balanced)];
        for (wanted, list) in lists {
            if wanted && !list.contains(&address) {
                list.push(address);
            }
        }
    }
    external
}

/// The sound ports: of two that collide, the first. A range of the annotations
/// continues the port in the list that it begins with, or is a port of its own.
fn ports(
    wire: Vec<WirePort>,
    mut ranges: Vec<Range>,
    names: &mut Names,
    refusals: &mut Vec<Refusal>,
) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(wire.len());
    for (index, wire) in wire.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let port = match convert(wire, &mut ranges, &field, names) {
            Ok(port) => port,
            Err(refusal) => {
                refusals.push(refusal);
                continue;
            }
        };
        if let Some(other) = ports.iter().find(|other| other.name == port.name) {
            let message = match &*other.name {
                "" => "missing: each of several ports needs a name".to_owned(),
                name => format!("{name:?} names an earlier port of this service: give each its own"),
            };
            refusals.push(Refusal::new(field("name"), message));
        } else if ports.iter().any(|other| Range::of(other) == Range::of(&port)) {
            let message = format!("{} is an earlier port of this service too", Range::of(&port));
            refusals.push(Refusal::new(field("port"), message));
        } else if let Some(other) = ports.iter().find(|other| Range::of(other).collides(&Range::of(&port))) {
            let (this, other) = (Range::of(&port), Range::of(other));
            let message = format!("{this} overlaps {other}, an earlier range of this service: part them");
            refusals.push(Refusal::new(field("endPort"), message));
        } else {
            ports.push(port);
        }
    }
    for range in ranges {
        match ports.iter().map(Range::of).find(|other| other.collides(&range)) {
            Some(other) => {
                let message = format!("{range} overlaps {other} of this service: part them");
                refusals.push(port_range::refused(message));
            }
            None => ports.push(port_range::unlisted(range, names)),
        }
    }
    ports.shrink_to_fit();
    ports
}

fn convert(
    wire: &WirePort,
    ranges: &mut Vec<Range>,
    field: &impl Fn(&str) -> String,
    names: &mut Names,
) -> Result<ServicePort, Refusal> {
    let protocol = port::protocol(wire.protocol.as_deref(), &field("protocol"))?;
    let number = port::number(wire.port, &field("port"))?;
    let name = port::name(wire.name.as_deref(), &field("name"), names)?;
    let end_port = match wire.end_port {
        Some(end) => port::number(Some(end), &field("endPort"))?,
        None => {
            let begins =
                |range: &Range| (range.first, range.protocol) == (number, protocol) && !range.is_whole();
            let at = ranges.iter().position(begins);
            at.map_or(number, |at| ranges.remove(at).last)
        }
    };
    if end_port < number {
        let message = format!("{end_port} is before port {number}: a range ends where it begins, or later");
        return Err(Refusal::new(field("endPort"), message));
    }
    let range = Range { first: number, last: end_port, protocol };
    // Slices say which port the backends listen on; still, what cannot be is
    // an error of the writer's that must not pass in silence.
    match &wire.target_port {
        Some(IntOrString::Int(target)) => {
            let target = port::number(Some(*target), &field("targetPort"))?;
            if !range.fits(target) {
                let most = u16::MAX - (end_port - number);
                let message = format!("{target} for {range} leads beyond port 65535: use at most {most}");
                return Err(Refusal::new(field("targetPort"), message));
            }
        }
        Some(IntOrString::String(target)) if target.is_empty() || target.len() > 15 => {
            let message = format!("{} is no port name: use 1 to 15 letters", quoted(target));
            return Err(Refusal::new(field("targetPort"), message));
        }
        Some(IntOrString::String(_)) | None => {}
    }
    let node_port = match wire.node_port.filter(|&port| port != 0) {
        Some(node_port) => port::number(Some(node_port), &field("nodePort"))?,
        None => 0,
    };
    Ok(ServicePort { name, protocol, port: number, end_port, node_port, unlisted: false })
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
