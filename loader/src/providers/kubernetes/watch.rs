//! Who listens to one kind? kube's watcher lists, watches and resumes; here is
//! what becomes of its errors.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use kube::{
    Api, Client, Error,
    core::Status,
    runtime::watcher::{self, watcher},
};
use tokio::sync::{mpsc::Sender, watch};

use super::{
    Timing,
    fare::{Cause, Fares},
    kinds::{Index, KINDS, PODS, Watched},
    listed::{Listed, OfKind},
    store::Word,
    watchful::{self, innermost},
};

/// What is known of a kind, and of which.
pub type Said = (Index, Word);

/// The one who was told has gone.
struct Gone;

/// Listens until nobody hears it any more.
pub struct Listener {
    pub kind: Index,
    pub client: Client,
    pub timing: Timing,
    pub fares: Arc<Fares>,
    pub said: Sender<Said>,
    /// The number of the newest second look at this kind.
    pub looks: watch::Receiver<u64>,
}

impl Listener {
    pub async fn run(mut self) {
        // Turns one after the other that ended soon.
        let mut short = 0_u32;
        loop {
            let begun = Instant::now();
            let pods = self.kind == PODS;
            let turn = if pods { self.turn::<true>(short).await } else { self.turn::<false>(short).await };
            if turn.is_err() {
                return;
            }
            short = if begun.elapsed() < self.timing.longest { short.saturating_add(1) } else { 0 };
        }
    }

    /// From a list to an error that only another list mends.
    async fn turn<const POD: bool>(&mut self, short: u32) -> Result<(), Gone> {
        let watched = &KINDS[self.kind];
        if watched.optional {
            match self.is_served(watched).await {
                // Who must not ask which kinds there are may yet read this one.
                Ok(true) | Err(Cause::Refused(403, _)) => {}
                Ok(false) => {
                    self.fares.understood(self.kind);
                    self.say(Word::Absent).await?;
                    // It may be installed later.
                    let later = tokio::time::sleep(part(self.timing.discovery));
                    tokio::select! {
                        () = later => return Ok(()),
                        number = asked(&mut self.looks) => return self.say(Word::Again(number?)).await,
                    }
                }
                Err(cause) => {
                    tracing::debug!(kind = watched.name, ?cause, "cannot ask for the kinds of the server");
                    self.fares.failed(self.kind, cause);
                    self.pause(short).await;
                    return Ok(());
                }
            }
        }
        let config = watcher::Config::default().page_size(self.timing.page);
        let mut events = pin!(watcher(Api::<OfKind<POD>>::all_with(self.client.clone(), watched), config));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                number = asked(&mut self.looks) => return self.say(Word::Again(number?)).await,
            };
            match event {
                Some(Ok(event)) => {
                    if !matches!(event, watcher::Event::Init) {
                        self.fares.understood(self.kind);
                    }
                    self.say(Word::Event(plain(event))).await?;
                }
                Some(Err(error)) => {
                    tracing::debug!(kind = watched.name, %error, "the watch failed");
                    let over = self.is_over(&error);
                    self.pause(short).await;
                    if over {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            }
        }
    }

    /// Notes what the heads of answers have not shown. True when only another
    /// list helps: a watch that goes on would be told the same again.
    fn is_over(&self, error: &watcher::Error) -> bool {
        use watcher::Error as E;
        match error {
            // In an answer that began well.
            E::WatchError(status) | E::WatchFailed(Error::Api(status)) => {
                if status.code != 410 {
                    self.fares.failed(self.kind, cause_of(status));
                }
                true
            }
            E::InitialListFailed(Error::Api(status)) | E::WatchStartFailed(Error::Api(status)) => {
                matches!(status.code, 404 | 410)
            }
            error if is_garbage(error) => {
                self.fares.failed(self.kind, Cause::Garbage(error.to_string()));
                true
            }
            _ => false,
        }
    }

    /// Whether the server has an optional kind. That it has none is believed
    /// of its own lists alone: anybody can answer 404.
    async fn is_served(&self, watched: &Watched) -> Result<bool, Cause> {
        let list = self.client.list_api_groups().await.map_err(|error| cause(&error))?;
        let group = |name: &str| list.groups.iter().find(|group| group.name == name);
        let everywhere = KINDS.iter().filter(|known| !known.optional && !known.group().is_empty());
        if let Some(known) = everywhere.into_iter().find(|known| group(known.group()).is_none()) {
            return Err(Cause::Garbage(format!("no {} among its groups", known.group())));
        }
        let versions = group(watched.group()).into_iter().flat_map(|group| &group.versions);
        if !versions.into_iter().any(|version| version.group_version == watched.api) {
            return Ok(false);
        }
        let list = self.client.list_api_group_resources(watched.api).await.map_err(|error| cause(&error))?;
        if list.group_version != watched.api {
            return Err(Cause::Garbage(format!(
                "the kinds of {:?}, not of {}",
                list.group_version, watched.api
            )));
        }
        Ok(list.resources.iter().any(|resource| resource.name == watched.plural))
    }

    async fn say(&self, word: Word) -> Result<(), Gone> {
        self.said.send((self.kind, word)).await.map_err(|_| Gone)
    }

    /// Longer from failure to failure and from turn to turn, and for each agent
    /// another time.
    async fn pause(&self, short: u32) {
        let doublings = self.fares.failures(self.kind).saturating_sub(1).max(short).min(16);
        let pause = self.timing.pause.saturating_mul(1 << doublings).min(self.timing.longest);
        tokio::time::sleep(part(pause)).await;
    }
}

/// Waits until there is a second look to take.
async fn asked(looks: &mut watch::Receiver<u64>) -> Result<u64, Gone> {
    looks.changed().await.map_err(|_| Gone)?;
    Ok(*looks.borrow_and_update())
}

/// Half of a time, or up to all of it.
fn part(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() as u32;
    time / 2 + (time / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

fn plain<const POD: bool>(event: watcher::Event<OfKind<POD>>) -> watcher::Event<Listed> {
    use watcher::Event::*;
    match event {
        Apply(object) => Apply(object.0),
        Delete(object) => Delete(object.0),
        Init => Init,
        InitApply(object) => InitApply(object.0),
        InitDone => InitDone,
    }
}

/// An answer came, but not one that an API server gives.
fn is_garbage(error: &watcher::Error) -> bool {
    use watcher::Error as E;
    match error {
        E::InitialListFailed(error) | E::WatchStartFailed(error) | E::WatchFailed(error) => {
            matches!(error, Error::SerdeError(_) | Error::FromUtf8(_))
        }
        E::NoResourceVersion => true,
        E::WatchError(_) => false,
    }
}

fn cause_of(status: &Status) -> Cause {
    Cause::Refused(status.code, watchful::printable(&status.message))
}

fn cause(error: &Error) -> Cause {
    match error {
        Error::Api(status) => cause_of(status),
        Error::SerdeError(_) | Error::FromUtf8(_) => Cause::Garbage(error.to_string()),
        error => Cause::Silent(innermost(error)),
    }
}
