//! Who says that a file changed? inotify, through one thread; and because its
//! queue can overflow and links hide what they point at, a look at everything
//! now and then.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};

use super::directory::{Ask, is_manifest};
use crate::event::Kind;

/// Changes this close together are one batch.
const GATHER: Duration = Duration::from_millis(2);
/// From so many removals on they are likely to be one `rm` of many files, and
/// what goes together should be seen together: each is followed by a longer
/// wait for the next, up to a time.
const MANY: usize = 10;
const GATHER_MANY: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(200);

pub enum Wake {
    /// File names; `true`: the change is complete.
    Seen(Vec<(Arc<str>, bool)>),
    /// Files that are gone.
    Gone(Vec<Arc<str>>),
    Everything,
    Fence(u64),
    /// A second look at everything is wanted: for which kinds, and its number.
    Look(Vec<Kind>, u64),
    Stop,
}

/// Who waits for the end of a look.
#[derive(Debug, Default)]
pub struct Askers {
    /// The newest fence, or 0.
    pub fence: u64,
    /// The number of the second look at each kind.
    pub looks: BTreeMap<Kind, u64>,
}

/// Sleeps until woken or until `deadline`, and gathers what comes close after,
/// and who asks for it. `None`: stop.
pub fn wait(woken: &mpsc::Receiver<Wake>, mut deadline: Instant, askers: &mut Askers) -> Option<Ask> {
    let mut ask = Ask { everything: false, files: BTreeMap::new() };
    let mut began = None;
    let mut gone = 0;
    loop {
        match woken.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Wake::Seen(files)) => ask.files.extend(files),
            Ok(Wake::Gone(files)) => {
                gone += files.len();
                ask.files.extend(files.into_iter().map(|name| (name, true)));
            }
            Ok(Wake::Everything) => ask.everything = true,
            Ok(Wake::Fence(number)) => {
                askers.fence = askers.fence.max(number);
                ask.everything = true;
            }
            Ok(Wake::Look(kinds, number)) => {
                askers.looks.extend(kinds.into_iter().map(|kind| (kind, number)));
                ask.everything = true;
            }
            Ok(Wake::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => return Some(ask),
        }
        let now = Instant::now();
        if began.is_none() {
            deadline = now + GATHER;
        }
        let began = *began.get_or_insert(now);
        if gone >= MANY {
            deadline = (now + GATHER_MANY).min(began + LONGEST);
        }
    }
}

/// An inotify watch of a directory. Without one (no descriptors left, no
/// directory yet) the looks at everything remain.
pub struct Watch {
    path: PathBuf,
    wakes: mpsc::Sender<Wake>,
    /// Device and inode of the directory watched.
    watched: Option<((u64, u64), notify::RecommendedWatcher)>,
}

impl Watch {
    pub fn new(path: PathBuf, wakes: mpsc::Sender<Wake>) -> Self {
        Self { path, wakes, watched: None }
    }

    /// Watches the directory that has the path now, which may be another one
    /// than before.
    pub fn renew(&mut self) {
        let now = fs::metadata(&self.path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if self.watched.as_ref().map(|(id, _)| *id) == now {
            return;
        }
        self.watched = None;
        let (wakes, path) = (self.wakes.clone(), self.path.clone());
        let handler = move |event: notify::Result<Event>| {
            if let Some(wake) = wake(event, &path) {
                // The thread ends before its watch only when all ends.
                let _ = wakes.send(wake);
            }
        };
        let watcher = notify::recommended_watcher(handler).and_then(|mut watcher| {
            watcher.watch(&self.path, notify::RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        self.watched = now.zip(watcher.ok());
    }
}

fn wake(event: notify::Result<Event>, directory: &Path) -> Option<Wake> {
    let Ok(event) = event else { return Some(Wake::Everything) };
    if event.need_rescan() {
        return Some(Wake::Everything);
    }
    let gone =
        matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)));
    let complete = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => true,
        // Reading a file is an event too; it must not wake the reader.
        EventKind::Access(_) => return None,
        _ => false,
    };
    let mut files = Vec::new();
    for path in &event.paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // `..data` of a mounted ConfigMap turned to another directory, or this
        // one itself went away.
        if path == directory || name.starts_with("..") {
            return Some(Wake::Everything);
        }
        if is_manifest(name) {
            files.push((name.into(), complete));
        }
    }
    match files.is_empty() {
        true => None,
        false if gone => Some(Wake::Gone(files.into_iter().map(|(name, _)| name).collect())),
        false => Some(Wake::Seen(files)),
    }
}
