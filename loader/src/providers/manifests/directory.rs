//! What does the directory hold now? The last good state of each file, and
//! what changed since the last look.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::parse::{self, Parsed};
use crate::event::{Event, Object, ObjectKey, Origin, Problem};

/// A file that is being written in place is left alone until it has been still
/// for this long; a renamed one is whole at once.
const STILL: Duration = Duration::from_millis(20);

/// One look at the directory.
#[derive(Debug, Default)]
pub struct Look {
    pub events: Vec<Event>,
    /// Everything wrong in the directory now.
    pub problems: Vec<Problem>,
    /// The directory could be read.
    pub readable: bool,
    /// A file was still being written: look again soon.
    pub unsettled: bool,
}

/// What tells a changed file from an unchanged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

struct File {
    stamp: Stamp,
    objects: BTreeMap<ObjectKey, (Arc<Object>, Arc<Origin>)>,
    problems: Vec<Problem>,
}

pub struct Directory {
    path: PathBuf,
    source: Arc<str>,
    files: BTreeMap<Arc<str>, File>,
    /// The file that gives each object: the first by name.
    owners: HashMap<ObjectKey, Arc<str>>,
    /// Objects that other files have too.
    shadowed: BTreeMap<ObjectKey, BTreeSet<Arc<str>>>,
}

impl Directory {
    pub fn new(path: PathBuf, source: Arc<str>) -> Self {
        let (files, owners, shadowed) = (BTreeMap::new(), HashMap::new(), BTreeMap::new());
        Self { path, source, files, owners, shadowed }
    }

    /// Looks at everything; reads what changed.
    pub fn look(&mut self, now: SystemTime) -> Look {
        let mut look = Look { readable: true, ..Look::default() };
        let listed = match self.list() {
            Ok(listed) => listed,
            Err(error) => {
                // What was there still counts: an unreadable directory is no
                // reason to take services away.
                let message =
                    format!("cannot be read ({error}): the last state is kept until it can be read again");
                look.problems = self.problems();
                look.problems.push(self.problem(&self.path.display().to_string(), message));
                look.readable = false;
                return look;
            }
        };
        let mut changed = BTreeSet::new();
        let gone: Vec<Arc<str>> =
            self.files.keys().filter(|name| !listed.contains_key(*name)).cloned().collect();
        for name in gone {
            self.replace(&name, None, &mut changed);
        }
        let mut unreadable = Vec::new();
        for (name, stamp) in listed {
            let known = self.files.get(&name);
            if known.is_some_and(|file| file.stamp == stamp) {
                continue;
            }
            let in_place = known.is_none_or(|file| file.stamp.inode == stamp.inode);
            if in_place && is_fresh(stamp, now) {
                look.unsettled = true;
                continue;
            }
            match fs::read(self.path.join(&*name)) {
                Ok(bytes) => {
                    let parsed = parse::parse(&self.source, &name, &String::from_utf8_lossy(&bytes));
                    self.replace(&name, Some((stamp, parsed)), &mut changed);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => look.unsettled = true,
                Err(error) => {
                    let message = format!("cannot be read ({error}): its last state is kept");
                    unreadable.push(self.problem(&name, message));
                }
            }
        }
        look.events = changed.into_iter().map(|key| self.event(key)).collect();
        look.problems = self.problems();
        look.problems.extend(unreadable);
        look
    }

    fn list(&self) -> io::Result<BTreeMap<Arc<str>, Stamp>> {
        let mut listed = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let known = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
            if name.starts_with('.') || !known {
                continue;
            }
            // Follows links: a mounted ConfigMap is a directory of them.
            let Ok(metadata) = fs::metadata(self.path.join(name)) else { continue };
            if metadata.is_file() {
                let stamp = Stamp {
                    inode: metadata.ino(),
                    size: metadata.size(),
                    modified: (metadata.mtime(), metadata.mtime_nsec()),
                    changed: (metadata.ctime(), metadata.ctime_nsec()),
                };
                listed.insert(name.into(), stamp);
            }
        }
        Ok(listed)
    }

    /// Puts a file's new state in place of its old one, and notes every object
    /// whose meaning may have changed.
    fn replace(&mut self, name: &Arc<str>, new: Option<(Stamp, Parsed)>, changed: &mut BTreeSet<ObjectKey>) {
        let old = self.files.remove(name).map(|file| file.objects).unwrap_or_default();
        let mut objects = BTreeMap::new();
        if let Some((stamp, parsed)) = new {
            objects = parsed.objects;
            if parsed.incomplete {
                for (key, object) in &old {
                    objects.entry(key.clone()).or_insert_with(|| object.clone());
                }
            }
            let file = File { stamp, objects: objects.clone(), problems: parsed.problems };
            self.files.insert(name.clone(), file);
        }
        for (key, before) in &old {
            match objects.get(key) {
                Some(after) if after == before => {}
                Some(_) => {
                    changed.insert(key.clone());
                }
                None => {
                    self.disown(key, name);
                    changed.insert(key.clone());
                }
            }
        }
        for key in objects.into_keys().filter(|key| !old.contains_key(key)) {
            self.own(&key, name);
            changed.insert(key);
        }
    }

    fn own(&mut self, key: &ObjectKey, name: &Arc<str>) {
        match self.owners.get(key) {
            None => {
                self.owners.insert(key.clone(), name.clone());
            }
            Some(owner) => {
                let mut files = self.shadowed.remove(key).unwrap_or_default();
                files.extend([owner.clone(), name.clone()]);
                self.settle(key, files);
            }
        }
    }

    fn disown(&mut self, key: &ObjectKey, name: &Arc<str>) {
        let mut files = self.shadowed.remove(key).unwrap_or_default();
        files.extend(self.owners.remove(key));
        files.remove(name);
        self.settle(key, files);
    }

    fn settle(&mut self, key: &ObjectKey, mut files: BTreeSet<Arc<str>>) {
        if let Some(first) = files.pop_first() {
            self.owners.insert(key.clone(), first);
        }
        if !files.is_empty() {
            self.shadowed.insert(key.clone(), files);
        }
    }

    fn event(&self, key: ObjectKey) -> Event {
        let object = self.owners.get(&key).and_then(|name| self.files.get(name)?.objects.get(&key).cloned());
        Event { key, object }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> =
            self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        for (key, files) in &self.shadowed {
            for name in files {
                let Some((_, origin)) = self.files.get(name).and_then(|file| file.objects.get(key)) else {
                    continue;
                };
                let owner = self.owners.get(key).map(|name| &**name).unwrap_or_default();
                problems.push(Problem {
                    origin: Some((**origin).clone()),
                    object: key.to_string(),
                    field: "metadata.name".into(),
                    message: format!("{owner} has the same object, and comes first: this one is not used"),
                });
            }
        }
        problems
    }

    fn problem(&self, place: &str, message: String) -> Problem {
        let origin = Some(Origin { source: self.source.clone(), place: place.into() });
        Problem { origin, object: String::new(), field: String::new(), message }
    }
}

fn is_fresh(stamp: Stamp, now: SystemTime) -> bool {
    let (seconds, nanoseconds) = stamp.modified;
    let modified = SystemTime::UNIX_EPOCH
        + Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
    // A time in the future says nothing: not fresh.
    now.duration_since(modified).is_ok_and(|age| age < STILL)
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
