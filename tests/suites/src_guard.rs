//! SRC-08: does a source that suddenly has almost nothing take services away?
//! Not before it has said so twice, or somebody says that it is meant.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use causeway::snapshot::{HeldView, Status};
use causeway_testkit::{
    agent::Agent,
    apiserver::{ApiServer, kind},
    client::{request, requests},
    load::ConnectLoad,
    manifest::{Manifests, Port, Service},
    server::Server,
    streams::Streams,
    topology::{Cluster, Container, PATIENCE, vip, vip6},
    wire::Protocol,
};

const SERVICES: u8 = 100;
/// Those of a Service and of its two slices.
const OBJECTS: usize = 3 * SERVICES as usize;
const RATE: u32 = 100;
const STREAMS: usize = 10;
/// Longer than any test.
const NEVER: &str = "second_look_ms = 600000\n";
const SOON: &str = "second_look_ms = 3000\n";

fn service(number: u8) -> Service {
    Service::new(&format!("s{number}"), vip(number), &[Port::tcp(80, 8080)]).dual(vip6(number))
}

/// The services, as documents with their slices.
fn documents(backends: &[IpAddr]) -> Vec<(String, String)> {
    let document = |number| {
        let service = service(number);
        (service.name.clone(), format!("{}---\n{}", service.slice(backends).yaml(), service.yaml()))
    };
    (1..=SERVICES).map(document).collect()
}

fn fill(manifests: &Manifests, backends: &[IpAddr]) {
    documents(backends).iter().for_each(|(name, text)| manifests.write(&format!("{name}.yaml"), text));
}

/// As `rm DIR/*` does it.
fn empty(manifests: &Manifests) {
    for entry in fs::read_dir(manifests.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

fn publish(api: &ApiServer, backends: &[IpAddr]) {
    documents(backends).iter().for_each(|(_, text)| api.apply(text));
}

/// Services of the API, and their slices, but those that are kept.
fn lose(api: &ApiServer, keep: impl Fn(&str) -> bool) {
    for name in ["Service", "EndpointSlice"] {
        api.lose(kind(name), |object| keep(object.trim_end_matches("-v6")));
    }
}

fn held(status: &Status) -> usize {
    status.sources.iter().flat_map(|source| &source.held).map(|held| held.objects).sum()
}

/// Who serves, and who asks from here and from outside, of both families.
struct Rig {
    cluster: Cluster,
    api: Option<ApiServer>,
    servers: Vec<(Container, Server)>,
    client: Container,
}

impl Rig {
    /// With a directory of services.
    fn of_files(config: &str) -> Self {
        let rig = Self::new(Cluster::configured(1, config), None);
        fill(rig.cluster.manifests(), &rig.backends());
        rig.settled()
    }

    /// With an API server that has them.
    fn of_api(config: &str) -> Self {
        let (mut cluster, api) = Cluster::beside_api(1);
        cluster.nodes[0].start_watching_with(&api, config);
        cluster.wait_converged();
        let rig = Self::new(cluster, Some(api));
        publish(rig.api(), &rig.backends());
        rig.settled()
    }

    fn new(cluster: Cluster, api: Option<ApiServer>) -> Self {
        let servers = cluster.servers(2, 8080);
        let client = cluster.nodes[0].container("client", 100);
        Self { cluster, api, servers, client }
    }

    fn settled(self) -> Self {
        self.wait("all services", |status| status.services == usize::from(SERVICES) && status.converged);
        self.agent().wait_converged(PATIENCE);
        self
    }

    fn backends(&self) -> Vec<IpAddr> {
        let both = |(at, _): &(Container, Server)| [at.address.into(), at.address6.unwrap().into()];
        self.servers.iter().flat_map(both).collect()
    }

    fn api(&self) -> &ApiServer {
        self.api.as_ref().unwrap()
    }

    fn agent(&self) -> &Agent {
        self.cluster.nodes[0].agent()
    }

    fn wait(&self, what: &str, good: impl Fn(&Status) -> bool) -> Status {
        self.agent().wait_status(what, PATIENCE, good)
    }

    /// Each of them, in both families, from a container and from outside.
    fn assert_served(&self, services: impl IntoIterator<Item = u8>) {
        for number in services {
            for to in [SocketAddr::from((vip(number), 80)), (vip6(number), 80).into()] {
                for netns in [&self.client.netns, &self.cluster.outside] {
                    let report = requests(netns, to, 1, Protocol::Tcp);
                    assert_eq!(report.failed, 0, "{to}: {report}\n{:#?}", self.agent().status());
                }
            }
        }
    }

    fn assert_refused(&self, services: impl IntoIterator<Item = u8>) {
        for number in services {
            for to in [SocketAddr::from((vip(number), 80)), (vip6(number), 80).into()] {
                let answer = self.client.netns.run(|| request(to, Protocol::Tcp));
                assert!(answer.is_err(), "{to} is served");
            }
        }
    }

    fn load(&self) -> Load {
        let to = [SocketAddr::from((vip(1), 80)), (vip6(SERVICES), 80).into()];
        let netns = &self.client.netns;
        Load {
            streams: to.map(|to| Streams::open(netns, to, STREAMS, Duration::from_millis(20))),
            connections: to.map(|to| ConnectLoad::start(netns, to, RATE)),
        }
    }
}

/// Connections that stay and connections that begin, to the first service and
/// to the last.
struct Load {
    streams: [Streams; 2],
    connections: [ConnectLoad; 2],
}

impl Load {
    /// Nobody has noticed anything, in a second more either.
    fn assert_clean(self) {
        thread::sleep(Duration::from_secs(1));
        for connections in self.connections {
            let load = connections.stop();
            println!("{load}");
            assert!(load.report.failed == 0 && load.report.ok > 50, "{load}");
        }
        for streams in self.streams {
            let streams = streams.close();
            println!("{streams}");
            streams.assert_clean(STREAMS);
        }
    }
}

#[test]
fn an_emptied_directory_is_held_until_a_hand_lets_it_go() {
    // No look at everything comes to the help of what forgets to say so.
    let rig = Rig::of_files(&format!("resync_ms = 3600000\n{NEVER}"));
    let load = rig.load();
    empty(rig.cluster.manifests());
    let status = rig.wait("all of it held", |status| held(status) == OBJECTS && status.nodes == 0);
    let [source] = &status.sources[..] else { panic!("{status:#?}") };
    let kinds: Vec<_> = source.held.iter().map(|held| (held.kind.as_str(), held.objects, held.of)).collect();
    let all = usize::from(SERVICES);
    assert_eq!(kinds, [("Service", all, all), ("EndpointSlice", 2 * all, 2 * all)]);
    let HeldView { since, again, earlier, .. } = &source.held[0];
    assert!(since.ends_with('Z') && again.as_ref().is_some_and(|again| again > since) && !earlier);

    // It is said wherever somebody looks, and nobody is told that all is done.
    assert!(!status.converged && status.services == all, "{status:#?}");
    assert!(status.reasons[0].contains("of source manifests are held"), "{status:#?}");
    assert!(status.alarms[0].contains("causeway source release manifests"), "{status:#?}");
    let agent = rig.agent();
    assert_eq!(agent.cli(&["converged"]).code, 1);
    let said = agent.cli(&["wait", "--timeout", "1"]);
    assert!(said.code == 1 && said.stdout.contains("are held"), "{said:?}");
    let text = agent.text(&["status"]);
    assert!(text.contains(&format!("{OBJECTS} HELD")) && text.contains("ALARMS"), "{text}");
    let metrics = agent.get("/metrics");
    let line = format!("causeway_source_held_objects{{source=\"manifests\"}} {OBJECTS}\n");
    assert!(metrics.contains(&line), "{metrics}");
    assert!(fs::read_to_string(agent.log_path()).unwrap().contains("gone at once: held, and served on"));
    assert!(agent.get("/readyz").contains("are held"));

    // What comes meanwhile is served as ever.
    let extra = Service::new("extra", vip(200), &[Port::tcp(80, 8080)]).dual(vip6(200));
    rig.cluster.manifests().service(&extra, &extra.slice(&rig.backends()));
    rig.wait("a service more", |status| status.services == all + 1);
    rig.assert_served((1..=SERVICES).step_by(9).chain([200]));
    load.assert_clean();

    let said = agent.cli(&["source", "release", "nobody"]);
    assert!(said.code == 1 && said.stderr.contains("use manifests"), "{said:?}");
    assert_eq!(agent.ask(&["source", "release", "manifests"])["released"], OBJECTS);
    let status = agent.status();
    assert!(status.services == 1 && held(&status) == 0 && status.alarms.is_empty(), "{status:#?}");
    rig.assert_refused([1, 50, SERVICES]);
    agent.wait_converged(PATIENCE);
    rig.assert_served([200]);
    assert!(agent.text(&["source", "release", "manifests"]).contains("nothing was held"));
}

#[test]
fn what_a_second_look_does_not_find_goes_by_itself() {
    let rig = Rig::of_files(SOON);
    let begun = Instant::now();
    empty(rig.cluster.manifests());
    rig.wait("all of it held", |status| held(status) == OBJECTS);
    rig.assert_served([1, SERVICES]);
    let status = rig.wait("nothing left", |status| status.services == 0);
    let took = begun.elapsed();
    println!("gone after {took:?}");
    assert!(took >= Duration::from_secs(3) && held(&status) == 0, "{took:?} {status:#?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    rig.assert_refused([1, 50, SERVICES]);
    rig.agent().wait_converged(PATIENCE);
}

#[test]
fn a_few_of_many_go_at_once_and_all_of_them_where_it_is_off() {
    let mut rig = Rig::of_files(NEVER);
    let begun = Instant::now();
    (1..=5).for_each(|number| rig.cluster.manifests().remove(&format!("s{number}.yaml")));
    rig.agent().wait_converged(PATIENCE);
    let took = begun.elapsed();
    rig.assert_refused(1..=5);
    rig.assert_served([6, SERVICES]);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(rig.agent().status().services, 95);

    let agent = rig.cluster.nodes[0].agent_mut();
    agent.stop();
    agent.reconfigure("shrink_guard = 0\n");
    agent.restart();
    rig.agent().wait_up(PATIENCE);
    rig.agent().wait_converged(PATIENCE);
    empty(rig.cluster.manifests());
    rig.agent().wait_converged(PATIENCE);
    rig.assert_refused([6, SERVICES]);
}

#[test]
fn an_api_that_lists_nothing_or_little_after_410_interrupts_nobody() {
    let rig = Rig::of_api(NEVER);
    let load = rig.load();
    lose(rig.api(), |_| false);
    let status = rig.wait("all of it held", |status| held(status) == OBJECTS);
    assert!(!status.converged && status.sources[0].synced && status.problems.is_empty(), "{status:#?}");
    rig.assert_served((1..=SERVICES).step_by(9));
    // One by one, as its objects are restored.
    publish(rig.api(), &rig.backends());
    rig.wait("nothing held", |status| held(status) == 0 && status.converged && status.alarms.is_empty());

    // 95 % fewer, and one new.
    let left = |name: &str| ["s10", "s20", "s30", "s40", "s50"].contains(&name);
    let extra = Service::new("extra", vip(200), &[Port::tcp(80, 8080)]).dual(vip6(200));
    rig.api().apply(&format!("{}---\n{}", extra.slice(&rig.backends()).yaml(), extra.yaml()));
    lose(rig.api(), |name| left(name) || name == "extra");
    let status = rig.wait("most of it held", |status| held(status) == OBJECTS * 95 / 100);
    assert_eq!(status.services, usize::from(SERVICES) + 1);
    rig.assert_served((1..=SERVICES).step_by(9).chain([200]));
    publish(rig.api(), &rig.backends());
    rig.wait("nothing held", |status| held(status) == 0 && status.converged);

    // Little enough goes at once, by a list or by a watch.
    for number in 11..=13 {
        rig.api().delete(kind("Service"), "default", &format!("s{number}"));
    }
    let kept = |name: &str| !["s14", "s15"].contains(&name);
    lose(rig.api(), kept);
    rig.wait("five less", |status| status.services == usize::from(SERVICES) - 4 && status.converged);
    rig.assert_refused(11..=15);
    load.assert_clean();
}

#[test]
fn an_api_is_listed_anew_before_it_is_believed() {
    let mut rig = Rig::of_api(SOON);
    lose(rig.api(), |_| false);
    let status = rig.wait("all of it held", |status| held(status) == OBJECTS);
    assert!(status.sources[0].held.iter().all(|held| held.again.is_some()), "{status:#?}");
    // Who cannot be asked cannot confirm.
    rig.api.as_mut().unwrap().down();
    rig.wait("the second look begun", |status| {
        status.sources[0].held.iter().all(|held| held.again.is_none())
    });
    thread::sleep(Duration::from_secs(2));
    assert_eq!(held(&rig.agent().status()), OBJECTS);
    rig.assert_served([1, SERVICES]);
    let lists = |api: &ApiServer| (api.requests(kind("Service")).0, api.requests(kind("EndpointSlice")).0);
    let before = lists(rig.api());
    rig.api.as_mut().unwrap().up();
    let gone = |status: &Status| status.services == 0 && held(status) == 0 && status.converged;
    rig.agent().wait_status("all gone", Duration::from_secs(20), gone);
    let after = lists(rig.api());
    assert!(after.0 > before.0 && after.1 > before.1, "lists {before:?} {after:?}");
    rig.assert_refused([1, 50, SERVICES]);
}

/// The directory is emptied while there is no agent.
#[test]
fn an_agent_that_starts_holds_what_the_maps_have() {
    let mut rig = Rig::of_files(NEVER);
    let load = rig.load();
    let (memory, end) = (rig.agent().state_dir().join("sources.json"), Instant::now() + PATIENCE);
    while !fs::read_to_string(&memory).is_ok_and(|text| text.contains("\"Service\":100")) {
        assert!(Instant::now() < end, "{:?}", fs::read_to_string(&memory));
    }
    rig.cluster.nodes[0].agent_mut().kill9();
    empty(rig.cluster.manifests());
    rig.cluster.nodes[0].agent_mut().restart();
    rig.agent().wait_up(PATIENCE);
    let status = rig.wait("all of it held", |status| held(status) == OBJECTS);
    assert!(!status.converged && status.services == 0 && status.sources[0].held[0].earlier, "{status:#?}");
    assert!(status.alarms[0].contains("an earlier agent had"), "{status:#?}");
    rig.assert_served((1..=SERVICES).step_by(9));

    // The next one knows of it as well; what it reads, it serves.
    rig.cluster.nodes[0].agent_mut().kill9();
    rig.cluster.nodes[0].agent_mut().restart();
    rig.agent().wait_up(PATIENCE);
    rig.wait("all of it held", |status| held(status) == OBJECTS);
    let extra = Service::new("extra", vip(200), &[Port::tcp(80, 8080)]).dual(vip6(200));
    rig.cluster.manifests().service(&extra, &extra.slice(&rig.backends()));
    rig.wait("a service", |status| status.services == 1);
    rig.assert_served((1..=SERVICES).step_by(9).chain([200]));

    fill(rig.cluster.manifests(), &rig.backends());
    rig.wait("nothing held", |status| held(status) == 0 && status.converged);
    rig.agent().wait_converged(PATIENCE);
    load.assert_clean();

    // By hand, and by a second look.
    for config in [NEVER, SOON] {
        fill(rig.cluster.manifests(), &rig.backends());
        rig.agent().wait_converged(PATIENCE);
        let agent = rig.cluster.nodes[0].agent_mut();
        agent.stop();
        agent.reconfigure(config);
        empty(rig.cluster.manifests());
        rig.cluster.nodes[0].agent_mut().restart();
        rig.agent().wait_up(PATIENCE);
        rig.wait("all of it held", |status| held(status) >= OBJECTS);
        rig.assert_served([1, SERVICES]);
        if config == NEVER {
            rig.agent().ask(&["source", "release", "manifests"]);
        }
        rig.agent().wait_converged(PATIENCE);
        rig.assert_refused([1, 50, SERVICES]);
    }
}
