//! SRC-07: policies of an API server, with connections. When do they hold, and
//! what does a kind that cannot be read hold up?

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use causeway::snapshot::Status;
use causeway_testkit::{
    apiserver::{ApiServer, Fault, kind},
    egress,
    server::Server,
    topology::{Cluster, Container, Node, PATIENCE},
};

/// A web server, and two who would like to talk to it.
struct Village {
    web: Container,
    friend: Container,
    stranger: Container,
    _server: Server,
}

impl Village {
    fn new(node: &Node, api: &ApiServer) -> Self {
        let [web, friend, stranger] = [("web", 10), ("friend", 11), ("stranger", 12)].map(|(name, host)| {
            let container = node.container(name, host);
            pod(api, &container);
            container
        });
        let server = Server::start(&web.netns, "web", 8080);
        Self { web, friend, stranger, _server: server }
    }

    /// Over IPv4 and IPv6.
    fn talks(&self, from: &Container) -> [bool; 2] {
        self.web.addresses().map(|to| {
            let connect = || TcpStream::connect_timeout(&(to, 8080).into(), Duration::from_millis(300));
            from.netns.run(connect).is_ok()
        })
    }

    fn until(&self, what: &str, friends: bool, strangers: bool) {
        let end = Instant::now() + PATIENCE;
        while (self.talks(&self.friend), self.talks(&self.stranger)) != ([friends; 2], [strangers; 2]) {
            let found = (self.talks(&self.friend), self.talks(&self.stranger));
            assert!(Instant::now() < end, "{what}: {found:?}");
        }
    }
}

fn pod(api: &ApiServer, container: &Container) {
    let pod = container.pod(&format!("app: {}", container.name));
    api.apply(&format!("{pod}spec: {{nodeName: n0, containers: []}}\n"));
}

/// Only friends may talk to the web server.
const GUARD: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard}\nspec:\n  podSelector: {matchLabels: {app: web}}\n  \
                     ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]\n";

fn problems(status: &Status) -> String {
    status.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn policies_of_the_api_hold_for_connections() {
    let (cluster, api) = Cluster::watching(1);
    let node = &cluster.nodes[0];
    let village = Village::new(node, &api);
    village.until("no policy", true, true);
    api.apply(GUARD);
    village.until("friends alone", true, false);
    assert_eq!(
        node.agent().ask(&["show", "policies"])[0]["origin"],
        "kubernetes:NetworkPolicy/default/guard"
    );
    api.delete(kind("NetworkPolicy"), "default", "guard");
    village.until("no policy again", true, true);
}

/// Of a kind that must not be read nobody can say what it has. The others'
/// policies hold, now and after a restart, and it is told which is missing.
#[test]
fn a_kind_that_must_not_be_read_holds_up_no_policy() {
    let (mut cluster, api) = Cluster::beside_api(1);
    let admin = kind("AdminNetworkPolicy");
    api.install(admin, true);
    api.allow(admin, false);
    api.apply(GUARD);
    api.install(kind("Egress"), true);
    api.apply(&egress::manifest(&["n0"]));
    cluster.nodes[0].start_watching(&api, false);
    cluster.nodes[0].agent().wait_up(PATIENCE);
    let village = Village::new(&cluster.nodes[0], &api);
    village.until("friends alone", true, false);
    let said = "policies of other kinds hold without it";
    let status = cluster.nodes[0]
        .agent()
        .wait_status("the problem", PATIENCE, |status| problems(status).contains(said));
    assert!(
        problems(&status).contains("AdminNetworkPolicy: must not be read since 2"),
        "{}",
        problems(&status)
    );
    assert!(!status.converged && !status.sources[0].synced, "{status:#?}");
    // Nor an egress address.
    egress::wait_held(&cluster, "n0");

    cluster.nodes[0].agent_mut().kill9();
    api.delete(kind("NetworkPolicy"), "default", "guard");
    cluster.nodes[0].agent_mut().restart();
    village.until("no policy after a restart", true, true);
}

/// Of one that cannot be read for any other reason all is to be expected.
#[test]
fn a_kind_that_cannot_be_read_cuts_newcomers_off_and_leaves_the_rest() {
    let (mut cluster, api) = Cluster::watching(1);
    let village = Village::new(&cluster.nodes[0], &api);
    api.apply(GUARD);
    village.until("friends alone", true, false);
    let admin = kind("AdminNetworkPolicy");
    cluster.nodes[0].agent_mut().kill9();
    api.install(admin, true);
    api.plan(admin, vec![Fault::Broken; 10_000]);
    api.delete(kind("NetworkPolicy"), "default", "guard");
    cluster.nodes[0].agent_mut().restart();
    let said = "new endpoints are cut off";
    let agent = cluster.nodes[0].agent();
    agent.wait_status("the problem", PATIENCE, |status| problems(status).contains(said));
    let newcomer = cluster.nodes[0].container("newcomer", 13);
    let sealed = "1 endpoints are cut off until";
    agent.wait_status("the reason", PATIENCE, |status| {
        status.reasons.iter().any(|reason| reason.starts_with(sealed))
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(village.talks(&newcomer), [false; 2], "nobody knows whether it may");
        assert_eq!(
            (village.talks(&village.friend), village.talks(&village.stranger)),
            ([true; 2], [false; 2])
        );
    }
    // Its word that there is no such kind is one.
    api.install(admin, false);
    village.until("all is known", true, true);
    assert_eq!(village.talks(&newcomer), [true; 2]);
    let status = agent.wait_status("all is well", PATIENCE, |status| status.problems.is_empty());
    assert!(!status.reasons.iter().any(|reason| reason.starts_with(sealed)), "{:?}", status.reasons);
}
