//! Is a source to be believed that suddenly has almost nothing? Not before it
//! has said so twice: what it does not name any more is held, so that it is
//! served on. Pure; the loop asks for the second look.

mod memory;
mod ward;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::event::{Batch, Event, Kind, ObjectKey};

pub use memory::{Counts, Memory};
pub use ward::{Held, Said};

use ward::Ward;

/// When a loss is no longer believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// As many of the objects of a kind, at once, are held; 0: nothing ever is.
    pub percent: u8,
    /// How long what is held must be missed before a second look lets it go.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { percent: 90, patience: Duration::from_secs(30) }
    }
}

impl Limits {
    fn is_shrink(self, before: usize, after: usize) -> bool {
        let lost = before.saturating_sub(after);
        before >= ward::LEAST && self.percent > 0 && lost * 100 >= before * usize::from(self.percent)
    }
}

/// A source that is to be asked again: its name, and for which kinds.
pub type Question = (Arc<str>, Vec<Kind>);

#[derive(Debug, Default)]
struct Source {
    wards: BTreeMap<Kind, Ward>,
    /// It has said everything it knows once; and everything about containers.
    begun: bool,
    containers: bool,
    /// What an earlier agent had heard of it, until it has said all of a kind.
    remembered: BTreeMap<Kind, usize>,
}

#[derive(Debug)]
pub struct Guard {
    limits: Limits,
    sources: BTreeMap<Arc<str>, Source>,
    /// The number of the last second look.
    looks: u64,
}

impl Guard {
    /// `counts`: what an earlier agent had heard of each source and kind.
    pub fn new(limits: Limits, sources: &[Arc<str>], mut counts: Counts) -> Self {
        if limits.percent == 0 {
            // Nobody counts now, and old numbers would mislead a later agent.
            counts.clear();
        }
        let source = |name: &Arc<str>| {
            let remembered = counts.remove(&**name).unwrap_or_default();
            (name.clone(), Source { remembered, ..Source::default() })
        };
        Self { limits, sources: sources.iter().map(source).collect(), looks: 0 }
    }

    /// What of a batch is to be believed. `known`: what the source has said of
    /// an object before.
    pub fn take(
        &mut self,
        mut batch: Batch,
        now: Instant,
        known: impl Fn(&ObjectKey) -> Option<Said>,
    ) -> Batch {
        let limits = self.limits;
        let Some(source) = self.sources.get_mut(&batch.source).filter(|_| limits.percent > 0) else {
            return batch;
        };
        let before = source.held(limits);
        let mut kinds: BTreeMap<Kind, Vec<Event>> = BTreeMap::new();
        for event in std::mem::take(&mut batch.events) {
            kinds.entry(event.key.kind).or_default().push(event);
        }
        for (kind, events) in kinds {
            let ward = source.wards.entry(kind).or_default();
            batch.events.extend(ward.take(events, limits, now, &known));
        }
        source.begun |= batch.synced;
        source.containers |= batch.containers;
        let (begun, containers) = (source.begun, source.containers);
        let said = |kind: Kind| begun || containers && kind.is_about_containers();
        for (kind, before) in source.remembered.extract_if(.., |kind, _| said(*kind)) {
            source.wards.entry(kind).or_default().begin(before, limits, now);
        }
        for (kind, number) in &batch.looked {
            if let Some(ward) = source.wards.get_mut(kind) {
                batch.events.extend(ward.looked(*number, limits, now));
            }
        }
        source.tell(&batch.source, before, limits);
        source.withhold(batch, limits)
    }

    /// Lets everything go that is held of a source; the batch that says so, and
    /// how much it was. `None`: there is no such source.
    pub fn release(&mut self, name: &str) -> Option<(Batch, usize)> {
        let name = self.sources.get_key_value(name)?.0.clone();
        let source = self.sources.get_mut(&name)?;
        let held = source.held(self.limits);
        // Not even what it has not said yet is waited for.
        source.remembered.clear();
        let events = source.wards.values_mut().flat_map(Ward::release).collect();
        if held > 0 {
            tracing::info!(source = %name, held, "let go by hand");
        }
        Some((source.batch(name, events, self.limits), held))
    }

    /// Lets go what others have come in place of; the batches that say so.
    pub fn settle(&mut self, now: Instant) -> Vec<Batch> {
        let limits = self.limits;
        let settle = |(name, source): (&Arc<str>, &mut Source)| {
            let events: Vec<Event> = source.wards.values_mut().flat_map(|ward| ward.settle(now)).collect();
            (!events.is_empty()).then(|| source.batch(name.clone(), events, limits))
        };
        self.sources.iter_mut().filter_map(settle).collect()
    }

    /// When a source is to be asked again, or something is to [settle](Self::settle).
    pub fn due(&self) -> Option<Instant> {
        let wards = self.sources.values().flat_map(|source| source.wards.values());
        wards.flat_map(|ward| ward.due(self.limits).into_iter().chain(ward.settles())).min()
    }

    /// Who is to be asked now, under which number.
    pub fn ask(&mut self, now: Instant) -> (u64, Vec<Question>) {
        self.looks += 1;
        let mut questions = Vec::new();
        for (name, source) in &mut self.sources {
            let due = |ward: &Ward| ward.due(self.limits).is_some_and(|due| due <= now);
            let wards = source.wards.iter_mut().filter(|(_, ward)| due(ward));
            let ask = |(kind, ward): (&Kind, &mut Ward)| {
                ward.ask(self.looks, now);
                *kind
            };
            let kinds: Vec<Kind> = wards.map(ask).collect();
            if !kinds.is_empty() {
                questions.push((name.clone(), kinds));
            }
        }
        (self.looks, questions)
    }

    /// What is held of a source, by kind.
    pub fn held(&self, source: &str) -> impl Iterator<Item = (Kind, Held)> {
        let wards = self.sources.get(source).into_iter().flat_map(|source| &source.wards);
        wards.filter_map(|(kind, ward)| Some((*kind, ward.held(self.limits)?)))
    }

    /// What an agent that starts after this one has to know.
    pub fn counts(&self) -> Counts {
        let of = |source: &Source| {
            let wards = source.wards.iter().map(|(kind, ward)| (*kind, ward.count()));
            let mut counts: BTreeMap<Kind, usize> = wards.filter(|(_, count)| *count > 0).collect();
            // Of these it has not said all.
            counts.extend(&source.remembered);
            counts
        };
        self.sources.iter().map(|(name, source)| (name.to_string(), of(source))).collect()
    }

    /// Forgets what is only kept for a few seconds.
    pub fn expire(&mut self, now: Instant) {
        let wards = self.sources.values_mut().flat_map(|source| source.wards.values_mut());
        wards.for_each(|ward| ward.expire(now));
    }
}

impl Source {
    /// What becomes of what was held, in words of the source.
    fn batch(&self, name: Arc<str>, events: Vec<Event>, limits: Limits) -> Batch {
        let (synced, containers) = (self.begun, self.containers);
        let batch = Batch { source: name, events, synced, containers, ..Batch::default() };
        self.withhold(batch, limits)
    }

    /// Until it is known what an earlier agent had, nothing that this left is deleted,
    /// and its policies stay in force.
    fn withhold(&self, mut batch: Batch, limits: Limits) -> Batch {
        batch.synced &= !self.has_earlier(limits, |_| true);
        batch.containers &= !self.has_earlier(limits, Kind::is_about_containers);
        batch
    }

    fn held(&self, limits: Limits) -> usize {
        self.wards.values().filter_map(|ward| ward.held(limits)).map(|held| held.objects).sum()
    }

    /// Whether of one of these kinds it is not known what an earlier agent had.
    fn has_earlier(&self, limits: Limits, of: impl Fn(Kind) -> bool) -> bool {
        let wards = self.wards.iter().filter(|(kind, _)| of(**kind));
        wards.filter_map(|(_, ward)| ward.held(limits)).any(|held| held.earlier)
    }

    fn tell(&self, name: &str, before: usize, limits: Limits) {
        let held = self.held(limits);
        match held {
            0 if before > 0 => tracing::info!(source = name, "nothing is held any more"),
            _ if held > before => {
                for (kind, ward) in &self.wards {
                    if let Some(Held { objects, of, .. }) = ward.held(limits) {
                        tracing::warn!(source = name, %kind, objects, of, "gone at once: held, and served on");
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
