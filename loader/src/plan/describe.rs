//! What does a step do, in one line for the operator?

use std::fmt;

use causeway_schema::{
    Frontend, FrontendKey, Member, MemberKey, Port, PortRange, PortRanges, Service, Target,
    source_range::NODES,
};

use super::{Family, Fault, Repair, Step};
use crate::{event::Protocol, mac};

/// What is written and where, e.g. `frontends 10.96.0.1:80/TCP: service 3`.
pub fn describe<A: Family>(step: &Step<A>) -> String {
    let what = match step {
        Step::PutBackend { row, .. } if row.port == Port::NONE => row.addr.to_ip().to_string(),
        Step::PutBackend { row, .. } => format!("{} port {}", row.addr.to_ip(), row.port.get()),
        Step::PutTable { cells, .. } => format!("a table of {} cells", cells.len()),
        Step::PutService { row, .. } => {
            let affinity = if row.flags & Service::AFFINITY != 0 { ", affinity" } else { "" };
            let silent = if row.flags & Service::SILENT != 0 { ", silent" } else { "" };
            let direct = row.flags & (Service::DSR | Service::DSR_L2) != 0;
            let dsr = if direct { ", direct return" } else { "" };
            let proxy = if row.flags & Service::PROXY != 0 { ", PROXY header" } else { "" };
            format!("{}, generation {}{affinity}{dsr}{proxy}{silent}", target(row.target), row.generation)
        }
        Step::PutEndpoint { row, .. } => {
            format!("interface {}, {}, generation {}", row.ifindex, mac::text(row.mac), row.generation)
        }
        Step::PutEndpointKey { hop, .. } => format!("slot {}, generation {}", hop.slot(), hop.generation()),
        Step::PutFrontend { row: Frontend { service: Frontend::WHOLE_ADDRESS, .. }, .. } => {
            "belongs to services".to_owned()
        }
        Step::PutFrontend { row, .. } => format!("service {}{}", row.service, clients(row.flags)),
        Step::PutMember { row: Member { backend: Member::NONE, timeout, .. }, .. } => {
            format!("clients remembered for {timeout} s")
        }
        Step::PutMember { row, .. } => format!("backend {}", row.backend),
        Step::PutSourceRange { key, .. } if key.service == NODES => "a node".to_owned(),
        Step::PutSourceRange { .. } => "allowed".to_owned(),
        Step::PutPortRanges { row, .. } => ranges(row),
        Step::DeleteFrontend { .. }
        | Step::DeletePortRanges { .. }
        | Step::DeleteEndpointKey { .. }
        | Step::DeleteMember { .. }
        | Step::DeleteSourceRange { .. } => "deleted".to_owned(),
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
            (Fault::Unknown, Step::DeletePortRanges { .. }) => "unknown, deleted",
            (Fault::Unknown, Step::DeleteMember { .. } | Step::DeleteSourceRange { .. }) => {
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
        Step::PutPortRanges { addr, .. } | Step::DeletePortRanges { addr } => addr.to_ip().to_string(),
        Step::PutMember { key, .. } | Step::DeleteMember { key }
            if *key == MemberKey::settings(key.service) =>
        {
            format!("of service {}", key.service)
        }
        Step::PutMember { key, .. } | Step::DeleteMember { key } => {
            format!("{} of service {}", key.backend.to_ip(), key.service)
        }
        Step::PutSourceRange { key, .. } | Step::DeleteSourceRange { key } if key.service == NODES => {
            key.addr.to_ip().to_string()
        }
        Step::PutSourceRange { key, .. } | Step::DeleteSourceRange { key } => {
            format!(
                "{}/{} of service {}",
                key.addr.to_ip(),
                key.prefix.saturating_sub(u32::BITS),
                key.service
            )
        }
    };
    format!("{} {row}", step.map())
}

/// `10.96.0.1:80/TCP`, or the bare address for a marker row.
pub fn frontend<A: Family>(key: &FrontendKey<A>) -> String {
    if *key == FrontendKey::whole_address(key.addr) {
        return key.addr.to_ip().to_string();
    }
    let socket = std::net::SocketAddr::new(key.addr.to_ip(), key.port.get());
    let from = match key.outside {
        0 => "",
        FrontendKey::<A>::OUTSIDE_RANGE => " and up from outside",
        FrontendKey::<A>::OUTSIDE_WHOLE => " and all others from outside",
        _ => " from outside",
    };
    match Protocol::from_number(key.protocol) {
        Some(protocol) => format!("{socket}/{protocol}{from}"),
        None => format!("{socket}/{}{from}", key.protocol),
    }
}

/// `10000-60000/UDP: service 3`, for each.
fn ranges(row: &PortRanges) -> String {
    let range = |range: &PortRange| {
        let protocol = Protocol::from_number(range.protocol)
            .map_or_else(|| range.protocol.to_string(), |protocol| protocol.to_string());
        let PortRange { first, last, service, flags, .. } = range;
        let clients = clients(u32::from(*flags));
        format!("{}-{}/{protocol} service {service}{clients}", first.get(), last.get())
    };
    row.iter().map(range).collect::<Vec<_>>().join("; ")
}

/// Who may come by a frontend with these flags.
fn clients(flags: u32) -> String {
    let mut said = String::new();
    for (flag, words) in [
        (Frontend::SOURCE_RANGES, ", from its source ranges only"),
        (Frontend::OUTSIDE, ", from outside another"),
    ] {
        if flags & flag != 0 {
            said += words;
        }
    }
    said
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

#[cfg(test)]
mod tests {
    use causeway_schema::{Algorithm, SourceRange, SourceRangeKey, V4, V6, protocol};

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

        let key = SourceRangeKey::new(3, V4([10, 0, 0, 0]), 8);
        let step = Step::PutSourceRange { key, row: SourceRange { prefix: key.prefix } };
        assert_eq!(describe(&step), "source_ranges 10.0.0.0/8 of service 3: allowed");
        let (key, row) = (MemberKey::new(3, V4([10, 1, 0, 1])), Member::backend(9));
        assert_eq!(describe(&Step::PutMember { key, row }), "members 10.1.0.1 of service 3: backend 9");

        let range = PortRange {
            first: Port::new(10_000),
            last: Port::new(60_000),
            protocol: protocol::UDP,
            service: 3,
            ..PortRange::NONE
        };
        let step = Step::PutPortRanges { addr: V4([10, 96, 0, 1]), row: PortRanges::of([range]) };
        assert_eq!(describe(&step), "port_ranges 10.96.0.1: 10000-60000/UDP service 3");

        let row = Service {
            target: Target::new(8, 5, Algorithm::Rendezvous, Port::new(80)),
            generation: 2,
            flags: 0,
        };
        let step: Step<V4> = Step::PutService { id: 4, row };
        assert_eq!(describe(&step), "services 4: Rendezvous of 5 from cell 8, port 80, generation 2");
    }
}
