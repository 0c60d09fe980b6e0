//! What the API says of who serves a service at a node, and why the others do
//! not. Field names are part of the interface: docs/json.md lists them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::view::{ServiceBackend, texts};
use crate::{
    model::{Selected, desired::Backend, selection::Fate},
    snapshot::Selection,
};

/// What `causeway explain service -o json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectionReply {
    /// `namespace/name`.
    pub service: String,
    pub node: String,
    pub zone: Option<String>,
    /// Of the service object.
    pub origin: String,
    pub ports: Vec<SelectionPort>,
}

/// A port of a service, and its traffic that has the same backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectionPort {
    /// As in `causeway show services`.
    pub name: String,
    /// `cluster`, or `local`: the endpoints of the node alone.
    pub scope: String,
    pub frontends: Vec<String>,
    pub endpoints: Vec<SelectionEndpoint>,
    /// What it does not get at this node, e.g. frontends that another service has.
    #[serde(default)]
    pub lost: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectionEndpoint {
    #[serde(flatten)]
    pub backend: ServiceBackend,
    pub zone: Option<String>,
    pub serves: bool,
    /// Why, or why not.
    pub why: String,
}

pub fn selection(selection: Selection) -> SelectionReply {
    let Selection { service: (namespace, name), node, zone, origin, ports } = selection;
    SelectionReply {
        service: format!("{namespace}/{name}"),
        node: node.to_string(),
        zone: zone.map(|zone| zone.to_string()),
        origin: origin.to_string(),
        ports: ports.into_iter().map(port).collect(),
    }
}

fn port((selected, lost): (Selected, Vec<String>)) -> SelectionPort {
    let Selected { id, frontends, endpoints } = selected;
    SelectionPort {
        name: id.to_string(),
        scope: id.scope.to_string(),
        frontends: texts(frontends),
        endpoints: endpoints.iter().map(endpoint).collect(),
        lost,
    }
}

fn endpoint((backend, zone, fate): &(Backend, Option<Arc<str>>, Fate)) -> SelectionEndpoint {
    SelectionEndpoint {
        backend: backend.into(),
        zone: zone.as_ref().map(ToString::to_string),
        serves: fate.serves(),
        why: fate.to_string(),
    }
}
