//! What is news of a source? Events, and whatever else is not as it was said
//! last.

use std::sync::Arc;

use crate::event::{Batch, Event, Problem};

/// How things stand with a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Everything that is wrong in it now.
    pub problems: Vec<Problem>,
    /// See [`Batch`].
    pub synced: bool,
    pub containers: bool,
}

pub struct Speech {
    source: Arc<str>,
    said: Option<Standing>,
}

impl Speech {
    pub fn new(source: Arc<str>) -> Self {
        Self { source, said: None }
    }

    /// `None`: there is nothing to say.
    pub fn batch(&mut self, events: Vec<Event>, standing: Standing, fence: u64) -> Option<Batch> {
        let news = self.said.as_ref() != Some(&standing);
        if events.is_empty() && !news && fence == 0 {
            return None;
        }
        if news {
            self.said = Some(standing.clone());
        }
        let Standing { problems, synced, containers } = standing;
        Some(Batch { source: self.source.clone(), events, problems, fence, synced, containers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_and_answers_are_said() {
        let mut speech = Speech::new("a".into());
        let standing = |synced| Standing { problems: Vec::new(), synced, containers: false };
        assert!(speech.batch(Vec::new(), standing(false), 0).is_some(), "the first word");
        assert!(speech.batch(Vec::new(), standing(false), 0).is_none());
        assert_eq!(speech.batch(Vec::new(), standing(false), 3).map(|batch| batch.fence), Some(3));
        assert!(speech.batch(Vec::new(), standing(true), 0).is_some_and(|batch| batch.synced));
        let containers = Standing { containers: true, ..standing(true) };
        assert!(speech.batch(Vec::new(), containers, 0).is_some_and(|batch| batch.containers));
    }
}
