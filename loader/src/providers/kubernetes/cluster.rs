//! How do agents hear of one another? Each keeps a Lease of its own, in which it
//! says how far it has read back; who asks for all compares them with what the API
//! server has.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Access, Timing, client,
    fare::Fares,
    kinds::{KINDS, Watched},
    listed::OfKind,
};
use crate::{
    cluster::{Asked, ReadBack, Said, laggards, pace, renewal},
    event::{
        Kind,
        marks::{Mark, version_hash},
    },
    snapshot::ClusterView,
};

const API: &str = "coordination.k8s.io";
const READ_BACK: &str = "causeway.io/read-back";
/// Of a Lease's name, before the node's.
const PREFIX: &str = "causeway-";
/// Ours, among the Leases of a namespace.
const LABEL: (&str, &str) = ("app.kubernetes.io/name", "causeway");
/// Who writes, as the server keeps it.
const MANAGER: &str = "causeway";
/// How long it may take: others wait to hear of a node that is there again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often Leases are read while somebody waits.
const LOOKS: Duration = Duration::from_millis(250);

/// So many times more objects than of a watch's list make a page of names.
const NAMES: u32 = 20;

/// What is to be published, and how many nodes there are.
pub type Word = (ReadBack, usize);

/// The way to the others.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    leases: Api<DynamicObject>,
    namespace: Arc<str>,
    timing: Timing,
}

impl Cluster {
    pub(super) fn new(client: Client, namespace: Arc<str>, timing: Timing) -> Self {
        let lease = ApiResource::from_gvk(&GroupVersionKind::gvk(API, "v1", "Lease"));
        let leases = Api::namespaced_with(client.clone(), &namespace, &lease);
        Self { client, leases, namespace, timing }
    }

    /// For whoever watches nothing.
    ///
    /// # Errors
    /// When the server's address or our credentials cannot be used.
    pub async fn connect(access: &Access, namespace: Arc<str>, timing: Timing) -> anyhow::Result<Self> {
        let config = client::configuration(access).await?;
        Ok(Self::new(client::connect(&config, timing, Arc::new(Fares::new()))?, namespace, timing))
    }

    /// Publishes the newest word for a node until nobody speaks any more; says in
    /// `trouble` why it cannot.
    pub async fn publish(
        self,
        node: Arc<str>,
        mut words: watch::Receiver<Word>,
        trouble: Arc<ArcSwapOption<String>>,
    ) {
        // What an earlier agent has published may be so still: this one has a moment.
        let mut next = Instant::now() + pace(0);
        let mut renewed = next;
        loop {
            sleep_until(next).await;
            tokio::select! {
                news = words.changed() => if news.is_err() { return },
                () = sleep_until(renewed) => {}
            }
            let (read_back, nodes) = words.borrow_and_update().clone();
            (next, renewed) = (Instant::now() + pace(nodes), Instant::now() + renewal(nodes));
            match self.write(&node, &read_back).await {
                Ok(()) => trouble.store(None),
                Err(error) => {
                    let lease = format!("Lease {}/{}", self.namespace, name_of(&node));
                    tracing::debug!(%lease, %error, "cannot publish");
                    trouble.store(Some(Arc::new(format!("{lease} cannot be written: {error}"))));
                    // Whatever the newest is by then.
                    words.mark_changed();
                }
            }
        }
    }

    /// Says that nothing stands on a node any more.
    ///
    /// # Errors
    /// As text, when that cannot be written.
    pub async fn withdraw(&self, node: &str) -> Result<(), String> {
        self.write(node, &ReadBack::default()).await
    }

    async fn write(&self, node: &str, read_back: &ReadBack) -> Result<(), String> {
        let said = serde_json::to_string(read_back).map_err(|error| error.to_string())?;
        let name = name_of(node);
        let lease = json!({
            "apiVersion": format!("{API}/v1"),
            "kind": "Lease",
            "metadata": {"name": name, "labels": {LABEL.0: LABEL.1}, "annotations": {READ_BACK: said}},
            "spec": {"holderIdentity": node, "renewTime": format!("{:.6}", Timestamp::now())},
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let lease = Patch::Apply(lease);
        let written = self.leases.patch(&name, &parameters, &lease);
        let written =
            timeout(PATIENCE, written).await.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        written.map(drop).map_err(|error| error.to_string())
    }

    /// Asks the server what it has now, and the agents until all of them have that,
    /// or until then.
    ///
    /// # Errors
    /// When the server does not answer, or does not allow it.
    pub async fn wait(&self, until: Instant) -> Result<ClusterView, String> {
        let asked = self.asked().await.map_err(|error| format!("the API server cannot be asked: {error}"))?;
        loop {
            let said = self.said().await.map_err(|error| {
                format!("the Leases of namespace {} cannot be read: {error}", self.namespace)
            })?;
            let laggards = laggards(&asked, &said);
            if laggards.is_empty() || Instant::now() + LOOKS > until {
                let (nodes, converged) = (asked.nodes.len(), laggards.is_empty());
                return Ok(ClusterView { converged, nodes, laggards });
            }
            sleep(LOOKS).await;
        }
    }

    /// What there is: of every kind no more than names and versions are asked for.
    async fn asked(&self) -> Result<Asked, kube::Error> {
        let lists = try_join_all(KINDS.iter().map(|watched| self.list(watched))).await?;
        let nodes = KINDS.iter().position(|watched| watched.kind == Kind::Node);
        let nodes = nodes.map_or_else(BTreeSet::new, |nodes| lists[nodes].1.clone());
        let marks = KINDS.iter().zip(lists).map(|(watched, (mark, _))| (watched.kind, mark));
        Ok(Asked { marks: marks.collect(), nodes })
    }

    /// A kind's mark, and the names that there are.
    async fn list(&self, watched: &'static Watched) -> Result<(Mark, BTreeSet<String>), kube::Error> {
        let objects = Api::<OfKind<false>>::all_with(self.client.clone(), watched);
        let first = ListParams::default().limit(self.timing.page * NAMES);
        let (mut mark, mut names, mut parameters) = (Mark::default(), BTreeSet::new(), first.clone());
        loop {
            let page = match objects.list_metadata(&parameters).await {
                // There is no such kind.
                Err(kube::Error::Api(status)) if status.code == 404 && watched.optional => break,
                // The list has taken so long that its rest is forgotten: once more.
                Err(kube::Error::Api(status)) if status.code == 410 && parameters != first => {
                    (mark, names, parameters) = (Mark::default(), BTreeSet::new(), first.clone());
                    continue;
                }
                other => other?,
            };
            for object in page.items {
                let meta = object.metadata;
                let (name, namespace) = (meta.name.unwrap_or_default(), meta.namespace.unwrap_or_default());
                let version = meta.resource_version.unwrap_or_default();
                mark.change(None, Some(version_hash(&namespace, &name, &version)));
                names.insert(name);
            }
            mark.newest = number(page.metadata.resource_version);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => break,
            }
        }
        Ok((mark, names))
    }

    async fn said(&self) -> Result<Said, kube::Error> {
        let ours = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
        let leases = self.leases.list(&ours).await?;
        let now = Timestamp::now();
        let read = |lease: DynamicObject| {
            let node = lease.metadata.name.as_deref()?.strip_prefix(PREFIX)?.to_owned();
            Some((node, word(lease, now)))
        };
        let head = number(leases.metadata.resource_version);
        Ok(Said { head, nodes: leases.items.into_iter().filter_map(read).collect() })
    }
}

/// What a Lease says, and how old that is.
fn word(lease: DynamicObject, now: Timestamp) -> Result<(ReadBack, Duration), String> {
    let said = lease.metadata.annotations.unwrap_or_default().remove(READ_BACK).unwrap_or_default();
    let read_back = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    let renewed = lease.data.pointer("/spec/renewTime").and_then(Value::as_str).unwrap_or_default();
    let renewed: Timestamp = renewed.parse().map_err(|_| format!("{renewed:?} is no spec.renewTime"))?;
    Ok((read_back, now.duration_since(renewed).try_into().unwrap_or_default()))
}

/// A version; 0 where it is no number.
fn number(version: Option<String>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn name_of(node: &str) -> String {
    format!("{PREFIX}{node}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_as_old_as_it_says() {
        let lease = |said: &str, renewed: &str| -> DynamicObject {
            let metadata = json!({"name": "causeway-n1", "annotations": {READ_BACK: said}});
            serde_json::from_value(json!({"metadata": metadata, "spec": {"renewTime": renewed}})).unwrap()
        };
        let now: Timestamp = "2026-11-21T12:30:05Z".parse().unwrap();
        let word = |said, renewed| word(lease(said, renewed), now);
        let said = r#"{"revision": 7, "kinds": {"Service": {"newest": 5, "digest": 9}}}"#;
        let (read_back, age) = word(said, "2026-11-21T12:29:59.500000Z").unwrap();
        assert_eq!((read_back.revision, read_back.kinds.len(), age.as_millis()), (7, 1, 5500));
        // The other node's clock is ahead.
        assert_eq!(word(said, "2026-11-21T12:31:00Z").unwrap().1, Duration::ZERO);
        assert!(word("", "2026-11-21T12:29:59Z").is_err());
        assert!(word(said, "yesterday").unwrap_err().contains("yesterday"));
    }
}
