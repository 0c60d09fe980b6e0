//! What does the directory hold now? The last good state of each file, and
//! what changed since the last look.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    document::{Entry, Parsed},
    owners::Owners,
    parse::{Parser, Text},
    stamp::Stamp,
};
use crate::event::{Event, ObjectKey, Origin, Problem};

/// A file that is being written in place is left alone until it has been still
/// for this long, unless its writer is known to have closed it.
const STILL: Duration = Duration::from_millis(20);
/// A file that is never still is read after this long all the same.
const PATIENCE: Duration = Duration::from_millis(200);
/// Larger files are no manifests.
const MAX_FILE: u64 = 256 << 20;
/// This much text is held in memory at a time (or one file, if it is larger).
const AT_ONCE: usize = 1 << 20;
/// So many changes leave maps with as much room as rows.
const LARGE: usize = 1000;

/// What to look at.
#[derive(Debug, Default)]
pub struct Ask {
    /// The whole directory, whatever anybody said of it.
    pub everything: bool,
    /// Files that changed; `true`: the change is complete.
    pub files: BTreeMap<Arc<str>, bool>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Look {
    pub events: Vec<Event>,
    /// Everything wrong in the directory now.
    pub problems: Vec<Problem>,
    /// The directory could be read, the last time it was read whole.
    pub readable: bool,
    /// A file was still being written: look again soon.
    pub unsettled: bool,
}

struct File {
    /// `None`: it could not be read, try again.
    stamp: Option<Stamp>,
    /// Sorted by key.
    entries: Vec<Entry>,
    problems: Vec<Problem>,
}

pub struct Directory {
    path: PathBuf,
    source: Arc<str>,
    parser: Parser,
    files: BTreeMap<Arc<str>, File>,
    /// Those of the files that have problems.
    faulty: BTreeSet<Arc<str>>,
    owners: Owners,
    /// Files that are being written, and since when they are waited for.
    waiting: HashMap<Arc<str>, SystemTime>,
    /// Why the directory cannot be read.
    unreadable: Option<Problem>,
}

impl Directory {
    pub fn new(path: PathBuf, source: Arc<str>) -> Self {
        Self {
            path,
            parser: Parser::new(source.clone()),
            source,
            files: BTreeMap::new(),
            faulty: BTreeSet::new(),
            owners: Owners::default(),
            waiting: HashMap::new(),
            unreadable: None,
        }
    }

    pub fn look(&mut self, ask: &Ask, now: SystemTime) -> Look {
        let mut changed = Vec::new();
        if ask.everything {
            self.everything(ask, now, &mut changed);
        } else if self.unreadable.is_none() {
            let waiting: Vec<_> = self.waiting.keys().map(|name| (name.clone(), false)).collect();
            let asked = ask.files.iter().map(|(name, whole)| (name.clone(), *whole));
            let names: BTreeMap<_, _> = waiting.into_iter().chain(asked).collect();
            let found = names.into_iter().map(|(name, whole)| {
                let stamp = Stamp::of(&self.path.join(&*name));
                (name, stamp, whole)
            });
            let found = found.collect();
            self.read(found, now, &mut changed);
        }
        self.parser.forget();
        if changed.len() >= LARGE {
            self.owners.pack();
        }
        changed.sort_unstable();
        changed.dedup();
        Look {
            events: changed.into_iter().map(|key| self.event(key)).collect(),
            problems: self.problems(),
            readable: self.unreadable.is_none(),
            unsettled: !self.waiting.is_empty(),
        }
    }

    fn everything(&mut self, ask: &Ask, now: SystemTime, changed: &mut Vec<ObjectKey>) {
        let listed = match self.list() {
            Ok(listed) => listed,
            Err(error) => {
                // What was there still counts: an unreadable directory is no
                // reason to take services away.
                let message =
                    format!("cannot be read ({error}): the last state is kept until it can be read again");
                self.unreadable = Some(self.problem(&self.path.display().to_string(), message));
                self.waiting.clear();
                return;
            }
        };
        self.unreadable = None;
        let gone = self.files.keys().filter(|name| !listed.contains_key(*name));
        let gone: Vec<_> = gone.map(|name| (name.clone(), None, true)).collect();
        self.waiting.retain(|name, _| listed.contains_key(name));
        let found = listed.into_iter().filter_map(|(name, stamp)| {
            let whole = ask.files.get(&name).copied();
            let known = self.files.get(&name).and_then(|file| file.stamp);
            (whole.is_some() || known != Some(stamp)).then(|| (name, Some(stamp), whole.unwrap_or(false)))
        });
        let found: Vec<_> = gone.into_iter().chain(found).collect();
        self.read(found, now, changed);
    }

    fn list(&self) -> io::Result<BTreeMap<Arc<str>, Stamp>> {
        let mut listed = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().filter(|name| is_manifest(name))
                && let Some(stamp) = Stamp::of(&self.path.join(name))
            {
                listed.insert(name.into(), stamp);
            }
        }
        Ok(listed)
    }

    /// Takes in files as they are found now; without a stamp: gone.
    fn read(
        &mut self,
        found: Vec<(Arc<str>, Option<Stamp>, bool)>,
        now: SystemTime,
        changed: &mut Vec<ObjectKey>,
    ) {
        let (mut texts, mut stamps, mut bytes): (Vec<Text>, Vec<Stamp>, usize) = Default::default();
        for (name, stamp, whole) in found {
            let Some(stamp) = stamp else {
                self.waiting.remove(&name);
                self.replace(&name, None, changed);
                continue;
            };
            if !whole && self.must_wait(&name, stamp, now) {
                continue;
            }
            self.waiting.remove(&name);
            match read_text(&self.path.join(&*name), stamp) {
                Ok(text) => {
                    bytes += text.len();
                    texts.push((name, text));
                    stamps.push(stamp);
                }
                // Gone since it was listed: the next look says so.
                Err(Unread::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    // What cannot be opened may be so later, with no change
                    // that shows; what is no text will not.
                    let stamp = (!matches!(error, Unread::Io(_))).then_some(stamp);
                    let problem = self.problem(&name, format!("{error}: its last state is kept"));
                    let parsed = Parsed { entries: Vec::new(), problems: vec![problem], incomplete: true };
                    self.replace(&name, Some((stamp, parsed)), changed);
                }
            }
            if bytes >= AT_ONCE {
                self.take(&mut texts, &mut stamps, changed);
                bytes = 0;
            }
        }
        self.take(&mut texts, &mut stamps, changed);
    }

    fn take(&mut self, texts: &mut Vec<Text>, stamps: &mut Vec<Stamp>, changed: &mut Vec<ObjectKey>) {
        let parsed = self.parser.parse(texts);
        for (((name, _), stamp), parsed) in texts.drain(..).zip(stamps.drain(..)).zip(parsed) {
            self.replace(&name, Some((Some(stamp), parsed)), changed);
        }
    }

    /// Whether a file looks as if it were being written in place. One that was
    /// renamed over its predecessor is whole at once.
    fn must_wait(&mut self, name: &Arc<str>, stamp: Stamp, now: SystemTime) -> bool {
        let known = self.files.get(name).and_then(|file| file.stamp);
        if known.is_some_and(|known| known.inode != stamp.inode) || stamp.age(now) >= STILL {
            return false;
        }
        let since = *self.waiting.entry(name.clone()).or_insert(now);
        now.duration_since(since).is_ok_and(|waited| waited < PATIENCE)
    }

    /// Puts a file's new state in place of its old one, and notes every object
    /// whose meaning changed.
    fn replace(
        &mut self,
        name: &Arc<str>,
        new: Option<(Option<Stamp>, Parsed)>,
        changed: &mut Vec<ObjectKey>,
    ) {
        let old = self.files.remove(name).map(|file| file.entries).unwrap_or_default();
        self.faulty.remove(name);
        let Some((stamp, Parsed { entries: new, problems, incomplete })) = new else {
            for entry in old {
                self.owners.disown(&entry.key, name, changed);
            }
            return;
        };
        let mut entries = Vec::with_capacity(new.len());
        let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) => old.key.cmp(&new.key),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            match (before, after) {
                (Some(before), None) if incomplete => entries.push(before),
                (Some(before), None) => self.owners.disown(&before.key, name, changed),
                (None, Some(after)) => {
                    self.owners.own(&after.key, name, changed);
                    entries.push(after);
                }
                (Some(before), Some(after)) if before == after => entries.push(before),
                // What was understood stands until its successor is, too.
                (Some(before), Some(after)) if after.object.is_faulty() && !before.object.is_faulty() => {
                    entries.push(before);
                }
                (Some(before), Some(mut after)) => {
                    if before.object == after.object {
                        after.object = before.object;
                    }
                    if self.owners.owner(&after.key).is_some_and(|owner| owner == name) {
                        changed.push(after.key.clone());
                    }
                    entries.push(after);
                }
                (None, None) => {}
            }
        }
        entries.shrink_to_fit();
        if !problems.is_empty() {
            self.faulty.insert(name.clone());
        }
        self.files.insert(name.clone(), File { stamp, entries, problems });
    }

    fn entry(&self, file: &str, key: &ObjectKey) -> Option<&Entry> {
        let entries = &self.files.get(file)?.entries;
        entries.binary_search_by(|entry| entry.key.cmp(key)).ok().map(|at| &entries[at])
    }

    fn event(&self, key: ObjectKey) -> Event {
        let entry = self.owners.owner(&key).and_then(|file| self.entry(file, &key));
        let object = entry.map(|entry| (entry.object.clone(), entry.origin.clone()));
        Event { key, object }
    }

    fn problems(&self) -> Vec<Problem> {
        let faulty = self.faulty.iter().filter_map(|name| self.files.get(name));
        let mut problems: Vec<Problem> = faulty.flat_map(|file| file.problems.iter().cloned()).collect();
        for (key, file) in self.owners.losers() {
            let owner = self.owners.owner(key).map_or("", |owner| &**owner);
            problems.extend(self.entry(file, key).map(|entry| Problem {
                origin: Some((*entry.origin).clone()),
                object: key.to_string(),
                field: "metadata.name".into(),
                message: format!("{owner} has the same object, and comes first: this one is not used"),
            }));
        }
        problems.extend(self.unreadable.clone());
        problems
    }

    fn problem(&self, place: &str, message: String) -> Problem {
        let origin = Some(Origin { source: self.source.clone(), place: place.into() });
        Problem { origin, object: String::new(), field: String::new(), message }
    }
}

/// `*.yaml`, `*.yml` and `*.json`; names that start with a dot are drafts and
/// the inner works of mounted ConfigMaps.
pub fn is_manifest(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("cannot be read ({0})")]
    Io(#[from] io::Error),
    #[error("is no UTF-8 text from byte {0} on")]
    NotText(usize),
    #[error("has more than {} MiB", MAX_FILE >> 20)]
    TooLarge,
}

fn read_text(path: &std::path::Path, stamp: Stamp) -> Result<String, Unread> {
    if stamp.size > MAX_FILE {
        return Err(Unread::TooLarge);
    }
    String::from_utf8(fs::read(path)?).map_err(|error| Unread::NotText(error.utf8_error().valid_up_to()))
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
