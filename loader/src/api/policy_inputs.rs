//! What the API says to whoever compiles policies himself: all that the
//! agent's compiler is told, as data. Field names are part of the interface:
//! docs/json.md lists them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    event::policy::{Labels, NamedPort, PolicyObject},
    model::desired::Frontend,
    policy::PolicyId,
    snapshot::{EndpointGround, PolicyGround},
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PolicyInputs {
    /// The node's own addresses.
    pub own: Vec<IpAddr>,
    pub endpoints: Vec<EndpointGround>,
    pub namespaces: BTreeMap<Arc<str>, Labels>,
    pub pods: Vec<PodInput>,
    pub services: Vec<ServiceInput>,
    pub policies: Vec<PolicyInput>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodInput {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    pub ports: Arc<[NamedPort]>,
}

/// One port of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceInput {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Those at node ports are under the unspecified address.
    pub frontends: Vec<Frontend>,
    /// Of a range, at the port that its first one leads to.
    pub backends: Vec<SocketAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyInput {
    pub id: PolicyId,
    pub object: Arc<PolicyObject>,
}

impl From<&PolicyGround> for PolicyInputs {
    fn from(PolicyGround { desired, endpoints, own }: &PolicyGround) -> Self {
        let pods = desired.pods.iter().map(|((namespace, name), pod)| PodInput {
            namespace: namespace.clone(),
            name: name.clone(),
            labels: pod.labels.clone(),
            addresses: pod.addresses.clone(),
            ports: pod.ports.clone(),
        });
        let services = desired.services.iter().map(|(id, service)| ServiceInput {
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            frontends: service.frontends.clone(),
            backends: service
                .backends
                .iter()
                .map(|backend| SocketAddr::new(backend.address, backend.port))
                .collect(),
        });
        let policies = desired
            .policies
            .iter()
            .map(|(key, policy)| PolicyInput { id: key.into(), object: policy.object.clone() });
        Self {
            own: own.clone(),
            endpoints: endpoints.clone(),
            namespaces: desired.namespaces.clone(),
            pods: pods.collect(),
            services: services.collect(),
            policies: policies.collect(),
        }
    }
}
