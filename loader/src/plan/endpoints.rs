//! Which slot does a workload of this node get? One of its own for as long as
//! it lives; another interface or hardware address raises the generation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use causeway_schema::EndpointKey;

use super::ids::IdPool;
use super::ledger::Ledger;
use super::planner::full_message;
use super::{Capacity, Family, Map};
use crate::event::Problem;
use crate::model::desired::Endpoint;

#[derive(Debug)]
pub struct Endpoints<A> {
    held: BTreeMap<String, Held<A>>,
    pool: IdPool,
    /// Slots of an earlier agent that no endpoint has claimed.
    adopted: HashSet<u16>,
    problems: Vec<Problem>,
    /// Kept while some do not fit.
    retry: Option<BTreeMap<String, Endpoint>>,
}

#[derive(Debug)]
struct Held<A> {
    slot: u16,
    keys: Vec<EndpointKey<A>>,
}

impl<A: Family> Endpoints<A> {
    /// Takes over the image's slots. `stray` slots have rows that are not to
    /// be trusted.
    pub fn new(ledger: &Ledger<A>, capacity: &Capacity, stray: Vec<u32>) -> Self {
        let used = ledger.image().endpoints.keys();
        // Slot 0 means "not here", and a hop has 16 bits for the slot.
        let slots = 1..capacity.endpoints.saturating_add(1).min(1 << 16);
        Self {
            held: BTreeMap::new(),
            adopted: used.clone().filter_map(|slot| u16::try_from(slot).ok()).collect(),
            pool: IdPool::adopt(slots, used, stray),
            problems: Vec::new(),
            retry: None,
        }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Brings the image in line with `desired`, which names all of them. An
    /// address that two claim belongs to the smaller name.
    pub fn set(&mut self, ledger: &mut Ledger<A>, capacity: &Capacity, desired: &BTreeMap<String, Endpoint>) {
        self.problems.clear();
        self.retry = None;
        let gone: Vec<String> =
            self.held.keys().filter(|name| !desired.contains_key(*name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(ledger, name));
        let mut owners: HashMap<A, &str> = HashMap::new();
        let mut full = false;
        for (name, endpoint) in desired {
            let mut keys = Vec::new();
            for addr in endpoint.addresses.iter().filter_map(|&address| A::from_ip(address)) {
                match *owners.entry(addr).or_insert(name) {
                    owner if owner == name => keys.push(EndpointKey(addr)),
                    owner => self.problems.push(problem(
                        name,
                        "addresses",
                        format!("{} already belongs to endpoint {owner}: detach one of them", addr.to_ip()),
                    )),
                }
            }
            keys.sort_unstable();
            keys.dedup();
            if keys.is_empty() {
                self.remove(ledger, name);
            } else if let Err(map) = self.place(ledger, capacity, name, endpoint, keys) {
                self.problems.push(problem(name, "", full_message(map, capacity.of(map))));
                full = true;
            }
        }
        if full {
            self.retry = Some(desired.clone());
        }
    }

    /// Removes slots that an earlier agent left and nobody wants.
    pub fn prune(&mut self, ledger: &mut Ledger<A>) {
        for slot in std::mem::take(&mut self.adopted) {
            self.vacate(ledger, slot);
        }
    }

    /// See [`Planner::release`](super::Planner::release). `room`: keys went.
    pub fn release(&mut self, ledger: &mut Ledger<A>, capacity: &Capacity, now: Duration, room: bool) {
        let room = self.pool.release(now) || room;
        if room && let Some(desired) = self.retry.take() {
            self.set(ledger, capacity, &desired);
        }
    }

    fn place(
        &mut self,
        ledger: &mut Ledger<A>,
        capacity: &Capacity,
        name: &str,
        endpoint: &Endpoint,
        keys: Vec<EndpointKey<A>>,
    ) -> Result<(), Map> {
        if !ledger.endpoint_keys_fit(&keys, capacity) {
            return Err(Map::EndpointKeys);
        }
        let slot = match self.held.get(name) {
            Some(held) => held.slot,
            None => match self.claim(ledger, &keys) {
                Some(slot) => slot,
                None => self.pool.take().and_then(|slot| u16::try_from(slot).ok()).ok_or(Map::Endpoints)?,
            },
        };
        let hop = ledger.put_endpoint(slot, endpoint.ifindex, endpoint.mac, endpoint.policy);
        for &key in &keys {
            ledger.put_endpoint_key(key, hop);
        }
        if let Some(before) = self.held.insert(name.to_owned(), Held { slot, keys }) {
            let keys = self.held.get(name).map_or(&[][..], |held| &held.keys);
            for key in before.keys.into_iter().filter(|key| !keys.contains(key)) {
                delete_own(ledger, key, slot);
            }
        }
        Ok(())
    }

    /// The slot that an earlier agent gave to one of `keys`, without the keys
    /// that it had and the endpoint does not.
    fn claim(&mut self, ledger: &mut Ledger<A>, keys: &[EndpointKey<A>]) -> Option<u16> {
        let rows = &ledger.image().endpoint_keys;
        let slots = keys.iter().filter_map(|key| u16::try_from(rows.get(key)?.slot()).ok());
        let slot = slots.into_iter().find(|slot| self.adopted.contains(slot))?;
        self.adopted.remove(&slot);
        let others = rows.iter().filter(|(key, hop)| hop.slot() == u32::from(slot) && !keys.contains(key));
        let others: Vec<EndpointKey<A>> = others.map(|(key, _)| *key).collect();
        others.into_iter().for_each(|key| ledger.delete_endpoint_key(key));
        Some(slot)
    }

    fn remove(&mut self, ledger: &mut Ledger<A>, name: &str) {
        if let Some(held) = self.held.remove(name) {
            held.keys.into_iter().for_each(|key| delete_own(ledger, key, held.slot));
            ledger.clear_endpoint(held.slot);
            self.pool.free(u32::from(held.slot));
        }
    }

    fn vacate(&mut self, ledger: &mut Ledger<A>, slot: u16) {
        let rows = ledger.image().endpoint_keys.iter();
        let keys: Vec<EndpointKey<A>> =
            rows.filter(|(_, hop)| hop.slot() == u32::from(slot)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| ledger.delete_endpoint_key(key));
        ledger.clear_endpoint(slot);
        self.pool.free(u32::from(slot));
    }
}

/// Deletes a key unless another endpoint has taken it since.
fn delete_own<A: Family>(ledger: &mut Ledger<A>, key: EndpointKey<A>, slot: u16) {
    if ledger.image().endpoint_keys.get(&key).is_some_and(|hop| hop.slot() == u32::from(slot)) {
        ledger.delete_endpoint_key(key);
    }
}

fn problem(name: &str, field: &str, message: String) -> Problem {
    Problem { origin: None, object: format!("endpoint {name}"), field: field.to_owned(), message }
}
