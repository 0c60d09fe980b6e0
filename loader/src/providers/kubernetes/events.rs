//! Whom does the cluster tell that an object cannot be served? Its owner, by an Event
//! on the object: `kubectl describe` shows it.
//!
//! All nodes mostly find the same wrong. An Event's name follows from what it says, so
//! that the first node's stands for all, and what another makes is refused by the
//! server.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, Client, Error,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    kinds::{KINDS, Watched},
    listed::OfKind,
};
use crate::{
    cluster::pace,
    event::{Problem, marks::version_hash},
};

const API: &str = "events.k8s.io";
const CONTROLLER: &str = "causeway.io/agent";
/// Of the server: the longest that a note, an instance or a name may be.
const NOTE: usize = 1024;
const INSTANCE: usize = 128;
const NAME: usize = 253;

/// What has not lasted so long may be a change under way.
const LASTING: Duration = Duration::from_secs(5);
/// What lasts is told again: the server forgets Events after an hour.
const AGAIN: Duration = Duration::from_secs(3660);
/// Sooner when somebody had told it before, who knows when; and when nobody answered.
const SHARED: Duration = Duration::from_secs(1200);
const UNHEARD: Duration = Duration::from_secs(60);
/// Requests that telling takes.
const REQUESTS: u32 = 2;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is wrong with objects of the API, and how many nodes there are.
pub type Wrong = (Arc<Vec<Problem>>, usize);

/// Tells of what is wrong.
pub struct Recorder {
    client: Client,
    node: Arc<str>,
    /// When each is to be told.
    notices: BTreeMap<Notice, Instant>,
}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Notice {
    kind: usize,
    namespace: String,
    name: String,
    note: String,
}

impl Recorder {
    pub(super) fn new(client: Client, node: Arc<str>) -> Self {
        Self { client, node, notices: BTreeMap::new() }
    }

    /// Tells until nobody says anything any more: one thing at once, and requests no
    /// more often than [agents write](pace).
    pub async fn run(mut self, mut wrong: watch::Receiver<Wrong>) {
        loop {
            let turn = {
                let wrong = wrong.borrow_and_update();
                let turn = pace(wrong.1) * REQUESTS;
                self.hear(&wrong.0, Instant::now(), turn);
                turn
            };
            let Some((due, notice)) = self.next() else {
                if wrong.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                changed = wrong.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = sleep_until(due) => {}
            }
            let (kind, name) = (KINDS[notice.kind].name, &notice.name);
            let again = match timeout(PATIENCE, self.tell(&notice)).await {
                Ok(Ok(())) => AGAIN,
                // Another node, or an earlier agent, has said so.
                Ok(Err(Error::Api(status))) if status.code == 409 => SHARED,
                Ok(Err(error)) => {
                    tracing::warn!(kind, name, %error, "cannot tell of it by an Event");
                    // What the server does not take it does not take a minute later.
                    let refused = matches!(&error, Error::Api(status) if status.code < 429);
                    if refused { AGAIN } else { UNHEARD }
                }
                Err(_) => {
                    tracing::warn!(kind, name, "cannot tell of it by an Event: no answer");
                    UNHEARD
                }
            };
            if let Some(due) = self.notices.get_mut(&notice) {
                *due = Instant::now() + again;
            }
            sleep(turn).await;
        }
    }

    /// What is not wrong any more is forgotten, and new if it ever comes back. Nodes
    /// tell of the same one after the other: within the `turn` that each of them takes.
    fn hear(&mut self, problems: &[Problem], now: Instant, turn: Duration) {
        let mut before = std::mem::take(&mut self.notices);
        for notice in problems.iter().filter_map(Notice::of) {
            let place = version_hash(&self.node, &notice.name, &notice.note) as f64 / u64::MAX as f64;
            let due = before.remove(&notice).unwrap_or(now + LASTING + turn.mul_f64(place));
            self.notices.insert(notice, due);
        }
    }

    /// What is to be told next, and when.
    fn next(&self) -> Option<(Instant, Notice)> {
        let (notice, due) = self.notices.iter().min_by_key(|(_, due)| **due)?;
        Some((*due, notice.clone()))
    }

    async fn tell(&self, notice: &Notice) -> Result<(), Error> {
        let watched = &KINDS[notice.kind];
        // Who describes an object is shown what is said of this very one.
        let Some(uid) = self.uid(watched, notice).await? else { return Ok(()) };
        let type_ = ApiResource::from_gvk(&GroupVersionKind::gvk(API, "v1", "Event"));
        let event = notice.event(&self.node, &uid, Timestamp::now());
        let events: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), notice.at(), &type_);
        let event: DynamicObject = serde_json::from_value(event).map_err(Error::SerdeError)?;
        events.create(&PostParams::default(), &event).await.map(drop)
    }

    async fn uid(&self, watched: &'static Watched, notice: &Notice) -> Result<Option<String>, Error> {
        let mut fields = format!("metadata.name={}", notice.name);
        if !notice.namespace.is_empty() {
            fields += &format!(",metadata.namespace={}", notice.namespace);
        }
        let objects = Api::<OfKind<false>>::all_with(self.client.clone(), watched);
        let found = objects.list_metadata(&ListParams::default().fields(&fields)).await?;
        Ok(found.items.into_iter().next().and_then(|object| object.metadata.uid))
    }
}

impl Notice {
    /// `None`: it is not about an object of the API.
    fn of(problem: &Problem) -> Option<Self> {
        let origin = problem.origin.as_ref().filter(|origin| *origin.source == *super::SOURCE)?;
        let mut parts = origin.place.split('/');
        let kind = parts.next()?;
        let kind = KINDS.iter().position(|watched| watched.name == kind)?;
        let names: Vec<&str> = parts.collect();
        let (namespace, name) = match names[..] {
            [name] => ("", name),
            [namespace, name] => (namespace, name),
            _ => return None,
        };
        let colon = if problem.field.is_empty() { "" } else { ": " };
        let note = cut(&format!("{}{colon}{}", problem.field, problem.message), NOTE).to_owned();
        Some(Self { kind, namespace: namespace.into(), name: name.into(), note })
    }

    /// The namespace of its Event.
    fn at(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }

    fn event(&self, node: &str, uid: &str, now: Timestamp) -> Value {
        let watched = &KINDS[self.kind];
        // Of an object that was made anew it is said anew.
        let hash = format!("{:016x}", version_hash(watched.name, uid, &self.note));
        let name = cut(&self.name, NAME - 1 - hash.len()).trim_end_matches(['-', '.']);
        let reason = if watched.kind.is_policy() { "NotEnforced" } else { "NotServed" };
        json!({
            "apiVersion": format!("{API}/v1"),
            "kind": "Event",
            "metadata": {"name": format!("{name}.{hash}"), "namespace": self.at()},
            "eventTime": format!("{now:.6}"),
            "type": "Warning",
            "reason": reason,
            "action": "Program",
            "note": self.note,
            "reportingController": CONTROLLER,
            "reportingInstance": cut(node, INSTANCE),
            "regarding": {
                "apiVersion": watched.api, "kind": watched.name,
                "namespace": self.namespace, "name": self.name, "uid": uid,
            },
        })
    }
}

/// No more than so many bytes of a text.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Origin;

    fn problem(source: &str, place: &str, message: &str) -> Problem {
        let origin = Some(Origin { source: source.into(), place: place.into() });
        Problem { origin, object: String::new(), field: "spec.x".into(), message: message.into() }
    }

    fn recorder() -> Recorder {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        Recorder::new(Client::try_from(config).unwrap(), "n0".into())
    }

    #[tokio::test]
    async fn what_lasts_is_told_once_an_hour_and_what_is_mended_forgotten() {
        let (mut recorder, begun) = (recorder(), Instant::now());
        let wrong = [problem("kubernetes", "Service/a/web", "is wrong")];
        assert!(recorder.next().is_none());
        let turn = Duration::from_secs(100);
        recorder.hear(&wrong, begun, turn);
        let (due, notice) = recorder.next().unwrap();
        assert!((begun + LASTING..=begun + LASTING + turn).contains(&due));
        recorder.hear(&wrong, begun + Duration::from_secs(3), turn);
        assert_eq!(recorder.next().unwrap().0, due, "it has lasted since");
        *recorder.notices.get_mut(&notice).unwrap() = due + AGAIN;
        recorder.hear(&wrong, due, turn);
        assert_eq!(recorder.next().unwrap().0, due + AGAIN);
        recorder.hear(&[], due, turn);
        assert!(recorder.next().is_none());
        recorder.hear(&wrong, due, turn);
        let again = recorder.next().unwrap().0;
        assert!((due + LASTING..=due + LASTING + turn).contains(&again));
    }

    #[tokio::test]
    async fn many_nodes_tell_one_after_the_other() {
        let (now, turn) = (Instant::now(), Duration::from_secs(100));
        let wrong = [problem("kubernetes", "Service/a/web", "is wrong")];
        let due = |number: usize| {
            let mut recorder = Recorder { node: format!("n{number}").into(), ..recorder() };
            recorder.hear(&wrong, now, turn);
            (recorder.next().unwrap().0 - now - LASTING).as_secs() / 10
        };
        let mut counts = [0; 10];
        (0..1000).for_each(|number| counts[due(number) as usize] += 1);
        assert!(counts.iter().all(|count| (50..150).contains(count)), "{counts:?}");
    }

    #[test]
    fn only_objects_of_the_api_are_told_of() {
        for (source, place) in [
            ("manifests", "Service/a/web"),
            ("kubernetes", "https://192.0.2.1:6443/"),
            ("kubernetes", "Widget/a/b"),
            ("kubernetes", "Service/a/b/c"),
            ("kubernetes", "Service"),
        ] {
            assert_eq!(Notice::of(&problem(source, place, "x")), None, "{source} {place}");
        }
        let notice = Notice::of(&problem("kubernetes", "Node/n1", "x")).unwrap();
        assert_eq!((notice.at(), notice.note.as_str()), ("default", "spec.x: x"));
    }

    #[test]
    fn an_event_fits_whatever_it_is_about() {
        let name = format!("a{}-b", ".".repeat(251));
        let notice =
            Notice::of(&problem("kubernetes", &format!("Service/a/{name}"), &"ä".repeat(2000))).unwrap();
        let event = notice.event(&"n".repeat(300), "u", Timestamp::UNIX_EPOCH);
        let name = event["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with("a.") && name.len() == 18, "{name}");
        let length = |field: &str| event[field].as_str().unwrap().len();
        assert_eq!((length("note"), length("reportingInstance")), (1024, INSTANCE));
        assert_eq!(event["eventTime"], "1970-01-01T00:00:00.000000Z");
        // Whoever says it, it is the same, but of another object.
        let other = |uid| notice.event("n2", uid, Timestamp::UNIX_EPOCH)["metadata"].clone();
        assert!(other("u") == event["metadata"] && other("v") != event["metadata"]);
        let policy = Notice::of(&problem("kubernetes", "NetworkPolicy/a/p", "x")).unwrap();
        assert_eq!(policy.event("n", "u", Timestamp::UNIX_EPOCH)["reason"], "NotEnforced");
    }
}
