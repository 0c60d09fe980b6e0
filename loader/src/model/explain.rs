//! What can be said of a service? Why each of its endpoints serves or not, and
//! what load balancers are told.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{
    Model, ServiceName,
    desired::Scope,
    merge::{self, Selected},
    selection::Fate,
};
use crate::event::{Object, Origin};

/// What is told of a service at a port of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    pub port: u16,
    /// Ready ones of this node, by their addresses: those of IPv4, if the service has
    /// that family.
    pub endpoints: usize,
    pub origin: Arc<Origin>,
}

impl Model {
    /// What becomes of each endpoint of a service at a node, for each port and scope.
    pub fn selection(&self, name: &ServiceName, node: &str) -> Vec<Selected> {
        self.selected(name, node, |_| true)
    }

    fn selected(&self, name: &ServiceName, node: &str, wanted: impl Fn(Scope) -> bool) -> Vec<Selected> {
        let Some(said) = self.service_object(&name.0, &name.1) else { return Vec::new() };
        let slices = self.slices(name);
        let ids = merge::ids(name, Some(said)).into_iter().filter(|id| wanted(id.scope));
        ids.filter_map(|id| merge::selected(id, said, &slices, self.seen_from(node))).collect()
    }

    /// What load balancers are to be told of a service, if they ask.
    pub fn health_check(&self, name: &ServiceName) -> Option<HealthCheck> {
        let (object, origin) = self.service_object(&name.0, &name.1)?;
        let Object::Service(object) = &**object else { return None };
        let port = object.options.as_ref()?.traffic.health_check;
        if port == 0 {
            return None;
        }
        let here = self.selected(name, &self.here, |scope| scope == Scope::Local);
        let endpoints = here.iter().flat_map(|selected| &selected.endpoints);
        let ready = endpoints.filter(|(.., fate)| *fate == Fate::Serves);
        let addresses = ready.map(|(backend, ..)| backend.address);
        // An endpoint of both families is one: the service's first counts.
        let four = object.addresses.first().is_none_or(IpAddr::is_ipv4);
        let addresses: BTreeSet<IpAddr> = addresses.filter(|address| address.is_ipv4() == four).collect();
        Some(HealthCheck { port, endpoints: addresses.len(), origin: origin.clone() })
    }
}
