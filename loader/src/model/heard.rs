//! What has one source said, whatever the others say?

use super::{Model, Said, Slot};
use crate::event::{ObjectKey, Problem};

impl Model {
    /// What a source has said of an object.
    pub fn said(&self, source: &str, key: &ObjectKey) -> Option<Said> {
        self.slot(source)?.objects.get(key).cloned()
    }

    /// What is wrong in a source.
    pub fn problems_of(&self, source: &str) -> &[Problem] {
        self.slot(source).map_or(&[], |slot| &slot.problems)
    }

    fn slot(&self, source: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| &*slot.source == source)
    }
}
