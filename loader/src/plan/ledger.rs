//! What did a plan change? The ledger holds the image, notes each row's value
//! before its first change, and in the end writes the steps from the rows that
//! differ: a row changed twice is one step, a row changed back is none.

mod steps;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use causeway_schema::{
    Backend, Cell, Endpoint, EndpointKey, Frontend, FrontendKey, Hop, Member, MemberKey, PortRange,
    PortRanges, Service, SourceRange, SourceRangeKey, Target,
};

use super::changes::Changes;
use super::{Capacity, Family, Image};

#[derive(Debug)]
pub struct Ledger<A: Family> {
    image: Image<A>,
    /// Frontend rows on each address, its marker row apart; its row of port
    /// ranges is one more.
    frontends_on: HashMap<A, u32>,
    /// Egress addresses that this node holds: they have marker rows too.
    held: BTreeSet<A>,
    /// Generations of freed service ids and endpoint slots.
    parked_services: HashMap<u32, u32>,
    parked_endpoints: HashMap<u32, u16>,
    /// Deleted keys that may still take up room in the kernel.
    leaving_frontends: HashSet<FrontendKey<A>>,
    leaving_endpoint_keys: HashSet<EndpointKey<A>>,
    members: Changes<MemberKey<A>, Member>,
    source_ranges: Changes<SourceRangeKey<A>, SourceRange>,
    port_ranges: Changes<A, PortRanges>,
    before: Before<A>,
}

/// The values that changed rows had when the plan began. Hash tables, because a
/// large plan would leave the nodes of a tree as holes between what stays.
#[derive(Debug)]
struct Before<A: Family> {
    frontends: HashMap<FrontendKey<A>, Option<Frontend>>,
    services: HashMap<u32, Option<Service>>,
    backends: HashMap<u32, Option<Backend<A>>>,
    tables: HashMap<u32, Option<Arc<[Cell]>>>,
    endpoint_keys: HashMap<EndpointKey<A>, Option<Hop>>,
    endpoints: HashMap<u32, Option<Endpoint>>,
}

impl<A: Family> Default for Before<A> {
    fn default() -> Self {
        Self {
            frontends: HashMap::new(),
            services: HashMap::new(),
            backends: HashMap::new(),
            tables: HashMap::new(),
            endpoint_keys: HashMap::new(),
            endpoints: HashMap::new(),
        }
    }
}

impl<A: Family> Ledger<A> {
    /// `parked_*`: generations that freed rows must continue from.
    pub fn new(
        image: Image<A>,
        parked_services: HashMap<u32, u32>,
        parked_endpoints: HashMap<u32, u16>,
    ) -> Self {
        let mut frontends_on = HashMap::new();
        for key in image.frontends.keys().filter(|key| **key != FrontendKey::whole_address(key.addr)) {
            *frontends_on.entry(key.addr).or_default() += 1;
        }
        for &addr in image.port_ranges.keys() {
            *frontends_on.entry(addr).or_default() += 1;
        }
        let held = image.frontends.iter().filter(|(_, row)| **row == Frontend::HELD);
        let held = held.map(|(key, _)| key.addr).collect();
        Self {
            image,
            frontends_on,
            held,
            parked_services,
            parked_endpoints,
            leaving_frontends: HashSet::new(),
            leaving_endpoint_keys: HashSet::new(),
            members: Changes::default(),
            source_ranges: Changes::default(),
            port_ranges: Changes::default(),
            before: Before::default(),
        }
    }

    pub fn image(&self) -> &Image<A> {
        &self.image
    }

    /// To be called when everything planned so far has been read back. True
    /// when that made room.
    pub fn confirm(&mut self) -> bool {
        let room = !self.leaving_frontends.is_empty() || !self.leaving_endpoint_keys.is_empty();
        self.leaving_frontends = HashSet::new();
        self.leaving_endpoint_keys = HashSet::new();
        let options = [self.members.confirm(), self.source_ranges.confirm(), self.port_ranges.confirm()];
        room || options.contains(&true)
    }

    /// Whether rows for all of `keys` fit, and the markers of their addresses and
    /// of those of `ranges`.
    pub fn frontends_fit(
        &self,
        keys: &[FrontendKey<A>],
        ranges: &[(A, PortRange)],
        capacity: &Capacity,
    ) -> bool {
        let stands = |key: &FrontendKey<A>| {
            self.image.frontends.contains_key(key) || self.leaving_frontends.contains(key)
        };
        let mut needed = keys.iter().filter(|key| !stands(key)).count();
        let addresses = keys.iter().map(|key| key.addr).chain(ranges.iter().map(|(addr, _)| *addr));
        let addresses: BTreeSet<A> = addresses.collect();
        needed += addresses.into_iter().filter(|&addr| !stands(&FrontendKey::whole_address(addr))).count();
        needed == 0
            || self.image.frontends.len() + self.leaving_frontends.len() + needed
                <= capacity.frontends as usize
    }

    /// Points a frontend at a service; its address gets its marker row.
    pub fn put_frontend(&mut self, key: FrontendKey<A>, service: u32) {
        if self.write_frontend(key, Frontend { service, flags: 0 }) {
            self.hold_address(key.addr);
        }
    }

    fn hold_address(&mut self, addr: A) {
        let count = self.frontends_on.entry(addr).or_default();
        *count += 1;
        if *count == 1 {
            let marker = Frontend { service: Frontend::WHOLE_ADDRESS, flags: 0 };
            self.write_frontend(FrontendKey::whole_address(addr), marker);
        }
    }

    /// Sets the flags of a frontend that a service has.
    pub fn flag_frontend(&mut self, key: FrontendKey<A>, service: u32, flags: u32) {
        if self.image.frontends.get(&key).is_some_and(|row| row.service == service) {
            self.write_frontend(key, Frontend { service, flags });
        }
    }

    /// Removes a frontend, and the marker row with the last one of an address.
    pub fn delete_frontend(&mut self, key: FrontendKey<A>) {
        if self.erase_frontend(key) {
            self.release_address(key.addr);
        }
    }

    fn release_address(&mut self, addr: A) {
        let Some(count) = self.frontends_on.get_mut(&addr) else { return };
        *count -= 1;
        if *count == 0 {
            self.frontends_on.remove(&addr);
            self.unmark(addr);
        }
    }

    /// Takes the marker row of services from an address.
    fn unmark(&mut self, addr: A) {
        let key = FrontendKey::whole_address(addr);
        if self.held.contains(&addr) {
            self.write_frontend(key, Frontend::HELD);
        } else {
            self.erase_frontend(key);
        }
    }

    /// Makes these the egress addresses that this node holds.
    pub fn hold(&mut self, wanted: BTreeSet<A>) {
        let before = std::mem::replace(&mut self.held, wanted);
        let changed: Vec<A> = before.symmetric_difference(&self.held).copied().collect();
        for addr in changed {
            if !self.frontends_on.contains_key(&addr) {
                self.unmark(addr);
            }
        }
    }

    /// True when the row is new.
    fn write_frontend(&mut self, key: FrontendKey<A>, row: Frontend) -> bool {
        let before = self.image.frontends.insert(key, row);
        if before != Some(row) {
            self.before.frontends.entry(key).or_insert(before);
        }
        self.leaving_frontends.remove(&key);
        before.is_none()
    }

    fn erase_frontend(&mut self, key: FrontendKey<A>) -> bool {
        let before = self.image.frontends.remove(&key);
        if before.is_some() {
            self.before.frontends.entry(key).or_insert(before);
            self.leaving_frontends.insert(key);
        }
        before.is_some()
    }

    /// Points a service at its table. A service that is new at this id
    /// continues the id's generation.
    pub fn put_service(&mut self, id: u32, target: Target, backend_left: bool) {
        let before = self.image.services.get(&id).copied();
        let generation = match before {
            Some(row) => row.generation.wrapping_add(u32::from(backend_left)),
            None => self.parked_services.remove(&id).unwrap_or(0),
        };
        let flags = before.map_or(0, |row| row.flags);
        self.write_service(id, Service { target, generation, flags });
    }

    pub fn flag_service(&mut self, id: u32, flags: u32) {
        if let Some(&row) = self.image.services.get(&id) {
            self.write_service(id, Service { flags, ..row });
        }
    }

    fn write_service(&mut self, id: u32, row: Service) {
        let before = self.image.services.insert(id, row);
        if before != Some(row) {
            self.before.services.entry(id).or_insert(before);
        }
    }

    /// Makes these a service's members; false, and nothing done, when they do
    /// not fit.
    pub fn set_members(&mut self, id: u32, wanted: &BTreeMap<MemberKey<A>, Member>, capacity: u32) -> bool {
        let rows = &mut self.image.members;
        let from = rows.range(MemberKey::settings(id)..);
        let there: Vec<_> = from.map(|(key, _)| *key).take_while(|key| key.service == id).collect();
        self.members.replace(rows, &there, wanted, capacity)
    }

    /// As [`Self::set_members`].
    pub fn set_source_ranges(
        &mut self,
        id: u32,
        wanted: &BTreeMap<SourceRangeKey<A>, SourceRange>,
        capacity: u32,
    ) -> bool {
        let rows = &mut self.image.source_ranges;
        let from = rows.range(SourceRangeKey::new(id, A::UNSPECIFIED, 0)..);
        let there: Vec<_> = from.map(|(key, _)| *key).take_while(|key| key.service == id).collect();
        self.source_ranges.replace(rows, &there, wanted, capacity)
    }

    /// Whether each of these addresses could have a row of port ranges.
    pub fn port_ranges_fit(&self, addresses: &BTreeSet<A>, capacity: u32) -> bool {
        self.port_ranges.fits(&self.image.port_ranges, addresses.iter(), capacity)
    }

    /// Gives an address these ranges; with the first, its marker row.
    pub fn set_port_ranges(&mut self, addr: A, row: PortRanges, capacity: u32) {
        let wanted: BTreeMap<_, _> = (row != PortRanges::NONE).then_some((addr, row)).into_iter().collect();
        let rows = &mut self.image.port_ranges;
        let before = rows.contains_key(&addr);
        self.port_ranges.replace(rows, &[addr], &wanted, capacity);
        match (before, rows.contains_key(&addr)) {
            (false, true) => self.hold_address(addr),
            (true, false) => self.release_address(addr),
            _ => {}
        }
    }

    /// Frees a service's row, with its members and source ranges.
    pub fn clear_service(&mut self, id: u32) {
        self.set_members(id, &BTreeMap::new(), 0);
        self.set_source_ranges(id, &BTreeMap::new(), 0);
        if let Some(row) = self.image.services.remove(&id) {
            self.parked_services.insert(id, row.generation.wrapping_add(1));
            self.before.services.entry(id).or_insert(Some(row));
        }
    }

    pub fn put_backend(&mut self, id: u32, row: Backend<A>) {
        let before = self.image.backends.insert(id, row);
        self.before.backends.entry(id).or_insert(before);
    }

    /// True when the row stood before this plan, so that the kernel may have it.
    pub fn clear_backend(&mut self, id: u32) -> bool {
        let row = self.image.backends.remove(&id);
        self.before.backends.entry(id).or_insert(row).is_some()
    }

    pub fn put_table(&mut self, base: u32, cells: Arc<[Cell]>) {
        let before = self.image.tables.insert(base, cells);
        self.before.tables.entry(base).or_insert(before);
    }

    /// Forgets a table; its cells stay as they are until the next tenant.
    /// Returns how many they are.
    pub fn drop_table(&mut self, base: u32) -> u32 {
        let cells = self.image.tables.remove(&base);
        let length = cells.as_ref().map_or(0, |cells| cells.len() as u32);
        self.before.tables.entry(base).or_insert(cells);
        length
    }

    pub fn endpoint_keys_fit(&self, keys: &[EndpointKey<A>], capacity: &Capacity) -> bool {
        let stands = |key: &EndpointKey<A>| {
            self.image.endpoint_keys.contains_key(key) || self.leaving_endpoint_keys.contains(key)
        };
        let needed = keys.iter().filter(|key| !stands(key)).count();
        let held = self.image.endpoint_keys.len() + self.leaving_endpoint_keys.len();
        needed == 0 || held + needed <= capacity.endpoints as usize
    }

    pub fn put_endpoint_key(&mut self, key: EndpointKey<A>, hop: Hop) {
        let before = self.image.endpoint_keys.insert(key, hop);
        if before != Some(hop) {
            self.before.endpoint_keys.entry(key).or_insert(before);
        }
        self.leaving_endpoint_keys.remove(&key);
    }

    pub fn delete_endpoint_key(&mut self, key: EndpointKey<A>) {
        if let Some(hop) = self.image.endpoint_keys.remove(&key) {
            self.before.endpoint_keys.entry(key).or_insert(Some(hop));
            self.leaving_endpoint_keys.insert(key);
        }
    }

    /// Sets the interface at a slot; another one gets another generation.
    /// `policy` stays as it is when `None`. Returns the hop that leads there.
    pub fn put_endpoint(&mut self, slot: u16, ifindex: u32, mac: [u8; 6], policy: Option<u16>) -> Hop {
        let id = u32::from(slot);
        let before = self.image.endpoints.get(&id).copied();
        let generation = match before {
            Some(row) if row.ifindex == ifindex && row.mac == mac => row.generation,
            Some(row) => row.generation.wrapping_add(1),
            None => self.parked_endpoints.remove(&id).unwrap_or(0),
        };
        let policy = policy.unwrap_or(before.map_or(0, |row| row.policy));
        let row = Endpoint { ifindex, generation, flags: 0, mac, policy };
        if before != Some(row) {
            self.image.endpoints.insert(id, row);
            self.before.endpoints.entry(id).or_insert(before);
        }
        Hop::new(slot, generation)
    }

    pub fn clear_endpoint(&mut self, slot: u16) {
        let id = u32::from(slot);
        if let Some(row) = self.image.endpoints.remove(&id) {
            self.parked_endpoints.insert(id, row.generation.wrapping_add(1));
            self.before.endpoints.entry(id).or_insert(Some(row));
        }
    }
}
