//! What becomes of a source that has suddenly lost almost everything: held,
//! told, asked again, let go.

use std::time::{Duration, Instant, SystemTime};

use super::agent::Agent;
use crate::{
    event::{Batch, Kind},
    guard::{Guard, Held, Memory},
    moment,
    snapshot::HeldView,
};

/// The guard, and what it is to remember.
pub(super) struct Guarded {
    guard: Guard,
    memory: Memory,
    /// Its clock, and the one on the wall, when the agent started.
    clock: (Instant, SystemTime),
    /// What could not be written last.
    unwritten: Option<String>,
}

impl Guarded {
    pub fn new(guard: Guard, memory: Memory) -> Self {
        Self { guard, memory, clock: (Instant::now(), SystemTime::now()), unwritten: None }
    }

    /// How long the loop may sleep before a source is to be asked again.
    pub fn until_look(&self, now: Instant) -> Duration {
        self.guard.due().map_or(Duration::MAX, |due| due.saturating_duration_since(now))
    }

    pub fn held(&self, source: &str) -> Vec<HeldView> {
        self.guard.held(source).map(|(kind, held)| self.view(kind, &held)).collect()
    }

    fn view(&self, kind: Kind, held: &Held) -> HeldView {
        let text = |at: Instant| moment::text(self.clock.1 + at.saturating_duration_since(self.clock.0));
        HeldView {
            kind: kind.to_string(),
            objects: held.objects,
            of: held.of,
            since: text(held.since),
            again: held.again.map(text),
            earlier: held.earlier,
        }
    }

    /// Keeps for the next agent how much each source has. `last`: this one ends.
    pub fn remember(&mut self, last: bool) {
        let now = Instant::now();
        self.guard.expire(now);
        let error = self.memory.keep(self.guard.counts(), last, now).err().map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|error| self.unwritten.as_ref() != Some(error)) {
            // All that it costs is a guess when the agent starts the next time.
            tracing::warn!(%error, "cannot remember how much each source has");
        }
        self.unwritten = error;
    }

    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(&mut self) -> std::io::Result<()> {
        self.memory.forget()
    }
}

impl Agent {
    /// What of a batch is believed.
    pub fn believed(&mut self, batch: Batch) -> Batch {
        let (model, source) = (&self.model, batch.source.clone());
        self.guarded.guard.take(batch, Instant::now(), |key| model.said(&source, key))
    }

    /// Asks the sources whose loss has lasted long enough, and lets go what others
    /// have come in place of.
    pub async fn look_again(&mut self) {
        for mut batch in self.guarded.guard.settle(Instant::now()) {
            tracing::info!(source = %batch.source, gone = batch.events.len(), "others are in their place");
            batch.problems = self.model.problems_of(&batch.source).to_vec();
            let start = Instant::now();
            let touched = self.model.apply(batch);
            self.enact(touched, false, start).await;
        }
        let (number, questions) = self.guarded.guard.ask(Instant::now());
        for (source, kinds) in questions {
            tracing::info!(%source, ?kinds, "asked again whether it has lost so much");
            self.sources.look(&source, kinds, number);
        }
        self.publish();
    }

    /// Carries out what is held of a source; how many objects that was.
    pub async fn release_source(&mut self, name: &str) -> Result<usize, String> {
        let Some((mut batch, held)) = self.guarded.guard.release(name) else {
            let names: Vec<String> = self.sources.names().iter().map(ToString::to_string).collect();
            return Err(format!("there is no source {name:?}: use {}", names.join(" or ")));
        };
        batch.problems = self.model.problems_of(name).to_vec();
        let start = Instant::now();
        let touched = self.model.apply(batch);
        self.enact(touched, true, start).await;
        self.guarded.remember(false);
        Ok(held)
    }
}
