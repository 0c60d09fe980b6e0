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
    /// Ready ones of this node, by their addresses.
    pub endpoints: usize,
    pub origin: Arc<Origin>,
}

impl Model {
    /// What becomes of each endpoint of a service at a node, for each port and scope.
    pub fn selection(&self, (namespace, name): (&str, &str), node: &str) -> Vec<Selected> {
        let name: ServiceName = (namespace.into(), name.into());
        let Some(said) = self.service_object(&name.0, &name.1) else { return Vec::new() };
        let slices = self.slices(&name);
        let ids = merge::ids(&name, Some(said));
        let selected = |id| merge::selected(id, said, &slices, self.seen_from(node));
        ids.into_iter().filter_map(selected).collect()
    }

    /// What load balancers are to be told of a service, if they ask.
    pub fn health_check(&self, name: &ServiceName) -> Option<HealthCheck> {
        let (object, origin) = self.service_object(&name.0, &name.1)?;
        let Object::Service(object) = &**object else { return None };
        let port = object.options.as_ref()?.traffic.health_check;
        if port == 0 {
            return None;
        }
        let here = self.selection((&name.0, &name.1), &self.here);
        let local = here.iter().filter(|selected| selected.id.scope == Scope::Local);
        let ready = local.flat_map(|selected| &selected.endpoints).filter(|(.., fate)| *fate == Fate::Serves);
        let addresses: BTreeSet<IpAddr> = ready.map(|(backend, ..)| backend.address).collect();
        Some(HealthCheck { port, endpoints: addresses.len(), origin: origin.clone() })
    }
}
