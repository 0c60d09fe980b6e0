//! The API server of Kubernetes, watched through kube: what it lists and what
//! it tells of changes, in the same events as a directory's.
//!
//! A task for each kind listens; one task puts together what they hear and says
//! it to the loop. Losing the server costs nothing but news.

mod client;
mod cluster;
mod events;
mod fare;
mod kinds;
mod listed;
mod store;
mod trouble;
mod watch;
mod watchful;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch as watch_channel},
    task::JoinSet,
    time::{Instant, sleep_until},
};

pub use client::Access;
pub use cluster::{Cluster, Word};
pub use events::{Recorder, Wrong};

use self::{
    fare::Fares,
    kinds::KINDS,
    store::Store,
    watch::{Listener, Said},
};
use super::speech::{Speech, Standing};
use crate::event::{Batch, Kind, Problem};

/// The name of the source.
pub const SOURCE: &str = "kubernetes";

/// Words of listeners that may wait.
const QUEUE: usize = 256;

/// How patient the provider is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// After the first failure; twice as long after each one more.
    pub pause: Duration,
    /// The longest of these pauses.
    pub longest: Duration,
    /// Between the beginnings of two watches of a kind.
    pub pace: Duration,
    /// Between looks whether a kind has been installed.
    pub discovery: Duration,
    /// The longest silence of a server that is asked: before its answer, and in
    /// the middle of one that is not a watch.
    pub answer: Duration,
    /// The longest that a busy server may have us wait.
    pub busy: Duration,
    /// Changes this close together are one batch.
    pub gather: Duration,
    /// Objects of a page of a list.
    pub page: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pause: Duration::from_millis(100),
            longest: Duration::from_secs(10),
            pace: Duration::from_millis(250),
            discovery: Duration::from_secs(60),
            answer: Duration::from_secs(30),
            busy: Duration::from_secs(60),
            gather: Duration::from_millis(2),
            page: 250,
        }
    }
}

/// Ends its tasks when dropped.
pub struct Kubernetes {
    fences: mpsc::UnboundedSender<u64>,
    /// The newest second look at each kind.
    looks: Vec<watch_channel::Sender<u64>>,
    tasks: JoinSet<()>,
    aside: kube::Client,
    timing: Timing,
}

impl Kubernetes {
    /// Starts to watch. Batches arrive until the receiver is gone.
    ///
    /// # Errors
    /// When the server's address or our credentials cannot be used; that it
    /// does not answer is no error.
    pub async fn spawn(
        access: &Access,
        timing: Timing,
        batches: mpsc::Sender<Batch>,
    ) -> anyhow::Result<Self> {
        let fares = Arc::new(Fares::new());
        let config = client::configuration(access).await?;
        let server = config.cluster_url.to_string();
        let client = client::connect(&config, timing, fares.clone())?;
        // What is asked beside the watches says nothing of how these fare.
        let aside = client::connect(&config, timing, Arc::new(Fares::new()))?;
        tracing::info!(%server, "watching the API server");
        let (said, heard) = mpsc::channel(QUEUE);
        let (fences, asked) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let mut looks = Vec::new();
        for kind in 0..KINDS.len() {
            let (client, fares, said) = (client.clone(), fares.clone(), said.clone());
            let (ask, asked) = watch_channel::channel(0);
            looks.push(ask);
            tasks.spawn(Listener { kind, client, timing, fares, said, looks: asked }.run());
        }
        let source: Arc<str> = SOURCE.into();
        let (store, speech) = (Store::new(source.clone()), Speech::new(source.clone()));
        let gather = timing.gather;
        let speaker = Speaker { source, server, store, fares, batches, gather, fence: 0, speech };
        tasks.spawn(speaker.run(heard, asked));
        Ok(Self { fences, looks, tasks, aside, timing })
    }

    /// The way to the other agents, by Leases of a namespace.
    pub fn cluster(&self, namespace: Arc<str>) -> Cluster {
        Cluster::new(self.aside.clone(), namespace, self.timing)
    }

    /// Tells the owners of objects what is wrong with them, as a node.
    pub fn recorder(&self, node: Arc<str>) -> Recorder {
        Recorder::new(self.aside.clone(), node)
    }

    /// Why it has stopped to listen, once it has: a bug.
    pub async fn died(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Err(error)) => anyhow::anyhow!("source {SOURCE}: {error}"),
            _ => anyhow::anyhow!("source {SOURCE}: a task has ended"),
        }
    }

    /// Asks for what was heard so far; the batch that ends it carries `fence`.
    /// When that batch is not `synced`, the server could not be heard.
    ///
    /// A watch cannot be asked whether it is up to date: what the server has
    /// not sent yet comes after.
    pub fn fence(&self, fence: u64) {
        // The task only ends before its owner when the loop has gone.
        let _ = self.fences.send(fence);
    }

    /// Lets these kinds be listed anew, from their beginning; the batch that
    /// ends it says so. While the server does not answer there is none.
    pub fn look(&self, kinds: &[Kind], number: u64) {
        for (watched, look) in KINDS.iter().zip(&self.looks) {
            if kinds.contains(&watched.kind) {
                look.send_replace(number);
            }
        }
    }
}

/// Puts together and says what is news.
struct Speaker {
    source: Arc<str>,
    server: String,
    store: Store,
    fares: Arc<Fares>,
    batches: mpsc::Sender<Batch>,
    gather: Duration,
    /// The newest that has not been answered.
    fence: u64,
    speech: Speech,
}

impl Speaker {
    async fn run(mut self, mut heard: mpsc::Receiver<Said>, mut asked: mpsc::UnboundedReceiver<u64>) {
        let mut due: Option<Instant> = None;
        loop {
            let fares = self.fares.clone();
            tokio::select! {
                said = heard.recv() => {
                    let Some((kind, word)) = said else { return };
                    self.store.take(kind, word);
                }
                () = fares.changed.notified() => {}
                fence = asked.recv() => {
                    let Some(fence) = fence else { return };
                    self.fence = self.fence.max(fence);
                    while let Ok((kind, word)) = heard.try_recv() {
                        self.store.take(kind, word);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    // Nothing is heard while the loop is busy: the server keeps it.
                    if self.say().await.is_err() {
                        return;
                    }
                    continue;
                }
            }
            due = due.or_else(|| Some(Instant::now() + self.gather));
        }
    }

    async fn say(&mut self) -> Result<(), mpsc::error::SendError<Batch>> {
        let events = self.store.news();
        let looked = self.store.looked();
        let troubles = self.fares.troubles();
        let mut problems: Vec<Problem> = self.store.problems().cloned().collect();
        let known = |kind| self.store.knows(kind);
        problems.extend(trouble::problems(&self.source, &self.server, &troubles, known));
        let whole = self.store.whole();
        let containers = self.store.knows_containers(&troubles, Instant::now().into_std());
        let marks = self.store.marks().map(Arc::new);
        let standing = Standing { problems, synced: whole && troubles.is_empty(), containers, marks };
        // Who asks while all is being listed for the first time waits for it.
        let fence = if whole || !troubles.is_empty() { std::mem::take(&mut self.fence) } else { 0 };
        match self.speech.batch(events, standing, fence, looked) {
            Some(batch) => self.batches.send(batch).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_dies_is_no_secret() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        tasks.spawn(async { panic!("a clock ran over") });
        let (fences, looks, timing) = (mpsc::unbounded_channel().0, Vec::new(), Timing::default());
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let aside = kube::Client::try_from(config).unwrap();
        let error = Kubernetes { fences, looks, tasks, aside, timing }.died().await;
        assert!(error.to_string().contains("a clock ran over"), "{error}");
    }
}
