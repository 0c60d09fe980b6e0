//! What the API says of egress addresses, in words. Field names are part of the
//! interface: docs/json.md lists them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::view::texts;
use crate::{
    egress::Standing,
    model::desired::{DesiredState, Egress},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressView {
    pub name: String,
    /// Who leaves under them, in words.
    pub subject: String,
    pub addresses: Vec<String>,
    /// Who may hold them, the preferred one first.
    pub nodes: Vec<String>,
    /// Who holds them as this node sees it; `None`: nobody, or this node has
    /// nothing to do with them.
    #[serde(default)]
    pub holder: Option<String>,
    /// Those of this node that leave under them.
    #[serde(default)]
    pub endpoints: Vec<String>,
    pub origin: String,
}

/// In the order of their names. `standing`: what this node has made of them.
pub fn egresses(desired: &DesiredState, standing: &BTreeMap<Arc<str>, Standing>) -> Vec<EgressView> {
    let view = |(name, egress): (&Arc<str>, &Egress)| {
        let Standing { holder, endpoints } = standing.get(name).cloned().unwrap_or_default();
        EgressView {
            name: name.to_string(),
            subject: egress.object.subject.to_string(),
            addresses: texts(&egress.object.addresses),
            nodes: texts(&egress.object.nodes),
            holder: holder.map(|holder| holder.to_string()),
            endpoints,
            origin: egress.origin.to_string(),
        }
    };
    desired.egresses.iter().map(view).collect()
}
