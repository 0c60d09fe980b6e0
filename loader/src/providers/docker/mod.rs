//! The Docker engine of this node: its containers are pods by their labels, and
//! backends of the services that their labels name.
//!
//! Events only say when to look; what counts is what is seen then. So nothing is
//! lost with an event, with the engine's restart or with ours.

mod containers;
mod labels;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::{API_DEFAULT_VERSION, errors::Error, query_parameters::EventsOptions};
use futures_util::{StreamExt, stream::BoxStream};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::speech::{Speech, Standing};
use crate::event::{Batch, Event, Object, ObjectKey, Origin, Problem};

use containers::Container;

/// The name of the source.
pub const SOURCE: &str = "docker";
/// Where the engine answers unless told otherwise.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// How long the engine may take for all that is asked in a look.
const ANSWER: Duration = Duration::from_secs(10);
/// Events this close together are one look.
const GATHER: Duration = Duration::from_millis(2);
/// A look even when nobody said that anything changed.
const POLL: Duration = Duration::from_secs(10);
/// Before an engine that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(250);
/// What may change something.
const EVENTS: [&str; 12] = [
    "create",
    "start",
    "restart",
    "die",
    "destroy",
    "pause",
    "unpause",
    "rename",
    "update",
    "health_status",
    "connect",
    "disconnect",
];

type Events = BoxStream<'static, Result<bollard::models::EventMessage, Error>>;
/// Everything that was said, by its name.
type Objects = BTreeMap<ObjectKey, (Arc<Object>, Arc<Origin>)>;

/// Ends its task when dropped.
pub struct Docker {
    fences: mpsc::UnboundedSender<u64>,
    task: JoinHandle<()>,
}

impl Docker {
    /// Starts to watch the engine at `host` (`unix://...`); its containers are on
    /// `node`. That it does not answer is no error.
    pub fn spawn(host: String, node: Arc<str>, batches: mpsc::Sender<Batch>) -> Self {
        let (fences, asked) = mpsc::unbounded_channel();
        let source: Arc<str> = SOURCE.into();
        let watch = Watch {
            host,
            node,
            speech: Speech::new(source.clone()),
            source,
            asked,
            batches,
            said: Objects::new(),
            known: false,
            fence: 0,
        };
        Self { fences, task: tokio::spawn(watch.run()) }
    }

    /// Asks for a look now; the batch that ends it carries `fence`.
    pub fn fence(&self, fence: u64) {
        // The task only ends before its owner when the loop has gone.
        let _ = self.fences.send(fence);
    }

    /// Once it has stopped to listen: a bug.
    pub async fn died(&mut self) -> anyhow::Error {
        let _ = (&mut self.task).await;
        anyhow::anyhow!("source {SOURCE}: a task has ended")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watch {
    host: String,
    node: Arc<str>,
    source: Arc<str>,
    speech: Speech,
    asked: mpsc::UnboundedReceiver<u64>,
    batches: mpsc::Sender<Batch>,
    said: Objects,
    /// The engine has answered once.
    known: bool,
    /// The newest that waits for the end of a look, or 0.
    fence: u64,
}

impl Watch {
    async fn run(mut self) {
        let mut engine: Option<(bollard::Docker, Events)> = None;
        loop {
            let looked = timeout(ANSWER, self.look_at(&mut engine)).await;
            let looked = looked.unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}")));
            let goes_on = match looked {
                Ok(containers) => self.say(&containers).await,
                Err(error) => {
                    engine = None;
                    self.say_trouble(&error).await
                }
            };
            if !goes_on {
                return;
            }
            let Some((_, events)) = &mut engine else {
                self.pause().await;
                continue;
            };
            // What cannot tell of changes is asked now and then.
            if let Err(error) = self.wait(events).await {
                engine = None;
                if !self.say_trouble(&error).await {
                    return;
                }
                self.pause().await;
            }
        }
    }

    async fn look_at(
        &self,
        engine: &mut Option<(bollard::Docker, Events)>,
    ) -> Result<Vec<Container>, String> {
        let words = |error: Error| error.to_string();
        if engine.is_none() {
            *engine = Some(self.connect().await.map_err(words)?);
        }
        let Some((docker, _)) = engine else { return Ok(Vec::new()) };
        containers::list(docker).await.map_err(words)
    }

    /// With the events from this moment on, which is before anything is looked at.
    async fn connect(&self) -> Result<(bollard::Docker, Events), Error> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let docker = bollard::Docker::connect_with_socket(&self.host, ANSWER.as_secs(), API_DEFAULT_VERSION)?;
        let docker = docker.negotiate_version().await?;
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let filters = [("type", words(&["container", "network"])), ("event", words(&EVENTS))];
        let filters = filters.map(|(key, values)| (key.to_owned(), values)).into();
        let since = Some(since.to_string());
        let options = EventsOptions { since, filters: Some(filters), ..EventsOptions::default() };
        let events = docker.events(Some(options));
        Ok((docker, events.boxed()))
    }

    /// Before an engine that has not answered is asked again.
    async fn pause(&mut self) {
        let again = Instant::now() + PAUSE;
        loop {
            tokio::select! {
                () = sleep_until(again) => return,
                Some(fence) = self.asked.recv() => self.fence = fence,
            }
        }
    }

    /// Until there is a reason to look.
    ///
    /// # Errors
    /// Why there are no more events.
    async fn wait(&mut self, events: &mut Events) -> Result<(), String> {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(format!("its events: {error}")),
                None => return Err("its events have ended".into()),
            },
            Some(fence) = self.asked.recv() => self.fence = fence,
            () = tokio::time::sleep(POLL) => {}
        }
        let end = Instant::now() + GATHER;
        while let Ok(Some(Ok(_))) = timeout(end - Instant::now(), events.next()).await {}
        while let Ok(fence) = self.asked.try_recv() {
            self.fence = fence;
        }
        Ok(())
    }

    /// What is not as it was said last; false when nobody hears it any more.
    async fn say(&mut self, containers: &[Container]) -> bool {
        self.known = true;
        let (objects, problems) = labels::objects(containers, &self.node, &self.source);
        let mut events = Vec::new();
        for (key, (object, origin)) in &objects {
            let same = self.said.get(key).is_some_and(|(said, _)| said == object);
            if !same {
                events.push(Event { key: key.clone(), object: Some((object.clone(), origin.clone())) });
            }
        }
        let gone = self.said.keys().filter(|key| !objects.contains_key(key));
        events.extend(gone.map(|key| Event { key: key.clone(), object: None }));
        self.said = objects;
        self.send(events, problems, true).await
    }

    /// All stays as it was said last.
    async fn say_trouble(&mut self, error: &str) -> bool {
        let problem = Problem {
            origin: None,
            object: String::new(),
            field: String::new(),
            message: format!("the Docker engine at {} does not answer: {error}", self.host),
        };
        self.send(Vec::new(), vec![problem], false).await
    }

    async fn send(&mut self, events: Vec<Event>, problems: Vec<Problem>, readable: bool) -> bool {
        let standing = Standing { problems, synced: readable, containers: self.known, marks: None };
        let fence = std::mem::take(&mut self.fence);
        match self.speech.batch(events, standing, fence, BTreeMap::new()) {
            Some(batch) => self.batches.send(batch).await.is_ok(),
            None => true,
        }
    }
}
