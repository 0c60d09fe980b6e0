//! The demo: a small cluster of network namespaces, real agents, real traffic;
//! a backend is taken out and an agent killed under load, and it is shown what
//! that cost. Everything it makes is gone when it ends, however it ends.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    agent::Agent,
    apiserver::ApiServer,
    child,
    client::{Report, first_answer, requests},
    load::{ConnectLoad, LoadReport},
    manifest::{Port, Service},
    netns::Netns,
    scratch,
    sentinel::netfilter,
    server::Server,
    streams::{Streams, StreamsReport},
    topology::{Cluster, Container, PATIENCE, node_address, node_address6, vip, vip6, widen},
    wire::Protocol,
};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use serde_json::Value;

/// Two nodes, six containers, one virtual address, and what it takes to break them.
#[derive(Parser)]
#[command(name = "causeway-demo")]
struct Arguments {
    /// Fewer requests, shorter loads
    #[arg(long)]
    quick: bool,
    /// Agents watch an API server (an emulated one) instead of a directory
    #[arg(long)]
    kubernetes: bool,
}

/// The service's TCP frontend; the UDP one is on port 53.
const WEB: u16 = 80;
const DNS: u16 = 53;
const LISTEN: u16 = 8080;
/// The TCP port at every node's own address.
const NODE_PORT: u16 = 30_080;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("causeway-demo needs root: it makes network namespaces and loads BPF programs. Try sudo.");
        return ExitCode::from(2);
    }
    clear_up_when_interrupted();
    let begun = Instant::now();
    let failures = Demo::new(&arguments).play();
    section("Summary");
    if failures.is_empty() {
        println!(
            "Nothing was lost. The demo took {:.0} s and has cleared up.",
            begun.elapsed().as_secs_f64()
        );
        return ExitCode::SUCCESS;
    }
    for failure in failures {
        println!("NOT AS IT SHOULD BE: {failure}");
    }
    ExitCode::FAILURE
}

struct Demo {
    quick: bool,
    // Servers go before the namespaces they listen in.
    servers: Vec<Option<Server>>,
    backends: Vec<Container>,
    clients: Vec<Container>,
    /// Who speaks of services, unless the manifests do.
    api: Option<ApiServer>,
    cluster: Cluster,
    failures: Vec<String>,
}

impl Demo {
    fn new(arguments: &Arguments) -> Self {
        section("A cluster in this machine");
        let begun = Instant::now();
        let (cluster, api) = if arguments.kubernetes {
            let (cluster, api) = Cluster::xdp_watching(2);
            (cluster, Some(api))
        } else {
            (Cluster::xdp(2), None)
        };
        api.iter().for_each(|api| println!("API server {}, which the agents watch", api.url()));
        for node in &cluster.nodes {
            println!(
                "node {}     {}  pods {} and {}",
                node.name,
                node.address,
                node.pod_cidr(),
                node.pod_cidr6()
            );
        }
        let mut backends = Vec::new();
        let mut clients = Vec::new();
        for node in &cluster.nodes {
            for host in [10, 11] {
                let name = format!("web-{}-{}", node.name, host - 10);
                backends.push(node.container(&name, host));
            }
            clients.push(node.container(&format!("client-{}", node.name), 100));
        }
        for client in &clients {
            widen(&client.netns);
        }
        widen(&cluster.outside);
        let servers = backends.iter().map(|one| Some(Server::start(&one.netns, &one.name, LISTEN))).collect();
        for container in backends.iter().chain(&clients) {
            let address6 = container.address6.map(|address| address.to_string()).unwrap_or_default();
            println!("container {:<12} {:<14} {address6}", container.name, container.address);
        }
        println!("up in {}", millis(begun.elapsed()));
        let (quick, failures) = (arguments.quick, Vec::new());
        Self { quick, servers, backends, clients, api, cluster, failures }
    }

    fn play(mut self) -> Vec<String> {
        self.publish();
        self.spread();
        self.replace_a_backend();
        self.kill_an_agent();
        self.look_inside();
        self.failures
    }

    /// Three of the four servers at first; the fourth joins later.
    fn publish(&mut self) {
        section(if self.api.is_some() { "A service, from the API" } else { "A service, from two manifests" });
        let service = service();
        let begun = Instant::now();
        self.write_backends(&[0, 1, 2]);
        self.say("web.service.yaml", &service.yaml());
        self.wait_applied(&service, &[0, 1, 2]);
        println!("{} and {}, ports {WEB}/TCP and {DNS}/UDP, three backends", service.address, vip6(1));
        println!("node port {NODE_PORT} of every node");
        println!("`causeway wait` says so on both nodes after {}", millis(begun.elapsed()));
        let [first, second] = [0, 1].map(|node: usize| self.cluster.nodes[node].agent().status());
        println!("digest of n0 {}\ndigest of n1 {}", first.kernel_digest, second.kernel_digest);
        self.expect(first.kernel_digest == second.kernel_digest, "the nodes' digests differ");
    }

    fn spread(&mut self) {
        section("Requests from a container through the virtual addresses");
        let count = if self.quick { 1000 } else { 10_000 };
        for address in [IpAddr::from(vip(1)), vip6(1).into()] {
            for (protocol, port) in [(Protocol::Tcp, WEB), (Protocol::Udp, DNS)] {
                let client = &self.clients[0].netns;
                let report = ask(client, SocketAddr::new(address, port), count, protocol);
                self.expect_clean(&report, SocketAddr::new(address, port));
            }
        }
        section("Requests from outside at a node's own port, wherever the backends are");
        for address in [IpAddr::from(node_address(0)), node_address6(0).into()] {
            let to = SocketAddr::new(address, NODE_PORT);
            let report = ask(&self.cluster.outside, to, count / 5, Protocol::Tcp);
            self.expect_clean(&report, to);
        }
        let node = self.cluster.nodes[0].agent();
        let by_xdp = node.counters()["xdp_forwarded"];
        println!("n0 has programs at {}: to the backend on n1 and back,", node.status().hook);
        println!("{by_xdp} packets were turned around in the uplink's driver");
        self.expect(by_xdp > 0, "XDP carried nothing");
    }

    fn expect_clean(&mut self, report: &Report, to: SocketAddr) {
        shares(report);
        self.expect(report.failed == 0, "requests failed");
        self.expect(report.reply_sources.keys().all(|&source| source == to), "a reply came from elsewhere");
    }

    fn replace_a_backend(&mut self) {
        section("A backend leaves and another joins, under load");
        let load = self.load();
        thread::sleep(self.pause());
        let begun = Instant::now();
        self.write_backends(&[1, 2]);
        self.wait_applied(&service(), &[1, 2]);
        println!(
            "{} is no backend any more; every node applied it after {}",
            self.backends[0].name,
            millis(begun.elapsed())
        );
        // Let the requests it has already taken end, as any drain does.
        thread::sleep(Duration::from_millis(200));
        self.servers[0] = None;
        println!("{} killed", self.backends[0].name);
        thread::sleep(self.pause());

        let joining = self.backends[3].name.clone();
        self.write_backends(&[1, 2, 3]);
        let to = SocketAddr::new(service().address, DNS);
        let found = first_answer(&self.clients[0].netns, to, Duration::from_secs(5), |answer| {
            answer.server == joining
        });
        match found {
            Some(took) => println!("{joining} is one; its first packet came after {}", millis(took)),
            None => self.failures.push(format!("{joining} never got a packet")),
        }
        thread::sleep(self.pause());
        let report = load.stop();
        self.tell_load(&report);
    }

    fn kill_an_agent(&mut self) {
        section("kill -9 of an agent, under load");
        let count = if self.quick { 100 } else { 1000 };
        let to = SocketAddr::new(service().address, WEB);
        let streams = Streams::open(&self.clients[1].netns, to, count, Duration::from_millis(500));
        let load = self.load();
        thread::sleep(self.pause());
        self.cluster.nodes[0].agent_mut().kill9();
        println!("agent of n0 killed; traffic goes on");
        thread::sleep(self.pause());
        let late = Service::new("late", vip(2), &[Port::udp(DNS, LISTEN)]);
        self.say("late.slice.yaml", &late.slice(&[self.backends[1].address]).yaml());
        self.say("late.service.yaml", &late.yaml());
        println!("a new service written while nobody reads");
        thread::sleep(Duration::from_millis(200));
        self.cluster.nodes[0].agent_mut().restart();
        let late = SocketAddr::new(late.address, DNS);
        match first_answer(&self.clients[0].netns, late, Duration::from_secs(5), |_| true) {
            Some(took) => {
                println!("agent of n0 started again; the new service answers after {}", millis(took))
            }
            None => self.failures.push("the service written meanwhile never came".into()),
        }
        thread::sleep(self.pause());
        let (load, streams) = (load.stop(), streams.close());
        self.tell_load(&load);
        self.tell_streams(&streams);
    }

    fn look_inside(&mut self) {
        section("What the maps of n0 hold");
        let node = &self.cluster.nodes[0];
        node.agent().wait_converged(Duration::from_secs(10));
        println!("{}", node.agent().text(&["show", "services"]).trim_end());
        let status = node.agent().status();
        for map in &status.maps {
            println!("{:<16} {:>8} of {:>8} rows", map.map, map.used, map.capacity);
        }
        println!(
            "revision {}, applied {}, converged {}",
            status.revision, status.applied_revision, status.converged
        );
        let found: usize = self.cluster.nodes.iter().map(|node| netfilter(&node.netns).len()).sum();
        if let Some(first) = status.sources.first() {
            println!("source {}: {} objects, synced {}", first.name, first.objects, first.synced);
        }
        println!("iptables, nftables and conntrack of both nodes: {found} entries");
        self.expect(found == 0, "netfilter was used");
        self.expect(status.converged, "n0 has not converged");
    }

    fn load(&self) -> ConnectLoad {
        let to = SocketAddr::new(service().address, WEB);
        ConnectLoad::start(&self.clients[0].netns, to, if self.quick { 200 } else { 1000 })
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(if self.quick { 500 } else { 2000 })
    }

    fn write_backends(&self, which: &[usize]) {
        self.say("web.slice.yaml", &service().slice(&self.addresses(which)).yaml());
    }

    fn addresses(&self, which: &[usize]) -> Vec<IpAddr> {
        let chosen = which.iter().map(|&index| &self.backends[index]);
        let both = chosen.flat_map(|at| [Some(at.address.into()), at.address6.map(IpAddr::from)]);
        both.flatten().collect()
    }

    /// Tells all agents of what a file of manifests says.
    fn say(&self, file: &str, yaml: &str) {
        match &self.api {
            Some(api) => api.apply(yaml),
            None => self.cluster.manifests().write(file, yaml),
        }
    }

    /// Until every node serves the service by these backends alone. What a
    /// server has not sent yet, no agent can wait for.
    fn wait_applied(&self, service: &Service, which: &[usize]) {
        let wanted: BTreeSet<IpAddr> = self.addresses(which).into_iter().collect();
        let end = Instant::now() + PATIENCE;
        for agent in self.cluster.nodes.iter().map(|node| node.agent()) {
            while self.api.is_some() && backends(agent, &service.name) != wanted {
                assert!(Instant::now() < end, "{}: {}", agent.node(), agent.text(&["show", "services"]));
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.cluster.wait_converged();
    }

    fn tell_load(&mut self, load: &LoadReport) {
        println!("new connections: {} answered, {} failed", load.report.ok, load.report.failed);
        println!("connect to answer: p50 {}, p99 {}", millis(load.latency(0.5)), millis(load.latency(0.99)));
        shares(&load.report);
        self.expect(load.report.failed == 0, "connections failed");
    }

    fn tell_streams(&mut self, streams: &StreamsReport) {
        println!("long connections: {streams}");
        self.expect(streams.lost + streams.corrupt + streams.stalls == 0, "long connections suffered");
    }

    fn expect(&mut self, held: bool, otherwise: &str) {
        if !held {
            self.failures.push(otherwise.into());
        }
    }
}

/// Whom an agent has as backends of a service's ports.
fn backends(agent: &Agent, name: &str) -> BTreeSet<IpAddr> {
    let shown = agent.ask(&["show", "services"]);
    let start = format!("default/{name}:");
    let named = |service: &&Value| service["name"].as_str().is_some_and(|text| text.starts_with(&start));
    let services = shown.as_array().into_iter().flatten().filter(named);
    let backends = services.filter_map(|service| service["backends"].as_array()).flatten();
    let address = |backend: &Value| backend["address"].as_str()?.parse::<SocketAddr>().ok();
    backends.filter_map(address).map(|address| address.ip()).collect()
}

fn service() -> Service {
    let ports = [Port::tcp(WEB, LISTEN).at_node(NODE_PORT), Port::udp(DNS, LISTEN)];
    Service::new("web", vip(1), &ports).dual(vip6(1)).with("type: NodePort")
}

fn ask(client: &Netns, to: SocketAddr, count: u64, protocol: Protocol) -> Report {
    let begun = Instant::now();
    let report = requests(client, to, count, protocol);
    println!(
        "{count} {protocol:?} requests to {to} in {}, {} failed",
        millis(begun.elapsed()),
        report.failed
    );
    report
}

/// Each server's part beside the even one.
fn shares(report: &Report) {
    let ideal = 100.0 / report.by_server.len().max(1) as f64;
    for (server, &count) in &report.by_server {
        let share = 100.0 * count as f64 / report.ok.max(1) as f64;
        println!("  {server:<12} {count:>7}  {share:5.1} %  (even: {ideal:.1} %)");
    }
}

fn section(title: &str) {
    println!("\n{title}\n{}", "-".repeat(title.len()));
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Ctrl-C ends the process without unwinding: a thread waits for it and clears
/// up by name what the values would have.
fn clear_up_when_interrupted() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Threads started from here on inherit the mask; children undo it (std
    // resets it on spawn).
    if signals.thread_block().is_err() {
        return;
    }
    thread::spawn(move || {
        if signals.wait().is_ok() {
            child::kill_all();
            scratch::clear_own();
            eprintln!("\ninterrupted; cleared up");
            std::process::exit(130);
        }
    });
}
