//! CNV-04: does one agent know whether all nodes have read back what the API
//! server has, and which have not? Never yes when it is not so.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use causeway::{
    cluster::ReadBack,
    snapshot::{ClusterView, Laggard},
};
use causeway_testkit::{
    agent::Agent,
    apiserver::{ApiServer, Fault, kind, stock::object},
    client::requests,
    manifest::{Port, Service, node},
    pinned::Pinned,
    random::Random,
    server::Server,
    topology::{Cluster, Container, PATIENCE, outside_address, vip, vip6},
    until::until,
    watcher::{Watcher, block_on},
    wire::Protocol,
    worker::Ends,
};

/// After what was cut off is there again.
const SOON: Duration = Duration::from_secs(2);
/// An agent says so often that it is there, and a little more.
const RENEWAL: Duration = Duration::from_secs(12);

fn web() -> Service {
    Service::new("web", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1))
}

fn publish(api: &ApiServer, backends: &[IpAddr]) {
    api.apply(&web().yaml());
    api.apply(&web().slice(backends).yaml());
}

/// With the exit code that belongs to it.
fn ask(agent: &Agent, arguments: &[&str]) -> ClusterView {
    let said = agent.cli(arguments);
    let view: ClusterView = serde_json::from_value(said.json.clone()).unwrap_or_else(|_| panic!("{said:?}"));
    assert_eq!(
        (said.code, view.laggards.is_empty()),
        (i32::from(!view.converged), view.converged),
        "{said:?}"
    );
    view
}

fn wait(agent: &Agent, patience: &str) -> ClusterView {
    ask(agent, &["wait", "--cluster", "--timeout", patience])
}

fn lagging(view: &ClusterView) -> Vec<&str> {
    view.laggards.iter().map(|laggard| laggard.node.as_str()).collect()
}

/// Nodes that watch an API server, a client on each, and two to serve.
struct Rig {
    cluster: Cluster,
    api: ApiServer,
    clients: Vec<Container>,
    servers: Vec<(Container, Server)>,
}

impl Rig {
    fn new(nodes: u8) -> Self {
        let (cluster, api) = Cluster::watching(nodes);
        let servers = cluster.servers(1, 8080);
        let clients = cluster.nodes.iter().map(|node| node.container("client", 100)).collect();
        let rig = Self { cluster, api, clients, servers };
        publish(&rig.api, &rig.servers[0].0.addresses());
        rig.all(PATIENCE);
        rig
    }

    fn agent(&self, node: usize) -> &Agent {
        self.cluster.nodes[node].agent()
    }

    #[track_caller]
    fn all(&self, patience: Duration) {
        let view = wait(self.agent(0), &format!("{}ms", patience.as_millis()));
        assert!(view.converged && view.nodes == self.cluster.nodes.len(), "{view:?}");
    }

    /// Keeps a node from the API server, or no longer.
    fn cut_off(&self, node: usize, cut_off: bool) {
        let verb = if cut_off { "add" } else { "del" };
        self.cluster.nodes[node].netns.ip(&format!("route {verb} prohibit {}/32", outside_address()));
    }
}

#[test]
fn yes_means_that_every_node_serves_it() {
    let rig = Rig::new(3);
    for round in 0..10 {
        let (server, _) = &rig.servers[round % 3];
        publish(&rig.api, &server.addresses());
        // From whichever node.
        let view = wait(rig.agent(round % 3), "10s");
        assert!(view.converged && view.nodes == 3, "{view:?}");
        for client in &rig.clients {
            for to in [IpAddr::from(vip(1)), vip6(1).into()].map(|address| SocketAddr::new(address, 80)) {
                let report = requests(&client.netns, to, 3, Protocol::Tcp);
                report.assert_clean(3, to);
                assert!(report.by_server.keys().eq([&server.name]), "{report}");
            }
        }
    }
}

#[test]
fn who_has_not_is_named_and_heard_of_soon_after() {
    let mut rig = Rig::new(3);
    // What comes now is published at once, as it is after a quiet second.
    thread::sleep(Duration::from_secs(1));
    rig.cut_off(2, true);
    publish(&rig.api, &rig.servers[1].0.addresses());
    let view = wait(rig.agent(0), "1500ms");
    assert_eq!(lagging(&view), ["n2"]);
    assert!(view.laggards[0].reason.contains("has read back up to"), "{view:?}");
    rig.cut_off(2, false);
    rig.all(SOON);

    // An agent that is not there has read nothing since.
    rig.cluster.nodes[1].agent_mut().kill9();
    publish(&rig.api, &rig.servers[2].0.addresses());
    assert_eq!(lagging(&wait(rig.agent(0), "1500ms")), ["n1"]);
    rig.cluster.nodes[1].agent_mut().restart();
    rig.all(SOON);

    // What never was a node of ours.
    rig.api.apply(&node("n9", &["192.168.77.99".parse().unwrap()], &["10.244.9.0/24".into()]));
    let view = wait(rig.agent(0), "2s");
    let never = Laggard { node: "n9".into(), reason: "its agent has published nothing".into() };
    assert_eq!(view.laggards, [never]);
    rig.api.delete(kind("Node"), "", "n9");
    rig.all(SOON);

    // One that is cut off says that it does not know.
    rig.cut_off(2, true);
    let said = rig.agent(2).cli(&["converged", "--cluster"]);
    assert!(said.code != 0 && !said.json["converged"].as_bool().unwrap_or(false), "{said:?}");
    // Which has taken ten seconds: TCP is slow to believe that the way is open again.
    rig.cut_off(2, false);
    publish(&rig.api, &rig.servers[0].0.addresses());
    rig.all(Duration::from_secs(30));
}

#[test]
fn what_only_the_api_knows_of_is_no_change_and_is_read_all_the_same() {
    let rig = Rig::new(2);
    let before = rig.agent(0).status().revision;
    // Its status changes all the time, which is nothing to us.
    let node = rig.cluster.nodes[1].yaml();
    for _ in 0..5 {
        rig.api.apply(&node);
        rig.all(SOON);
    }
    assert_eq!(rig.agent(0).status().revision, before);
}

#[test]
fn the_server_has_little_to_write() {
    let rig = Rig::new(2);
    let (begun, before) = (Instant::now(), rig.api.lease_writes());
    for round in 0..300 {
        publish(&rig.api, &rig.servers[round % 2].0.addresses());
        thread::sleep(Duration::from_millis(10));
    }
    rig.all(PATIENCE);
    // Two nodes, once a second each.
    let (seconds, written) = (begun.elapsed().as_secs() + 1, rig.api.lease_writes() - before);
    assert!(written <= 2 * (seconds + 1), "{written} in {seconds} s");
    thread::sleep(Duration::from_millis(1500));
    let quiet = rig.api.lease_writes();
    // Each says once that it is there, and what somebody took away is there again.
    rig.api.remove_lease("causeway-n1");
    assert_eq!(lagging(&wait(rig.agent(0), "1s")), ["n1"]);
    rig.all(RENEWAL);
    let written = rig.api.lease_writes() - quiet;
    assert!((1..=2 * 2).contains(&written), "{written} and nothing has happened");
}

/// As in any cluster that is in use.
#[test]
fn writes_that_go_on_keep_nobody_from_an_answer() {
    let rig = Rig::new(2);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in (0..).take_while(|_| !over.load(Relaxed)) {
                publish(&rig.api, &rig.servers[round % 2].0.addresses());
                thread::sleep(Duration::from_millis(10));
            }
        });
        // Whatever becomes of the questions.
        let _ends = Ends(&over);
        for _ in 0..5 {
            rig.all(SOON);
        }
    });
}

#[test]
fn who_loses_what_stood_or_leaves_is_named_though_nothing_is_new() {
    let mut rig = Rig::new(3);
    let pinned = Pinned::new(rig.agent(1).pins());
    let mut frontends = pinned.table::<8, 8>("FRONTENDS_V4");
    let key = frontends.keys().next().unwrap().unwrap();
    frontends.remove(&key).unwrap();
    pinned.freeze("FRONTENDS_V4");
    rig.agent(1).wait_status("a row that cannot be mended", PATIENCE, |status| !status.converged);
    let nobody = |rig: &Rig, agents: &[&str]| {
        let laggards = || {
            let view = ask(rig.agent(0), &["converged", "--cluster"]);
            (lagging(&view) == agents).then_some(view)
        };
        until(&format!("{agents:?}"), PATIENCE, laggards)
    };
    let view = nobody(&rig, &["n1"]);
    assert!(view.laggards[0].reason.contains("not all stands"), "{view:?}");
    // As a DaemonSet ends it; much sooner than a silent agent is missed.
    let agent = rig.cluster.nodes[2].agent_mut();
    agent.stop();
    agent.restart_with(&["--uninstall"]);
    assert_eq!(agent.ended(PATIENCE), Some(0));
    nobody(&rig, &["n1", "n2"]);
}

/// The question is the asker's own, and how it fares nobody's trouble.
#[test]
fn a_question_that_fails_is_no_trouble_of_the_agent() {
    let rig = Rig::new(2);
    rig.api.plan(kind("Service"), [Fault::Broken]);
    let said = rig.agent(0).cli(&["converged", "--cluster"]);
    assert!(said.code != 0 && said.stderr.contains("cannot be asked"), "{said:?}");
    let status = rig.agent(0).status();
    assert!(status.converged && status.problems.is_empty() && status.alarms.is_empty(), "{status:#?}");
    rig.all(SOON);
}

/// By names and versions, in pages of which the last ones expire once.
#[test]
fn what_fills_many_pages_is_one_list() {
    block_on(async {
        let (api, random) = (ApiServer::local(), &mut Random::new(1));
        api.apply(&node("n0", &["192.168.77.10".parse().unwrap()], &["10.244.0.0/24".into()]));
        for number in 0..200 {
            api.apply(&object(random, kind("Pod"), number).1);
        }
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        let cluster = watcher.provider.cluster("kube-system".into());
        let word = (ReadBack { revision: 1, kinds: (*watcher.marks).clone() }, 1);
        let (words, spoken) = tokio::sync::watch::channel(Default::default());
        words.send(word).unwrap();
        let publishing = tokio::spawn(cluster.clone().publish("n0".into(), spoken, Default::default()));
        let (before, _) = api.requests(kind("Pod"));
        api.plan(kind("Pod"), [Fault::Expired]);
        let view = cluster.wait(tokio::time::Instant::now() + PATIENCE).await.unwrap();
        assert!(view.converged && view.nodes == 1, "{view:?}");
        // Of 200 and some, sixty each; and the second page was not had at first.
        let lists = api.requests(kind("Pod")).0 - before;
        assert!((6..=8).contains(&lists), "{lists}");
        publishing.abort();
    });
}

#[test]
fn without_leases_a_node_serves_and_says_so() {
    let rig = Rig::new(2);
    rig.api.allow_leases(false);
    publish(&rig.api, &rig.servers[1].0.addresses());
    let told = |alarms: &[String]| alarms.iter().any(|alarm| alarm.contains("Lease kube-system/causeway-n1"));
    let status = rig.agent(1).wait_status("an alarm", PATIENCE, |status| told(&status.alarms));
    assert!(status.converged, "{status:?}");
    let said = rig.agent(0).cli(&["converged", "--cluster"]);
    assert!(said.code != 0 && said.stderr.contains("Leases of namespace kube-system"), "{said:?}");
    rig.api.allow_leases(true);
    rig.all(PATIENCE);
    rig.agent(1).wait_status("no alarm", PATIENCE, |status| status.alarms.is_empty());

    let alone = Cluster::running(1);
    let said = alone.nodes[0].agent().cli(&["converged", "--cluster"]);
    assert!(said.code != 0 && said.stderr.contains("no API server"), "{said:?}");
}
