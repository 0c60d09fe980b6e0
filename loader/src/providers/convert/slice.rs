//! EndpointConditions, EndpointSlice, and the older Endpoints -> backends.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;

use super::{
    Converted, Names, Refusal, address, key, label, port, quoted, subdomain,
    wire::{
        Endpoint, EndpointConditions, EndpointPort, EndpointSlice, EndpointSubset, Endpoints, Hint,
        ObjectMeta,
    },
};
use crate::event::{EndpointState, Kind, Object, ObjectKey, Place, SliceEndpoint, SliceObject, SlicePort};

/// Names the service that a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Share of the service's flows for each backend of the slice, relative to
/// those of other slices.
pub const WEIGHT: &str = "causeway.io/weight";
/// When that happened which a slice tells of.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const MAX_WEIGHT: u32 = causeway_schema::choice::MAX_WEIGHT;
const MAX_BACKENDS: usize = causeway_schema::choice::maglev::MAX_BACKENDS;

pub fn slice(slice: EndpointSlice, names: &mut Names) -> Converted {
    let mut refusals = Vec::new();
    match try_slice(slice, names, &mut refusals) {
        Ok((key, object)) => Converted { objects: vec![(key, Object::Slice(object))], refusals },
        Err(refusal) => {
            refusals.push(refusal);
            Converted::refused(refusals)
        }
    }
}

fn try_slice(
    slice: EndpointSlice,
    names: &mut Names,
    refusals: &mut Vec<Refusal>,
) -> Result<(ObjectKey, SliceObject), Refusal> {
    let key = key(Kind::EndpointSlice, &slice.metadata, names)?;
    let field = format!("metadata.labels[{SERVICE_LABEL}]");
    let named = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
    let Some(service) = named else {
        return Err(Refusal::new(field, "missing: it names the service of the slice"));
    };
    label(service, &field)?;
    let v4 = match slice.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        "" => return Err(Refusal::new("addressType", "missing: write IPv4 or IPv6")),
        "FQDN" => return Err(Refusal::new("addressType", "FQDN slices are not served: use IPv4 or IPv6")),
        other => {
            let message = format!("{} is no type of address: use IPv4 or IPv6", quoted(other));
            return Err(Refusal::new("addressType", message));
        }
    };
    let weight = weight(&slice.metadata)?;
    let changed = changed(&slice.metadata);
    let wanted = slice.endpoints.unwrap_or_default();
    not_too_many(wanted.len(), "endpoints")?;

    let mut ports = Vec::new();
    for (index, wire) in slice.ports.unwrap_or_default().into_iter().enumerate() {
        let field = |name: &str| format!("ports[{index}].{name}");
        push_port(slice_port(&wire, &field, names), field("name"), &mut ports, refusals);
    }
    ports.shrink_to_fit();
    let mut endpoints = Vec::with_capacity(wanted.len());
    for (index, wire) in wanted.into_iter().enumerate() {
        match endpoint(&wire, index, v4, names) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(refusal) => refusals.push(refusal),
        }
    }
    endpoints.shrink_to_fit();
    Ok((key, SliceObject { service: names.get(service), ports, endpoints, weight, changed }))
}

/// The first address stands for the endpoint, as the API says.
fn endpoint(wire: &Endpoint, index: usize, v4: bool, names: &mut Names) -> Result<SliceEndpoint, Refusal> {
    let Some(text) = wire.addresses.first() else {
        let message = "missing: an endpoint needs an address";
        return Err(Refusal::new(format!("endpoints[{index}].addresses"), message));
    };
    let field = format!("endpoints[{index}].addresses[0]");
    let address = address::unicast(text, &field)?;
    if address.is_ipv4() != v4 {
        let family = if v4 { "IPv4" } else { "IPv6" };
        let message = format!("{text} is not of addressType {family}: put it into a slice of its own type");
        return Err(Refusal::new(field, message));
    }
    let state = wire.conditions.as_ref().map_or(EndpointState::Ready, state);
    let field = || format!("endpoints[{index}].nodeName");
    let described = described(address, state, wire.node_name.as_deref(), field, names)?;
    Ok(SliceEndpoint { place: place(wire, names), ..described })
}

/// What is said of an endpoint's place, if anything.
fn place(wire: &Endpoint, names: &mut Names) -> Option<Arc<Place>> {
    let zone = wire.zone.as_deref().filter(|zone| !zone.is_empty()).map(|zone| names.get(zone));
    let mut listed = |hints: Option<&Vec<Hint>>| {
        let mut hinted: Vec<_> = hints.into_iter().flatten().map(|hint| names.get(&hint.name)).collect();
        hinted.sort_unstable();
        hinted.dedup();
        hinted.into_boxed_slice()
    };
    let hints = wire.hints.as_ref();
    let for_zones = listed(hints.and_then(|hints| hints.for_zones.as_ref()));
    let for_nodes = listed(hints.and_then(|hints| hints.for_nodes.as_ref()));
    let place = Place { zone, for_zones, for_nodes };
    (place != Place::default()).then(|| names.place(place))
}

/// An endpoint that says nothing of itself is ready, and serves.
fn state(conditions: &EndpointConditions) -> EndpointState {
    let draining = conditions.serving.unwrap_or(true) && conditions.terminating.unwrap_or(false);
    match conditions.ready.unwrap_or(true) {
        true => EndpointState::Ready,
        false if draining => EndpointState::Draining,
        false => EndpointState::NotReady,
    }
}

/// Each subset is a slice of the service that the object is named after.
pub fn endpoints(wire: Endpoints, names: &mut Names) -> Converted {
    let head = key(Kind::Endpoints, &wire.metadata, names)
        .and_then(|key| label(&key.name, "metadata.name").map(|()| key))
        .and_then(|key| Ok((key, weight(&wire.metadata)?)));
    let (key, weight) = match head {
        Ok(head) => head,
        Err(refusal) => return Converted::refused(vec![refusal]),
    };
    let (service, changed) = (key.name.clone(), changed(&wire.metadata));
    let mut converted = Converted::default();
    for (index, wire) in wire.subsets.unwrap_or_default().into_iter().enumerate() {
        match subset(wire, index, names, &mut converted.refusals) {
            Ok((ports, endpoints)) => {
                let name = names.get(&format!("{service}/{index}"));
                let key = ObjectKey { name, ..key.clone() };
                let object = SliceObject { service: service.clone(), ports, endpoints, weight, changed };
                converted.objects.push((key, Object::Slice(object)));
            }
            Err(refusal) => converted.refusals.push(refusal),
        }
    }
    converted
}

fn subset(
    wire: EndpointSubset,
    at: usize,
    names: &mut Names,
    refusals: &mut Vec<Refusal>,
) -> Result<(Vec<SlicePort>, Vec<SliceEndpoint>), Refusal> {
    let ready = wire.addresses.unwrap_or_default();
    let unready = wire.not_ready_addresses.unwrap_or_default();
    not_too_many(ready.len() + unready.len(), &format!("subsets[{at}].addresses"))?;
    let mut endpoints = Vec::with_capacity(ready.len() + unready.len());
    let ready = ready.iter().enumerate().map(|item| ("addresses", EndpointState::Ready, item));
    let unready = unready.iter().enumerate().map(|item| ("notReadyAddresses", EndpointState::NotReady, item));
    for (list, state, (index, wire)) in ready.chain(unready) {
        let field = |name: &str| format!("subsets[{at}].{list}[{index}].{name}");
        let endpoint = address::unicast(&wire.ip, &field("ip")).and_then(|address| {
            described(address, state, wire.node_name.as_deref(), || field("nodeName"), names)
        });
        match endpoint {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(refusal) => refusals.push(refusal),
        }
    }
    let mut ports = Vec::new();
    for (index, wire) in wire.ports.unwrap_or_default().into_iter().enumerate() {
        let field = |name: &str| format!("subsets[{at}].ports[{index}].{name}");
        push_port(slice_port(&wire, &field, names), field("name"), &mut ports, refusals);
    }
    ports.shrink_to_fit();
    Ok((ports, endpoints))
}

fn described(
    address: IpAddr,
    state: EndpointState,
    node: Option<&str>,
    field: impl Fn() -> String,
    names: &mut Names,
) -> Result<SliceEndpoint, Refusal> {
    let node = node.filter(|name| !name.is_empty());
    if let Some(name) = node {
        subdomain(name, "").map_err(|refusal| Refusal { field: field(), ..refusal })?;
    }
    Ok(SliceEndpoint { address, state, node: node.map(|name| names.get(name)), place: None })
}

fn weight(metadata: &ObjectMeta) -> Result<u32, Refusal> {
    let text = metadata.annotations.as_ref().and_then(|notes| notes.get(WEIGHT));
    let refuse = |message| Refusal::new(format!("metadata.annotations[{WEIGHT}]"), message);
    weight_of(text.map(String::as_str)).map_err(refuse)
}

/// A backend's share of what its service gets; 1 unless given.
///
/// # Errors
/// What it may be.
pub fn weight_of(text: Option<&str>) -> Result<u32, String> {
    let Some(text) = text else { return Ok(1) };
    let weight = text.parse().ok().filter(|weight| *weight <= MAX_WEIGHT);
    weight.ok_or_else(|| format!("{} is no weight: use a whole number from 0 to {MAX_WEIGHT}", quoted(text)))
}

/// What cannot be read is not measured, and no more than that.
fn changed(metadata: &ObjectMeta) -> Option<Timestamp> {
    metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?.parse().ok()
}

fn not_too_many(count: usize, field: &str) -> Result<(), Refusal> {
    if count <= MAX_BACKENDS {
        return Ok(());
    }
    let message = format!("{count} endpoints are too many: a service can have {MAX_BACKENDS} backends");
    Err(Refusal::new(field, message))
}

fn slice_port(
    wire: &EndpointPort,
    field: &impl Fn(&str) -> String,
    names: &mut Names,
) -> Result<SlicePort, Refusal> {
    let protocol = port::protocol(wire.protocol.as_deref(), &field("protocol"))?;
    let number = port::number(wire.port, &field("port"))?;
    Ok(SlicePort { name: port::name(wire.name.as_deref(), &field("name"), names)?, protocol, port: number })
}

fn push_port(
    port: Result<SlicePort, Refusal>,
    name_field: String,
    ports: &mut Vec<SlicePort>,
    refusals: &mut Vec<Refusal>,
) {
    match port {
        Err(refusal) => refusals.push(refusal),
        Ok(port) if ports.iter().any(|other| other.name == port.name) => {
            let message = match &*port.name {
                "" => "missing: each of several ports needs a name".to_owned(),
                name => format!("{name:?} names an earlier port of this slice: give each its own"),
            };
            refusals.push(Refusal::new(name_field, message));
        }
        Ok(port) => ports.push(port),
    }
}

#[cfg(test)]
#[path = "slice_tests.rs"]
mod tests;
