//! Do the policy maps hold what they are to hold? There may be hundreds of thousands
//! of rows, and no change is to wait until all of them are read: they are read round
//! and round, a piece at a time.

use std::{
    io,
    ops::Bound::{Excluded, Unbounded},
    os::fd::OwnedFd,
};

use causeway_schema::{
    V4, V6,
    policy::{PeerKey, SetKey, Steps},
};
use ipnet::IpNet;

use super::{
    PolicyTables,
    batch::{self, Place},
    peer, peer_key, sys,
};
use crate::plan::{Family, PolicyMaps, PolicyWrite};

/// Rows read in one turn: two milliseconds or so.
const PIECE: usize = 1024;

/// How far the maps have been read, in this round.
#[derive(Clone, Copy, Default)]
pub struct Walk(Part);

/// What is there shows whether it is wanted; what is wanted, whether it is there.
#[derive(Clone, Copy)]
enum Part {
    Sets(Place),
    ClassesV4(Place),
    ClassesV6(Place),
    WantedSets(Option<SetKey>),
    WantedClasses(Option<IpNet>),
}

impl Default for Part {
    fn default() -> Self {
        Self::Sets(Place::default())
    }
}

impl Walk {
    /// Every row has been seen since it was last so.
    pub fn is_at_its_start(&self) -> bool {
        matches!(self.0, Part::Sets(place) if place.is_start())
    }
}

impl PolicyTables {
    /// Goes on with the walk for a piece or, `at_once`, to the end of the round, and
    /// looks at what can be seen at once: the writes that put right what is not as it
    /// should be, what is named before what names it.
    ///
    /// # Errors
    /// As [`PolicyTables::sets`].
    pub fn audit(&self, image: &PolicyMaps, walk: &mut Walk, at_once: bool) -> io::Result<Vec<PolicyWrite>> {
        let steps = image.steps.iter().filter(|(base, steps)| !self.has_steps(**base, steps));
        let mut repairs: Vec<_> =
            steps.map(|(&base, steps)| PolicyWrite::Steps(base, steps.clone())).collect();
        let (mut room, mut place) = (PIECE, *walk);
        while room > 0 {
            let (read, next) = self.go_on(image, place.0, room, &mut repairs)?;
            place = Walk(next);
            if !at_once {
                room = room.saturating_sub(read);
            }
            if place.is_at_its_start() {
                break;
            }
        }
        *walk = place;
        let rows = self.policies.rows();
        let rows = image.policies.iter().filter(|(row, sets)| rows.get(**row as usize) != Some(*sets));
        repairs.extend(rows.map(|(&row, &sets)| PolicyWrite::Policy(row, sets)));
        if self.standing() != image.standing {
            repairs.push(PolicyWrite::Stand(image.standing));
        }
        Ok(repairs)
    }

    /// Of rows that were written: the writes that put right those that do not read back
    /// as they are wanted now. Of networks that have no class any more the kernel's word
    /// is taken; the walk comes past them.
    ///
    /// # Errors
    /// As above.
    pub fn unlike(&self, image: &PolicyMaps, written: &[PolicyWrite]) -> io::Result<Vec<PolicyWrite>> {
        let mut repairs = Vec::new();
        for write in written {
            let repair = match write {
                PolicyWrite::Steps(base, _) => image
                    .steps
                    .get(base)
                    .filter(|steps| !self.has_steps(*base, steps))
                    .map(|steps| PolicyWrite::Steps(*base, steps.clone())),
                PolicyWrite::Set(key, _) => {
                    let wanted = image.sets.get(key).copied();
                    (self.set(key)? != wanted).then_some(PolicyWrite::Set(*key, wanted))
                }
                PolicyWrite::Class { generation, peer, .. } => {
                    let stands = *generation == image.standing.generation();
                    match image.classes.get(peer).filter(|_| stands) {
                        Some(class) => self.other_class(*generation, peer, *class)?,
                        None => None,
                    }
                }
                PolicyWrite::Policy(row, _) => image
                    .policies
                    .get(row)
                    .filter(|sets| self.policies.rows().get(*row as usize) != Some(*sets))
                    .map(|sets| PolicyWrite::Policy(*row, *sets)),
                PolicyWrite::Stand(_) => {
                    (self.standing() != image.standing).then_some(PolicyWrite::Stand(image.standing))
                }
            };
            repairs.extend(repair);
        }
        Ok(repairs)
    }

    /// Reads `room` rows at most; how many, and where to go on.
    fn go_on(
        &self,
        image: &PolicyMaps,
        part: Part,
        room: usize,
        repairs: &mut Vec<PolicyWrite>,
    ) -> io::Result<(usize, Part)> {
        let mut read = 0;
        let next = match part {
            Part::Sets(mut place) => {
                let ended = batch::scan_some(&self.sets, &mut place, room, |key: &SetKey, row: &Steps| {
                    read += 1;
                    let wanted = image.sets.get(key).copied();
                    // The sealed endpoints' is of no plan.
                    if wanted != Some(*row) && key.set != u32::MAX {
                        repairs.push(PolicyWrite::Set(*key, wanted));
                    }
                })?;
                if ended { Part::ClassesV4(Place::default()) } else { Part::Sets(place) }
            }
            Part::ClassesV4(mut place) => {
                let ended = classes::<V4>(&self.classes_v4, image, (&mut place, room), &mut read, repairs)?;
                if ended { Part::ClassesV6(Place::default()) } else { Part::ClassesV4(place) }
            }
            Part::ClassesV6(mut place) => {
                let ended = classes::<V6>(&self.classes_v6, image, (&mut place, room), &mut read, repairs)?;
                if ended { Part::WantedSets(None) } else { Part::ClassesV6(place) }
            }
            Part::WantedSets(last) => {
                let mut place = None;
                for (key, row) in image.sets.range((last.map_or(Unbounded, Excluded), Unbounded)).take(room) {
                    (read, place) = (read + 1, Some(*key));
                    if self.set(key)? != Some(*row) {
                        repairs.push(PolicyWrite::Set(*key, Some(*row)));
                    }
                }
                if read < room { Part::WantedClasses(None) } else { Part::WantedSets(place) }
            }
            Part::WantedClasses(last) => {
                let mut place = None;
                let generation = image.standing.generation();
                for (peer, class) in
                    image.classes.range((last.map_or(Unbounded, Excluded), Unbounded)).take(room)
                {
                    (read, place) = (read + 1, Some(*peer));
                    repairs.extend(self.other_class(generation, peer, *class)?);
                }
                if read < room { Part::default() } else { Part::WantedClasses(place) }
            }
        };
        Ok((read, next))
    }

    fn has_steps(&self, base: u32, steps: &[causeway_schema::policy::PolicyStep]) -> bool {
        self.steps.rows().get(base as usize..base as usize + steps.len()) == Some(steps)
    }

    fn set(&self, key: &SetKey) -> io::Result<Option<Steps>> {
        sys::map_lookup(&self.sets, key)
    }

    /// The write that is missing when a network's class is another.
    fn other_class(&self, generation: u32, peer: &IpNet, wanted: u32) -> io::Result<Option<PolicyWrite>> {
        let there: Option<u32> = match peer {
            IpNet::V4(_) => lookup(&self.classes_v4, peer_key::<V4>(generation, peer))?,
            IpNet::V6(_) => lookup(&self.classes_v6, peer_key::<V6>(generation, peer))?,
        };
        let write = PolicyWrite::Class { generation, peer: *peer, class: Some(wanted) };
        Ok((there != Some(wanted)).then_some(write))
    }
}

fn lookup<A: Family>(map: &OwnedFd, key: Option<PeerKey<A>>) -> io::Result<Option<u32>> {
    key.map_or(Ok(None), |key| sys::map_lookup(map, &key))
}

/// True when there are no more rows.
fn classes<A: Family>(
    map: &OwnedFd,
    image: &PolicyMaps,
    (place, room): (&mut Place, usize),
    read: &mut usize,
    repairs: &mut Vec<PolicyWrite>,
) -> io::Result<bool> {
    let standing = image.standing.generation();
    let mut strays: Vec<PeerKey<A>> = Vec::new();
    let ended = batch::scan_some(map, place, room, |key: &PeerKey<A>, class: &u32| {
        *read += 1;
        let Some(peer) = peer(key) else { return strays.push(*key) };
        let stands = key.generation == standing;
        let wanted = image.classes.get(&peer).filter(|_| stands).copied();
        if wanted != Some(*class) {
            repairs.push(PolicyWrite::Class { generation: key.generation, peer, class: wanted });
        }
    })?;
    // No write of ours has their key.
    for stray in strays {
        sys::map_delete(map, &stray)?;
        let peer = IpNet::from(A::UNSPECIFIED.to_ip());
        repairs.push(PolicyWrite::Class { generation: stray.generation, peer, class: None });
    }
    Ok(ended)
}
