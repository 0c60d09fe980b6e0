//! How does a Kubernetes object become a validated one? One kind a file; what
//! cannot be served is refused by field, the sound rest goes on.

mod address;
mod node;
mod pod;
mod service;
mod slice;
pub mod wire;

pub use node::node;
pub use pod::pod;
pub use service::service;
pub use slice::{endpoints, slice};

use std::sync::Arc;

use crate::event::{Kind, Object, ObjectKey, Protocol};

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
}

/// What became of one object: its name if it has one, what can be served of
/// it, and what was refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    pub objects: Vec<(ObjectKey, Object)>,
    pub refusals: Vec<Refusal>,
}

/// The object's key, if its names are what Kubernetes allows (RFC 1123).
fn key(
    kind: Kind,
    metadata: &ObjectMeta,
    namespaced: bool,
    refusals: &mut Vec<Refusal>,
) -> Option<ObjectKey> {
    let name = metadata.name.as_deref().unwrap_or_default();
    if !is_name(name) {
        let message = "must be a name of lower-case letters, digits, '-' and '.', 1 to 253 long";
        refusals.push(Refusal::new("metadata.name", format!("{name:?} {message}")));
        return None;
    }
    let namespace = if namespaced { metadata.namespace.as_deref().unwrap_or("default") } else { "" };
    if namespaced && !is_name(namespace) {
        let message = "must be a name of lower-case letters, digits and '-'";
        refusals.push(Refusal::new("metadata.namespace", format!("{namespace:?} {message}")));
        return None;
    }
    Some(ObjectKey { kind, namespace: namespace.into(), name: name.into() })
}

fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=253).contains(&bytes.len())
        && bytes.iter().all(|&byte| inner(byte) || matches!(byte, b'-' | b'.'))
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
}

/// TCP unless said otherwise, as Kubernetes has it.
fn protocol(text: Option<&str>, field: &str) -> Result<Protocol, Refusal> {
    match text.unwrap_or("TCP") {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Err(Refusal::new(field, "SCTP is not served: use TCP or UDP")),
        other => Err(Refusal::new(field, format!("{other:?} is no protocol: use TCP or UDP"))),
    }
}

fn port(number: i32, field: &str) -> Result<u16, Refusal> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Refusal::new(field, format!("{number} is no port: use 1 to 65535"))),
    }
}

fn port_name(name: Option<String>) -> Arc<str> {
    name.unwrap_or_default().into()
}
