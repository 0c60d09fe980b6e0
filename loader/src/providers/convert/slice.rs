//! EndpointSlice, and the older Endpoints -> backends.

use std::sync::Arc;

use super::{
    Converted, Refusal, address, key, port, port_name, protocol,
    wire::{EndpointPort, EndpointSlice, Endpoints},
};
use crate::event::{Kind, Object, ObjectKey, SliceEndpoint, SliceObject, SlicePort};

/// Names the service that a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Share of the service's flows for each backend of the slice, relative to
/// those of other slices.
const WEIGHT_ANNOTATION: &str = "causeway.io/weight";
const MAX_WEIGHT: u32 = causeway_schema::choice::MAX_WEIGHT;
const MAX_BACKENDS: usize = causeway_schema::choice::maglev::MAX_BACKENDS;

pub fn slice(slice: EndpointSlice) -> Converted {
    let mut refusals = Vec::new();
    let Some(key) = key(Kind::EndpointSlice, &slice.metadata, true, &mut refusals) else {
        return Converted { objects: Vec::new(), refusals };
    };
    let refuse = |refusal| Converted { objects: Vec::new(), refusals: vec![refusal] };
    let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
    let Some(service) = label.filter(|name| !name.is_empty()) else {
        let field = format!("metadata.labels[{SERVICE_LABEL}]");
        return refuse(Refusal::new(field, "missing: it names the service of the slice"));
    };
    match slice.address_type.as_str() {
        "IPv4" | "IPv6" => {}
        "FQDN" => return refuse(Refusal::new("addressType", "FQDN slices are not served: use IPv4 or IPv6")),
        other => {
            return refuse(Refusal::new("addressType", format!("{other:?} is no type: use IPv4 or IPv6")));
        }
    }
    let weight = slice.metadata.annotations.as_ref().and_then(|notes| notes.get(WEIGHT_ANNOTATION));
    let weight = match weight.map(|text| text.parse::<u32>()) {
        None => 1,
        Some(Ok(weight)) if weight <= MAX_WEIGHT => weight,
        Some(_) => {
            let field = format!("metadata.annotations[{WEIGHT_ANNOTATION}]");
            return refuse(Refusal::new(field, format!("use a whole number from 0 to {MAX_WEIGHT}")));
        }
    };
    let wanted = slice.endpoints.unwrap_or_default();
    if let Some(refusal) = too_many(wanted.len(), "endpoints") {
        return refuse(refusal);
    }

    let mut endpoints = Vec::with_capacity(wanted.len());
    for (index, wire) in wanted.into_iter().enumerate() {
        // The first address stands for the endpoint, as the API says.
        let field = format!("endpoints[{index}].addresses[0]");
        let Some(text) = wire.addresses.first() else {
            refusals.push(Refusal::new(format!("endpoints[{index}].addresses"), "needs an address"));
            continue;
        };
        match address::unicast(text, &field) {
            Ok(address) if address.is_ipv4() != (slice.address_type == "IPv4") => {
                let message = format!("{text} is not of addressType {}", slice.address_type);
                refusals.push(Refusal::new(field, message));
            }
            Ok(address) => {
                let ready = wire.conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
                endpoints.push(SliceEndpoint { address, ready, node: wire.node_name.map(Into::into) });
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    let mut ports = Vec::new();
    for (index, wire) in slice.ports.unwrap_or_default().into_iter().enumerate() {
        let field = |name: &str| format!("ports[{index}].{name}");
        let converted = slice_port(wire, field);
        push_port(converted, &field("name"), &mut ports, &mut refusals);
    }
    let object = SliceObject { service: service.as_str().into(), ports, endpoints, weight };
    Converted { objects: vec![(key, Object::Slice(object))], refusals }
}

/// Each subset is a slice of the service that the object is named after.
pub fn endpoints(wire: Endpoints) -> Converted {
    let mut refusals = Vec::new();
    let Some(key) = key(Kind::Endpoints, &wire.metadata, true, &mut refusals) else {
        return Converted { objects: Vec::new(), refusals };
    };
    let mut objects = Vec::new();
    for (at, subset) in wire.subsets.unwrap_or_default().into_iter().enumerate() {
        let mut object =
            SliceObject { service: key.name.clone(), ports: Vec::new(), endpoints: Vec::new(), weight: 1 };
        let ready = subset.addresses.unwrap_or_default();
        let unready = subset.not_ready_addresses.unwrap_or_default();
        if let Some(refusal) = too_many(ready.len() + unready.len(), &format!("subsets[{at}].addresses")) {
            refusals.push(refusal);
            continue;
        }
        let ready = ready.into_iter().enumerate().map(|item| ("addresses", true, item));
        let unready = unready.into_iter().enumerate().map(|item| ("notReadyAddresses", false, item));
        for (list, ready, (index, wire)) in ready.chain(unready) {
            match address::unicast(&wire.ip, &format!("subsets[{at}].{list}[{index}].ip")) {
                Ok(address) => {
                    object.endpoints.push(SliceEndpoint {
                        address,
                        ready,
                        node: wire.node_name.map(Into::into),
                    });
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        for (index, wire) in subset.ports.unwrap_or_default().into_iter().enumerate() {
            let field = |name: &str| format!("subsets[{at}].ports[{index}].{name}");
            let converted = slice_port(wire, field);
            push_port(converted, &field("name"), &mut object.ports, &mut refusals);
        }
        let name: Arc<str> = format!("{}/{at}", key.name).into();
        objects.push((ObjectKey { name, ..key.clone() }, Object::Slice(object)));
    }
    Converted { objects, refusals }
}

fn too_many(count: usize, field: &str) -> Option<Refusal> {
    let message = format!("{count} endpoints: a service can have {MAX_BACKENDS} backends");
    (count > MAX_BACKENDS).then(|| Refusal::new(field, message))
}

fn slice_port(wire: EndpointPort, field: impl Fn(&str) -> String) -> Result<SlicePort, Refusal> {
    let number = wire.port.ok_or_else(|| Refusal::new(field("port"), "missing: say the backends' port"))?;
    let protocol = protocol(wire.protocol.as_deref(), &field("protocol"))?;
    Ok(SlicePort { name: port_name(wire.name), protocol, port: port(number, &field("port"))? })
}

fn push_port(
    converted: Result<SlicePort, Refusal>,
    name_field: &str,
    ports: &mut Vec<SlicePort>,
    refusals: &mut Vec<Refusal>,
) {
    match converted {
        Err(refusal) => refusals.push(refusal),
        Ok(port)
            if ports.iter().any(|other| (&other.name, other.protocol) == (&port.name, port.protocol)) =>
        {
            let message = format!("{:?} names an earlier port of this slice", port.name);
            refusals.push(Refusal::new(name_field, message));
        }
        Ok(port) => ports.push(port),
    }
}
