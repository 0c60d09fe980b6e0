//! The manifest directory: Kubernetes YAML or JSON, watched.
//!
//! A thread of its own reads and parses, so that a large file never holds up
//! the loop. inotify wakes it; a look at everything once in a while finds what
//! inotify lost.

mod directory;
mod document;
mod owners;
mod parse;
mod split;
mod stamp;
mod watch;
mod yaml;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use self::{
    directory::{Ask, Directory, Look},
    watch::{Askers, Wake, Watch},
};
use super::speech::{Speech, Standing};
use crate::event::{Batch, Kind};

/// The name of the source.
pub const SOURCE: &str = "manifests";

/// A look at everything even when nobody said that anything changed...
const POLL: Duration = Duration::from_millis(500);
/// ...but the looks take no more than one part in so many of a CPU's time.
const POLL_SHARE: u32 = 50;
/// How soon a file that was being written is looked at again.
const SOON: Duration = Duration::from_millis(10);

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
        let watch = Watch::new(path.clone(), wakes.clone());
        thread::Builder::new().name("manifests".into()).spawn(move || {
            let speech = Speech::new(SOURCE.into());
            run(Directory::new(path, SOURCE.into()), watch, &woken, speech, &batches);
        })?;
        Ok(Self { wakes })
    }

    /// Asks for a look now; the batch that ends it carries `fence`. When that
    /// batch is not `synced`, the directory could not be read.
    pub fn fence(&self, fence: u64) {
        // The thread only ends before its owner when the loop has gone.
        let _ = self.wakes.send(Wake::Fence(fence));
    }

    /// Asks for another look at everything; the batch that ends it says so of
    /// these kinds. While the directory cannot be read there is none.
    pub fn look(&self, kinds: Vec<Kind>, number: u64) {
        let _ = self.wakes.send(Wake::Look(kinds, number));
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
    let later = SystemTime::now() + Duration::from_secs(3600);
    let look = directory.look(&Ask { everything: true, ..Ask::default() }, later);
    let (synced, containers) = (look.readable, look.readable);
    Batch { source, events: look.events, problems: look.problems, synced, containers, ..Batch::default() }
}

fn run(
    mut directory: Directory,
    mut watch: Watch,
    woken: &mpsc::Receiver<Wake>,
    mut speech: Speech,
    batches: &tokio::sync::mpsc::Sender<Batch>,
) {
    let mut ask = Ask { everything: true, ..Ask::default() };
    let mut askers = Askers::default();
    let mut next_poll = Instant::now();
    loop {
        let began = Instant::now();
        if began >= next_poll {
            ask.everything = true;
        }
        if ask.everything {
            // Subscribe first, look second: nothing falls in between.
            watch.renew();
        }
        let look = directory.look(&ask, SystemTime::now());
        if ask.everything {
            next_poll = began + POLL.max(began.elapsed() * POLL_SHARE);
        }
        let unsettled = look.unsettled;
        let mut answered = Askers::default();
        if !unsettled {
            answered.fence = std::mem::take(&mut askers.fence);
            if ask.everything && look.readable {
                answered.looks = std::mem::take(&mut askers.looks);
            }
        }
        let Look { events, problems, readable, .. } = look;
        let standing = Standing { problems, synced: readable, containers: readable, marks: None };
        let batch = speech.batch(events, standing, answered.fence, answered.looks);
        // Nobody hears it any more once the loop has gone.
        if batch.is_some_and(|batch| batches.blocking_send(batch).is_err()) {
            return;
        }
        let soon = Instant::now() + SOON;
        let deadline = if unsettled { next_poll.min(soon) } else { next_poll };
        let Some(asked) = watch::wait(woken, deadline, &mut askers) else { return };
        ask = asked;
    }
}

#[cfg(test)]
mod bad_tests;
#[cfg(test)]
mod tests;
