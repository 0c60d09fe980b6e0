//! Which endpoints of a service serve at a node, and why not the others?

use super::agent::Agent;
use crate::{
    event::pod_name,
    model::desired::ServiceId,
    snapshot::{Selection, SelectionRequest},
};

impl Agent {
    /// # Errors
    /// As text for the one who asked: what is not known.
    pub(super) fn selection(&self, request: &SelectionRequest) -> Result<Selection, String> {
        let service = pod_name(&request.service);
        let (namespace, name) = &service;
        let here = self.config.node.as_str();
        let node = request.node.as_deref().unwrap_or(here);
        if node != here && !self.model.nodes().contains_key(node) {
            return Err(format!("node {node}: no source has such a Node: see `causeway show nodes`"));
        }
        let (_, origin) = self.model.service_object(namespace, name).ok_or_else(|| {
            format!("service {namespace}/{name}: no source has one: see `causeway show services`")
        })?;
        let origin = origin.clone();
        let selected = self.model.selection(&service, node);
        if selected.is_empty() {
            return Err(format!(
                "service {namespace}/{name} ({origin}) has no address: nobody is chosen for it here"
            ));
        }
        // Of the maps of another node nothing is known.
        let lost = |id: &ServiceId| if node == here { self.lost(id) } else { Vec::new() };
        let ports = selected.into_iter().map(|port| (lost(&port.id), port)).map(|(lost, port)| (port, lost));
        let zone = self.model.nodes().get(node).and_then(|node| node.zone.clone());
        Ok(Selection { ports: ports.collect(), service, node: node.into(), zone, origin })
    }

    /// What a service does not get in the maps.
    fn lost(&self, id: &ServiceId) -> Vec<String> {
        let v4 = || self.v4.planner.problems_of(id);
        let v6 = self.v6.planner.problems_of(id).filter(|problem| !v4().any(|other| other == *problem));
        v4().chain(v6).map(|problem| problem.message.clone()).collect()
    }
}
