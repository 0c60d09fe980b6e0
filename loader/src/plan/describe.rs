//! What does a step do, in one line for the operator?

use std::fmt;

use causeway_schema::{Frontend, FrontendKey, Port, Target};

use super::{Family, Fault, Repair, Step};
use crate::event::Protocol;

/// What is written and where, e.g. `frontends 10.96.0.1:80/TCP: service 3`.
pub fn describe<A: Family>(step: &Step<A>) -> String {
    let what = match step {
        Step::PutBackend { row, .. } if row.port == Port::NONE => row.addr.to_ip().to_string(),
        Step::PutBackend { row, .. } => format!("{} port {}", row.addr.to_ip(), row.port.get()),
        Step::PutTable { cells, .. } => format!("a table of {} cells", cells.len()),
        Step::PutService { row, .. } => format!("{}, generation {}", target(row.target), row.generation),
        Step::PutEndpoint { row, .. } => {
            format!("interface {}, {}, generation {}", row.ifindex, mac(row.mac), row.generation)
        }
        Step::PutEndpointKey { hop, .. } => format!("slot {}, generation {}", hop.slot(), hop.generation()),
        Step::PutFrontend { row: Frontend { service: Frontend::WHOLE_ADDRESS, .. }, .. } => {
            "belongs to services".to_owned()
        }
        Step::PutFrontend { row, .. } => format!("service {}", row.service),
        Step::DeleteFrontend { .. } | Step::DeleteEndpointKey { .. } => "deleted".to_owned(),
        Step::ClearEndpoint { .. } | Step::ClearService { .. } | Step::ClearBackend { .. } => {
            "cleared".to_owned()
        }
    };
    format!("{}: {what}", place(step))
}

impl<A: Family> fmt::Display for Repair<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.fault, &self.step) {
            (Fault::Missing, _) => "missing, written again",
            (Fault::Altered, _) => "altered, rewritten",
            (Fault::Unknown, Step::DeleteFrontend { .. } | Step::DeleteEndpointKey { .. }) => {
                "unknown, deleted"
            }
            (Fault::Unknown, _) => "unknown, cleared",
        };
        write!(f, "{}: {what}", place(&self.step))
    }
}

/// Map and row.
fn place<A: Family>(step: &Step<A>) -> String {
    let row = match step {
        Step::PutBackend { id, .. } | Step::ClearBackend { id } => id.to_string(),
        Step::PutService { id, .. } | Step::ClearService { id, .. } => id.to_string(),
        Step::PutTable { base, .. } => format!("from cell {base}"),
        Step::PutEndpoint { slot, .. } | Step::ClearEndpoint { slot, .. } => slot.to_string(),
        Step::PutEndpointKey { key, .. } | Step::DeleteEndpointKey { key } => key.0.to_ip().to_string(),
        Step::PutFrontend { key, .. } | Step::DeleteFrontend { key } => frontend(key),
    };
    format!("{} {row}", step.map())
}

/// `10.96.0.1:80/TCP`, or the bare address for a marker row.
pub fn frontend<A: Family>(key: &FrontendKey<A>) -> String {
    if *key == FrontendKey::whole_address(key.addr) {
        return key.addr.to_ip().to_string();
    }
    let socket = std::net::SocketAddr::new(key.addr.to_ip(), key.port.get());
    match Protocol::from_number(key.protocol) {
        Some(protocol) => format!("{socket}/{protocol}"),
        None => format!("{socket}/{}", key.protocol),
    }
}

fn target(target: Target) -> String {
    if target.is_empty() {
        return "no backends".to_owned();
    }
    let port = match target.port() {
        Port::NONE => String::new(),
        port => format!(", port {}", port.get()),
    };
    format!("{:?} of {} from cell {}{port}", target.algorithm(), target.len(), target.base())
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use causeway_schema::{Algorithm, Service, V4, V6, protocol};

    use super::*;

    #[test]
    fn an_operator_reads_addresses_and_not_bytes() {
        let key = FrontendKey::new(V4([10, 96, 0, 1]), Port::new(80), protocol::TCP);
        let step = Step::PutFrontend { key, row: Frontend { service: 3, flags: 0 } };
        assert_eq!(describe(&step), "frontends 10.96.0.1:80/TCP: service 3");
        let repair = Repair { step, fault: Fault::Altered };
        assert_eq!(repair.to_string(), "frontends 10.96.0.1:80/TCP: altered, rewritten");

        let key = FrontendKey::whole_address(V6([0; 16]));
        let repair = Repair { step: Step::DeleteFrontend { key }, fault: Fault::Unknown };
        assert_eq!(repair.to_string(), "frontends ::: unknown, deleted");

        let row = Service {
            target: Target::new(8, 5, Algorithm::Rendezvous, Port::new(80)),
            generation: 2,
            flags: 0,
        };
        let step: Step<V4> = Step::PutService { id: 4, row };
        assert_eq!(describe(&step), "services 4: Rendezvous of 5 from cell 8, port 80, generation 2");
    }
}
