//! As many services as one asks for, each with so many endpoints.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// As many endpoints as a service may have here.
const ROOM: u32 = 64;

/// Enough for 50,000 services of one port.
pub const CAPACITY: &str = "[capacity]\nfrontends = 65536\nservices = 65536\nbackends = 65536\n";

pub fn name(service: u32) -> String {
    format!("service-{service}")
}

/// Its VIP.
pub fn address(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 97, 0, 0).to_bits() + service)
}

/// The address of one of its endpoints, on no node.
pub fn backend(service: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + service * ROOM + number)
}

/// A Service and its EndpointSlice, and the next, as an API server says them.
pub fn objects(services: u32, endpoints: u32) -> impl Iterator<Item = Value> {
    (0..services).flat_map(move |index| {
        let name = name(index);
        let port = json!({"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080});
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": address(index), "ports": [port]},
        });
        let endpoint = |number| {
            let conditions = json!({"ready": true, "serving": true, "terminating": false});
            let pod = json!({"kind": "Pod", "namespace": "default", "name": format!("{name}-{number}")});
            json!({"addresses": [backend(index, number)], "conditions": conditions, "targetRef": pod})
        };
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "tcp", "protocol": "TCP", "port": 8080}],
            "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
        });
        [service, slice]
    })
}
