//! How does a Kubernetes object become a validated one? One kind a file; what
//! cannot be served is refused by field, the sound rest goes on.

mod address;
mod egress;
mod labels;
mod namespace;
mod node;
mod options;
mod pod;
mod policy;
mod port;
mod port_range;
mod service;
mod slice;
mod table;
pub mod wire;

pub use address::unicast;
pub use egress::egress;
pub use namespace::namespace;
pub use node::node;
pub use pod::pod;
pub use policy::{
    admin_network_policy, baseline_admin_network_policy, cluster_network_policy, network_policy, own_policy,
    virtual_network,
};
pub use service::service;
pub use slice::{WEIGHT, endpoints, slice, weight_of};

use super::{Names, object::shortened};
use crate::event::{Kind, Object, ObjectKey, Origin, Problem};

use wire::ObjectMeta;

/// A field that is refused, before it is known where the object stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Path of the field, e.g. `spec.ports[0].port`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// The same of an object that stands somewhere.
    pub fn problem(self, origin: Origin, object: impl Into<String>) -> Problem {
        let message = shortened(self.message);
        Problem { origin: Some(origin), object: object.into(), field: self.field, message }
    }
}

/// What became of one object: its name if it has one, what can be served of
/// it, and what was refused. Refusals and no object: nothing of it can be
/// served, and what it said before still stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    pub objects: Vec<(ObjectKey, Object)>,
    pub refusals: Vec<Refusal>,
}

impl Converted {
    fn refused(refusals: Vec<Refusal>) -> Self {
        Self { objects: Vec::new(), refusals }
    }
}

/// The object's key, if its names are what Kubernetes allows.
fn key(kind: Kind, metadata: &ObjectMeta, names: &mut Names) -> Result<ObjectKey, Refusal> {
    let name = metadata.name.as_deref().unwrap_or_default();
    match kind {
        Kind::Service | Kind::Namespace => label(name, "metadata.name")?,
        _ => subdomain(name, "metadata.name")?,
    }
    let mut namespace = "";
    if kind.is_namespaced() {
        namespace = metadata.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        label(namespace, "metadata.namespace")?;
    }
    Ok(ObjectKey { kind, namespace: names.get(namespace), name: names.get(name) })
}

/// A DNS label (RFC 1123): what services, namespaces and ports are called.
fn label(name: &str, field: &str) -> Result<(), Refusal> {
    if (1..=63).contains(&name.len()) && is_label(name) {
        return Ok(());
    }
    let message = "lower-case letters, digits and '-' between them, 1 to 63 of them";
    Err(Refusal::new(field, format!("{} is no name: use {message}", quoted(name))))
}

/// A DNS name (RFC 1123): what most objects are called.
fn subdomain(name: &str, field: &str) -> Result<(), Refusal> {
    if (1..=253).contains(&name.len()) && name.split('.').all(is_label) {
        return Ok(());
    }
    let message = "lower-case letters, digits, and '-' and '.' between them, 1 to 253 of them";
    Err(Refusal::new(field, format!("{} is no name: use {message}", quoted(name))))
}

fn is_label(name: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|byte| plain(byte) || *byte == b'-')
}

/// A name of any length, in a message of bounded length.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{:?} (and so on)", &text[..end]),
        None => format!("{text:?}"),
    }
}
