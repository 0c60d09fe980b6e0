//! What does one Kubernetes object say? Its version and kind choose the
//! converter, in whichever form it came.

use std::borrow::Cow;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Names,
    convert::{
        self, Converted, Refusal,
        wire::{EndpointSlice, Endpoints, Namespace, Node, Pod, Service},
    },
};

pub const ADMIN_POLICIES: &str = "policy.networking.k8s.io/v1alpha1";
pub const CLUSTER_POLICIES: &str = "policy.networking.k8s.io/v1alpha2";
pub const OURS: &str = "causeway.io/v1alpha1";

/// Longest message that an operator is shown.
const MAX_MESSAGE: usize = 400;

/// An object before its kind is known.
pub enum Raw<'a> {
    /// Sound JSON.
    Json(&'a str),
    Value(Value),
}

impl Raw<'_> {
    pub fn value(self) -> Value {
        match self {
            Raw::Json(text) => serde_json::from_str(text).unwrap_or(Value::Null),
            Raw::Value(value) => value,
        }
    }

    pub fn head(&self) -> Head<'_> {
        match self {
            Raw::Json(text) => serde_json::from_str(text).unwrap_or_default(),
            Raw::Value(value) => {
                let field = |name| value.get(name).and_then(Value::as_str).map(Cow::Borrowed);
                Head { api_version: field("apiVersion"), kind: field("kind") }
            }
        }
    }

    fn typed<T: DeserializeOwned>(self) -> Result<T, Refusal> {
        if let Raw::Json(text) = &self
            && let Ok(object) = serde_json::from_str(text)
        {
            return Ok(object);
        }
        serde_path_to_error::deserialize(self.value()).map_err(|error| {
            let path = error.path().to_string();
            Refusal::new(if path == "." { String::new() } else { path }, error.inner().to_string())
        })
    }
}

#[derive(Default, Deserialize)]
pub struct Head<'a> {
    #[serde(borrow, rename = "apiVersion")]
    pub api_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub kind: Option<Cow<'a, str>>,
}

/// What an object calls itself.
#[derive(Clone)]
pub struct Called {
    pub text: String,
    /// It has a name, as every finished object does.
    pub named: bool,
    pub mapping: bool,
}

impl Called {
    pub fn new(kind: &str, value: &Value) -> Self {
        let part = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (part("/metadata/namespace"), part("/metadata/name"));
        let text = match (namespace, name) {
            (_, "") => kind.to_owned(),
            ("", name) => format!("{kind} {name}"),
            (namespace, name) => format!("{kind} {namespace}/{name}"),
        };
        Self { text, named: !name.is_empty(), mapping: value.is_object() }
    }
}

/// What the object says; `None`: nobody here reads its kind.
///
/// # Errors
/// Names the field that has another type than the API gives it.
pub fn convert(api: &str, kind: &str, raw: Raw<'_>, names: &mut Names) -> Option<Result<Converted, Refusal>> {
    let converted = match (api, kind) {
        ("v1", "Service") => raw.typed::<Service>().map(|wire| convert::service(wire, names)),
        ("v1", "Endpoints") => raw.typed::<Endpoints>().map(|wire| convert::endpoints(wire, names)),
        ("v1", "Node") => raw.typed::<Node>().map(|wire| convert::node(wire, names)),
        ("v1", "Pod") => raw.typed::<Pod>().map(|wire| convert::pod(wire, names)),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            raw.typed::<EndpointSlice>().map(|wire| convert::slice(wire, names))
        }
        ("v1", "Namespace") => raw.typed::<Namespace>().map(|wire| convert::namespace(wire, names)),
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            raw.typed().map(|wire| convert::network_policy(wire, names))
        }
        (ADMIN_POLICIES, "AdminNetworkPolicy") => {
            raw.typed().map(|wire| convert::admin_network_policy(wire, names))
        }
        (ADMIN_POLICIES, "BaselineAdminNetworkPolicy") => {
            raw.typed().map(|wire| convert::baseline_admin_network_policy(wire, names))
        }
        (CLUSTER_POLICIES, "ClusterNetworkPolicy") => {
            raw.typed().map(|wire| convert::cluster_network_policy(wire, names))
        }
        (OURS, "Policy") => raw.typed().map(|wire| convert::own_policy(wire, names)),
        (OURS, "VirtualNetwork") => raw.typed().map(|wire| convert::virtual_network(wire, names)),
        (OURS, "Egress") => raw.typed().map(|wire| convert::egress(wire, names)),
        _ => return None,
    };
    Some(converted)
}

/// A message that an operator can read, of whatever length it was.
pub fn shortened(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
        message.truncate(end);
        message.push_str(" (and so on)");
    }
    message
}
