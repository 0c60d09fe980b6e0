//! What has one source said, whatever the others say?

use super::{Model, Said, Slot};
use crate::event::{Batch, ObjectKey, Problem};

impl Model {
    /// What a source has said of an object.
    pub fn said(&self, source: &str, key: &ObjectKey) -> Option<Said> {
        self.slot(source)?.objects.get(key).cloned()
    }

    /// Whether a batch says more than how far its source was read.
    pub fn is_news(&self, batch: &Batch) -> bool {
        let is_news = |slot: &Slot| {
            let begun = (batch.synced && !slot.synced) || (batch.containers && !slot.containers);
            let speaks = !batch.events.is_empty() || !batch.looked.is_empty();
            begun || speaks || batch.problems != slot.problems
        };
        self.slot(&batch.source).is_none_or(is_news)
    }

    /// What is wrong in a source.
    pub fn problems_of(&self, source: &str) -> &[Problem] {
        self.slot(source).map_or(&[], |slot| &slot.problems)
    }

    fn slot(&self, source: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| &*slot.source == source)
    }
}
