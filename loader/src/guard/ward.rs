//! One kind of object of one source: is it less than it was, and what of it is
//! held? `now` is an argument, and nothing is asked or written here.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::Limits;
use crate::event::{Event, Object, ObjectKey, Origin};

/// Fewer objects are never held: a hand takes them away in one go.
pub const LEAST: usize = 10;
/// What goes within this time counts as one loss.
pub const WINDOW: Duration = Duration::from_secs(5);

/// An object, and who said it.
pub type Said = (Arc<Object>, Arc<Origin>);

/// What a source names of a kind, and what it does not any more.
#[derive(Debug, Default)]
pub struct Ward {
    named: usize,
    /// How many it named before each loss within the window; falling.
    peaks: VecDeque<(Instant, usize)>,
    /// What went within the window and was let go, in order and by name.
    order: VecDeque<(Instant, ObjectKey)>,
    gone: BTreeMap<ObjectKey, (Instant, Said)>,
    hold: Option<Hold>,
}

/// Objects that the source does not name, and that are served all the same.
#[derive(Debug)]
struct Hold {
    /// How many the source named before.
    before: usize,
    since: Instant,
    /// Each with the time when it was missed.
    missing: BTreeMap<ObjectKey, Instant>,
    /// An earlier agent heard of more than are named now: of which, nobody
    /// knows any more.
    earlier: bool,
    /// No object was missed before this.
    oldest: Instant,
    /// The second look that is under way: its number, and since when.
    asked: Option<(u64, Instant)>,
    /// When the last one ended.
    looked: Option<Instant>,
    /// The source names as many as before, since then.
    regained: Option<Instant>,
}

/// What an operator is told of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// So many are held, of so many that there were.
    pub objects: usize,
    pub of: usize,
    pub since: Instant,
    /// When the source is asked again; `None`: it is being asked.
    pub again: Option<Instant>,
    /// Which they are is not known: what an earlier agent left stays, all of it.
    pub earlier: bool,
}

impl Ward {
    /// What of the source's words is to be believed. `known`: what it said
    /// before, with what is held.
    pub fn take(
        &mut self,
        events: Vec<Event>,
        limits: Limits,
        now: Instant,
        known: impl Fn(&ObjectKey) -> Option<Said>,
    ) -> Vec<Event> {
        self.expire(now);
        let start = self.named;
        let (mut believed, mut lost) = (Vec::with_capacity(events.len()), Vec::new());
        for event in events {
            let said = known(&event.key);
            if event.object.is_some() {
                let missed = self.hold.as_mut().and_then(|hold| hold.missing.remove(&event.key));
                self.named += usize::from(said.is_none() || missed.is_some());
                self.gone.remove(&event.key);
                believed.push(event);
            } else if let Some(said) = said
                && !self.hold.as_ref().is_some_and(|hold| hold.missing.contains_key(&event.key))
            {
                lost.push((event.key, said));
            }
        }
        let after = self.named.saturating_sub(lost.len());
        let before = self.peaks.front().map_or(start, |(_, peak)| start.max(*peak));
        let before = self.hold.as_ref().map_or(before, |hold| before.max(hold.before));
        if !lost.is_empty() && limits.is_shrink(before, after) {
            self.keep(before, lost, now, &mut believed);
        } else if !lost.is_empty() {
            self.let_go(before, start, lost, now, &mut believed);
        }
        self.named = after;
        self.clear(now, &mut believed);
        believed
    }

    /// The source has said everything it knows for the first time; an earlier
    /// agent has heard `before` objects of it.
    pub fn begin(&mut self, before: usize, limits: Limits, now: Instant) {
        if self.hold.is_none() && limits.is_shrink(before, self.named) {
            self.hold = Some(Hold { earlier: true, ..Hold::new(before, now) });
        }
    }

    fn keep(&mut self, before: usize, lost: Vec<(ObjectKey, Said)>, now: Instant, believed: &mut Vec<Event>) {
        let hold = self.hold.get_or_insert_with(|| Hold::new(before, now));
        hold.before = before;
        hold.missing.extend(lost.into_iter().map(|(key, _)| (key, now)));
        // What went just before was part of it, and comes back.
        self.order.clear();
        for (key, (_, said)) in std::mem::take(&mut self.gone) {
            hold.missing.insert(key.clone(), now);
            believed.push(Event { key, object: Some(said) });
        }
    }

    fn let_go(
        &mut self,
        before: usize,
        start: usize,
        lost: Vec<(ObjectKey, Said)>,
        now: Instant,
        believed: &mut Vec<Event>,
    ) {
        while self.peaks.back().is_some_and(|(_, peak)| *peak <= start) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, start));
        for (key, said) in lost {
            if before >= LEAST {
                self.order.push_back((now, key.clone()));
                self.gone.insert(key.clone(), (now, said));
            }
            believed.push(Event { key, object: None });
        }
    }

    /// Ends a hold that has lost its ground: nothing is missing any more. Or the
    /// source names as many as it did, others among them: what is still missing may
    /// be about to be named, and has [a while](Self::settle) for that.
    fn clear(&mut self, now: Instant, believed: &mut Vec<Event>) {
        let Some(hold) = &mut self.hold else { return };
        if self.named >= hold.before {
            hold.earlier = false;
            hold.regained.get_or_insert(now);
        } else {
            hold.regained = None;
        }
        if hold.is_empty() {
            believed.extend(self.release());
        }
    }

    /// Lets go what others have come in place of.
    pub fn settle(&mut self, now: Instant) -> Vec<Event> {
        if self.settles().is_some_and(|at| at <= now) { self.release() } else { Vec::new() }
    }

    /// When there is something to [settle](Self::settle).
    pub fn settles(&self) -> Option<Instant> {
        Some(self.hold.as_ref()?.regained? + WINDOW)
    }

    /// Lets everything go that is held.
    pub fn release(&mut self) -> Vec<Event> {
        // What goes next is a loss of its own.
        self.peaks.clear();
        self.order.clear();
        self.gone.clear();
        let missing = self.hold.take().map(|hold| hold.missing).unwrap_or_default();
        missing.into_keys().map(|key| Event { key, object: None }).collect()
    }

    /// When the source is to be asked again.
    pub fn due(&self, limits: Limits) -> Option<Instant> {
        let hold = self.hold.as_ref().filter(|hold| hold.asked.is_none())?;
        let due = hold.oldest + limits.patience;
        // What is missed one by one is not asked for one by one.
        Some(hold.looked.map_or(due, |looked| due.max(looked + limits.patience / 6)))
    }

    pub fn ask(&mut self, number: u64, now: Instant) {
        if let Some(hold) = &mut self.hold {
            hold.asked = Some((number, now));
        }
    }

    /// The source was asked again, and has listed everything since. What it had
    /// been missing for long enough by then is let go.
    pub fn looked(&mut self, number: u64, limits: Limits, now: Instant) -> Vec<Event> {
        let Some(hold) = &mut self.hold else { return Vec::new() };
        let Some((_, asked)) = hold.asked.take_if(|(asked, _)| *asked <= number) else { return Vec::new() };
        let meant = |since: Instant| since + limits.patience <= asked;
        hold.looked = Some(now);
        hold.earlier &= !meant(hold.since);
        let gone: Vec<ObjectKey> =
            hold.missing.extract_if(.., |_, since| meant(*since)).map(|(key, _)| key).collect();
        if !hold.earlier {
            hold.before = self.named + hold.missing.len();
            hold.oldest = hold.missing.values().copied().min().unwrap_or(hold.since);
        }
        let mut believed: Vec<Event> = gone.into_iter().map(|key| Event { key, object: None }).collect();
        self.clear(now, &mut believed);
        believed
    }

    pub fn held(&self, limits: Limits) -> Option<Held> {
        let hold = self.hold.as_ref()?;
        Some(Held {
            objects: if hold.earlier { hold.before.saturating_sub(self.named) } else { hold.missing.len() },
            of: hold.before,
            since: hold.since,
            again: self.due(limits),
            earlier: hold.earlier,
        })
    }

    /// How many there are, with those that are held.
    pub fn count(&self) -> usize {
        match &self.hold {
            Some(hold) if hold.earlier => hold.before,
            Some(hold) => self.named + hold.missing.len(),
            None => self.named,
        }
    }

    /// Forgets what the window has left behind.
    pub fn expire(&mut self, now: Instant) {
        let old = |at: Instant| at + WINDOW <= now;
        while self.peaks.front().is_some_and(|(at, _)| old(*at)) {
            self.peaks.pop_front();
        }
        while let Some((at, key)) = self.order.pop_front_if(|(at, _)| old(*at)) {
            // It may have come and gone again since.
            if self.gone.get(&key).is_some_and(|(gone, _)| *gone == at) {
                self.gone.remove(&key);
            }
        }
    }
}

impl Hold {
    fn new(before: usize, now: Instant) -> Self {
        Self {
            before,
            since: now,
            missing: BTreeMap::new(),
            earlier: false,
            oldest: now,
            asked: None,
            looked: None,
            regained: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.missing.is_empty() && !self.earlier
    }
}
