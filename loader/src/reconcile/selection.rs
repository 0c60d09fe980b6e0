//! Which endpoints of a service serve at a node, and why not the others?

use super::agent::Agent;
use crate::snapshot::{SelectionReply, SelectionRequest};

impl Agent {
    /// # Errors
    /// As text for the one who asked: what is not known.
    pub(super) fn selection(&self, request: &SelectionRequest) -> Result<SelectionReply, String> {
        let (namespace, name) = request.service.split_once('/').unwrap_or(("default", &request.service));
        let node = request.node.as_deref().unwrap_or(&self.config.node);
        if node != self.config.node && !self.model.nodes().contains_key(node) {
            return Err(format!("node {node}: no source has such a Node: see `causeway show nodes`"));
        }
        let (_, origin) = self.model.service_object(&namespace.into(), &name.into()).ok_or_else(|| {
            format!("service {namespace}/{name}: no source has one: see `causeway show services`")
        })?;
        let ports = self.model.selection((namespace, name), node);
        if ports.is_empty() {
            return Err(format!(
                "service {namespace}/{name} ({origin}) has no address: nobody is chosen for it here"
            ));
        }
        Ok(SelectionReply {
            service: format!("{namespace}/{name}"),
            node: node.to_owned(),
            zone: self.model.nodes().get(node).and_then(|node| node.zone.as_ref()).map(ToString::to_string),
            origin: origin.to_string(),
            ports: ports.into_iter().map(Into::into).collect(),
        })
    }
}
