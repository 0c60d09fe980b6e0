//! How does a policy become rules? What cannot be understood closes, and never
//! opens: a part of an allowing rule that is refused allows nothing, a denying
//! rule of which a part is refused denies all that the part may have meant, and
//! a rule that would have passed denies. (`policy.networking.k8s.io` says so of
//! peers; here it holds for all parts.)

mod admin;
mod network;
mod peer;
mod port;
mod selector;
mod virtual_network;
pub mod wire;

pub use admin::{
    admin_network_policy, baseline_admin_network_policy, cluster_network_policy, own_policy, subject,
};
pub use network::network_policy;
pub use port::{port_name, transport};
pub use virtual_network::virtual_network;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Names, Refusal, quoted, wire::ObjectMeta};
use crate::event::policy::{Action, Rule};

/// Denials are counted and named, but nothing is denied.
const AUDIT: &str = "causeway.io/audit";
/// Denials are told to the sender.
const REJECT: &str = "causeway.io/reject";

/// What reads the parts of one policy, and what it has refused.
struct Reader<'a> {
    names: &'a mut Names,
    refusals: Vec<Refusal>,
}

/// Fields of a spec that nobody knows.
pub fn unknown(unknown: &BTreeMap<String, Value>, names: &mut Names) -> Vec<Refusal> {
    let mut reader = Reader::new(names);
    reader.unknown(unknown, "spec");
    reader.refusals
}

/// What became of a list.
struct Parts<T> {
    /// The sound ones; `None`: the list is not there, or empty.
    items: Option<Vec<T>>,
    /// Something of it was refused.
    broken: bool,
}

impl<'a> Reader<'a> {
    fn new(names: &'a mut Names) -> Self {
        Self { names, refusals: Vec::new() }
    }

    fn refuse(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.refusals.push(Refusal::new(field, message));
    }

    /// Refuses fields that nobody knows; true if there were any.
    fn unknown(&mut self, unknown: &BTreeMap<String, Value>, path: &str) -> bool {
        for name in unknown.keys() {
            let end = name.char_indices().nth(80).map_or(name.len(), |(end, _)| end);
            let message = "there is no such field here: look at its spelling and indentation, or remove it";
            self.refuse(format!("{path}.{}", &name[..end]), message);
        }
        !unknown.is_empty()
    }

    /// `true` or `false` of an annotation; what is neither is refused and false.
    fn switch(&mut self, metadata: &ObjectMeta, name: &str) -> bool {
        match metadata.annotations.as_ref().and_then(|notes| notes.get(name)).map(String::as_str) {
            Some("true") => true,
            None | Some("false") => false,
            Some(other) => {
                let message =
                    format!("{} is neither \"true\" nor \"false\": write one of them", quoted(other));
                self.refuse(format!("metadata.annotations[{name}]"), message);
                false
            }
        }
    }

    /// Reads a list, each item alone.
    fn each<W: DeserializeOwned, T>(
        &mut self,
        list: Option<Value>,
        path: &str,
        mut read: impl FnMut(&mut Self, W, &str) -> Result<Vec<T>, Refusal>,
    ) -> Parts<T> {
        let list = match list {
            None | Some(Value::Null) => return Parts { items: None, broken: false },
            Some(Value::Array(list)) if list.is_empty() => return Parts { items: None, broken: false },
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.refuse(path, "is no list: write one, each item behind a '-'");
                return Parts { items: Some(Vec::new()), broken: true };
            }
        };
        let before = self.refusals.len();
        let mut items = Vec::with_capacity(list.len());
        for (index, item) in list.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            match typed(item, &path).and_then(|wire| read(self, wire, &path)) {
                Ok(some) => items.extend(some),
                Err(refusal) => self.refusals.push(refusal),
            }
        }
        items.shrink_to_fit();
        Parts { items: Some(items), broken: self.refusals.len() > before }
    }
}

/// Reads a part; the refused field is named from the top of the document.
fn typed<T: DeserializeOwned>(value: Value, path: &str) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let below = error.path().to_string();
        let field = if below == "." { path.to_owned() } else { format!("{path}.{below}") };
        Refusal::new(field, error.inner().to_string())
    })
}

/// What is left of a rule of which parts were refused.
fn closed(mut rule: Rule, peers: bool, ports: bool) -> Rule {
    if rule.action == Action::Allow || !(peers || ports) {
        return rule;
    }
    if peers {
        rule.peers = None;
    }
    if ports {
        rule.ports = None;
    }
    if rule.action == Action::Pass {
        rule.action = Action::Deny;
    }
    rule
}

#[cfg(test)]
mod tests;
