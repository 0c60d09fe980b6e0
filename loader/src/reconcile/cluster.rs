//! What do other nodes hear of this one, and this one of them?

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::{sync::watch, time::Instant};

use super::{agent::Agent, sources::Sources};
use crate::{
    cluster::ReadBack,
    config::AgentConfig,
    event::marks::Marks,
    providers::kubernetes::{Cluster, Word},
    snapshot::{ClusterView, Reply},
};

/// What is published of this node.
pub(super) struct Published {
    /// `None`: nobody is told.
    cluster: Option<Cluster>,
    words: watch::Sender<Word>,
    trouble: Arc<ArcSwapOption<String>>,
    /// How far the API server had been read when the model was of this revision.
    heard: Option<(u64, Arc<Marks>)>,
}

impl Published {
    pub fn new(sources: &Sources, config: &AgentConfig) -> Self {
        let (words, spoken) = watch::channel(None);
        let trouble: Arc<ArcSwapOption<String>> = Arc::default();
        let cluster = config.lease_namespace.as_deref().and_then(|namespace| sources.cluster(namespace));
        if let Some(cluster) = cluster.clone() {
            // Ends with the sender.
            tokio::spawn(cluster.publish(config.node.as_str().into(), spoken, trouble.clone()));
        }
        Self { cluster, words, trouble, heard: None }
    }

    pub fn hear(&mut self, revision: u64, marks: Arc<Marks>) {
        self.heard = Some((revision, marks));
    }

    /// Why others do not hear of this node, if they do not.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.load();
        trouble.as_ref().map(|why| format!("other nodes do not hear how far this one is: {why}"))
    }
}

impl Agent {
    /// Publishes what was heard, once it stands.
    pub(super) fn tell_cluster(&mut self) {
        let Some((revision, marks)) = &self.published.heard else { return };
        if self.published.cluster.is_none() || self.applied_revision < *revision || !self.stands() {
            return;
        }
        let word =
            Some((ReadBack { revision: *revision, kinds: (**marks).clone() }, self.model.nodes().len()));
        self.published.words.send_if_modified(|before| {
            let is_news = *before != word;
            *before = word;
            is_news
        });
        self.published.heard = None;
    }

    /// Asks the others, in a task of its own.
    pub(super) fn ask_cluster(&self, until: Instant, reply: Reply<ClusterView>) {
        let Some(cluster) = self.published.cluster.clone() else {
            let why = "no API server connects this node with others: `causeway agent --kubernetes`, with a \
                       --lease-namespace";
            let _ = reply.send(Err(why.into()));
            return;
        };
        tokio::spawn(async move {
            // Nobody waits any more when the client has gone.
            let _ = reply.send(cluster.wait(until).await);
        });
    }
}
