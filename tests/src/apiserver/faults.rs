//! What goes wrong with a kind, and when? As planned, each once; or at random.

use std::{collections::VecDeque, mem::discriminant};

use crate::random::Random;

/// Where something can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The kinds of the server are asked for.
    Discovery,
    /// The first page of a list is.
    List,
    /// Another page is.
    Page,
    /// A watch is.
    Watch,
    /// A watch is about to tell of something, or has nothing to tell.
    Tell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429, to be asked again after so many seconds (in the header, whole ones).
    Busy(u64),
    /// 500, of a list or watch.
    Broken,
    /// 200 with a page for people, as a proxy in between gives it.
    Foreign,
    /// This status, with such a page.
    Stranger(u16),
    /// Half of an answer, and nothing more on a connection that stays.
    Stall,
    /// The pages that are left have expired: 410.
    Expired,
    /// 410 as the first thing that a watch says.
    Gone,
    /// 410 as the status of a watch.
    GoneStatus,
    /// 410 in the middle of a watch.
    GoneLater,
    /// 500 in the middle of a watch.
    Failed,
    /// The connection breaks in the middle of an event.
    Cut,
    /// The watch ends, as it does after its timeout.
    End,
    /// What was told last is told again, older versions first.
    Repeat,
    /// Silence on this kind, while others go on; in milliseconds.
    Late(u64),
    /// A bookmark where nobody expects one.
    Bookmark,
}

/// What can go wrong where. What a fault holds is an example.
fn at(point: Point) -> &'static [Fault] {
    use Fault::*;
    match point {
        Point::Discovery => &[Busy(0), Broken, Foreign, Stranger(404), Stall, Late(0)],
        Point::List => &[Busy(0), Broken, Foreign, Stranger(404), Stall, Late(0)],
        Point::Page => &[Busy(0), Expired, Stall],
        Point::Watch => &[Busy(0), Broken, Foreign, Stranger(404), Gone, GoneStatus, Late(0)],
        Point::Tell => &[GoneLater, Failed, Cut, End, Repeat, Late(0), Bookmark],
    }
}

#[derive(Default)]
pub struct Faults {
    planned: VecDeque<Fault>,
    /// And one in how many occasions.
    random: Option<(Random, usize)>,
}

impl Faults {
    pub fn plan(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.planned.extend(faults);
    }

    pub fn planned(&self) -> usize {
        self.planned.len()
    }

    pub fn misbehave(&mut self, random: Option<(Random, usize)>) {
        self.random = random;
    }

    pub fn next(&mut self, point: Point) -> Option<Fault> {
        let applies =
            |fault: &Fault| at(point).iter().any(|known| discriminant(known) == discriminant(fault));
        if let Some(at) = self.planned.iter().position(applies) {
            return self.planned.remove(at);
        }
        let (random, one_in) = self.random.as_mut()?;
        if !random.one_in(*one_in) {
            return None;
        }
        Some(match *random.pick(at(point)) {
            Fault::Late(_) => Fault::Late(random.below(20) as u64),
            Fault::Stranger(_) => Fault::Stranger(*random.pick(&[302, 401, 403, 404, 502])),
            fault => fault,
        })
    }
}
