//! The provider that watches an API server, heard without a kernel: what it
//! has told, and whether that is what the server holds.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway::{
    event::{Batch, marks::Marks},
    model::{
        Model,
        desired::{DesiredState, Service, ServiceId},
    },
    providers::{
        kubernetes::{self, Access, Kubernetes, Timing},
        manifests,
    },
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{apiserver::ApiServer, scratch::Dir};

/// Everything that takes seconds in production.
pub const TIMING: Timing = Timing {
    pause: Duration::from_millis(2),
    longest: Duration::from_millis(40),
    pace: Duration::from_millis(1),
    discovery: Duration::from_millis(40),
    answer: Duration::from_millis(150),
    busy: Duration::from_secs(1),
    gather: Duration::from_millis(1),
    page: 3,
};
const PATIENCE: Duration = Duration::from_secs(20);

/// A provider, what it has told, and what of that was a deletion.
pub struct Watcher {
    pub provider: Kubernetes,
    batches: mpsc::Receiver<Batch>,
    pub model: Model,
    /// How far it has read each kind.
    pub marks: Arc<Marks>,
    pub deleted: BTreeSet<String>,
    pub problems: Vec<String>,
}

impl Watcher {
    pub async fn start(api: &ApiServer) -> Self {
        Self::with(&Access { kubeconfig: None, server: Some(api.url()) }).await
    }

    pub async fn with(access: &Access) -> Self {
        let (said, batches) = mpsc::channel(4);
        let provider = Kubernetes::spawn(access, TIMING, said).await.unwrap();
        let model = Model::new(&[kubernetes::SOURCE.into()], "n0");
        Self {
            provider,
            batches,
            model,
            marks: Arc::default(),
            deleted: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    /// Takes in what comes for a while.
    pub async fn hear(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(batch) = tokio::time::timeout_at(end, self.batches.recv()).await {
            let batch = batch.expect("the provider goes on");
            let gone = batch.events.iter().filter(|event| event.object.is_none());
            self.deleted.extend(gone.map(|event| event.key.to_string()));
            self.problems = batch.problems.iter().map(ToString::to_string).collect();
            if let Some(marks) = &batch.marks {
                self.marks = marks.clone();
            }
            self.model.apply(batch);
        }
    }

    /// Until the model is as it should be.
    pub async fn until(&mut self, what: &str, good: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !good(self) {
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}; problems {:#?}", self.problems);
            self.hear(Duration::from_millis(5)).await;
        }
    }

    /// Until it says what a directory with the server's objects would.
    pub async fn until_as(&mut self, api: &ApiServer) {
        let wanted = from_files(api);
        let end = Instant::now() + PATIENCE;
        while let Some(difference) = differs(&wanted, &self.model.desired()) {
            assert!(Instant::now() < end, "{difference}; problems {:#?}", self.problems);
            self.hear(Duration::from_millis(5)).await;
        }
        self.until("synced and free of trouble", |watcher| {
            watcher.model.synced() && watcher.problems.is_empty()
        })
        .await;
    }
}

/// What a manifest directory with the server's objects says.
fn from_files(api: &ApiServer) -> DesiredState {
    let dir = Dir::new();
    let list = json!({"kind": "List", "apiVersion": "v1", "items": api.objects()});
    std::fs::write(dir.join("all.json"), list.to_string()).unwrap();
    let mut model = Model::new(&[manifests::SOURCE.into()], "n0");
    let batch = manifests::scan(dir.path());
    assert!(batch.problems.is_empty(), "{:?}", batch.problems);
    model.apply(batch);
    model.desired()
}

/// But for who said so.
fn differs(wanted: &DesiredState, found: &DesiredState) -> Option<String> {
    let names = |state: &DesiredState| -> Vec<ServiceId> { state.services.keys().cloned().collect() };
    if names(wanted) != names(found) {
        return Some(format!("services {:?}, not {:?}", names(found), names(wanted)));
    }
    let unlike = |(id, service): &(&ServiceId, &Service)| !service.serves_alike(&found.services[*id]);
    if let Some((id, service)) = wanted.services.iter().find(unlike) {
        return Some(format!("{id} is {:?}, not {service:?}", found.services[id]));
    }
    if wanted.nodes != found.nodes {
        return Some(format!("nodes {:?}, not {:?}", found.nodes, wanted.nodes));
    }
    if (&wanted.pods, &wanted.namespaces) != (&found.pods, &found.namespaces) {
        return Some(format!("pods {:?}, not {:?}", found.pods, wanted.pods));
    }
    let same = wanted.policies.len() == found.policies.len()
        && wanted
            .policies
            .iter()
            .all(|(id, policy)| found.policies.get(id).is_some_and(|other| other.object == policy.object));
    if !same {
        return Some(format!("policies {:?}, not {:?}", found.policies.keys(), wanted.policies.keys()));
    }
    let egresses = |state: &DesiredState| -> Vec<_> {
        state.egresses.iter().map(|(name, egress)| (name.clone(), egress.object.clone())).collect()
    };
    let (wanted, found) = (egresses(wanted), egresses(found));
    (wanted != found).then(|| format!("egresses {found:?}, not {wanted:?}"))
}

/// Until the future is there, on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}
