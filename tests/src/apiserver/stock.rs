//! Objects of each kind to put into a server.

use super::{ApiServer, KINDS, Kind};
use crate::random::Random;

/// An object of kind and number, in one of a few forms: its name, and the whole.
pub fn object(random: &mut Random, kind: Kind, number: usize) -> (String, String) {
    let form = random.below(3) + 1;
    let (api, kind, ..) = KINDS[kind];
    let (mut name, mut labels) = (format!("o{number}"), String::new());
    let rest = match kind {
        "Service" => format!("spec: {{clusterIP: 10.96.0.{}, ports: [{{port: {form}}}]}}", number + 1),
        "EndpointSlice" => {
            labels = format!("kubernetes.io/service-name: o{}", number / 2);
            format!(
                "addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [10.244.{form}.{}]}}]",
                number + 1
            )
        }
        "Node" => format!(
            "spec: {{podCIDR: 10.{}.0.0/24}}\nstatus: {{addresses: [{{type: InternalIP, address: 192.168.{form}.1}}]}}",
            number + 1
        ),
        "Pod" => {
            labels = format!("app: a{form}");
            format!("spec: {{nodeName: o1, containers: []}}\nstatus: {{podIP: 10.244.9.{}}}", number + 1)
        }
        "Namespace" => {
            labels = format!("team: t{form}");
            String::new()
        }
        "NetworkPolicy" => format!("spec: {{podSelector: {{matchLabels: {{app: a{form}}}}}}}"),
        "VirtualNetwork" => format!("spec: {{members: {{namespaces: {{}}}}, peers: [o{form}]}}"),
        "Egress" => {
            format!("spec: {{subject: {{namespaces: {{}}}}, addresses: [192.0.2.{form}], nodes: [o1]}}")
        }
        "BaselineAdminNetworkPolicy" => {
            // The one that there can be.
            name = "default".to_owned();
            denial(&format!("namespaces: {{matchLabels: {{team: t{form}}}}}"), "")
        }
        "AdminNetworkPolicy" => denial("namespaces: {}", &format!("priority: {form}, ")),
        _ => denial("namespaces: {}", &format!("tier: Admin, priority: {form}, ")),
    };
    let metadata = format!("{{name: {name}, labels: {{{labels}}}}}");
    (name, format!("apiVersion: {api}\nkind: {kind}\nmetadata: {metadata}\n{rest}\n"))
}

fn denial(subject: &str, order: &str) -> String {
    format!(
        "spec: {{{order}subject: {{{subject}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}"
    )
}

/// A server with three of each kind that every server has.
pub fn stocked() -> ApiServer {
    let api = ApiServer::local();
    let random = &mut Random::new(1);
    for number in 0..3 {
        for kind in (0..KINDS.len()).filter(|kind| KINDS[*kind].4) {
            api.apply(&object(random, kind, number).1);
        }
    }
    api
}
