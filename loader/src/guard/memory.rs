//! How much had each source said, when there was an agent last? A small file in
//! the state directory, so that one that starts knows a source that has shrunk
//! meanwhile.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, de::IntoDeserializer};

use super::ward::LEAST;
use crate::{event::Kind, whole_file};

/// Objects by source and kind.
pub type Counts = BTreeMap<String, BTreeMap<Kind, usize>>;

/// It is written at most this often.
const PACE: Duration = Duration::from_secs(1);
/// A number that has moved by less than one part in so many is still good.
const PART: usize = 20;

#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    written: Counts,
    next: Option<Instant>,
}

impl Memory {
    /// Reads the file; none, or one that cannot be understood, remembers nothing.
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("sources.json");
        let read = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let read: BTreeMap<String, BTreeMap<String, usize>> = read.unwrap_or_default();
        let kinds = |kinds: BTreeMap<String, usize>| {
            // Another version may have had others.
            kinds.into_iter().filter_map(|(name, count)| Some((kind(&name)?, count))).collect()
        };
        let written = read.into_iter().map(|(source, of)| (source, kinds(of))).collect();
        Self { path, written, next: None }
    }

    pub fn counts(&self) -> &Counts {
        &self.written
    }

    /// Writes the numbers if they have changed much, or at all when this is the
    /// last time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&mut self, counts: Counts, last: bool, now: Instant) -> io::Result<()> {
        let late = last || self.next.is_none_or(|next| next <= now);
        if !late || !(differ(&counts, &self.written) || last && counts != self.written) {
            return Ok(());
        }
        self.next = Some(now + PACE);
        whole_file::write(&self.path, &serde_json::to_vec(&counts)?, 0o600)?;
        self.written = counts;
        Ok(())
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(&mut self) -> io::Result<()> {
        self.written.clear();
        whole_file::remove(&self.path)
    }
}

fn kind(name: &str) -> Option<Kind> {
    let name: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    Kind::deserialize(name).ok()
}

/// Whether one of the numbers has moved so far that a shrink would be judged
/// otherwise.
fn differ(one: &Counts, other: &Counts) -> bool {
    let count = |counts: &Counts, source: &str, kind: Kind| {
        counts.get(source).and_then(|kinds| kinds.get(&kind)).copied().unwrap_or(0)
    };
    let all = || [one, other].into_iter().flatten();
    let mut all = all().flat_map(|(source, kinds)| kinds.keys().map(move |kind| (source, *kind)));
    all.any(|(source, kind)| {
        let (a, b) = (count(one, source, kind), count(other, source, kind));
        a.max(b) >= LEAST && a.abs_diff(b) * PART >= a.max(b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(services: usize) -> Counts {
        BTreeMap::from([("manifests".to_owned(), BTreeMap::from([(Kind::Service, services)]))])
    }

    #[test]
    fn what_was_heard_last_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut memory = Memory::open(dir.path());
        assert!(memory.counts().is_empty());
        memory.keep(counts(100), false, now).unwrap();
        assert_eq!(Memory::open(dir.path()).counts(), &counts(100));
        // Soon after, and little: not yet. The last time: all of it.
        memory.keep(counts(50), false, now).unwrap();
        memory.keep(counts(99), false, now + PACE).unwrap();
        assert_eq!(Memory::open(dir.path()).counts(), &counts(100));
        memory.keep(counts(50), false, now + PACE).unwrap();
        assert_eq!(Memory::open(dir.path()).counts(), &counts(50));
        memory.keep(counts(51), true, now + PACE).unwrap();
        assert_eq!(Memory::open(dir.path()).counts(), &counts(51));
        memory.forget().unwrap();
        memory.forget().unwrap();
        assert!(Memory::open(dir.path()).counts().is_empty());
    }

    #[test]
    fn a_kind_of_another_version_is_left_out_and_a_damaged_file_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sources.json");
        fs::write(&path, r#"{"manifests": {"Service": 12, "Teapot": 7}}"#).unwrap();
        assert_eq!(Memory::open(dir.path()).counts(), &counts(12));
        fs::write(&path, r#"{"manifests": {"Serv"#).unwrap();
        assert!(Memory::open(dir.path()).counts().is_empty());
    }
}
