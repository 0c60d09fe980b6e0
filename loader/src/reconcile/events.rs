//! Who hears of objects that cannot be served? Their owners, from the API server.

use std::sync::Arc;

use tokio::sync::watch;

use super::{agent::Agent, sources::Sources};
use crate::{
    config::AgentConfig,
    event::Problem,
    providers::kubernetes::{SOURCE, Wrong},
};

/// `None`: nobody.
pub(super) struct Owners(Option<watch::Sender<Wrong>>);

impl Owners {
    pub fn new(sources: &Sources, config: &AgentConfig) -> Self {
        let recorder = sources.recorder(&config.node).filter(|_| config.events);
        Self(recorder.map(|recorder| {
            let (wrong, heard) = watch::channel(Wrong::default());
            // Ends with the sender.
            tokio::spawn(recorder.run(heard));
            wrong
        }))
    }
}

impl Agent {
    /// Tells them what is wrong now, of all that is.
    pub(super) fn tell_owners(&self, problems: Vec<Problem>) {
        let Some(owners) = &self.owners.0 else { return };
        let is_of_the_api =
            |problem: &Problem| problem.origin.as_ref().is_some_and(|origin| *origin.source == *SOURCE);
        let wrong: Vec<Problem> = problems.into_iter().filter(is_of_the_api).collect();
        owners.send_if_modified(|before| {
            let is_news = *before.0 != wrong;
            *before = (if is_news { Arc::new(wrong) } else { before.0.clone() }, self.model.nodes().len());
            is_news
        });
    }
}
