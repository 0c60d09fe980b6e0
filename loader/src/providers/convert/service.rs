//! Service -> frontends.

use super::{Converted, Refusal, address, key, port, port_name, protocol, wire::Service};
use crate::event::{Kind, Object, ServiceObject, ServicePort};

/// Cluster addresses and ports. Headless and ExternalName services have no
/// frontend here, which is no error.
pub fn service(service: Service) -> Converted {
    let mut refusals = Vec::new();
    let Some(key) = key(Kind::Service, &service.metadata, true, &mut refusals) else {
        return Converted { objects: Vec::new(), refusals };
    };
    let spec = service.spec.unwrap_or_default();
    let mut object = ServiceObject { addresses: Vec::new(), ports: Vec::new() };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    match kind {
        "ClusterIP" | "NodePort" | "LoadBalancer" => {
            let addresses = spec.cluster_ips.unwrap_or_default();
            let single = spec.cluster_ip.into_iter().map(|text| ("spec.clusterIP".to_owned(), text));
            let several =
                (0..).zip(addresses).map(|(index, text)| (format!("spec.clusterIPs[{index}]"), text));
            for (field, text) in single.chain(several) {
                if text.is_empty() || text == "None" {
                    continue;
                }
                match address::unicast(&text, &field) {
                    Ok(address) if object.addresses.contains(&address) => {}
                    Ok(address) => object.addresses.push(address),
                    Err(refusal) => refusals.push(refusal),
                }
            }
        }
        "ExternalName" => {}
        other => refusals.push(Refusal::new("spec.type", format!("{other:?} is no type of service"))),
    }

    let ports = spec.ports.unwrap_or_default();
    if ports.is_empty() && !object.addresses.is_empty() {
        refusals.push(Refusal::new("spec.ports", "a service with an address needs at least one port"));
    }
    let many = ports.len() > 1;
    for (index, wire) in ports.into_iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let converted = protocol(wire.protocol.as_deref(), &field("protocol")).and_then(|protocol| {
            Ok(ServicePort { name: port_name(wire.name), protocol, port: port(wire.port, &field("port"))? })
        });
        match converted {
            Err(refusal) => refusals.push(refusal),
            Ok(port) if many && port.name.is_empty() => {
                refusals.push(Refusal::new(field("name"), "each of several ports needs a name"));
            }
            Ok(port) if object.ports.iter().any(|other| other.name == port.name) => {
                let message = format!("{:?} names an earlier port of this service", port.name);
                refusals.push(Refusal::new(field("name"), message));
            }
            Ok(port)
                if object
                    .ports
                    .iter()
                    .any(|other| (other.protocol, other.port) == (port.protocol, port.port)) =>
            {
                let message = format!("{}/{} is an earlier port of this service", port.port, port.protocol);
                refusals.push(Refusal::new(field("port"), message));
            }
            Ok(port) => object.ports.push(port),
        }
    }
    Converted { objects: vec![(key, Object::Service(object))], refusals }
}
