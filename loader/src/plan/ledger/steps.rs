//! Which steps lead from the rows that stood when the plan began to the image?

use std::collections::HashMap;

use causeway_schema::{Endpoint, Service, Target};

use super::{Before, Ledger};
use crate::plan::{Family, Step};

impl<A: Family> Ledger<A> {
    /// The steps since the last call, in the order of their phases and, within
    /// a phase, of their keys.
    pub fn steps(&mut self) -> Vec<Step<A>> {
        let Before { frontends, services, backends, tables, endpoint_keys, endpoints } =
            std::mem::take(&mut self.before);
        let (members, source_ranges) = (self.members.take(), self.source_ranges.take());
        let port_ranges = self.port_ranges.take();
        let image = &self.image;
        let mut steps = Vec::new();
        steps.extend(
            put(&backends, |key| image.backends.get(key)).map(|(id, &row)| Step::PutBackend { id, row }),
        );
        steps.extend(
            put(&tables, |key| image.tables.get(key))
                .map(|(base, cells)| Step::PutTable { base, cells: cells.clone() }),
        );
        steps.extend(
            put(&members, |key| image.members.get(key)).map(|(key, &row)| Step::PutMember { key, row }),
        );
        steps.extend(
            put(&source_ranges, |key| image.source_ranges.get(key))
                .map(|(key, &row)| Step::PutSourceRange { key, row }),
        );
        steps.extend(
            put(&services, |key| image.services.get(key)).map(|(id, &row)| Step::PutService { id, row }),
        );
        steps.extend(
            put(&endpoints, |key| image.endpoints.get(key))
                .map(|(slot, &row)| Step::PutEndpoint { slot, row }),
        );
        steps.extend(
            put(&endpoint_keys, |key| image.endpoint_keys.get(key))
                .map(|(key, &hop)| Step::PutEndpointKey { key, hop }),
        );
        steps.extend(
            put(&frontends, |key| image.frontends.get(key)).map(|(key, &row)| Step::PutFrontend { key, row }),
        );
        steps.extend(
            put(&port_ranges, |key| image.port_ranges.get(key))
                .map(|(addr, &row)| Step::PutPortRanges { addr, row }),
        );
        steps.extend(
            gone(&port_ranges, |key| image.port_ranges.get(key)).map(|addr| Step::DeletePortRanges { addr }),
        );
        steps
            .extend(gone(&frontends, |key| image.frontends.get(key)).map(|key| Step::DeleteFrontend { key }));
        steps.extend(
            gone(&endpoint_keys, |key| image.endpoint_keys.get(key))
                .map(|key| Step::DeleteEndpointKey { key }),
        );
        steps.extend(
            gone(&endpoints, |key| image.endpoints.get(key))
                .map(|slot| Step::ClearEndpoint { slot, row: self.freed_endpoint(slot) }),
        );
        steps.extend(
            gone(&source_ranges, |key| image.source_ranges.get(key))
                .map(|key| Step::DeleteSourceRange { key }),
        );
        steps.extend(gone(&members, |key| image.members.get(key)).map(|key| Step::DeleteMember { key }));
        steps.extend(
            gone(&services, |key| image.services.get(key))
                .map(|id| Step::ClearService { id, row: self.freed_service(id) }),
        );
        steps.extend(gone(&backends, |key| image.backends.get(key)).map(|id| Step::ClearBackend { id }));
        steps
    }

    fn freed_service(&self, id: u32) -> Service {
        let generation = self.parked_services.get(&id).copied().unwrap_or(0);
        Service { target: Target::EMPTY, generation, flags: 0 }
    }

    fn freed_endpoint(&self, slot: u32) -> Endpoint {
        let generation = self.parked_endpoints.get(&slot).copied().unwrap_or(0);
        Endpoint { ifindex: 0, generation, flags: 0, mac: [0; 6], policy: 0 }
    }
}

/// Rows that are new or another value than before, in order.
fn put<'a, K: Copy + Ord, V: PartialEq + 'a>(
    before: &HashMap<K, Option<V>>,
    now: impl Fn(&K) -> Option<&'a V>,
) -> impl Iterator<Item = (K, &'a V)> {
    let row = |(&key, before): (&K, &Option<V>)| {
        Some((key, now(&key).filter(|row| before.as_ref() != Some(*row))?))
    };
    let mut rows: Vec<(K, &V)> = before.iter().filter_map(row).collect();
    rows.sort_unstable_by_key(|(key, _)| *key);
    rows.into_iter()
}

/// Rows that were there and are not, in order.
fn gone<'a, K: Copy + Ord, V: 'a>(
    before: &HashMap<K, Option<V>>,
    now: impl Fn(&K) -> Option<&'a V>,
) -> impl Iterator<Item = K> {
    let there = before.iter().filter(|(_, before)| before.is_some()).map(|(&key, _)| key);
    let mut keys: Vec<K> = there.filter(|key| now(key).is_none()).collect();
    keys.sort_unstable();
    keys.into_iter()
}
