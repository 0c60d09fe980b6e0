//! What goes wrong with a kind, and when? As planned, each once; or at random.

use std::collections::VecDeque;

use crate::random::Random;

/// Where something can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The first page of a list is asked for.
    List,
    /// Another page is.
    Page,
    /// A watch is asked for.
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
    /// The pages that are left have expired: 410.
    Expired,
    /// 410 as the first thing that a watch says.
    Gone,
    /// 410 as the status of a watch.
    GoneStatus,
    /// 410 in the middle of a watch.
    GoneLater,
    /// The connection breaks in the middle of an event.
    Cut,
    /// The watch ends, as it does after its timeout.
    End,
    /// What was told last is told again, older versions first.
    Repeat,
    /// A second's silence on this kind, while others go on; in milliseconds.
    Late(u64),
    /// A bookmark where nobody expects one.
    Bookmark,
}

impl Fault {
    fn applies(self, point: Point) -> bool {
        use Fault::*;
        match point {
            Point::List => matches!(self, Busy(_) | Broken | Foreign | Late(_)),
            Point::Page => matches!(self, Expired | Busy(_)),
            Point::Watch => matches!(self, Busy(_) | Broken | Gone | GoneStatus | Late(_)),
            Point::Tell => matches!(self, GoneLater | Cut | End | Repeat | Late(_) | Bookmark),
        }
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
        if let Some(at) = self.planned.iter().position(|fault| fault.applies(point)) {
            return self.planned.remove(at);
        }
        let (random, one_in) = self.random.as_mut()?;
        if !random.one_in(*one_in) {
            return None;
        }
        use Fault::*;
        let late = Late(random.below(20) as u64);
        let all = [
            Busy(0),
            Broken,
            Foreign,
            Expired,
            Gone,
            GoneStatus,
            GoneLater,
            Cut,
            End,
            Repeat,
            late,
            Bookmark,
        ];
        let fitting: Vec<Fault> = all.into_iter().filter(|fault| fault.applies(point)).collect();
        Some(*random.pick(&fitting))
    }
}
