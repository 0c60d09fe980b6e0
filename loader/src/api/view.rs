//! What the API says of services, backends and nodes. Field names are part of
//! the interface: docs/json.md lists them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use causeway_schema::choice::RENDEZVOUS_MAX;
use serde::{Deserialize, Serialize};

pub use super::egress_view::{EgressView, egresses};
pub use super::policy_view::{PolicyView, policies};
use crate::{
    event::SourceRanges,
    mac,
    model::desired::{Backend, DesiredState},
    snapshot::Attached,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// `namespace/name:port`, with `@local` behind it where the endpoints of this node
    /// alone serve.
    pub name: String,
    /// `address:port/protocol`, and for whom if not for all.
    pub frontends: Vec<String>,
    /// `rendezvous`, `weighted rendezvous`, `maglev` or `none`.
    pub algorithm: String,
    pub backends: Vec<ServiceBackend>,
    /// Seconds after which a client that opens no new connection is
    /// forgotten; `None`: clients are not remembered.
    #[serde(default)]
    pub affinity_seconds: Option<u32>,
    /// How long a flow may be silent; `None`: as long as the agent allows.
    #[serde(default)]
    pub idle_timeout_seconds: Option<u32>,
    /// `ipip`: backends on other nodes answer clients from outside themselves;
    /// `None`: their answers come back through the node that chose them.
    #[serde(default)]
    pub dsr: Option<String>,
    /// `v2`: backends hear first on each TCP connection who the client is;
    /// `None`: they see what they see.
    #[serde(default)]
    pub proxy_protocol: Option<String>,
    /// `None`: every frontend is for all.
    #[serde(default)]
    pub source_ranges: Option<SourceRangesView>,
    /// Without backends here, but not elsewhere: who asks is told nothing.
    #[serde(default)]
    pub silent: bool,
    pub origin: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRangesView {
    /// The frontends' addresses that are not for all.
    pub addresses: Vec<String>,
    /// Who may come there, as `address/prefix`; empty: nobody.
    pub clients: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceBackend {
    /// `address:port`.
    pub address: String,
    pub weight: u32,
    pub node: Option<String>,
    pub origin: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendView {
    /// `address:port`.
    pub address: String,
    pub node: Option<String>,
    /// Names of the services it serves, with its weight in each.
    pub services: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointView {
    pub name: String,
    pub addresses: Vec<String>,
    /// Host side.
    pub interface: String,
    pub ifindex: u32,
    /// Container side, as `02:…`.
    pub mac: String,
    /// By which policies select it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Path of its network namespace.
    #[serde(default)]
    pub netns: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    pub name: String,
    pub addresses: Vec<String>,
    pub pod_cidrs: Vec<String>,
    /// Addresses of pods outside `pod_cidrs`.
    pub stray_pods: Vec<String>,
    #[serde(default)]
    pub zone: Option<String>,
}

/// The answer to `wait` and `converged`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaitView {
    pub converged: bool,
    pub revision: u64,
    pub applied_revision: u64,
    pub reasons: Vec<String>,
}

/// The desired state at one revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DesiredView {
    pub revision: u64,
    pub services: Vec<ServiceView>,
    pub nodes: Vec<NodeView>,
    #[serde(default)]
    pub policies: Vec<PolicyView>,
    /// Without what nodes make of them.
    #[serde(default)]
    pub egress: Vec<EgressView>,
}

/// What was let go of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseView {
    pub source: String,
    /// How many objects were held.
    pub released: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptView {
    /// Names of the endpoints that are gone.
    pub detached: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetachView {
    /// False when there was nothing to detach.
    pub detached: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UninstallView {
    pub uninstalled: bool,
}

impl From<&Backend> for ServiceBackend {
    fn from(backend: &Backend) -> Self {
        Self {
            address: SocketAddr::new(backend.address, backend.port).to_string(),
            weight: backend.weight,
            node: backend.node.as_ref().map(ToString::to_string),
            origin: backend.origin.to_string(),
        }
    }
}

/// Each as it is written.
pub(super) fn texts(items: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

pub fn desired(desired: &DesiredState) -> DesiredView {
    DesiredView {
        revision: desired.revision,
        services: services(desired),
        nodes: nodes(desired),
        policies: policies(desired),
        egress: egresses(desired, &BTreeMap::new()),
    }
}

pub fn services(desired: &DesiredState) -> Vec<ServiceView> {
    desired
        .services
        .iter()
        .map(|(id, service)| {
            let weights = service.backends.iter().map(|backend| backend.weight);
            let equal = weights.clone().min() == weights.max();
            let algorithm = match service.backends.len() {
                0 => "none",
                count if service.options.table.maglev || count > RENDEZVOUS_MAX => "maglev",
                _ if equal => "rendezvous",
                _ => "weighted rendezvous",
            };
            ServiceView {
                name: id.to_string(),
                frontends: texts(&service.frontends),
                algorithm: algorithm.into(),
                backends: service.backends.iter().map(ServiceBackend::from).collect(),
                affinity_seconds: service.options.affinity,
                idle_timeout_seconds: service.options.idle_timeout,
                dsr: service.options.dsr.map(|way| way.to_string()),
                proxy_protocol: service.options.proxy.then(|| "v2".to_owned()),
                source_ranges: service.options.source_ranges.as_ref().map(source_ranges),
                silent: service.silent,
                origin: service.origin.to_string(),
            }
        })
        .collect()
}

fn source_ranges(ranges: &SourceRanges) -> SourceRangesView {
    SourceRangesView { addresses: texts(&ranges.addresses), clients: texts(&ranges.clients) }
}

pub fn backends(desired: &DesiredState) -> Vec<BackendView> {
    let mut views: BTreeMap<(IpAddr, u16), BackendView> = BTreeMap::new();
    for (id, service) in &desired.services {
        for backend in &service.backends {
            let view = views.entry((backend.address, backend.port)).or_insert_with(|| BackendView {
                address: SocketAddr::new(backend.address, backend.port).to_string(),
                node: backend.node.as_ref().map(ToString::to_string),
                services: BTreeMap::new(),
            });
            view.services.insert(id.to_string(), backend.weight);
        }
    }
    views.into_values().collect()
}

pub fn nodes(desired: &DesiredState) -> Vec<NodeView> {
    desired
        .nodes
        .iter()
        .map(|(name, node)| NodeView {
            name: name.to_string(),
            addresses: texts(&node.addresses),
            pod_cidrs: texts(&node.pod_cidrs),
            stray_pods: texts(&node.stray_pods),
            zone: node.zone.as_ref().map(ToString::to_string),
        })
        .collect()
}

pub fn endpoint(name: &str, attached: &Attached) -> EndpointView {
    let endpoint = &attached.endpoint;
    EndpointView {
        name: name.to_owned(),
        addresses: texts(&endpoint.addresses),
        interface: endpoint.interface.clone(),
        ifindex: endpoint.ifindex,
        mac: mac::text(endpoint.mac),
        labels: attached.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        netns: attached.netns.display().to_string(),
    }
}
