//! SRC-01: whatever a server does to those who watch it, does the model end
//! where the server's objects are, and was nothing taken away in between that
//! never went? Random changes under random faults, without a kernel;
//! `CAUSEWAY_RUNS` of them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use causeway::{
    event::Batch,
    model::{
        Model,
        desired::{DesiredState, Service, ServiceId},
    },
    providers::{
        kubernetes::{self, Access, Kubernetes, Timing},
        manifests,
    },
};
use causeway_testkit::{
    apiserver::{ApiServer, Fault, documents, kind},
    random::Random,
    scratch::Dir,
};
use serde_json::json;
use tokio::sync::mpsc;

/// Everything that takes seconds in production.
const TIMING: Timing = Timing {
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
struct Watcher {
    _provider: Kubernetes,
    batches: mpsc::Receiver<Batch>,
    model: Model,
    deleted: BTreeSet<String>,
    problems: Vec<String>,
}

impl Watcher {
    async fn start(api: &ApiServer) -> Self {
        let (said, batches) = mpsc::channel(4);
        let access = Access { kubeconfig: None, server: Some(api.url()) };
        let provider = Kubernetes::spawn(&access, TIMING, said).await.unwrap();
        let model = Model::new(&[kubernetes::SOURCE.into()], "n0");
        Self { _provider: provider, batches, model, deleted: BTreeSet::new(), problems: Vec::new() }
    }

    /// Takes in what comes for a while.
    async fn hear(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(batch) = tokio::time::timeout_at(end, self.batches.recv()).await {
            let batch = batch.expect("the provider goes on");
            let gone = batch.events.iter().filter(|event| event.object.is_none());
            self.deleted.extend(gone.map(|event| event.key.to_string()));
            self.problems = batch.problems.iter().map(ToString::to_string).collect();
            self.model.apply(batch);
        }
    }

    /// Until the model is as it should be.
    async fn until(&mut self, what: &str, good: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !good(self) {
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}; problems {:#?}", self.problems);
            self.hear(Duration::from_millis(5)).await;
        }
    }

    /// Until it says what a directory with the server's objects would.
    async fn until_as(&mut self, api: &ApiServer) {
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
    (!same).then(|| format!("policies {:?}, not {:?}", found.policies.keys(), wanted.policies.keys()))
}

/// Of the kinds below those that may be installed; they have no namespace.
const CLUSTER_WIDE: [&str; 4] = ["AdminNetworkPolicy", "Policy", "VirtualNetwork", "Egress"];

/// An object of kind and number, in one of a few forms.
fn object(random: &mut Random, number: usize) -> (&'static str, String) {
    let form = random.below(3) + 1;
    let kinds = [
        "Service",
        "EndpointSlice",
        "Node",
        "Pod",
        "Namespace",
        "NetworkPolicy",
        "AdminNetworkPolicy",
        "Policy",
        "VirtualNetwork",
        "Egress",
    ];
    let kind = *random.pick(&kinds);
    let yaml = match kind {
        "Service" => format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: o{number}}}\nspec: {{clusterIP: 10.96.0.{}, ports: [{{port: {form}}}]}}\n",
            number + 1
        ),
        "EndpointSlice" => format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: o{number}, labels: {{kubernetes.io/service-name: o{}}}}}\n\
             addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [10.244.{form}.{}]}}]\n",
            number / 2,
            number + 1
        ),
        "Node" => format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: o{number}}}\nspec: {{podCIDR: 10.{}.0.0/24}}\nstatus: {{addresses: [{{type: InternalIP, address: 192.168.{form}.1}}]}}\n",
            number + 1
        ),
        "Pod" => format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: o{number}, labels: {{app: a{form}}}}}\nspec: {{nodeName: o1, containers: []}}\nstatus: {{podIP: 10.244.9.{}}}\n",
            number + 1
        ),
        "Namespace" => {
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: o{number}, labels: {{team: t{form}}}}}\n"
            )
        }
        "NetworkPolicy" => format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: o{number}}}\nspec: {{podSelector: {{matchLabels: {{app: a{form}}}}}}}\n"
        ),
        "AdminNetworkPolicy" => format!(
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: o{number}}}\n\
             spec: {{priority: {form}, subject: {{namespaces: {{}}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}\n"
        ),
        "VirtualNetwork" => format!(
            "apiVersion: causeway.io/v1alpha1\nkind: VirtualNetwork\nmetadata: {{name: o{number}}}\nspec: {{members: {{namespaces: {{}}}}, peers: [o{form}]}}\n"
        ),
        "Egress" => format!(
            "apiVersion: causeway.io/v1alpha1\nkind: Egress\nmetadata: {{name: o{number}}}\nspec: {{subject: {{namespaces: {{}}}}, addresses: [192.0.2.{form}], nodes: [o1]}}\n"
        ),
        _ => format!(
            "apiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {{name: o{number}}}\n\
             spec: {{tier: Admin, priority: {form}, subject: {{namespaces: {{}}}}, ingress: [{{action: Allow, from: [{{namespaces: {{}}}}]}}]}}\n"
        ),
    };
    (kind, yaml)
}

/// Objects of a number that is even stay for good.
const NUMBERS: usize = 10;

async fn run(random: &mut Random) {
    let mut api = ApiServer::local();
    for name in [
        "AdminNetworkPolicy",
        "BaselineAdminNetworkPolicy",
        "ClusterNetworkPolicy",
        "Policy",
        "VirtualNetwork",
        "Egress",
    ] {
        if !random.one_in(4) || CLUSTER_WIDE.contains(&name) {
            api.install(kind(name), true);
        }
    }
    for _ in 0..random.below(20) {
        let number = random.below(NUMBERS);
        api.apply(&object(random, number).1);
    }
    api.misbehave(Some((random.word(), 3 + random.below(10))));
    let mut watcher = Watcher::start(&api).await;
    let mut deleted = BTreeSet::new();
    for _ in 0..20 + random.below(40) {
        let number = random.below(NUMBERS);
        let (name, yaml) = object(random, number);
        if number % 2 == 1 && random.one_in(3) {
            let namespaced = !matches!(name, "Node" | "Namespace") && !CLUSTER_WIDE.contains(&name);
            let namespace = if namespaced { "default" } else { "" };
            api.delete(kind(name), namespace, &format!("o{number}"));
            let dot = if namespaced { "default/" } else { "" };
            deleted.insert(format!("{name} {dot}o{number}"));
        } else {
            api.apply(&yaml);
        }
        if random.one_in(15) {
            api.compact();
        }
        if random.one_in(25) {
            api.down();
            watcher.hear(Duration::from_millis(random.below(10) as u64)).await;
            api.up();
        }
        watcher.hear(Duration::from_millis(random.below(6) as u64)).await;
    }
    api.misbehave(None);
    watcher.until_as(&api).await;
    let spurious: Vec<_> = watcher.deleted.difference(&deleted).collect();
    assert!(spurious.is_empty(), "taken away, but never gone: {spurious:?}");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn random_faults_end_where_the_server_is() {
    let runs =
        std::env::var("CAUSEWAY_RUNS").map_or(200, |runs| runs.parse().expect("CAUSEWAY_RUNS is a number"));
    let begun = Instant::now();
    let mut done = 0;
    Random::rounds_while(|random| {
        block_on(run(random));
        done += 1;
        done < runs
    });
    println!("{done} runs in {:?}", begun.elapsed());
}

/// The kinds that have something to lose.
const ALL: [&str; 6] = ["Service", "EndpointSlice", "Node", "Pod", "Namespace", "NetworkPolicy"];

/// A server with three of each.
fn stocked() -> ApiServer {
    let api = ApiServer::local();
    let random = &mut Random::new(1);
    for number in 0..3 {
        let mut left: BTreeSet<&str> = ALL.into();
        while !left.is_empty() {
            let (name, yaml) = object(random, number);
            if left.remove(name) {
                api.apply(&yaml);
            }
        }
    }
    api
}

#[test]
fn a_kind_that_must_not_be_read_is_named_and_the_rest_is_served() {
    block_on(async {
        let api = stocked();
        api.allow(kind("NetworkPolicy"), false);
        let mut watcher = Watcher::start(&api).await;
        watcher.until("services", |watcher| watcher.model.services() == 3).await;
        let named = |watcher: &Watcher| {
            let problem = watcher.problems.iter().find(|problem| problem.contains("NetworkPolicy"));
            problem.is_some_and(|problem| {
                problem.contains("list and watch networkpolicies of networking.k8s.io")
            })
        };
        watcher.until("the problem", named).await;
        watcher.until("pods", |watcher| watcher.model.pods().count() == 3).await;
        assert!(!watcher.model.synced(), "what policies there are is not known");
        api.allow(kind("NetworkPolicy"), true);
        watcher.until_as(&api).await;
    });
}

#[test]
fn a_kind_that_is_not_installed_is_no_trouble_and_comes_when_it_is() {
    block_on(async {
        let api = stocked();
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        api.install(kind("Policy"), true);
        api.apply("apiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {name: p}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n");
        watcher.until_as(&api).await;
        assert_eq!(watcher.model.policy_count(), 4);
        api.install(kind("Policy"), false);
        watcher.until("the policy gone", |watcher| watcher.model.policy_count() == 3).await;
        watcher.until_as(&api).await;
    });
}

#[test]
fn a_server_that_does_not_answer_is_named_and_takes_nothing_away() {
    block_on(async {
        let mut api = stocked();
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        api.down();
        let silent = |watcher: &Watcher| {
            watcher.problems.iter().any(|problem| problem.contains("does not answer since 2"))
        };
        watcher.until("the problem", silent).await;
        watcher.hear(Duration::from_millis(300)).await;
        assert_eq!((watcher.model.services(), watcher.problems.len()), (3, 1), "{:?}", watcher.problems);
        assert!(watcher.deleted.is_empty());
        api.delete(kind("Service"), "default", "o1");
        api.up();
        watcher.until_as(&api).await;
        assert_eq!(watcher.deleted, BTreeSet::from(["Service default/o1".to_owned()]));
    });
}

#[test]
fn an_answer_of_somebody_else_is_named() {
    block_on(async {
        let api = stocked();
        api.plan(kind("Service"), vec![Fault::Foreign; 3]);
        let mut watcher = Watcher::start(&api).await;
        let named = |watcher: &Watcher| {
            watcher.problems.iter().any(|problem| problem.contains("none of an API server's"))
        };
        watcher.until("the problem", named).await;
        watcher.until_as(&api).await;
    });
}

#[test]
fn lists_come_in_pages_and_watches_do_not_spin() {
    block_on(async {
        let api = stocked();
        for number in 3..40 {
            let random = &mut Random::new(number as u64);
            let (name, yaml) = object(random, number);
            if ALL.contains(&name) {
                api.apply(&yaml);
            }
        }
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        let (lists, watches) = api.requests(kind("Pod"));
        assert!(lists >= 2, "{lists} pages of {TIMING:?}");
        watcher.hear(Duration::from_millis(500)).await;
        assert_eq!(api.requests(kind("Pod")), (lists, watches), "a quiet watch asks again and again");
        // A server that ends every watch at once is asked no faster than that.
        api.plan(kind("Pod"), vec![Fault::End; 1000]);
        let begun = Instant::now();
        watcher.hear(Duration::from_millis(200)).await;
        let (_, more) = api.requests(kind("Pod"));
        let most = begun.elapsed().as_millis() as u64;
        assert!((2..=most + 2).contains(&(more - watches)), "{} watches in {most} ms", more - watches);
    });
}

#[test]
fn documents_of_lists_and_files_are_read_alike() {
    let list = "kind: List\napiVersion: v1\nitems:\n- {kind: Node, apiVersion: v1, metadata: {name: a}}\n---\nkind: Node\n";
    assert_eq!(documents(list).len(), 2);
}
