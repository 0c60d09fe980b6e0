//! What does a file say? Documents, each on its own: one that cannot be read
//! never hides its neighbours.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{
    event::{Object, ObjectKey, Origin, Problem},
    providers::convert::{
        self, Converted, Refusal,
        wire::{EndpointSlice, Endpoints, Node, Pod, Service},
    },
};

use super::yaml;

/// All of a file.
#[derive(Debug, Default)]
pub struct Parsed {
    pub objects: BTreeMap<ObjectKey, (Arc<Object>, Arc<Origin>)>,
    pub problems: Vec<Problem>,
    /// A document gave a problem and no object: the file may be half written,
    /// so what it gave before still counts.
    pub incomplete: bool,
}

/// Parses a file's text. Places are `file#N`, N counting documents from 1, and
/// `file#N[M]` for item M of a list, from 0.
pub fn parse(source: &Arc<str>, file: &str, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut number = 0;
    for document in documents(text) {
        if is_blank(document) {
            continue;
        }
        number += 1;
        let place = format!("{file}#{number}");
        match Body::read(document) {
            Ok(Body::Tree(Value::Null)) => {}
            Ok(body) => parsed.document(source, &place, body, &Head::default()),
            Err(message) => {
                parsed.refuse(source, &place, "", Refusal::new("", message));
                parsed.incomplete = true;
            }
        }
    }
    if number == 0 {
        let message = "has no document: delete the file to remove what it held".to_owned();
        parsed.refuse(source, file, "", Refusal::new("", message));
        parsed.incomplete = true;
    }
    parsed
}

impl Parsed {
    /// `list`: what a typed list says for items that leave it out.
    fn document(&mut self, source: &Arc<str>, place: &str, body: Body, list: &Head) {
        let head = body.head();
        let kind = if head.kind.is_empty() { list.kind.clone() } else { head.kind };
        let api = if head.api.is_empty() { list.api.clone() } else { head.api };
        if let Some(of) = kind.strip_suffix("List") {
            let Some(items) = body.items() else {
                self.refuse(source, place, &kind, Refusal::new("items", "is no list"));
                self.incomplete = true;
                return;
            };
            let list = if of.is_empty() {
                Head::default()
            } else {
                Head { kind: of.into(), api, ..Head::default() }
            };
            for (index, item) in items.into_iter().enumerate() {
                self.document(source, &format!("{place}[{index}]"), item, &list);
            }
            return;
        }
        let object = match (head.namespace.as_str(), head.name.as_str()) {
            (_, "") => kind.clone(),
            ("", name) => format!("{kind} {name}"),
            (namespace, name) => format!("{kind} {namespace}/{name}"),
        };
        let converted = match (api.as_str(), kind.as_str()) {
            ("v1", "Service") => body.typed::<Service>().map(convert::service),
            ("discovery.k8s.io/v1", "EndpointSlice") => body.typed::<EndpointSlice>().map(convert::slice),
            ("v1", "Endpoints") => body.typed::<Endpoints>().map(convert::endpoints),
            ("v1", "Node") => body.typed::<Node>().map(convert::node),
            ("v1", "Pod") => body.typed::<Pod>().map(convert::pod),
            // Names only: nothing to serve, and nothing wrong.
            ("v1", "Namespace") => Ok(Converted::default()),
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                Err(Refusal::new("kind", "policies are not enforced yet: this one has no effect"))
            }
            (_, "") => Err(Refusal::new("kind", "missing: say what the document is")),
            ("", _) => Err(Refusal::new("apiVersion", "missing")),
            (api, kind) => {
                let served = "v1 Service, Endpoints, Pod, Node, and discovery.k8s.io/v1 EndpointSlice are";
                Err(Refusal::new("kind", format!("{api} {kind} is not served; {served}")))
            }
        };
        let converted = converted.unwrap_or_else(|refusal| {
            self.incomplete = true;
            Converted { objects: Vec::new(), refusals: vec![refusal] }
        });
        if converted.objects.is_empty() && !converted.refusals.is_empty() {
            self.incomplete = true;
        }
        for refusal in converted.refusals {
            self.refuse(source, place, &object, refusal);
        }
        let origin = Arc::new(Origin { source: source.clone(), place: place.into() });
        for (key, converted) in converted.objects {
            if self.objects.contains_key(&key) {
                let message = "an earlier document of this file has the same name: this one is not used";
                self.refuse(source, place, &object, Refusal::new("metadata.name", message));
                continue;
            }
            self.objects.insert(key, (Arc::new(converted), origin.clone()));
        }
    }

    fn refuse(&mut self, source: &Arc<str>, place: &str, object: &str, refusal: Refusal) {
        self.problems.push(Problem {
            origin: Some(Origin { source: source.clone(), place: place.into() }),
            object: object.to_owned(),
            field: refusal.field,
            message: refusal.message,
        });
    }
}

/// What a document says of itself.
#[derive(Debug, Default)]
struct Head {
    api: String,
    kind: String,
    namespace: String,
    name: String,
}

/// A document before it is known what it is. JSON stays text: a tree of a
/// large list would take many times the room of what is kept of it, and leave
/// the allocator's pages full of holes.
enum Body<'a> {
    Json(&'a RawValue),
    Tree(Value),
}

impl<'a> Body<'a> {
    fn read(document: &'a str) -> Result<Self, String> {
        // JSON is YAML too, but its own parser is many times faster; what it
        // refuses may still be YAML's flow style.
        if document.trim_start().starts_with('{')
            && let Ok(json) = serde_json::from_str(document)
        {
            return Ok(Body::Json(json));
        }
        yaml::value(document).map(Body::Tree)
    }

    fn head(&self) -> Head {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Wire {
            api_version: Value,
            kind: Value,
            metadata: Value,
        }
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let wire: Wire = match self {
            Body::Json(json) => serde_json::from_str(json.get()).unwrap_or_default(),
            Body::Tree(value) => Wire::deserialize(value).unwrap_or_default(),
        };
        Head {
            api: text(Some(&wire.api_version)),
            kind: text(Some(&wire.kind)),
            namespace: text(wire.metadata.get("namespace")),
            name: text(wire.metadata.get("name")),
        }
    }

    fn items(self) -> Option<Vec<Body<'a>>> {
        #[derive(Deserialize)]
        struct List<'a> {
            #[serde(borrow)]
            items: Vec<&'a RawValue>,
        }
        match self {
            Body::Json(json) => {
                let list: List = serde_json::from_str(json.get()).ok()?;
                Some(list.items.into_iter().map(Body::Json).collect())
            }
            Body::Tree(mut value) => match value.get_mut("items")?.take() {
                Value::Array(items) => Some(items.into_iter().map(Body::Tree).collect()),
                _ => None,
            },
        }
    }

    fn typed<T: DeserializeOwned>(self) -> Result<T, Refusal> {
        let refusal = |path: String, message: String| {
            Refusal::new(if path == "." { String::new() } else { path }, message)
        };
        match self {
            Body::Json(json) => {
                let mut reader = serde_json::Deserializer::from_str(json.get());
                serde_path_to_error::deserialize(&mut reader)
                    .map_err(|error| refusal(error.path().to_string(), error.inner().to_string()))
            }
            Body::Tree(value) => serde_path_to_error::deserialize(value)
                .map_err(|error| refusal(error.path().to_string(), error.inner().to_string())),
        }
    }
}

/// Splits at lines that start a YAML document. Such a line ends a document
/// wherever it stands, even inside a block scalar (YAML 1.2, section 9.1.2).
fn documents(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut from = 0;
        loop {
            let at = match text[from..].find("\n---") {
                Some(at) => from + at + 1,
                None => {
                    rest = None;
                    return Some(strip_marker(text));
                }
            };
            if is_marker(&text[at..]) {
                rest = Some(&text[at..]);
                return Some(strip_marker(&text[..at]));
            }
            from = at;
        }
    })
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn strip_marker(document: &str) -> &str {
    if is_marker(document) { &document[3..] } else { document }
}

fn is_blank(document: &str) -> bool {
    document.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "..."
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(text: &str) -> Parsed {
        parse(&"manifests".into(), "f.yaml", text)
    }

    #[test]
    fn documents_are_split_and_numbered() {
        let text = "# head\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n--- # two\nkind: [\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {clusterIP: 10.0.0.2, ports: [{port: 80}]}\n";
        let parsed = run(text);
        assert_eq!(parsed.objects.len(), 2);
        assert!(parsed.incomplete);
        let problem = &parsed.problems[0];
        assert_eq!(problem.origin.as_ref().unwrap().place.as_ref(), "f.yaml#2");
    }

    #[test]
    fn a_list_is_its_items() {
        let text = r#"{"apiVersion":"v1","kind":"List","items":[
            {"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":80}]}},
            {"apiVersion":"v1","kind":"Service","metadata":{"name":"b"},"spec":{"clusterIP":"10.0.0.2","ports":[{"port":0}]}}]}"#;
        let parsed = run(text);
        assert_eq!(parsed.objects.len(), 2);
        let problem = &parsed.problems[0];
        assert_eq!(problem.origin.as_ref().unwrap().place.as_ref(), "f.yaml#1[1]");
        assert_eq!(problem.field, "spec.ports[0].port");
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        let parsed =
            run("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: abc\n");
        assert_eq!(parsed.problems[0].field, "spec.ports[0].port");
        assert_eq!(parsed.problems[0].object, "Service a");
    }

    #[test]
    fn an_empty_file_is_taken_for_one_being_written() {
        let parsed = run("");
        assert!(parsed.incomplete && parsed.problems.len() == 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            run(&text);
        }

        #[test]
        fn no_mutation_of_a_manifest_makes_it_panic(at in 0usize..200, byte in 0u8..128) {
            let mut text = String::from("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  clusterIP: 10.0.0.1\n  ports:\n  - {port: 80, protocol: TCP, name: x}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints: [{addresses: [10.1.1.1]}]\n").into_bytes();
            let length = text.len();
            text[at % length] = byte;
            run(&String::from_utf8_lossy(&text));
        }
    }
}
