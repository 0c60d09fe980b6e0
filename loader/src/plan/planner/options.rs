//! What does a service get beyond frontends and a table? The memory of its
//! clients, the ranges that they may come from, the direct return of its
//! answers, word to its backends of who asks, if it wants them; and which hosts
//! are nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_schema::{Group, Member, MemberKey, Service, SourceRange, SourceRangeKey, source_range::NODES};

use super::{Entry, Place, Planner, full_message};
use crate::event::{Dsr, Problem};
use crate::model::desired::ServiceId;
use crate::plan::{Family, Map, Step};

impl<A: Family> Planner<A> {
    /// Brings both in line with what a service that has a place wants.
    pub(super) fn settle_options(&mut self, name: &ServiceId, entry: &Entry<A>, problems: &mut Vec<Problem>) {
        let Some(place) = &entry.place else { return };
        let options = entry.wanted.options.as_deref();

        let timeout = options.and_then(|options| options.affinity);
        let mut flags = if timeout.is_some() { Service::AFFINITY } else { 0 };
        if options.is_some_and(|options| options.silent) {
            flags |= Service::SILENT;
        }
        flags |= match options.and_then(|options| options.dsr) {
            None => 0,
            Some(Dsr::Ipip) => Service::DSR,
            Some(Dsr::L2) if timeout.is_some() => {
                let message = "l2: not with sessionAffinity, of which the backend's node knows nothing: set it to None, or write ipip; until then answers come back through this node";
                problems.push(entry.wanted.problem(
                    name,
                    "metadata.annotations[causeway.io/dsr]",
                    message.into(),
                ));
                0
            }
            Some(Dsr::L2) if self.uplink_forwards => Service::DSR_L2,
            Some(Dsr::L2) => {
                let family = if A::UNSPECIFIED.to_ip().is_ipv4() { "ipv4" } else { "ipv6" };
                let message = format!(
                    "l2: the uplink does not forward: set net.{family}.conf.UPLINK.forwarding=1 and start the agent again; until then answers come back through this node"
                );
                problems.push(entry.wanted.problem(name, "metadata.annotations[causeway.io/dsr]", message));
                0
            }
        };
        if options.is_some_and(|options| options.proxy) {
            flags |= Service::PROXY;
        }
        // Who takes off an outer header asks them, too.
        let asked = flags & (Service::AFFINITY | Service::DSR) != 0;
        let members = if asked { self.members(name, place, timeout) } else { BTreeMap::new() };
        if !self.ledger.set_members(place.id, &members, self.capacity.members) {
            // Served the plain way rather than not at all.
            problems.push(self.full(name, &entry.wanted, Map::Members));
            self.ledger.set_members(place.id, &BTreeMap::new(), 0);
            flags &= Service::SILENT | Service::PROXY;
        }
        self.ledger.flag_service(place.id, flags);

        let clients = options.map_or(&[][..], |options| &options.clients);
        let ranges = clients.iter().map(|&(addr, bits)| {
            let key = SourceRangeKey::new(place.id, addr, bits);
            (key, SourceRange { prefix: key.prefix })
        });
        if !self.ledger.set_source_ranges(place.id, &ranges.collect(), self.capacity.source_ranges) {
            // Open to those of before rather than to all.
            problems.push(self.full(name, &entry.wanted, Map::SourceRanges));
        }
        let Some(options) = options else { return };
        for &key in &place.frontends {
            match options.flags(key.addr) {
                0 => {}
                flags => self.ledger.flag_frontend(key, place.id, flags),
            }
        }
    }

    /// The rows that tell where a service's clients may go back to, and where
    /// other nodes may have sent them.
    fn members(
        &self,
        name: &ServiceId,
        place: &Place<A>,
        timeout: Option<u32>,
    ) -> BTreeMap<MemberKey<A>, Member> {
        let image = self.ledger.image();
        let lots = place.table.map_or(&[][..], |base| self.tables.lots(base));
        let rows = lots.iter().filter_map(|lot| Some((image.backends.get(&lot.backend)?, lot.backend)));
        let mut backends: Vec<_> = rows.map(|(row, id)| (row.addr, row.port, id)).collect();
        // Of several on one address, the lowest port is written last.
        backends.sort_unstable_by(|a, b| b.cmp(a));
        let backends = backends.into_iter();
        let mut rows: BTreeMap<_, _> =
            backends.map(|(addr, _, id)| (MemberKey::new(place.id, addr), Member::backend(id))).collect();
        if let Some(timeout) = timeout {
            let group = Group::of(&name.namespace, &name.name);
            rows.insert(MemberKey::settings(place.id), Member::settings(group, timeout));
        }
        rows
    }

    /// Makes these the addresses of nodes, beside what an earlier agent knew
    /// unless they are `all`.
    pub fn set_nodes(&mut self, addresses: impl Iterator<Item = IpAddr>, all: bool) -> Vec<Step<A>> {
        let row = |key: SourceRangeKey<A>| (key, SourceRange { prefix: key.prefix });
        let keys = addresses.filter_map(A::from_ip).map(|addr| SourceRangeKey::client(NODES, addr));
        let mut rows: BTreeMap<_, _> = keys.map(row).collect();
        if !all {
            let from =
                self.ledger.image().source_ranges.range(SourceRangeKey::new(NODES, A::UNSPECIFIED, 0)..);
            rows.extend(from.map(|(key, row)| (*key, *row)));
        }
        let room = self.capacity.source_ranges;
        let fits = self.ledger.set_source_ranges(NODES, &rows, room);
        self.node_problem = (!fits).then(|| Problem {
            origin: None,
            object: "Nodes".into(),
            field: "status.addresses".into(),
            message: full_message(Map::SourceRanges, room),
        });
        self.ledger.steps()
    }

    /// Makes these the egress addresses that this node holds: what knocks there
    /// and is of no flow is for nobody.
    pub fn hold(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Vec<Step<A>> {
        self.ledger.hold(addresses.filter_map(A::from_ip).collect());
        self.ledger.steps()
    }
}
