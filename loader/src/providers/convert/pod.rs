//! Pod -> its addresses and the node that has it.

use super::{Converted, Names, address, key, subdomain, wire::Pod};
use crate::event::{Kind, Object, PodObject};

/// Pods of the host's own network, and finished ones, have no address of theirs.
pub fn pod(pod: Pod, names: &mut Names) -> Converted {
    let key = match key(Kind::Pod, &pod.metadata, names) {
        Ok(key) => key,
        Err(refusal) => return Converted::refused(vec![refusal]),
    };
    let mut refusals = Vec::new();
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let node = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if let Some(Err(refusal)) = node.map(|name| subdomain(name, "spec.nodeName")) {
        return Converted::refused(vec![refusal]);
    }
    let mut object = PodObject { node: node.map(|name| names.get(name)), addresses: Vec::new() };
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if !finished && spec.host_network != Some(true) {
        let several = status.pod_ips.unwrap_or_default().into_iter().enumerate();
        let several = several.map(|(index, wire)| (format!("status.podIPs[{index}].ip"), wire.ip)).collect();
        let listed = match address::pair(status.pod_ip, several, "status.podIP") {
            Ok(listed) => listed,
            Err(refusal) => return Converted::refused(vec![refusal]),
        };
        for (field, text) in listed {
            match address::unicast(&text, &field) {
                Ok(address) if object.addresses.contains(&address) => {}
                Ok(address) => object.addresses.push(address),
                Err(refusal) => refusals.push(refusal),
            }
        }
        if object.addresses.is_empty() && !refusals.is_empty() {
            return Converted::refused(refusals);
        }
    }
    Converted { objects: vec![(key, Object::Pod(object))], refusals }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::convert::Refusal;

    fn check(yaml: &str) -> (Option<PodObject>, Vec<Refusal>) {
        let converted = pod(serde_saphyr::from_str(yaml).unwrap(), &mut Names::default());
        let object = converted.objects.into_iter().next().map(|(_, object)| match object {
            Object::Pod(pod) => pod,
            other => panic!("{other:?}"),
        });
        (object, converted.refusals)
    }

    #[test]
    fn only_a_running_pod_of_its_own_network_has_addresses() {
        for (rest, addresses) in [
            ("status: {podIP: 10.1.0.1}", 1),
            ("status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]}", 2),
            ("status: {podIP: 10.1.0.1, phase: Failed}", 0),
            ("spec: {hostNetwork: true, containers: []}, status: {podIP: 192.168.0.1}", 0),
            ("spec: {nodeName: n, containers: []}", 0),
        ] {
            let (pod, refusals) = check(&format!("{{metadata: {{name: p}}, {rest}}}"));
            assert_eq!(pod.unwrap().addresses.len(), addresses, "{rest}");
            assert!(refusals.is_empty(), "{rest}: {refusals:?}");
        }
    }

    #[test]
    fn addresses_that_differ_are_not_guessed_at() {
        let (pod, refusals) =
            check("{metadata: {name: p}, status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.2}]}}");
        assert!(pod.is_none());
        assert_eq!(refusals[0].field, "status.podIPs[0].ip");
    }
}
