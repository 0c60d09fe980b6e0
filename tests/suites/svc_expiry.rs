//! SVC-24, in part: does a connection that is silent for longer than its service
//! allows end on both sides, at once and by a reset, with neither saying a word?
//! From containers and from outside, to backends here and on another node.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    addresses::any,
    manifest::{Port, Service},
    netns::Netns,
    server::Server,
    topology::{Cluster, PATIENCE, vip, vip6, widen},
    udp_end::{Fragments, UdpEnd},
    until::until,
};

const ALLOWED: Duration = Duration::from_secs(2);
/// The agent looks every two seconds.
const LATEST: Duration = Duration::from_secs(6);

/// The two ends of a connection.
struct Pair {
    what: String,
    /// When it spoke last.
    spoke: Instant,
    client: TcpStream,
    server: TcpStream,
}

/// A listener whose connections are handed over.
fn listen(netns: &Netns, port: u16) -> mpsc::Receiver<TcpStream> {
    let listener = netns.run(|| TcpListener::bind(("::", port)).unwrap());
    let (sender, accepted) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.map(|stream| sender.send(stream));
        }
    });
    accepted
}

fn connect(what: String, netns: &Netns, to: SocketAddr, listeners: &[&mpsc::Receiver<TcpStream>]) -> Pair {
    let client = netns.run(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    let end = Instant::now() + PATIENCE;
    let server = loop {
        if let Some(server) = listeners.iter().find_map(|listener| listener.try_recv().ok()) {
            break server;
        }
        assert!(Instant::now() < end, "{what}: accepted by nobody");
        thread::sleep(Duration::from_millis(1));
    };
    let mut pair = Pair { what, spoke: Instant::now(), client, server };
    pair.exchange();
    pair
}

impl Pair {
    /// A word there and one back.
    fn exchange(&mut self) {
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            let (mut from, mut to) = (from, to);
            from.write_all(b"word").unwrap_or_else(|error| panic!("{}: {error}", self.what));
            to.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut word = [0; 4];
            to.read_exact(&mut word).unwrap_or_else(|error| panic!("{}: {error}", self.what));
        }
        self.spoke = Instant::now();
    }

    /// Waits until both ends hear of a reset; how long that took.
    fn reset(&self) -> Duration {
        for (name, end) in [("client", &self.client), ("server", &self.server)] {
            end.set_read_timeout(Some(LATEST)).unwrap();
            let mut end = end;
            let error = end.read(&mut [0; 1]).expect_err("an end that was only closed");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}: {name}", self.what);
        }
        self.spoke.elapsed()
    }

    fn is_open(&mut self) {
        self.exchange();
    }
}

#[test]
fn both_sides_of_a_silent_connection_are_reset() {
    for cluster in [Cluster::xdp(2), Cluster::dual(2)] {
        both_sides_are_reset(&cluster);
    }
}

fn both_sides_are_reset(cluster: &Cluster) {
    let servers = [cluster.nodes[0].container("near", 2), cluster.nodes[1].container("far", 2)];
    let listeners = servers.each_ref().map(|server| listen(&server.netns, 8080));
    let client = cluster.nodes[0].container("client", 100);
    widen(&cluster.outside);
    let mut ways = Vec::new();
    for (index, (server, name)) in servers.iter().zip(["near", "far"]).enumerate() {
        let host = 1 + index as u8;
        let service = Service::new(name, vip(host), &[Port::tcp(80, 8080)])
            .dual(vip6(host))
            .annotated("causeway.io/idle-timeout", "2s");
        let addresses: [IpAddr; 2] = [server.address.into(), server.address6.unwrap().into()];
        cluster.manifests().service(&service, &service.slice(&addresses));
        ways.extend([IpAddr::from(vip(host)), vip6(host).into()].map(|address| (name, address)));
    }
    let patient = Service::new("patient", vip(9), &[Port::tcp(80, 8080)]);
    cluster.manifests().service(&patient, &patient.slice(&[servers[0].address]));
    cluster.wait_converged();

    let listeners = [&listeners[0], &listeners[1]];
    let mut silent = Vec::new();
    for (name, address) in ways {
        for (from, netns) in [("a container", &client.netns), ("outside", &cluster.outside)] {
            let what = format!("from {from} to {address} ({name})");
            silent.push(connect(what, netns, SocketAddr::new(address, 80), &listeners));
        }
    }
    let to = SocketAddr::new(vip(9).into(), 80);
    let mut allowed = connect("the patient service's".into(), &client.netns, to, &listeners);
    let to = SocketAddr::new(vip(1).into(), 80);
    let mut busy = connect("the busy one".into(), &client.netns, to, &listeners);

    thread::scope(|scope| {
        let waits: Vec<_> = silent.iter().map(|pair| scope.spawn(move || pair.reset())).collect();
        while waits.iter().any(|wait| !wait.is_finished()) {
            busy.exchange();
            thread::sleep(Duration::from_millis(100));
        }
        for (pair, wait) in silent.iter().zip(waits) {
            let took = wait.join().unwrap();
            println!("{}: reset on both sides after {took:?}", pair.what);
            // A flow's clock ticks once a second.
            assert!(took > ALLOWED - Duration::from_secs(1) && took < LATEST, "{}: {took:?}", pair.what);
        }
    });
    allowed.is_open();
    busy.is_open();
    let told: u64 = cluster.nodes[0].agent().counters()["drop_expired"];
    assert!(told >= 2 * silent.len() as u64, "{told} ends were told");
    // The ports are free for a new connection at once.
    drop(silent);
    let what = "a new one".to_owned();
    connect(what, &client.netns, SocketAddr::new(vip6(2).into(), 80), &listeners).is_open();
}

/// Of datagrams nobody is told: the next one begins another flow, as a client of
/// a service that waits as long as the others still is of the old one.
#[test]
fn datagrams_after_a_silence_begin_another_flow() {
    let cluster = Cluster::dual(2);
    let server = cluster.nodes[1].container("server", 2);
    let client = cluster.nodes[0].container("client", 3);
    let _server = Server::start(&server.netns, "server", 8080);
    let mut ways = Vec::new();
    for (host, hasty) in [(1, true), (2, false)] {
        let plain = Service::new(&format!("s{host}"), vip(host), &[Port::udp(53, 8080)]).dual(vip6(host));
        let service = if hasty { plain.annotated("causeway.io/idle-timeout", "2s") } else { plain };
        cluster.manifests().service(&service, &service.slice(&server.addresses()));
        ways.extend([IpAddr::from(vip(host)), vip6(host).into()].map(|address| (address, hasty)));
    }
    cluster.wait_converged();
    widen(&cluster.outside);
    let talks: Vec<(String, bool, SocketAddr, UdpEnd)> =
        [("a container", &client.netns), ("outside", &cluster.outside)]
            .into_iter()
            .flat_map(|(from, netns)| {
                ways.iter().map(move |&(at, hasty)| {
                    let end = UdpEnd::bind(netns, SocketAddr::new(any(at.is_ipv6()), 0), Fragments::Allowed);
                    (format!("from {from} to {at}"), hasty, SocketAddr::new(at, 53), end)
                })
            })
            .collect();
    let created = || cluster.nodes[0].agent().counters()["flow_created"];
    // How many flows one more question of each of these costs.
    let ask = |hasty: bool| -> u64 {
        let before = created();
        for (what, _, to, end) in talks.iter().filter(|talk| talk.1 == hasty) {
            end.send(*to, b"WHO\n").unwrap();
            end.receive(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        created() - before
    };
    let each = talks.len() as u64 / 2;
    assert_eq!([ask(true), ask(false)], [each, each], "the first of each");
    let shown = |hasty: bool| {
        let flows = cluster.nodes[0].agent().ask(&["show", "flows"]);
        let name = if hasty { "default/s1" } else { "default/s2" };
        flows
            .as_array()
            .unwrap()
            .iter()
            .any(|flow| flow["service"].as_str().is_some_and(|service| service.starts_with(name)))
    };
    assert!(shown(true) && shown(false));
    // Who goes on speaking keeps the flow, beyond what a silence may last.
    for _ in 0..30 {
        thread::sleep(Duration::from_millis(100));
        assert_eq!([ask(true), ask(false)], [0, 0]);
    }
    until("an end of the flows", LATEST, || (!shown(true)).then_some(()));
    assert!(shown(false));
    assert_eq!([ask(true), ask(false)], [each, 0], "after the silence");
}
