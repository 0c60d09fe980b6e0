//! IPM-01: does a container get its network by the plugin, whatever becomes of the
//! agent meanwhile?

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::requests,
    cni::{Case, Plugin, Said, play},
    manifest::{Port, Service},
    netns::Netns,
    server::Server,
    topology::{Cluster, PATIENCE, node_address, node_address6, outside_address, vip},
    until::until,
    wire::Protocol,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

fn rig() -> (Cluster, Plugin) {
    let cluster = Cluster::dual(1);
    cluster.wait_converged();
    let plugin = Plugin::of(&cluster.nodes[0]);
    (cluster, plugin)
}

/// A namespace that the plugin has attached.
struct Container {
    id: String,
    netns: Netns,
    address: IpAddr,
}

impl Container {
    fn add(plugin: &Plugin, id: &str, config: &Value) -> Self {
        let netns = Netns::new();
        let said = plugin.ask("ADD", id, netns.path().to_str().unwrap(), config);
        assert_eq!(said.code, 0, "{said:?}");
        Self { id: id.into(), netns, address: first(&said) }
    }

    fn path(&self) -> &str {
        self.netns.path().to_str().unwrap()
    }
}

fn first(said: &Said) -> IpAddr {
    let address = said.json["ips"][0]["address"].as_str().unwrap();
    address.split('/').next().unwrap().parse().unwrap()
}

fn endpoints(cluster: &Cluster) -> usize {
    cluster.nodes[0].agent().ask(&["show", "endpoints"]).as_array().unwrap().len()
}

/// Interfaces of ours on the node's side.
fn links(cluster: &Cluster) -> usize {
    let listed = cluster.nodes[0].netns.ip("-o link show");
    listed.lines().filter(|line| line.split(": ").nth(1).is_some_and(|name| name.starts_with("cw"))).count()
}

#[test]
fn the_plugin_answers_as_the_specification_says() {
    let (cluster, plugin) = rig();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cni");
    let cases = Case::read_all(&folder).unwrap();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut wrong = String::new();
    for case in &cases {
        for difference in play(case, &plugin) {
            wrong.push_str(&format!("{}: {difference}\n", case.case));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    // Those whose DEL found no agent go when it looks.
    until("all gone", PATIENCE, || (endpoints(&cluster) == 0 && links(&cluster) == 0).then_some(()));
}

#[test]
fn what_is_attached_talks_at_once() {
    let (cluster, plugin) = rig();
    let config = plugin.config();
    let server = Container::add(&plugin, "server", &config);
    let _answers = Server::start(&server.netns, "server", 8080);
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    let IpAddr::V4(backend) = server.address else { panic!("{}", server.address) };
    cluster.manifests().service(&web, &web.slice(&[backend]));
    cluster.wait_converged();
    for round in 0..10 {
        // Nothing is waited for between ADD and the first packet.
        let client = Container::add(&plugin, &format!("client-{round}"), &config);
        for to in [SocketAddr::new(server.address, 8080), SocketAddr::from((vip(1), 80))] {
            let report = requests(&client.netns, to, 3, Protocol::Tcp);
            assert!(report.failed == 0, "round {round}, {to}: {report}");
        }
        assert_eq!(plugin.ask("DEL", &client.id, client.path(), &config).code, 0);
    }
    assert_eq!((endpoints(&cluster), links(&cluster)), (1, 1));
}

#[test]
fn without_an_agent_containers_can_still_go() {
    let (mut cluster, plugin) = rig();
    let config = plugin.config();
    let [first, second] = ["first", "second"].map(|id| Container::add(&plugin, id, &config));
    // Dead: at once; stopped: when the plugin has waited long enough.
    cluster.nodes[0].agent_mut().kill9();
    let late = Netns::new();
    let said = plugin.ask("ADD", "late", late.path().to_str().unwrap(), &config);
    assert_eq!((said.code, &said.json["code"]), (1, &json!(11)), "{said:?}");
    assert_eq!(plugin.ask("DEL", &first.id, first.path(), &config), Said { code: 0, json: Value::Null });
    cluster.nodes[0].agent_mut().restart();
    cluster.nodes[0].agent().wait_up(PATIENCE);
    until("the first gone", PATIENCE, || (endpoints(&cluster) == 1 && links(&cluster) == 1).then_some(()));
    assert_eq!(plugin.ask("ADD", "late", late.path().to_str().unwrap(), &config).code, 0, "as was promised");

    let agent = Pid::from_raw(cluster.nodes[0].agent().pid() as i32);
    kill(agent, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let gone = plugin.ask("DEL", &second.id, second.path(), &config);
    let took = begun.elapsed();
    kill(agent, Signal::SIGCONT).unwrap();
    assert!(gone.code == 0 && took < Duration::from_secs(3), "{gone:?} {took:?}");
    until("the second gone", PATIENCE, || (endpoints(&cluster) == 1).then_some(()));
    let pending = || fs::read_dir(plugin.state_dir.join("cni-pending")).unwrap().count();
    until("no word left", PATIENCE, || (pending() == 0).then_some(()));
}

#[test]
fn a_late_word_takes_nothing_away_that_has_come_again() {
    let (cluster, plugin) = rig();
    let config = plugin.config();
    let away = Plugin { socket: "/run/nobody/agent.sock".into(), ..plugin.clone() };
    let container = Container::add(&plugin, "again", &config);
    // Its word is noted, whatever the agent does with it; then it is there again.
    for _ in 0..5 {
        assert_eq!(plugin.ask("DEL", &container.id, container.path(), &config).code, 0);
        assert_eq!(away.ask("DEL", &container.id, container.path(), &away.config()).code, 0);
        let mut wanted = config.clone();
        let added = plugin.ask("ADD", &container.id, container.path(), &config);
        assert_eq!(added.code, 0, "{added:?}");
        // More than two looks of the agent's at what is pending.
        thread::sleep(Duration::from_millis(1200));
        wanted["prevResult"] = added.json;
        assert_eq!(plugin.ask("CHECK", &container.id, container.path(), &wanted).code, 0);
    }
    assert_eq!(endpoints(&cluster), 1);
}

#[test]
fn a_container_that_goes_before_it_is_there_leaves_nothing() {
    let (cluster, plugin) = rig();
    let config = plugin.config();
    let netns = Netns::new();
    let path = netns.path().to_str().unwrap();
    for round in 0..15 {
        let id = format!("hasty-{round}");
        thread::scope(|scope| {
            let adding = scope.spawn(|| plugin.ask("ADD", &id, path, &config));
            thread::sleep(Duration::from_millis(round * 4));
            assert_eq!(plugin.ask("DEL", &id, path, &config).code, 0);
            let added = adding.join().unwrap();
            // Who was asked for later than it was to go is there.
            if added.code == 0 {
                assert_eq!(plugin.ask("DEL", &id, path, &config).code, 0);
            }
        });
        assert_eq!((endpoints(&cluster), links(&cluster)), (0, 0), "round {round}");
    }
}

#[test]
fn a_container_that_dies_gives_its_address_back() {
    let (cluster, plugin) = rig();
    let config = plugin.config();
    let container = Container::add(&plugin, "dies", &config);
    drop(container.netns);
    until("forgotten", PATIENCE, || (endpoints(&cluster) == 0).then_some(()));
    let again = Netns::new();
    let mut wanted = config.clone();
    wanted["runtimeConfig"] = json!({"ips": [container.address]});
    let asked = || plugin.ask("ADD", "heir", again.path().to_str().unwrap(), &wanted);
    // Once the maps are known to be without the one before.
    let said = until("the address", PATIENCE, || Some(asked()).filter(|said| said.code == 0));
    assert_eq!(first(&said), container.address);
}

#[test]
fn a_container_that_was_changed_is_told() {
    let (cluster, plugin) = rig();
    let mut config = plugin.config();
    let netns = Netns::new();
    let path = netns.path().to_str().unwrap();
    config["prevResult"] = plugin.ask("ADD", "changed", path, &config).json;
    let check = || plugin.ask("CHECK", "changed", path, &config);
    assert_eq!(check().code, 0);
    for (change, words) in [
        ("-6 address flush dev eth0 scope global", "has no address fd00:"),
        ("address flush dev eth0", "has no address 10.244.0."),
        ("link set eth0 name other", "has no interface eth0"),
    ] {
        netns.ip(change);
        let said = check();
        let message = said.json["msg"].as_str().unwrap_or_default();
        assert!(said.json["code"] == 101 && message.contains(words), "{change}: {said:?}");
    }
    netns.ip("link delete other");
    until("forgotten", PATIENCE, || (endpoints(&cluster) == 0).then_some(()));
}

#[test]
fn a_port_of_the_node_leads_to_its_container() {
    let (mut cluster, plugin) = rig();
    let mut config = plugin.config();
    let mappings =
        ["tcp", "udp"].map(|protocol| json!({"hostPort": 81, "containerPort": 8080, "protocol": protocol}));
    config["runtimeConfig"] = json!({"portMappings": mappings});
    let server = Container::add(&plugin, "server", &config);
    let client = Container::add(&plugin, "client", &plugin.config());
    let _answers = Server::start(&server.netns, "server", 8080);
    let at: [SocketAddr; 2] =
        [SocketAddr::from((node_address(0), 81)), SocketAddr::from((node_address6(0), 81))];
    let loopback = [SocketAddr::from(([127, 0, 0, 1], 81)), SocketAddr::from((Ipv6Addr::LOCALHOST, 81))];
    let served = |cluster: &Cluster| {
        let node = &cluster.nodes[0].netns;
        let ways =
            [&cluster.outside, &client.netns, node].into_iter().flat_map(|from| at.map(|to| (from, to)));
        for (from, to) in ways.chain(loopback.map(|to| (node, to))) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let report = requests(from, to, 10, protocol);
                assert!(report.failed == 0, "{to} {protocol:?}: {report}");
            }
        }
    };
    served(&cluster);
    // Who comes from outside is seen as who it is.
    assert!(server_saw_outside(&cluster, at[0]));
    // Without the agent, and with the next one, as before.
    cluster.nodes[0].agent_mut().kill9();
    served(&cluster);
    cluster.nodes[0].agent_mut().restart();
    cluster.nodes[0].agent().wait_up(PATIENCE);
    cluster.wait_converged();
    served(&cluster);
    assert_eq!(plugin.ask("DEL", &server.id, server.path(), &config).code, 0);
    for to in at {
        assert!(requests(&cluster.outside, to, 1, Protocol::Tcp).failed == 1, "{to}");
    }
    for to in loopback {
        assert!(requests(&cluster.nodes[0].netns, to, 1, Protocol::Tcp).failed == 1, "{to}");
    }
    cluster.wait_converged();
    let shown = cluster.nodes[0].agent().ask(&["show", "services"]);
    assert!(!shown.to_string().contains("host-port:"), "{shown}");
}

#[test]
fn a_port_that_a_service_has_is_refused() {
    let (cluster, plugin) = rig();
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080).at_node(30_080)]);
    cluster.manifests().service(&web, &web.slice(&[cluster.nodes[0].pod_address(99)]));
    cluster.wait_converged();
    let mut config = plugin.config();
    config["runtimeConfig"] = json!({"portMappings": [{"hostPort": 30_080, "containerPort": 80}]});
    let netns = Netns::new();
    // Its name is part of the Service's: that is another thing.
    for id in ["rival", "web"] {
        let said = plugin.ask("ADD", id, netns.path().to_str().unwrap(), &config);
        let message = said.json["msg"].as_str().unwrap();
        assert!(said.json["code"] == 100 && message.contains("default/web"), "{said:?}");
        assert_eq!((endpoints(&cluster), links(&cluster)), (0, 0));
    }
    let said = plugin.ask("ADD", "web", netns.path().to_str().unwrap(), &plugin.config());
    assert_eq!(said.code, 0, "{said:?}");
    cluster.wait_converged();
}

fn server_saw_outside(cluster: &Cluster, to: SocketAddr) -> bool {
    let report = requests(&cluster.outside, to, 1, Protocol::Tcp);
    report.peers_seen.keys().eq([&IpAddr::from(outside_address())])
}

#[test]
fn many_come_and_go_eight_at_a_time() {
    const CONTAINERS: usize = 300;
    let mut cluster = Cluster::idle(1);
    let pools = "[[pools]]\nname = \"wide\"\nnetworks = [\"10.245.0.0/16\"]\nexclude = [\"10.245.0.0/24\"]\n";
    cluster.nodes[0].start_with(Some(pools));
    cluster.wait_converged();
    let plugin = Plugin::of(&cluster.nodes[0]);
    let config = plugin.config();
    let (next, given) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let standing: Vec<Container> =
        (0..20).map(|at| Container::add(&plugin, &format!("stays-{at}"), &config)).collect();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let netns = Netns::new();
                let path = netns.path().to_str().unwrap();
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= CONTAINERS {
                        return;
                    }
                    let id = format!("c{number}");
                    let said = plugin.ask("ADD", &id, path, &config);
                    assert_eq!(said.code, 0, "{said:?}");
                    assert!(given.lock().unwrap().insert(first(&said)), "had before: {said:?}");
                    let said = plugin.ask("DEL", &id, path, &config);
                    assert_eq!(said.code, 0, "{said:?}");
                }
            });
        }
    });
    assert_eq!((endpoints(&cluster), links(&cluster)), (standing.len(), standing.len()));
    assert!(given.into_inner().unwrap().iter().all(|address| !address.to_string().starts_with("10.245.0.")));
    cluster.wait_converged();
}

/// At random points of many attachments the agent dies; `CAUSEWAY_RUNS` says how often,
/// 12 times unless given.
#[test]
fn no_address_is_lost_or_had_twice_whenever_the_agent_dies() {
    let deaths =
        std::env::var("CAUSEWAY_RUNS").map_or(12, |runs| runs.parse().expect("CAUSEWAY_RUNS is a number"));
    let given = AtomicUsize::new(0);
    let (mut cluster, plugin) = rig();
    let config = plugin.config();
    let mut random = causeway_testkit::random::Random::new(20_261_122);
    let namespaces: Vec<Netns> = (0..12).map(|_| Netns::new()).collect();
    // From the first death on there is a state that tells what is whose.
    let early = Container::add(&plugin, "early", &config);
    assert_eq!(plugin.ask("DEL", &early.id, early.path(), &config).code, 0);
    for _ in 0..deaths {
        let over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for (worker, netns) in namespaces.iter().enumerate() {
                let (plugin, config, over, given) = (&plugin, &config, &over, &given);
                scope.spawn(move || {
                    let id = format!("w{worker}");
                    while !over.load(Relaxed) {
                        for verb in ["ADD", "DEL"] {
                            let said = plugin.ask(verb, &id, netns.path().to_str().unwrap(), config);
                            given.fetch_add(usize::from(verb == "ADD" && said.code == 0), Relaxed);
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(random.below(400) as u64));
            cluster.nodes[0].agent_mut().kill9();
            over.store(true, Relaxed);
        });
        cluster.nodes[0].agent_mut().restart();
        cluster.nodes[0].agent().wait_up(PATIENCE);
        cluster.wait_converged();
        until("nothing half done", PATIENCE, || (endpoints(&cluster) == links(&cluster)).then_some(()));
        let shown = cluster.nodes[0].agent().ask(&["show", "endpoints"]);
        let held = || shown.as_array().unwrap().iter().map(|endpoint| endpoint["addresses"][0].to_string());
        assert_eq!(held().collect::<BTreeSet<_>>().len(), held().count(), "{shown}");
    }
    println!("{} addresses given, {deaths} deaths of the agent", given.into_inner());
    let mut had = BTreeSet::new();
    for (worker, netns) in namespaces.iter().enumerate() {
        let path = netns.path().to_str().unwrap();
        let said = plugin.ask("ADD", &format!("w{worker}"), path, &config);
        assert!(said.code == 0 && had.insert(first(&said)), "{said:?}");
    }
    assert_eq!((endpoints(&cluster), links(&cluster)), (12, 12));
    for (worker, netns) in namespaces.iter().enumerate() {
        assert_eq!(plugin.ask("DEL", &format!("w{worker}"), netns.path().to_str().unwrap(), &config).code, 0);
    }
    assert_eq!((endpoints(&cluster), links(&cluster)), (0, 0));
}
