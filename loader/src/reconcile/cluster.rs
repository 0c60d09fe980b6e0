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
        let (words, spoken) = watch::channel(Word::default());
        let trouble: Arc<ArcSwapOption<String>> = Arc::default();
        let cluster = config.lease_namespace.as_deref().and_then(|namespace| sources.cluster(namespace));
        if let Some(cluster) = cluster.clone() {
            // Ends with the sender.
            tokio::spawn(cluster.publish(config.node.as_str().into(), spoken, trouble.clone()));
        }
        Self { cluster, words, trouble, heard: None }
    }

    /// Publishes this, if it is news.
    fn say(&self, word: Word) {
        self.words.send_if_modified(|before| {
            let is_news = *before != word;
            *before = word;
            is_news
        });
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
    /// Publishes what was heard, if all of it stands.
    pub(super) fn tell_cluster(&mut self) {
        if self.published.cluster.is_some()
            && self.stands()
            && let Some((revision, marks)) = &self.published.heard
        {
            let read_back = ReadBack { revision: *revision, kinds: (**marks).clone() };
            self.published.say((read_back, self.model.nodes().len()));
        }
    }

    /// After a look at everything: what does not stand now is not said to.
    pub(super) fn tell_cluster_the_truth(&mut self) {
        if self.stands() {
            self.tell_cluster();
        } else {
            self.published.say((ReadBack::default(), self.model.nodes().len()));
        }
    }

    /// Nothing stands any more, and nobody will be there to say so.
    pub(super) async fn leave_cluster(&mut self) {
        self.published.say(Word::default());
        if let Some(cluster) = &self.published.cluster
            && let Err(error) = cluster.withdraw(&self.config.node).await
        {
            tracing::warn!(%error, "other nodes do not hear that this one has nothing any more");
        }
    }

    /// Asks the others, in a task of its own.
    pub(super) fn ask_cluster(&self, until: Instant, mut reply: Reply<ClusterView>) {
        let Some(cluster) = self.published.cluster.clone() else {
            let why = "no API server connects this node with others: `causeway agent --kubernetes`, with a \
                       --lease-namespace";
            let _ = reply.send(Err(why.into()));
            return;
        };
        tokio::spawn(async move {
            let answer = tokio::select! {
                answer = cluster.wait(until) => answer,
                // The client has gone.
                () = reply.closed() => return,
            };
            let _ = reply.send(answer);
        });
    }
}
