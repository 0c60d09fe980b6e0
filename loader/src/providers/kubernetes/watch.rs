//! Who listens to one kind? kube's watcher lists, watches and resumes; here is
//! what becomes of its errors.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use kube::{
    Api, Client, Error,
    runtime::watcher::{self, watcher},
};
use tokio::sync::mpsc::Sender;

use super::{
    Timing,
    client::innermost,
    fare::{Cause, Fares},
    kinds::{Index, KINDS, Watched},
    listed::Listed,
    store::Word,
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
}

impl Listener {
    pub async fn run(self) {
        while self.turn().await.is_ok() {}
    }

    /// From a list to an error that only another list mends.
    async fn turn(&self) -> Result<(), Gone> {
        let watched = &KINDS[self.kind];
        if watched.optional {
            match self.is_served(watched).await {
                Ok(true) => {}
                Ok(false) => {
                    self.fares.understood(self.kind);
                    self.say(Word::Absent).await?;
                    // It may be installed later.
                    tokio::time::sleep(part(self.timing.discovery)).await;
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(kind = watched.name, %error, "cannot ask for the kinds of the server");
                    self.fares.failed(self.kind, cause(&error));
                    self.pause().await;
                    return Ok(());
                }
            }
        }
        let config = watcher::Config::default().page_size(self.timing.page);
        let mut events = pin!(watcher(Api::<Listed>::all_with(self.client.clone(), watched), config));
        loop {
            match events.next().await {
                Some(Ok(event)) => {
                    if !matches!(event, watcher::Event::Init) {
                        self.fares.understood(self.kind);
                    }
                    self.say(Word::Event(event)).await?;
                }
                Some(Err(error)) => {
                    tracing::debug!(kind = watched.name, %error, "the watch failed");
                    let status = status(&error);
                    if status.is_none() && is_garbage(&error) {
                        self.fares.failed(self.kind, Cause::Garbage(error.to_string()));
                    }
                    if matches!(status, Some(403 | 404)) {
                        self.say(Word::Refused).await?;
                    }
                    self.pause().await;
                    // A watch that is told in place of its first event that it
                    // comes too late would ask for the same again.
                    let starts_over = matches!(status, Some(404 | 410));
                    if starts_over && !matches!(error, watcher::Error::WatchError(_)) {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            }
        }
    }

    /// Whether the server has an optional kind.
    async fn is_served(&self, watched: &Watched) -> Result<bool, Error> {
        match self.client.list_api_group_resources(watched.api).await {
            Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == watched.plural)),
            Err(Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn say(&self, word: Word) -> Result<(), Gone> {
        self.said.send((self.kind, word)).await.map_err(|_| Gone)
    }

    /// Longer from failure to failure, and for each agent another time.
    async fn pause(&self) {
        let doublings = self.fares.failures(self.kind).saturating_sub(1).min(16);
        let pause = self.timing.pause.saturating_mul(1 << doublings).min(self.timing.longest);
        tokio::time::sleep(part(pause)).await;
    }
}

/// Half of a time, or up to all of it.
fn part(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() as u32;
    time / 2 + (time / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

fn status(error: &watcher::Error) -> Option<u16> {
    use watcher::Error as E;
    match error {
        E::InitialListFailed(Error::Api(status))
        | E::WatchStartFailed(Error::Api(status))
        | E::WatchFailed(Error::Api(status)) => Some(status.code),
        E::WatchError(status) => Some(status.code),
        _ => None,
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

fn cause(error: &Error) -> Cause {
    match error {
        Error::Api(status) => Cause::of_status(status.code),
        Error::SerdeError(_) | Error::FromUtf8(_) => Cause::Garbage(error.to_string()),
        error => Cause::Silent(innermost(error)),
    }
}
