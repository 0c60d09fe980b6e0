//! The manifest directory: Kubernetes YAML or JSON, watched.
//!
//! A thread of its own reads and parses, so that a large file never holds up
//! the loop. inotify wakes it; a look twice a second finds what inotify lost.

mod directory;
pub mod parse;
mod yaml;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use notify::Watcher;

use self::directory::Directory;
use crate::event::{Batch, Problem};

/// The name of the source.
pub const SOURCE: &str = "manifests";

/// A look even when nobody said that anything changed.
const POLL: Duration = Duration::from_millis(500);
/// Changes this close together are one batch.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// How soon a file that was being written is looked at again.
const SOON: Duration = Duration::from_millis(10);

enum Wake {
    Changed,
    Fence(u64),
    Stop,
}

/// Ends the thread when dropped.
pub struct Manifests {
    wakes: mpsc::Sender<Wake>,
}

impl Manifests {
    /// Starts to watch a directory. Batches arrive until the receiver is gone.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(path: PathBuf, batches: tokio::sync::mpsc::Sender<Batch>) -> std::io::Result<Self> {
        let (wakes, woken) = mpsc::channel();
        let for_watcher = wakes.clone();
        thread::Builder::new()
            .name("manifests".into())
            .spawn(move || watch(&path, &woken, for_watcher, &batches))?;
        Ok(Self { wakes })
    }

    /// Asks for a look now; the batch that ends it carries `fence`.
    pub fn fence(&self, fence: u64) {
        // The thread only ends before its owner when the loop has gone.
        let _ = self.wakes.send(Wake::Fence(fence));
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        let _ = self.wakes.send(Wake::Stop);
    }
}

/// One look at a directory, for `causeway plan`.
pub fn scan(path: &Path) -> Batch {
    let source: Arc<str> = SOURCE.into();
    let mut directory = Directory::new(path.to_owned(), source.clone());
    // As if from the future: nothing is waited for.
    let look = directory.look(SystemTime::now() + Duration::from_secs(3600));
    Batch { source, events: look.events, problems: look.problems, fence: 0, synced: look.readable }
}

fn watch(
    path: &Path,
    woken: &mpsc::Receiver<Wake>,
    wakes: mpsc::Sender<Wake>,
    batches: &tokio::sync::mpsc::Sender<Batch>,
) {
    let source: Arc<str> = SOURCE.into();
    let mut directory = Directory::new(path.to_owned(), source.clone());
    let mut watcher = None;
    let mut said: Option<(Vec<Problem>, bool)> = None;
    let mut fence = 0;
    let mut unsettled_fence = 0;
    loop {
        if watcher.is_none() {
            watcher = inotify(path, wakes.clone());
        }
        let look = directory.look(SystemTime::now());
        if !look.readable {
            // The directory that inotify watched is gone; watch its successor.
            watcher = None;
        }
        let settled = fence.max(unsettled_fence);
        let fence_now = if look.unsettled { 0 } else { settled };
        unsettled_fence = if look.unsettled { settled } else { 0 };
        let news = said.as_ref() != Some(&(look.problems.clone(), look.readable));
        if !look.events.is_empty() || news || fence_now != 0 {
            said = Some((look.problems.clone(), look.readable));
            let batch = Batch {
                source: source.clone(),
                events: look.events,
                problems: look.problems,
                fence: fence_now,
                synced: look.readable,
            };
            if batches.blocking_send(batch).is_err() {
                return;
            }
        }
        fence = 0;
        let patience = if look.unsettled { SOON } else { POLL };
        let Some(asked) = wait(woken, patience) else { return };
        fence = fence.max(asked);
    }
}

/// Sleeps until woken, or for `patience`; gathers what comes close after.
/// `None`: stop. The number is the newest fence asked for, or 0.
fn wait(woken: &mpsc::Receiver<Wake>, patience: Duration) -> Option<u64> {
    let mut fence = 0;
    let mut next = woken.recv_timeout(patience);
    loop {
        match next {
            Ok(Wake::Changed) => {}
            Ok(Wake::Fence(number)) => fence = fence.max(number),
            Ok(Wake::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => return Some(fence),
        }
        next = woken.recv_timeout(DEBOUNCE);
    }
}

/// Without inotify (no descriptors left, no directory yet) the poll remains.
fn inotify(path: &Path, wakes: mpsc::Sender<Wake>) -> Option<notify::RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Reading the files is an event too; it must not wake the reader.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = wakes.send(Wake::Changed);
        }
    };
    let mut watcher = notify::recommended_watcher(handler).ok()?;
    watcher.watch(path, notify::RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
