//! What is an operator told of objects that are held?

use serde::{Deserialize, Serialize};

/// Objects of one kind that a source has lost at once, and that stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldView {
    pub kind: String,
    pub objects: usize,
    /// Of so many.
    pub of: usize,
    /// UTC, as `2026-11-21T12:30:05Z`.
    pub since: String,
    /// When the source is asked again, likewise; `None`: it is being asked.
    pub again: Option<String>,
    /// An earlier agent heard of them, and this one does not know them by name:
    /// what that one left stays, all of it.
    pub earlier: bool,
}

impl HeldView {
    /// What an operator must know of it, and may do.
    pub fn alarm(&self, source: &str) -> String {
        let Self { kind, objects, of, since, .. } = self;
        let what = if self.earlier {
            format!(
                "does not name {objects} of {of} {kind} that an earlier agent had from it ({since}): all that is in the maps stays"
            )
        } else {
            format!("has lost {objects} of {of} {kind} at once ({since}): they are served on")
        };
        let again = match &self.again {
            Some(again) => format!("it is asked again at {again}"),
            None => "it is being asked again".into(),
        };
        format!("source {source} {what}; {again}; to let them go now: causeway source release {source}")
    }
}
