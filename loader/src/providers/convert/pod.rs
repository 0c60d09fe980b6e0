//! Pod -> its addresses and the node that has it; its labels and the names of
//! its ports, for policies.

use std::sync::Arc;

use super::{
    Converted, Names, Refusal, address, key,
    labels::labels,
    policy::{port_name, transport},
    port, subdomain,
    wire::{ContainerPort, Pod, PodSpec},
};
use crate::event::{Kind, Object, PodObject, policy::NamedPort};

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
    let mut object = PodObject { node: node.map(|name| names.get(name)), ..PodObject::default() };
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
    object.labels = labels(pod.metadata.labels.as_ref(), None, names, &mut refusals);
    object.ports = ports(&spec, names, &mut refusals);
    Converted { objects: vec![(key, Object::Pod(Arc::new(object)))], refusals }
}

/// Of containers that run as long as the pod does: an init container does so
/// when it is always restarted.
fn ports(spec: &PodSpec, names: &mut Names, refusals: &mut Vec<Refusal>) -> Arc<[NamedPort]> {
    let mut ports = Vec::new();
    let running = spec.containers.iter().flatten().enumerate().map(|item| ("containers", item));
    let init = spec.init_containers.iter().flatten().enumerate().map(|item| ("initContainers", item));
    let init = init.filter(|(_, (_, container))| container.restart_policy.as_deref() == Some("Always"));
    for (list, (index, container)) in running.chain(init) {
        for (at, wire) in container.ports.iter().flatten().enumerate() {
            match named_port(wire, &format!("spec.{list}[{index}].ports[{at}]"), names) {
                Ok(port) => ports.extend(port),
                Err(refusal) => refusals.push(refusal),
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    names.ports(ports)
}

/// A port without a name is of no use to policies.
fn named_port(wire: &ContainerPort, field: &str, names: &mut Names) -> Result<Option<NamedPort>, Refusal> {
    let Some(name) = wire.name.as_deref().filter(|name| !name.is_empty()) else { return Ok(None) };
    let name = port_name(name, &format!("{field}.name"), names)?;
    let protocol = transport(wire.protocol.as_deref(), false, &format!("{field}.protocol"))?;
    let port = port::number(wire.container_port, &format!("{field}.containerPort"))?;
    Ok(Some(NamedPort { name, protocol, port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> (Option<Arc<PodObject>>, Vec<Refusal>) {
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
    fn named_ports_of_containers_that_stay() {
        for (spec, expect) in [
            (
                "{containers: [{ports: [{name: http, containerPort: 80}, {containerPort: 81}]}, {}]}",
                "http=80/TCP",
            ),
            (
                "{containers: [{ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: dns, containerPort: 53}]}]}",
                "dns=53/TCP dns=53/UDP",
            ),
            ("{containers: [{ports: [{name: s, containerPort: 9, protocol: SCTP}]}]}", "s=9/SCTP"),
            ("{initContainers: [{ports: [{name: a, containerPort: 1}]}]}", ""),
            ("{initContainers: [{restartPolicy: Always, ports: [{name: a, containerPort: 1}]}]}", "a=1/TCP"),
            (
                "{containers: [{ports: [{name: A, containerPort: 1}, {name: b, containerPort: 0}, {name: c, containerPort: 3}]}]}",
                "c=3/TCP !spec.containers[0].ports[0].name !spec.containers[0].ports[1].containerPort",
            ),
            (
                "{containers: [{ports: [{name: a, containerPort: 1, protocol: ICMP}]}]}",
                "!spec.containers[0].ports[0].protocol",
            ),
        ] {
            let (pod, refusals) = check(&format!("{{metadata: {{name: p}}, spec: {spec}}}"));
            let pod = pod.unwrap();
            let ports = pod.ports.iter().map(|port| format!("{}={}/{}", port.name, port.port, port.protocol));
            let refused = refusals.iter().map(|refusal| format!("!{}", refusal.field));
            assert_eq!(ports.chain(refused).collect::<Vec<_>>().join(" "), expect, "{spec}");
        }
    }

    #[test]
    fn labels_that_cannot_be_are_left_out() {
        let (pod, refusals) = check("{metadata: {name: p, labels: {app: web, 'b ad': x, c: 'd e'}}}");
        let pod = pod.unwrap();
        assert_eq!(
            pod.labels.iter().map(|(key, value)| (&**key, &**value)).collect::<Vec<_>>(),
            [("app", "web")]
        );
        let fields: Vec<_> = refusals.iter().map(|refusal| refusal.field.as_str()).collect();
        assert_eq!(fields, ["metadata.labels[b ad]", "metadata.labels[c]"]);
    }

    #[test]
    fn addresses_that_differ_are_not_guessed_at() {
        let (pod, refusals) =
            check("{metadata: {name: p}, status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.2}]}}");
        assert!(pod.is_none());
        assert_eq!(refusals[0].field, "status.podIPs[0].ip");
    }
}
