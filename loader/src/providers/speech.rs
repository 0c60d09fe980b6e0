//! What is news of a source? Events, and whatever else is not as it was said
//! last.

use std::{collections::BTreeMap, sync::Arc};

use crate::event::{Batch, Event, Kind, Problem, marks::Marks};

/// How things stand with a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Everything that is wrong in it now.
    pub problems: Vec<Problem>,
    /// See [`Batch`].
    pub synced: bool,
    pub containers: bool,
    pub marks: Option<Arc<Marks>>,
}

pub struct Speech {
    source: Arc<str>,
    said: Option<Standing>,
}

impl Speech {
    pub fn new(source: Arc<str>) -> Self {
        Self { source, said: None }
    }

    /// With the newest fence and the second looks that it answers, if any. `None`:
    /// there is nothing to say.
    pub fn batch(
        &mut self,
        events: Vec<Event>,
        standing: Standing,
        fence: u64,
        looked: BTreeMap<Kind, u64>,
    ) -> Option<Batch> {
        let news = self.said.as_ref() != Some(&standing);
        if events.is_empty() && looked.is_empty() && !news && fence == 0 {
            return None;
        }
        if news {
            self.said = Some(standing.clone());
        }
        let Standing { problems, synced, containers, marks } = standing;
        let source = self.source.clone();
        Some(Batch { source, events, problems, fence, looked, synced, containers, marks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_and_answers_are_said() {
        let mut speech = Speech::new("a".into());
        let mut say = |synced, containers, fence, looked| {
            let standing = Standing { problems: Vec::new(), synced, containers, marks: None };
            speech.batch(Vec::new(), standing, fence, looked)
        };
        let none = BTreeMap::new;
        assert!(say(false, false, 0, none()).is_some(), "the first word");
        assert!(say(false, false, 0, none()).is_none());
        assert_eq!(say(false, false, 3, none()).map(|batch| batch.fence), Some(3));
        assert!(
            say(false, false, 0, [(Kind::Service, 1)].into()).is_some_and(|batch| !batch.looked.is_empty())
        );
        assert!(say(true, false, 0, none()).is_some_and(|batch| batch.synced));
        assert!(say(true, true, 0, none()).is_some_and(|batch| batch.containers));
    }
}
