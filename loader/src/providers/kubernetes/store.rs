//! What does the server have, as far as we were told? Lists and changes of each
//! kind, turned into what is news to the model. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use kube::runtime::watcher;

use super::{
    fare::Trouble,
    kinds::{Index, KINDS, SERVICES, SLICES},
    listed::Listed,
};
use crate::{
    event::{
        Event, Kind, Object, ObjectKey, Origin, Problem,
        marks::{Mark, Marks},
    },
    providers::{
        Names,
        convert::Refusal,
        object::{self, Raw},
    },
};

/// What became known of one kind.
#[derive(Debug)]
pub enum Word {
    Event(watcher::Event<Listed>),
    /// The server has no such kind.
    Absent,
    /// All of it is listed from the beginning now, for the second look of this
    /// number.
    Again(u64),
}

/// An object, and who said it.
type Said = (Arc<Object>, Arc<Origin>);

/// Names kept to be shared; more are stored anew.
const NAMES: usize = 100_000;

#[derive(Debug, Default)]
struct Known {
    objects: BTreeMap<ObjectKey, Said>,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    /// While it is listed: what came so far.
    listing: Option<BTreeSet<ObjectKey>>,
    /// It was listed once, or there is no such kind.
    whole: bool,
    /// What each object adds to the digest.
    versions: BTreeMap<ObjectKey, u64>,
    /// The newest version that this list and its watch have shown, and the digest.
    mark: Mark,
    /// What the model has not heard yet.
    news: BTreeMap<ObjectKey, Option<Said>>,
    /// The second look that the next list ends.
    look: Option<u64>,
}

pub struct Store {
    source: Arc<str>,
    names: Names,
    kinds: Vec<Known>,
    /// Since when all of that is known that every server has.
    grounded: Option<Instant>,
    /// Second looks that have ended, by kind.
    looked: BTreeMap<Kind, u64>,
    changed: usize,
}

impl Store {
    pub fn new(source: Arc<str>) -> Self {
        let kinds = KINDS.iter().map(|_| Known::default()).collect();
        Self { source, names: Names::default(), kinds, looked: BTreeMap::new(), grounded: None, changed: 0 }
    }

    pub fn take(&mut self, kind: Index, word: Word) {
        match word {
            Word::Event(watcher::Event::Init) => {
                self.kinds[kind].listing = Some(BTreeSet::new());
                // Another list may be of another history.
                self.kinds[kind].mark.newest = 0;
            }
            Word::Event(watcher::Event::InitApply(object)) => {
                let key = self.key(kind, &object);
                let known = &mut self.kinds[kind];
                known.mark.newest = known.mark.newest.max(object.version().unwrap_or(0));
                known.listing.get_or_insert_default().insert(key.clone());
                self.apply(kind, key, object);
            }
            Word::Event(watcher::Event::InitDone) => {
                let listed = self.kinds[kind].listing.take().unwrap_or_default();
                self.listed(kind, &listed);
            }
            Word::Event(watcher::Event::Apply(object)) => {
                if self.is_news(kind, &object) {
                    let key = self.key(kind, &object);
                    self.apply(kind, key, object);
                }
            }
            Word::Event(watcher::Event::Delete(object)) => {
                if self.is_news(kind, &object) {
                    let key = self.key(kind, &object);
                    self.remove(kind, &key);
                }
            }
            Word::Absent => {
                self.kinds[kind].mark.newest = 0;
                // It may have gone while it was listed.
                self.kinds[kind].listing = None;
                self.listed(kind, &BTreeSet::new());
            }
            Word::Again(number) => self.kinds[kind].look = Some(number),
        }
        self.changed += 1;
        if self.changed >= NAMES {
            self.changed = 0;
            self.names = Names::default();
        }
    }

    /// What there is to tell the model now, an object once.
    ///
    /// Of a kind, nothing is told before all of it is there, and of services
    /// nothing before their backends: without these, they would take away what
    /// an earlier agent has left.
    pub fn news(&mut self) -> Vec<Event> {
        let services = self.knows(SERVICES) && self.knows(SLICES);
        let mut events = Vec::new();
        for (kind, known) in self.kinds.iter_mut().enumerate() {
            let ripe = if matches!(kind, SERVICES | SLICES) { services } else { known.whole };
            if ripe {
                let news = std::mem::take(&mut known.news);
                events.extend(news.into_iter().map(|(key, object)| Event { key, object }));
            }
        }
        events
    }

    /// Whether a kind was listed once, or is none of the server's.
    pub fn knows(&self, kind: Index) -> bool {
        self.kinds[kind].whole
    }

    /// Whether policies and egress addresses can be put in force: all that they are
    /// about is known, but for kinds that may be installed and must not be read. Whoever runs
    /// the server has said so; that one does not answer, or not now, anybody may.
    /// A refusal counts once all else is known: a server that starts may refuse
    /// what it allows.
    pub fn knows_containers(&mut self, troubles: &[(Index, Trouble)], now: Instant) -> bool {
        let about = |kind: &Index| KINDS[*kind].kind.is_about_containers();
        let (optional, ground): (Vec<Index>, Vec<Index>) =
            (0..KINDS.len()).filter(about).partition(|kind| KINDS[*kind].optional);
        if !ground.into_iter().all(|kind| self.knows(kind)) {
            return false;
        }
        let grounded = *self.grounded.get_or_insert(now);
        let forbidden = |kind| {
            let still = |trouble: &Trouble| trouble.cause.is_forbidden() && trouble.last > grounded;
            troubles.iter().any(|(of, trouble)| *of == kind && still(trouble))
        };
        optional.into_iter().all(|kind| self.knows(kind) || forbidden(kind))
    }

    /// Second looks that have ended since this was asked last: what they have
    /// shown is part of the [news](Self::news).
    pub fn looked(&mut self) -> BTreeMap<Kind, u64> {
        std::mem::take(&mut self.looked)
    }

    /// Whether every kind was listed once, or is none of the server's.
    pub fn whole(&self) -> bool {
        (0..KINDS.len()).all(|kind| self.knows(kind))
    }

    /// How far all kinds have been read; `None` while one is being listed: what is
    /// known of it then is of no moment.
    pub fn marks(&self) -> Option<Marks> {
        let is_whole = |known: &Known| known.whole && known.listing.is_none();
        let marks = || KINDS.iter().zip(&self.kinds).map(|(watched, known)| (watched.kind, known.mark));
        self.kinds.iter().all(is_whole).then(|| marks().collect())
    }

    /// What is wrong with objects.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.kinds.iter().flat_map(|known| known.problems.values().flatten())
    }

    /// A watch tells each change once and in order. What is older than what was
    /// heard is said again, and would undo what came after it.
    fn is_news(&mut self, kind: Index, object: &Listed) -> bool {
        let Some(version) = object.version() else { return true };
        let newest = &mut self.kinds[kind].mark.newest;
        let news = version >= *newest;
        *newest = version.max(*newest);
        news
    }

    fn key(&mut self, kind: Index, object: &Listed) -> ObjectKey {
        let kind = KINDS[kind].kind;
        ObjectKey { kind, namespace: self.names.get(object.namespace()), name: self.names.get(object.name()) }
    }

    fn apply(&mut self, kind: Index, key: ObjectKey, object: Listed) {
        let watched = &KINDS[kind];
        let (hash, known) = (object.hash(), &mut self.kinds[kind]);
        known.mark.change(known.versions.insert(key.clone(), hash), Some(hash));
        let converted = object::convert(watched.api, watched.name, Raw::Value(object.value), &mut self.names);
        let (objects, refusals) = match converted {
            Some(Ok(converted)) => (converted.objects, converted.refusals),
            Some(Err(refusal)) => (Vec::new(), vec![refusal]),
            None => return,
        };
        let origin = Origin { source: self.source.clone(), place: place(&key).into() };
        let known = &mut self.kinds[kind];
        if refusals.is_empty() {
            known.problems.remove(&key);
        } else {
            let problem = |refusal: Refusal| refusal.problem(origin.clone(), key.to_string());
            known.problems.insert(key.clone(), refusals.into_iter().map(problem).collect());
        }
        for (key, object) in objects {
            match known.objects.get(&key) {
                Some((before, _)) if **before == object => continue,
                // What was understood stands until its successor is, too.
                Some((before, _)) if object.is_faulty() && !before.is_faulty() => continue,
                _ => {}
            }
            let said = (Arc::new(object), Arc::new(origin.clone()));
            known.news.insert(key.clone(), Some(said.clone()));
            known.objects.insert(key, said);
        }
    }

    fn remove(&mut self, kind: Index, key: &ObjectKey) {
        let known = &mut self.kinds[kind];
        known.problems.remove(key);
        known.mark.change(known.versions.remove(key), None);
        if known.objects.remove(key).is_some() {
            known.news.insert(key.clone(), None);
        }
    }

    /// A list is complete: what it does not have is gone.
    fn listed(&mut self, kind: Index, listed: &BTreeSet<ObjectKey>) {
        self.remove_others(kind, listed);
        let known = &mut self.kinds[kind];
        known.whole = true;
        if let Some(number) = known.look.take() {
            self.looked.insert(KINDS[kind].kind, number);
        }
    }

    fn remove_others(&mut self, kind: Index, listed: &BTreeSet<ObjectKey>) {
        let known = &self.kinds[kind];
        // One that is not understood has neither.
        let keys = known.objects.keys().chain(known.problems.keys()).chain(known.versions.keys());
        let gone: Vec<ObjectKey> = keys.filter(|key| !listed.contains(key)).cloned().collect();
        for key in gone {
            self.remove(kind, &key);
        }
    }
}

/// `Service/default/web`, `Node/n1`.
fn place(key: &ObjectKey) -> String {
    match &*key.namespace {
        "" => format!("{}/{}", key.kind, key.name),
        namespace => format!("{}/{namespace}/{}", key.kind, key.name),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "marks_tests.rs"]
mod marks_tests;
