//! Who speaks to this agent, and who waits for what they say?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Context;
use tokio::sync::mpsc;

use crate::{
    config::AgentConfig,
    event::{Batch, Kind},
    providers::{
        docker::{self, Docker},
        kubernetes::{self, Cluster, Kubernetes, Recorder, Timing},
        manifests::{self, Manifests},
    },
    snapshot::Reply,
};

/// The providers that the configuration names, started.
pub struct Sources {
    manifests: Option<Manifests>,
    kubernetes: Option<Kubernetes>,
    docker: Option<Docker>,
    /// The way to other agents of one that has no sources.
    cluster: Option<Cluster>,
}

/// The source of an agent that has none.
const NOBODY: &str = "nobody";

impl Sources {
    /// # Errors
    /// Names the source that cannot be started.
    pub async fn spawn(config: &AgentConfig, batches: mpsc::Sender<Batch>) -> anyhow::Result<Self> {
        let manifests = config.manifests.clone().map(|path| Manifests::spawn(path, batches.clone()));
        let manifests = manifests.transpose().context("start the thread that reads manifests")?;
        let kubernetes = match &config.kubernetes {
            Some(access) => Some(Kubernetes::spawn(access, Timing::default(), batches.clone()).await?),
            None => None,
        };
        let node: Arc<str> = config.node.as_str().into();
        let docker = config.docker.clone().map(|host| Docker::spawn(host, node, batches));
        Ok(Self { manifests, kubernetes, docker, cluster: None })
    }

    /// For an agent that is to end everything: somebody who never says anything, so
    /// that what stands is in force until it is taken away.
    pub async fn silent(config: &AgentConfig) -> Self {
        let cluster = match (&config.kubernetes, &config.lease_namespace) {
            (Some(access), Some(namespace)) => {
                let cluster = Cluster::connect(access, namespace.as_str().into(), Timing::default()).await;
                let told = "other nodes do not hear that this one has nothing any more";
                cluster.inspect_err(|error| tracing::warn!(%error, "{told}")).ok()
            }
            _ => None,
        };
        Self { manifests: None, kubernetes: None, docker: None, cluster }
    }

    /// Why a source has stopped to speak, once one has. (The thread that reads
    /// manifests holds a sender; the API's tasks are many.)
    pub async fn died(&mut self) -> anyhow::Error {
        let kubernetes = async {
            match &mut self.kubernetes {
                Some(kubernetes) => kubernetes.died().await,
                None => std::future::pending().await,
            }
        };
        let docker = async {
            match &mut self.docker {
                Some(docker) => docker.died().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { error = kubernetes => error, error = docker => error }
    }

    /// The first is trusted most: what an operator has put on this node.
    pub fn names(&self) -> Vec<Arc<str>> {
        let manifests = self.manifests.as_ref().map(|_| manifests::SOURCE.into());
        let kubernetes = self.kubernetes.as_ref().map(|_| kubernetes::SOURCE.into());
        let docker = self.docker.as_ref().map(|_| docker::SOURCE.into());
        let names: Vec<Arc<str>> = manifests.into_iter().chain(kubernetes).chain(docker).collect();
        if names.is_empty() { vec![NOBODY.into()] } else { names }
    }

    /// Asks every source for a look now; each says so in a batch with `fence`.
    pub fn fence(&self, fence: u64) {
        if let Some(manifests) = &self.manifests {
            manifests.fence(fence);
        }
        if let Some(kubernetes) = &self.kubernetes {
            kubernetes.fence(fence);
        }
        if let Some(docker) = &self.docker {
            docker.fence(fence);
        }
    }

    /// The way to other agents, where there is an API server.
    pub fn cluster(&self, namespace: &str) -> Option<Cluster> {
        let watched = self.kubernetes.as_ref().map(|kubernetes| kubernetes.cluster(namespace.into()));
        watched.or_else(|| self.cluster.clone())
    }

    /// Who tells of objects that cannot be served, where there is an API server.
    pub fn recorder(&self, node: &str) -> Option<Recorder> {
        self.kubernetes.as_ref().map(|kubernetes| kubernetes.recorder(node.into()))
    }

    /// Asks a source to list these kinds anew; it says so in a batch. Until
    /// then it has not answered, however long that takes.
    pub fn look(&self, source: &str, kinds: Vec<Kind>, number: u64) {
        match (source, &self.manifests, &self.kubernetes) {
            (manifests::SOURCE, Some(manifests), _) => manifests.look(kinds, number),
            (kubernetes::SOURCE, _, Some(kubernetes)) => kubernetes.look(&kinds, number),
            // Docker's engine is not doubted.
            _ => {}
        }
    }
}

/// Those who wait until each source has looked again.
#[derive(Default)]
pub struct Fences {
    newest: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    reply: Reply<u64>,
    /// Who has not said anything yet.
    sources: BTreeSet<Arc<str>>,
    /// Who could not look.
    unread: Option<Arc<str>>,
}

impl Fences {
    /// Notes one more who waits; the number to ask the sources with.
    pub fn ask(&mut self, reply: Reply<u64>, sources: Vec<Arc<str>>) -> u64 {
        self.newest += 1;
        let sources = sources.into_iter().collect();
        self.waiting.insert(self.newest, Waiting { reply, sources, unread: None });
        self.newest
    }

    /// A source has looked, or could not, since it was asked for this fence and
    /// those before it.
    pub fn said(&mut self, source: &Arc<str>, fence: u64, readable: bool) {
        for (_, waiting) in self.waiting.range_mut(..=fence) {
            waiting.sources.remove(source);
            if !readable {
                waiting.unread = Some(source.clone());
            }
        }
    }

    /// Answers those for whom every source has spoken.
    pub fn answer(&mut self, revision: u64) {
        let done = self.waiting.extract_if(.., |_, waiting| waiting.sources.is_empty());
        for (_, Waiting { reply, unread, .. }) in done {
            let answer = match unread {
                None => Ok(revision),
                Some(source) => {
                    Err(format!("source {source} cannot be read now: `causeway status` says why"))
                }
            };
            // Nobody waits any more when the client has gone.
            let _ = reply.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::oneshot, time::timeout};

    use super::*;
    use crate::config::Settings;

    #[tokio::test]
    async fn a_source_that_stops_to_speak_is_missed() {
        let kubernetes_server = Some("http://127.0.0.1:1".to_owned());
        let settings = Settings { kubernetes_server, ..Settings::default() };
        let config = settings.resolve(Settings::default(), &[]).unwrap();
        let (batches, mut said) = mpsc::channel(1);
        let mut sources = Sources::spawn(&config, batches).await.unwrap();
        assert!(!said.recv().await.unwrap().problems.is_empty());
        timeout(Duration::from_millis(100), sources.died()).await.unwrap_err();
        // Who finds nobody to tell ends.
        drop(said);
        sources.fence(1);
        let error = timeout(Duration::from_secs(20), sources.died()).await.unwrap();
        assert_eq!(error.to_string(), "source kubernetes: a task has ended");
    }

    #[test]
    fn an_answer_waits_for_every_source() {
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        let mut fences = Fences::default();
        let mut ask = || {
            let (reply, answer) = oneshot::channel();
            (fences.ask(reply, vec![a.clone(), b.clone()]), answer)
        };
        let ((first, mut one), (second, mut two)) = (ask(), ask());
        fences.said(&a, second, true);
        fences.said(&b, first, true);
        fences.answer(7);
        assert_eq!(one.try_recv().unwrap(), Ok(7));
        assert!(two.try_recv().is_err(), "b has not looked again");
        fences.said(&b, second, false);
        fences.answer(8);
        assert!(two.try_recv().unwrap().unwrap_err().contains("source b"));
    }
}
