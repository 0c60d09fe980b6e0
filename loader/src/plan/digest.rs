//! Do two sets of maps mean the same? Their digests are equal if and only if
//! each frontend leads to the same backends by the same table, whatever ids
//! and cells stand in between and in whatever order the node learned of them.
//!
//! Each frontend, and each range of ports, is hashed with all that it leads to; the digest is the sum,
//! so that the order of the frontends does not matter. Generations,
//! endpoints and the egress addresses that it holds are a node's own affair and stay out.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use causeway_schema::choice::{maglev, rendezvous};
use causeway_schema::{
    Addr, Algorithm, Backend, CELL_BYTES, Cell, Frontend, FrontendKey, Member, MemberKey, PortRanges,
    Service, SourceRange, SourceRangeKey, Target, hash,
};

use super::{Family, Image, ReadError, Rows, tables};

/// Not a defence against forgers: those who write the maps can also lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl Digest {
    pub fn of_image<A: Family>(image: &Image<A>) -> Self {
        let frontends = image.frontends.iter().map(|(key, row)| (*key, *row));
        of(image, frontends, image.port_ranges.iter().map(|(addr, row)| (*addr, *row)))
    }

    pub fn of_rows<A: Family>(rows: &impl Rows<A>) -> Result<Self, ReadError> {
        let (frontends, ranges) = (rows.frontends()?, rows.port_ranges()?);
        let way = ByRows {
            rows,
            members: rows.members()?.into_iter().collect(),
            source_ranges: rows.source_ranges()?.into_iter().collect(),
        };
        Ok(of(&way, frontends.into_iter(), ranges.into_iter()))
    }

    /// The digest of both families' maps from that of each.
    pub fn with(self, other: Digest) -> Self {
        Digest(self.0.wrapping_add(other.0))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Where a frontend's way leads through.
trait Way<A: Addr> {
    fn service(&self, id: u32) -> Option<Service>;
    fn backend(&self, id: u32) -> Option<Backend<A>>;
    /// The cells from `base` on, at least those of the table there.
    fn cells(&self, base: u32) -> &[Cell];
    fn members(&self) -> &BTreeMap<MemberKey<A>, Member>;
    fn source_ranges(&self) -> &BTreeMap<SourceRangeKey<A>, SourceRange>;
}

impl<A: Family> Way<A> for Image<A> {
    fn service(&self, id: u32) -> Option<Service> {
        self.services.get(&id).copied()
    }

    fn backend(&self, id: u32) -> Option<Backend<A>> {
        self.backends.get(&id).copied()
    }

    fn cells(&self, base: u32) -> &[Cell] {
        self.tables.get(&base).map_or(&[], |cells| cells)
    }

    fn members(&self) -> &BTreeMap<MemberKey<A>, Member> {
        &self.members
    }

    fn source_ranges(&self) -> &BTreeMap<SourceRangeKey<A>, SourceRange> {
        &self.source_ranges
    }
}

struct ByRows<'a, A, R> {
    rows: &'a R,
    members: BTreeMap<MemberKey<A>, Member>,
    source_ranges: BTreeMap<SourceRangeKey<A>, SourceRange>,
}

impl<A: Family, R: Rows<A>> Way<A> for ByRows<'_, A, R> {
    fn service(&self, id: u32) -> Option<Service> {
        self.rows.services().get(id as usize).copied()
    }

    fn backend(&self, id: u32) -> Option<Backend<A>> {
        self.rows.backends().get(id as usize).copied()
    }

    fn cells(&self, base: u32) -> &[Cell] {
        self.rows.arena().get(base as usize..).unwrap_or(&[])
    }

    fn members(&self) -> &BTreeMap<MemberKey<A>, Member> {
        &self.members
    }

    fn source_ranges(&self) -> &BTreeMap<SourceRangeKey<A>, SourceRange> {
        &self.source_ranges
    }
}

fn of<A: Family>(
    way: &impl Way<A>,
    frontends: impl Iterator<Item = (FrontendKey<A>, Frontend)>,
    ranges: impl Iterator<Item = (A, PortRanges)>,
) -> Digest {
    // Many services share a table.
    let mut tables: HashMap<u64, [u64; 2]> = HashMap::new();
    let mut frontend = |(key, row): (FrontendKey<A>, Frontend)| {
        if row == Frontend::HELD {
            return 0;
        }
        let mut state = State::new(b'f');
        state.add_address(&key.addr);
        state.add(u64::from(key.port.get()) << 16 | u64::from(key.protocol) << 8 | u64::from(key.outside));
        state.add(u64::from(row.flags));
        if row.service == Frontend::WHOLE_ADDRESS {
            state.add(MARKER);
            return state.sum();
        }
        lead(way, &row, &mut tables, &mut state);
        state.sum()
    };
    let mut sum = frontends.map(&mut frontend).fold(0, u128::wrapping_add);
    for (addr, row) in ranges {
        for range in row.iter() {
            let mut state = State::new(b'r');
            state.add_address(&addr);
            let ports = u64::from(range.first.get()) << 16 | u64::from(range.last.get());
            state.add(ports << 16 | u64::from(range.protocol) << 8 | u64::from(range.pad));
            state.add(u64::from(range.flags));
            let row = Frontend { service: range.service, flags: u32::from(range.flags) };
            lead(way, &row, &mut tables, &mut state);
            sum = sum.wrapping_add(state.sum());
        }
    }
    Digest(sum)
}

/// Where a frontend leads.
fn lead<A: Family>(
    way: &impl Way<A>,
    row: &Frontend,
    tables: &mut HashMap<u64, [u64; 2]>,
    state: &mut State,
) {
    let Some(service) = way.service(row.service) else {
        return state.add(DANGLING);
    };
    let target = service.target;
    state.add(u64::from(service.flags) << 16 | u64::from(target.port().get()));
    let table = tables.entry(target.0 >> 16).or_insert_with(|| table(way, target).0);
    table.iter().for_each(|&word| state.add(word));
    options(way, row, &service, state);
}

/// How long clients are remembered, and who may come. Which addresses are
/// members follows from the table.
fn options<A: Family>(way: &impl Way<A>, frontend: &Frontend, service: &Service, state: &mut State) {
    if service.flags & Service::AFFINITY != 0 {
        match way.members().get(&MemberKey::settings(frontend.service)) {
            Some(row) => {
                let Member { timeout, group, .. } = *row;
                [timeout, group.0[0], group.0[1]].into_iter().for_each(|word| state.add(u64::from(word)));
            }
            None => state.add(DANGLING),
        }
    }
    if frontend.flags & Frontend::SOURCE_RANGES != 0 {
        let from = way.source_ranges().range(SourceRangeKey::new(frontend.service, A::UNSPECIFIED, 0)..);
        for (key, _) in from.take_while(|(key, _)| key.service == frontend.service) {
            state.add_address(&key.addr);
            state.add(u64::from(key.prefix));
        }
    }
}

fn table<A: Family>(way: &impl Way<A>, target: Target) -> State {
    let mut state = State::new(b't');
    state.add(u64::from(target.len()) << 8 | target.algorithm() as u64);
    let cells = way.cells(target.base());
    let length = target.len() as usize;
    match target.algorithm() {
        Algorithm::Empty => {}
        Algorithm::Rendezvous | Algorithm::RendezvousWeighted => {
            let rows: &[rendezvous::Row] = bytemuck::cast_slice(cells);
            match rows.get(..length) {
                Some(rows) => rows.iter().for_each(|row| {
                    state.add(row.seed);
                    state.add(u64::from(row.inverse_weight));
                    state.add_backend(way.backend(row.backend));
                }),
                None => state.add(DANGLING),
            }
        }
        Algorithm::Maglev => {
            let slots = length.div_ceil(CELL_BYTES / size_of::<u16>());
            if length == 0 || cells.len() < slots {
                state.add(DANGLING);
                return state;
            }
            // The cells' last few slots are not in use, and zero.
            let words: &[u64] = bytemuck::cast_slice(&cells[..slots]);
            words.iter().for_each(|&word| state.add(word));
            let named = tables::maglev_ids(cells, target.len());
            match cells.get(slots..maglev::cells(target.len(), named)) {
                Some(ids) => bytemuck::cast_slice::<Cell, u32>(ids)[..named]
                    .iter()
                    .for_each(|&id| state.add_backend(way.backend(id))),
                None => state.add(DANGLING),
            }
        }
    }
    state
}

/// Words that no row yields in their place.
const MARKER: u64 = 0x6d61_726b_6572_0000 | 1 << 63;
const DANGLING: u64 = 0x6461_6e67_6c65_0000 | 1 << 63;

/// Two independent chains of the flow hash's mixer.
struct State([u64; 2]);

impl State {
    fn new(kind: u8) -> Self {
        State([hash::MULTIPLIER_A ^ u64::from(kind), hash::MULTIPLIER_B ^ u64::from(kind)])
    }

    fn add(&mut self, word: u64) {
        let [a, b] = &mut self.0;
        *a = hash::mix(*a ^ word).wrapping_add(hash::MULTIPLIER_B);
        *b = hash::mix(b.rotate_left(29).wrapping_add(word)) ^ hash::MULTIPLIER_A;
    }

    fn add_address<A: Family>(&mut self, addr: &A) {
        for chunk in addr.bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_be_bytes(word));
        }
    }

    fn add_backend<A: Family>(&mut self, backend: Option<Backend<A>>) {
        match backend {
            Some(row) => {
                self.add_address(&row.addr);
                self.add(u64::from(row.flags) << 16 | u64::from(row.port.get()));
            }
            None => self.add(DANGLING),
        }
    }

    fn sum(&self) -> u128 {
        u128::from(self.0[0]) << 64 | u128::from(self.0[1])
    }
}
