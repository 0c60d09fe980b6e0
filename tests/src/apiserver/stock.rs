//! Objects of each kind to put into a server.

use std::collections::BTreeSet;

use super::ApiServer;
use crate::random::Random;

/// Of the kinds below those that may be installed; they have no namespace.
pub const CLUSTER_WIDE: [&str; 4] = ["AdminNetworkPolicy", "Policy", "VirtualNetwork", "Egress"];

/// An object of kind and number, in one of a few forms.
pub fn object(random: &mut Random, number: usize) -> (&'static str, String) {
    let form = random.below(3) + 1;
    let kinds = [
        "Service",
        "EndpointSlice",
        "Node",
        "Pod",
        "Namespace",
        "NetworkPolicy",
        "AdminNetworkPolicy",
        "Policy",
        "VirtualNetwork",
        "Egress",
    ];
    let kind = *random.pick(&kinds);
    let yaml = match kind {
        "Service" => format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: o{number}}}\nspec: {{clusterIP: 10.96.0.{}, ports: [{{port: {form}}}]}}\n",
            number + 1
        ),
        "EndpointSlice" => format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: o{number}, labels: {{kubernetes.io/service-name: o{}}}}}\n\
             addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [10.244.{form}.{}]}}]\n",
            number / 2,
            number + 1
        ),
        "Node" => format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: o{number}}}\nspec: {{podCIDR: 10.{}.0.0/24}}\nstatus: {{addresses: [{{type: InternalIP, address: 192.168.{form}.1}}]}}\n",
            number + 1
        ),
        "Pod" => format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: o{number}, labels: {{app: a{form}}}}}\nspec: {{nodeName: o1, containers: []}}\nstatus: {{podIP: 10.244.9.{}}}\n",
            number + 1
        ),
        "Namespace" => {
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: o{number}, labels: {{team: t{form}}}}}\n"
            )
        }
        "NetworkPolicy" => format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: o{number}}}\nspec: {{podSelector: {{matchLabels: {{app: a{form}}}}}}}\n"
        ),
        "AdminNetworkPolicy" => format!(
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: o{number}}}\n\
             spec: {{priority: {form}, subject: {{namespaces: {{}}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}\n"
        ),
        "VirtualNetwork" => format!(
            "apiVersion: causeway.io/v1alpha1\nkind: VirtualNetwork\nmetadata: {{name: o{number}}}\nspec: {{members: {{namespaces: {{}}}}, peers: [o{form}]}}\n"
        ),
        "Egress" => format!(
            "apiVersion: causeway.io/v1alpha1\nkind: Egress\nmetadata: {{name: o{number}}}\nspec: {{subject: {{namespaces: {{}}}}, addresses: [192.0.2.{form}], nodes: [o1]}}\n"
        ),
        _ => format!(
            "apiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {{name: o{number}}}\n\
             spec: {{tier: Admin, priority: {form}, subject: {{namespaces: {{}}}}, ingress: [{{action: Allow, from: [{{namespaces: {{}}}}]}}]}}\n"
        ),
    };
    (kind, yaml)
}

/// The kinds that have something to lose.
pub const ALL: [&str; 6] = ["Service", "EndpointSlice", "Node", "Pod", "Namespace", "NetworkPolicy"];

/// A server with three of each.
pub fn stocked() -> ApiServer {
    let api = ApiServer::local();
    let random = &mut Random::new(1);
    for number in 0..3 {
        let mut left: BTreeSet<&str> = ALL.into();
        while !left.is_empty() {
            let (name, yaml) = object(random, number);
            if left.remove(name) {
                api.apply(&yaml);
            }
        }
    }
    api
}
