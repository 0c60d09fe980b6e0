//! Who speaks? The sources of desired state. Each turns its own kind of object
//! into [`Event`](crate::event::Event)s; one converter serves all that speak
//! Kubernetes.

pub mod convert;
#[cfg(test)]
mod dice;
pub mod docker;
pub mod kubernetes;
pub mod manifests;
mod names;
mod object;
mod speech;

pub use names::Names;
