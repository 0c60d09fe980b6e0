//! What does one document say? Its objects, and what is wrong with it by field.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{split, yaml};
use crate::{
    event::{Object, ObjectKey, Origin, Problem},
    providers::{
        Names,
        convert::Refusal,
        object::{self, ADMIN_POLICIES, CLUSTER_POLICIES, Called, Head, OURS, Raw},
    },
};

/// An object of a file, and the document that gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: ObjectKey,
    pub object: Arc<Object>,
    pub origin: Arc<Origin>,
}

/// All of a document, or of a file.
#[derive(Debug, Default)]
pub struct Parsed {
    pub entries: Vec<Entry>,
    pub problems: Vec<Problem>,
    /// Something could not be read at all: the file may be half written, so
    /// what it gave before still counts.
    pub incomplete: bool,
}

/// Reads one document. Places are `file#N`, and `file#N[M]` for item M of a
/// list, from 0. `first_line` gives the document's line in its file; it is
/// asked for only to say where an error is.
pub fn parse(
    source: &Arc<str>,
    file: &str,
    document: split::Document<'_>,
    first_line: impl Fn() -> usize,
    names: &mut Names,
) -> Parsed {
    let place = format!("{file}#{}", document.number);
    let mut reader = Reader { source, names, parsed: Parsed::default() };
    match read(document.text, file.ends_with(".json"), first_line) {
        Ok(raw) => reader.object(&place, raw, None),
        Err(message) => reader.unreadable(&place, "", Refusal::new("", message)),
    }
    reader.parsed
}

/// JSON is YAML too, but its own parser is many times faster; what it
/// refuses may still be YAML's flow style.
fn read(text: &str, must_be_json: bool, first_line: impl Fn() -> usize) -> Result<Raw<'_>, String> {
    if split::is_json(text) || must_be_json {
        match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => return Ok(Raw::Json(text)),
            Err(error) if must_be_json => {
                let line = error.line() + first_line().saturating_sub(1);
                let message = error.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                return Err(format!("not JSON: {message} at line {line}, column {}", error.column()));
            }
            Err(_) => {}
        }
    }
    yaml::value(text).map(Raw::Value).map_err(|error| {
        // The parser counts lines from where it starts: let it start where
        // the file does.
        let padded = "\n".repeat(first_line().saturating_sub(1)) + text;
        format!("not YAML: {}", yaml::value(&padded).err().unwrap_or(error))
    })
}

#[derive(Deserialize)]
struct Items<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

struct Reader<'a> {
    source: &'a Arc<str>,
    names: &'a mut Names,
    parsed: Parsed,
}

impl Reader<'_> {
    /// `implied`: version and kind of an item whose typed list says them.
    fn object(&mut self, place: &str, raw: Raw<'_>, implied: Option<(&str, &str)>) {
        let Head { api_version, kind } = raw.head();
        let api = api_version.as_deref().or(implied.map(|(api, _)| api)).unwrap_or_default().to_owned();
        let kind = kind.as_deref().or(implied.map(|(_, kind)| kind)).unwrap_or_default().to_owned();
        if let Some(of) = kind.strip_suffix("List") {
            return match implied {
                None => self.list(place, &raw, &api, of),
                Some(_) => {
                    let message = "a list inside a list is not served: put its items into one list";
                    self.unreadable(place, &kind, Refusal::new("kind", message));
                }
            };
        }
        // For JSON, what the object is called is looked up only to complain.
        let (called, text) = match &raw {
            Raw::Json(text) => (None, *text),
            Raw::Value(Value::Null) => return,
            Raw::Value(value) => (Some(Called::new(&kind, value)), ""),
        };
        let called = || {
            let value = || serde_json::from_str(text).unwrap_or(Value::Null);
            called.clone().unwrap_or_else(|| Called::new(&kind, &value()))
        };
        let Some(converted) = object::convert(&api, &kind, raw, self.names) else {
            let called = called();
            let (refusal, foreign) = not_served(&api, &kind, &called);
            if foreign {
                self.refuse(place, &called.text, refusal);
            } else {
                self.unreadable(place, &called.text, refusal);
            }
            return;
        };
        match converted {
            Err(refusal) => self.unreadable(place, &called().text, refusal),
            Ok(converted) => {
                self.parsed.incomplete |= converted.objects.is_empty() && !converted.refusals.is_empty();
                let called = (!converted.refusals.is_empty()).then(called);
                for refusal in converted.refusals {
                    self.refuse(place, called.as_ref().map_or("", |called| &called.text), refusal);
                }
                let origin = Arc::new(self.origin(place));
                let entries = converted.objects.into_iter();
                self.parsed.entries.extend(entries.map(|(key, object)| Entry {
                    key,
                    object: Arc::new(object),
                    origin: origin.clone(),
                }));
            }
        }
    }

    fn list(&mut self, place: &str, raw: &Raw<'_>, api: &str, of: &str) {
        let implied = Some(if of.is_empty() { ("", "") } else { (api, of) });
        match raw {
            Raw::Json(text) => match serde_json::from_str::<Items<'_>>(text) {
                Ok(list) => {
                    for (index, item) in list.items.into_iter().enumerate() {
                        self.object(&format!("{place}[{index}]"), Raw::Json(item.get()), implied);
                    }
                }
                Err(_) => self.no_items(place, of),
            },
            Raw::Value(value) => match value.get("items") {
                Some(Value::Array(items)) => {
                    for (index, item) in items.iter().enumerate() {
                        self.object(&format!("{place}[{index}]"), Raw::Value(item.clone()), implied);
                    }
                }
                _ => self.no_items(place, of),
            },
        }
    }

    fn no_items(&mut self, place: &str, of: &str) {
        let refusal = Refusal::new("items", "missing or no list: write the objects there");
        self.unreadable(place, &format!("{of}List"), refusal);
    }

    fn unreadable(&mut self, place: &str, object: &str, refusal: Refusal) {
        self.parsed.incomplete = true;
        self.refuse(place, object, refusal);
    }

    fn refuse(&mut self, place: &str, object: &str, refusal: Refusal) {
        let problem = refusal.problem(self.origin(place), object);
        self.parsed.problems.push(problem);
    }

    fn origin(&self, place: &str) -> Origin {
        Origin { source: self.source.clone(), place: place.into() }
    }
}

/// Why not, and whether the document is a sound one of somebody else's: such
/// a one says nothing about the rest of the file.
fn not_served(api: &str, kind: &str, called: &Called) -> (Refusal, bool) {
    let served = match kind {
        _ if !called.mapping => {
            return (Refusal::new("", "is no mapping: an object has apiVersion, kind and metadata"), false);
        }
        "" => return (Refusal::new("kind", "missing: say what the document is"), false),
        "Service" | "Endpoints" | "Node" | "Pod" | "Namespace" => "v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "NetworkPolicy" => "networking.k8s.io/v1",
        "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy" => ADMIN_POLICIES,
        "ClusterNetworkPolicy" => CLUSTER_POLICIES,
        "Policy" | "VirtualNetwork" | "Egress" if api.is_empty() || api.starts_with("causeway.io/") => OURS,
        kind => {
            let message = format!(
                "kind {kind} is not served: Service, EndpointSlice, Endpoints, Pod, Node, Namespace, Egress and policies are; remove it from this directory"
            );
            return (Refusal::new("kind", message), called.named);
        }
    };
    let message = match api {
        "" => format!("missing: write {served}"),
        api => format!("{api:?} of {kind} is not served: write {served}"),
    };
    (Refusal::new("apiVersion", message), false)
}
