//! Pod -> its addresses and the node that has it.

use super::{Converted, address, key, wire::Pod};
use crate::event::{Kind, Object, PodObject};

/// Pods of the host's own network, and finished ones, have no address of theirs.
pub fn pod(pod: Pod) -> Converted {
    let mut refusals = Vec::new();
    let Some(key) = key(Kind::Pod, &pod.metadata, true, &mut refusals) else {
        return Converted { objects: Vec::new(), refusals };
    };
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let mut object = PodObject { node: spec.node_name.map(Into::into), addresses: Vec::new() };
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if !finished && spec.host_network != Some(true) {
        let single = status.pod_ip.into_iter().map(|text| ("status.podIP".to_owned(), text));
        let several = (0..)
            .zip(status.pod_ips.unwrap_or_default())
            .map(|(index, wire)| (format!("status.podIPs[{index}].ip"), wire.ip));
        for (field, text) in single.chain(several) {
            match address::unicast(&text, &field) {
                Ok(address) if object.addresses.contains(&address) => {}
                Ok(address) => object.addresses.push(address),
                Err(refusal) => refusals.push(refusal),
            }
        }
    }
    Converted { objects: vec![(key, Object::Pod(object))], refusals }
}
