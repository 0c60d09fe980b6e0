//! How do agents hear of one another? Each keeps a Lease of its own, in which it
//! says how far it has read back; who asks for all compares them with what the API
//! server has.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Timing,
    kinds::{KINDS, Watched},
    listed::OfKind,
};
use crate::{
    cluster::{Asked, ReadBack, Said, laggards},
    event::{
        Kind,
        marks::{Mark, version_hash},
    },
    snapshot::ClusterView,
};

const API: &str = "coordination.k8s.io";
const READ_BACK: &str = "causeway.io/read-back";
/// Ours, among the Leases of a namespace.
const LABEL: (&str, &str) = ("app.kubernetes.io/name", "causeway");
/// Who writes, as the server keeps it.
const MANAGER: &str = "causeway";
/// A node's Lease is written at most so often; where there are many nodes, so that
/// all together write a hundred times a second.
const PACE: Duration = Duration::from_secs(1);
const OF_A_NODE: Duration = Duration::from_millis(10);
/// How long it may take: others wait to hear of a node that is there again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often Leases are read while somebody waits.
const LOOKS: Duration = Duration::from_millis(250);

/// What is to be published, and how many nodes there are.
pub type Word = Option<(ReadBack, usize)>;

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
        let lease = ApiResource {
            group: API.into(),
            version: "v1".into(),
            api_version: format!("{API}/v1"),
            kind: "Lease".into(),
            plural: "leases".into(),
        };
        let leases = Api::namespaced_with(client.clone(), &namespace, &lease);
        Self { client, leases, namespace, timing }
    }

    /// Publishes the newest word for a node until nobody speaks any more; says in
    /// `trouble` why it cannot.
    pub async fn publish(
        self,
        node: Arc<str>,
        mut words: watch::Receiver<Word>,
        trouble: Arc<ArcSwapOption<String>>,
    ) {
        while words.changed().await.is_ok() {
            let Some((read_back, nodes)) = words.borrow_and_update().clone() else { continue };
            let next = Instant::now() + PACE.max(OF_A_NODE * nodes as u32);
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
            sleep_until(next).await;
        }
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
        let mut asked = Asked::default();
        for watched in &KINDS {
            let mark = self.mark(watched, &mut asked).await?;
            asked.marks.insert(watched.kind, mark);
        }
        Ok(asked)
    }

    async fn mark(&self, watched: &'static Watched, asked: &mut Asked) -> Result<Mark, kube::Error> {
        let objects = Api::<OfKind<false>>::all_with(self.client.clone(), watched);
        let (mut mark, mut parameters) = (Mark::default(), ListParams::default().limit(self.timing.page));
        loop {
            let page = match objects.list_metadata(&parameters).await {
                // There is no such kind.
                Err(kube::Error::Api(status)) if status.code == 404 && watched.optional => break,
                other => other?,
            };
            for object in page.items {
                let meta = object.metadata;
                let (name, namespace) = (meta.name.unwrap_or_default(), meta.namespace.unwrap_or_default());
                let version = meta.resource_version.unwrap_or_default();
                mark.change(None, Some(version_hash(&namespace, &name, &version)));
                if watched.kind == Kind::Node {
                    asked.nodes.insert(name);
                }
            }
            mark.newest =
                page.metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => break,
            }
        }
        Ok(mark)
    }

    async fn said(&self) -> Result<Said, kube::Error> {
        let ours = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
        let leases = self.leases.list(&ours).await?;
        let read = |lease: DynamicObject| {
            let node = lease.data.pointer("/spec/holderIdentity")?.as_str()?.to_owned();
            let said = lease.metadata.annotations.unwrap_or_default().remove(READ_BACK).unwrap_or_default();
            Some((node, serde_json::from_str(&said).map_err(|error| error.to_string())))
        };
        Ok(leases.items.into_iter().filter_map(read).collect())
    }
}

fn name_of(node: &str) -> String {
    format!("causeway-{node}")
}
