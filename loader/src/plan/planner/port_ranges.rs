//! Which ranges of ports does a service get? Those that no smaller service has
//! on the same address, if the address has room for a row, and the row for them.

use std::collections::BTreeSet;

use causeway_schema::{FrontendKey, PORT_RANGES, PortRange};

use super::{Entry, Planner};
use crate::event::{Problem, Protocol};
use crate::model::desired::{Frontend, ServiceId};
use crate::plan::claims::{Lost, Ranges};
use crate::plan::{Family, Map};

impl<A: Family> Planner<A> {
    /// The ranges that a service may have; it waits for the others.
    pub(super) fn contest_ranges(
        &mut self,
        name: &ServiceId,
        entry: &Entry<A>,
        problems: &mut Vec<Problem>,
    ) -> Vec<(A, PortRange)> {
        let mut won = Vec::new();
        for &(addr, range) in entry.wanted.ranges() {
            let shown = shown(addr, &range);
            let message = match self.claims.judge(name, addr, &range) {
                Ok(()) => {
                    won.push((addr, range));
                    continue;
                }
                Err(Lost::To(owner, other)) => format!(
                    "{shown} overlaps {} of service {owner}: give one of them another address or other ports",
                    self::shown(addr, &other)
                ),
                Err(Lost::NoRoom) => format!(
                    "{shown} is one too many: an address has room for {PORT_RANGES} ranges; join some, or use another address"
                ),
            };
            problems.push(entry.wanted.problem(name, "spec.ports", message));
        }
        let new: BTreeSet<A> = won.iter().map(|(addr, _)| *addr).filter(|addr| !self.has_row(addr)).collect();
        if !self.ledger.port_ranges_fit(&new, self.capacity.port_ranges) {
            problems.push(self.full(name, &entry.wanted, Map::PortRanges));
            won.retain(|(addr, _)| !new.contains(addr));
        }
        won
    }

    /// Brings the rows in line with what a service has won, `None` if nothing:
    /// it may have no place. Those that this concerns are put into the queue.
    pub(super) fn settle_ranges(
        &mut self,
        name: &ServiceId,
        entry: &Entry<A>,
        won: &[(A, PortRange)],
        problems: &mut Vec<Problem>,
        queue: &mut BTreeSet<ServiceId>,
    ) {
        let id = entry.place.as_ref().map(|place| place.id);
        let options = entry.wanted.options.as_deref();
        let claimed = entry.wanted.ranges().iter().filter(|(addr, _)| {
            // What found no row waits for room, not for a rival.
            id.is_none() || self.has_row(addr) || won.iter().any(|(there, _)| there == addr)
        });
        let ranges = claimed.map(|&(addr, range)| {
            let flags = options.map_or(0, |options| options.flags(addr));
            (addr, PortRange { flags: flags as u16, ..range })
        });
        let ranges = ranges.collect();
        self.claim_ranges(name, id, ranges, queue);
        for &(addr, port) in options.map_or(&[][..], |options| &options.misfits) {
            let backend = std::net::SocketAddr::new(addr.to_ip(), port.get());
            let span = entry.wanted.span();
            let most = u16::MAX - span;
            let message = format!(
                "backend {backend} has no room for the {} ports of the range above {}: it gets no packets; let it listen from port {most} or below",
                u32::from(span) + 1,
                port.get(),
            );
            problems.push(entry.wanted.problem(name, "endpoints", message));
        }
    }

    pub(super) fn claim_ranges(
        &mut self,
        name: &ServiceId,
        id: Option<u32>,
        ranges: Ranges<A>,
        queue: &mut BTreeSet<ServiceId>,
    ) {
        for addr in self.claims.set(name, id, ranges) {
            self.write_ranges(addr);
            queue.extend(self.claims.after(name, &addr).cloned());
        }
    }

    /// Forgets ranges of an earlier agent: those of one id, or all.
    pub(super) fn forget_ranges(&mut self, id: Option<u32>) {
        for addr in self.claims.forget_adopted(id) {
            self.write_ranges(addr);
        }
    }

    fn write_ranges(&mut self, addr: A) {
        self.ledger.set_port_ranges(addr, self.claims.row(addr), self.capacity.port_ranges);
    }

    fn has_row(&self, addr: &A) -> bool {
        self.ledger.image().port_ranges.contains_key(addr)
    }

    /// Leaves those of `ranges` whose address needs no new marker.
    pub(super) fn keep_marked(&self, ranges: &mut Vec<(A, PortRange)>) {
        let rows = &self.ledger.image().frontends;
        ranges.retain(|(addr, _)| rows.contains_key(&FrontendKey::whole_address(*addr)));
    }
}

/// A range as a frontend of the model, for messages.
fn shown<A: Family>(addr: A, range: &PortRange) -> String {
    let PortRange { first, last, protocol, .. } = *range;
    let ports =
        |protocol| Frontend { end_port: last.get(), ..Frontend::at(addr.to_ip(), first.get(), protocol) };
    Protocol::from_number(protocol)
        .map_or_else(|| addr.to_ip().to_string(), |protocol| ports(protocol).to_string())
}
