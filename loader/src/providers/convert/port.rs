//! Which ports and protocols can be served?

use std::sync::Arc;

use super::{Refusal, label, quoted};
use crate::{event::Protocol, providers::Names};

/// TCP unless said otherwise, as Kubernetes has it.
pub fn protocol(text: Option<&str>, field: &str) -> Result<Protocol, Refusal> {
    match text.unwrap_or("TCP") {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Err(Refusal::new(field, "SCTP is not served: use TCP or UDP")),
        other => Err(Refusal::new(field, format!("{} is no protocol: use TCP or UDP", quoted(other)))),
    }
}

pub fn number(number: Option<i32>, field: &str) -> Result<u16, Refusal> {
    let Some(number) = number else { return Err(Refusal::new(field, "missing: use 1 to 65535")) };
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Refusal::new(field, format!("{number} is no port: use 1 to 65535"))),
    }
}

/// Empty for a port without a name.
pub fn name(name: Option<&str>, field: &str, names: &mut Names) -> Result<Arc<str>, Refusal> {
    let name = name.unwrap_or_default();
    if !name.is_empty() {
        label(name, field)?;
    }
    Ok(names.get(name))
}
