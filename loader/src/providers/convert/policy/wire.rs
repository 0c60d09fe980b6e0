//! What do we read of a policy? The fields of `networking.k8s.io/v1`,
//! `policy.networking.k8s.io` and our own, named as there.
//!
//! Lists of rules, peers and ports stay as they came until each is read alone:
//! a fault in one costs no other. A field that nobody knows is refused, because
//! without it the rest would mean something else, mostly more.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::providers::convert::wire::{IntOrString, ObjectMeta};

#[derive(Debug, Deserialize)]
pub struct Policy<T> {
    #[serde(default)]
    pub metadata: ObjectMeta,
    pub spec: Option<T>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    pub pod_selector: Option<LabelSelector>,
    pub policy_types: Option<Vec<String>>,
    pub ingress: Option<Value>,
    pub egress: Option<Value>,
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// Of AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy,
/// and Policy.
#[derive(Debug, Deserialize)]
pub struct AdminPolicySpec {
    pub tier: Option<String>,
    pub priority: Option<i64>,
    pub subject: Option<Subject>,
    pub ingress: Option<Value>,
    pub egress: Option<Value>,
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// Ours.
#[derive(Debug, Deserialize)]
pub struct VirtualNetworkSpec {
    pub members: Option<Subject>,
    /// Names of other networks.
    pub peers: Option<Vec<String>>,
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    pub match_labels: Option<BTreeMap<String, String>>,
    pub match_expressions: Option<Vec<LabelSelectorRequirement>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSelectorRequirement {
    #[serde(default)]
    pub key: String,
    #[serde(default)]
    pub operator: String,
    pub values: Option<Vec<String>>,
}

/// Of any kind; which of them are known depends on it.
#[derive(Debug, Default, Deserialize)]
pub struct Rule {
    pub name: Option<Value>,
    pub action: Option<Value>,
    pub from: Option<Value>,
    pub to: Option<Value>,
    pub ports: Option<Value>,
    pub protocols: Option<Value>,
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyPeer {
    pub pod_selector: Option<LabelSelector>,
    pub namespace_selector: Option<LabelSelector>,
    pub ip_block: Option<IpBlock>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpBlock {
    #[serde(default)]
    pub cidr: String,
    pub except: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyPort {
    pub protocol: Option<String>,
    pub port: Option<IntOrString>,
    pub end_port: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<NamespacedPod>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespacedPod {
    pub namespace_selector: Option<LabelSelector>,
    pub pod_selector: Option<LabelSelector>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdminPeer {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<NamespacedPod>,
    pub networks: Option<Vec<String>>,
    pub nodes: Option<Value>,
    pub domain_names: Option<Value>,
    /// Ours.
    pub service: Option<ServiceReference>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceReference {
    pub namespace: Option<String>,
    #[serde(default)]
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdminPort {
    pub port_number: Option<PortNumber>,
    pub port_range: Option<PortRange>,
    pub named_port: Option<String>,
    /// Ours: every port of a protocol.
    pub protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortNumber {
    pub protocol: Option<String>,
    pub port: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    pub protocol: Option<String>,
    pub start: Option<i32>,
    pub end: Option<i32>,
}

/// Of ClusterNetworkPolicy.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterProtocol {
    pub tcp: Option<ProtocolMatch>,
    pub udp: Option<ProtocolMatch>,
    pub sctp: Option<ProtocolMatch>,
    pub destination_named_port: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProtocolMatch {
    pub destination_port: Option<DestinationPort>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationPort {
    pub number: Option<i32>,
    pub range: Option<PortRange>,
}
