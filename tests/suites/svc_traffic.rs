//! SVC-23: do traffic policies send packets where they should? From outside to a
//! node's own endpoints under the client's own address, from containers to all of
//! them, and nobody anywhere while a node has none.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::{Report, requests},
    manifest::{Port, Service},
    netns::Netns,
    server::Server,
    streams::Streams,
    topology::{
        Cluster, Container, node_address, node_address6, outside_address, outside_address6, vip, vip6,
    },
    wire::Protocol,
};

const NODE_PORT: u16 = 30_080;
const REQUESTS: u64 = 100;
/// How long nobody is heard where nobody is to answer.
const SILENCE: Duration = Duration::from_millis(1500);

struct Rig {
    cluster: Cluster,
    /// Two on each node.
    servers: Vec<(Container, Server)>,
    /// One on each node.
    clients: Vec<Container>,
}

impl Rig {
    fn new() -> Self {
        Self::of(Cluster::dual(2))
    }

    fn of(cluster: Cluster) -> Self {
        let servers = cluster.servers(2, 8080);
        let clients =
            cluster.nodes.iter().map(|node| node.container(&format!("c-{}", node.name), 100)).collect();
        Self { cluster, servers, clients }
    }

    /// All servers but those of the node that is left out.
    fn serve(&self, service: &Service, without: Option<&str>) {
        let chosen = self.servers.iter().filter(|(at, _)| without.is_none_or(|node| !at.name.contains(node)));
        let there: Vec<IpAddr> = chosen.flat_map(|(at, _)| at.addresses()).collect();
        self.cluster.manifests().service(service, &service.slice(&there).placed());
        self.cluster.wait_converged();
    }

    fn ask(&self, from: &Netns, to: SocketAddr, protocol: Protocol) -> Report {
        let report = requests(from, to, REQUESTS, protocol);
        report.assert_clean(REQUESTS, to);
        report
    }

    fn node_port(&self, node: u8, six: bool) -> SocketAddr {
        let address = if six { node_address6(node).into() } else { IpAddr::from(node_address(node)) };
        SocketAddr::new(address, NODE_PORT)
    }
}

fn service() -> Service {
    let ports = [Port::tcp(80, 8080).at_node(NODE_PORT), Port::udp(53, 8080).at_node(NODE_PORT)];
    Service::new("web", vip(1), &ports).dual(vip6(1)).with("externalIPs: [10.96.0.8, \"fd00:10:96::8\"]")
}

fn external_local() -> Service {
    service().with("type: LoadBalancer").with("externalTrafficPolicy: Local")
}

fn both() -> [(Protocol, bool); 4] {
    [(Protocol::Tcp, false), (Protocol::Tcp, true), (Protocol::Udp, false), (Protocol::Udp, true)]
}

fn cluster_address(six: bool, protocol: Protocol) -> SocketAddr {
    let port = if protocol == Protocol::Tcp { 80 } else { 53 };
    SocketAddr::new(if six { vip6(1).into() } else { vip(1).into() }, port)
}

fn external_address(six: bool, protocol: Protocol) -> SocketAddr {
    let address = if six { "fd00:10:96::8" } else { "10.96.0.8" }.parse().unwrap();
    SocketAddr::new(address, cluster_address(six, protocol).port())
}

/// Nobody answers, and nothing says so.
#[track_caller]
fn silent(from: &Netns, to: SocketAddr) {
    let begun = Instant::now();
    let error = from.run(|| TcpStream::connect_timeout(&to, SILENCE)).unwrap_err();
    assert!(begun.elapsed() >= SILENCE, "{to} after {:?}: {error}", begun.elapsed());
}

#[test]
fn who_comes_from_outside_is_served_by_the_nodes_own_under_its_own_address() {
    let mut rig = Rig::new();
    rig.serve(&external_local(), None);
    let check = |rig: &Rig, state: &str| {
        for (protocol, six) in both() {
            let outside: IpAddr = if six { outside_address6().into() } else { outside_address().into() };
            let mut doors: Vec<_> = [0, 1].map(|node| (node, rig.node_port(node, six))).into();
            // Packets to it are routed by the first node.
            doors.push((0, external_address(six, protocol)));
            for (node, to) in doors {
                let report = rig.ask(&rig.cluster.outside, to, protocol);
                let own = format!("-n{node}-");
                assert!(report.by_server.keys().all(|name| name.contains(&own)), "{state}, {to}: {report}");
                assert_eq!(report.by_server.len(), 2, "{state}, {to}: {report}");
                assert!(report.peers_seen.keys().eq([&outside]), "{state}, {to}: {:?}", report.peers_seen);
            }
            // Inside, everybody serves everybody.
            let inside =
                [(0, &rig.clients[0].netns), (1, &rig.clients[1].netns), (0, &rig.cluster.nodes[0].netns)];
            for (node, from) in inside {
                for to in [
                    cluster_address(six, protocol),
                    external_address(six, protocol),
                    rig.node_port(node, six),
                ] {
                    let report = rig.ask(from, to, protocol);
                    assert_eq!(report.by_server.len(), 4, "{state}, {} to {to}: {report}", from.name());
                }
            }
        }
    };
    check(&rig, "at first");
    for node in &mut rig.cluster.nodes {
        node.agent_mut().kill9();
        node.agent_mut().restart();
    }
    rig.cluster.wait_converged();
    let drift = rig.cluster.nodes[0].agent().status().drift;
    assert_eq!(drift.repaired, 0, "a restart found something to mend: {drift:?}");
    check(&rig, "after a restart");
}

#[test]
fn a_node_without_endpoints_keeps_silent_and_others_go_on() {
    let rig = Rig::new();
    rig.serve(&external_local(), Some("-n0-"));
    let dropped = || rig.cluster.nodes[0].agent().counters()["drop_no_local_backend"];
    for six in [false, true] {
        let before = dropped();
        silent(&rig.cluster.outside, rig.node_port(0, six));
        assert!(dropped() > before);
        let report = rig.ask(&rig.cluster.outside, rig.node_port(1, six), Protocol::Tcp);
        assert_eq!(report.by_server.len(), 2, "{report}");
        let report = rig.ask(&rig.clients[0].netns, external_address(six, Protocol::Tcp), Protocol::Tcp);
        assert_eq!(report.by_server.len(), 2, "{report}");
    }
    // Nobody anywhere: it is said at once, as of any service.
    rig.cluster.manifests().slice(&external_local().slice::<IpAddr>(&[]));
    rig.cluster.wait_converged();
    for six in [false, true] {
        let to = rig.node_port(0, six);
        let begun = Instant::now();
        rig.cluster.outside.run(|| TcpStream::connect_timeout(&to, SILENCE)).unwrap_err();
        assert!(begun.elapsed() < SILENCE / 2, "{:?}", begun.elapsed());
    }
}

#[test]
fn inside_the_nodes_own_serve_alone_if_the_service_wants_it() {
    let rig = Rig::new();
    let internal = service().with("type: NodePort").with("internalTrafficPolicy: Local");
    rig.serve(&internal, None);
    for (protocol, six) in both() {
        for (node, client) in rig.clients.iter().enumerate() {
            let report = rig.ask(&client.netns, cluster_address(six, protocol), protocol);
            let own = format!("-n{node}-");
            assert!(report.by_server.keys().all(|name| name.contains(&own)), "{report}");
            assert_eq!(report.by_server.len(), 2, "{report}");
        }
        let report = rig.ask(&rig.cluster.nodes[1].netns, cluster_address(six, protocol), protocol);
        assert!(report.by_server.keys().all(|name| name.contains("-n1-")), "{report}");
        // The other policy is not concerned.
        let report = rig.ask(&rig.cluster.outside, rig.node_port(0, six), protocol);
        assert_eq!(report.by_server.len(), 4, "{report}");
    }
    rig.serve(&internal, Some("-n0-"));
    for six in [false, true] {
        silent(&rig.clients[0].netns, cluster_address(six, Protocol::Tcp));
        let report = rig.ask(&rig.clients[1].netns, cluster_address(six, Protocol::Tcp), Protocol::Tcp);
        assert_eq!(report.by_server.len(), 2, "{report}");
        // A socket of the node is told at once.
        let to = cluster_address(six, Protocol::Tcp);
        let refused =
            rig.cluster.nodes[0].netns.run(|| TcpStream::connect_timeout(&to, SILENCE)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn policies_change_and_nothing_open_is_lost() {
    for cluster in [Cluster::xdp(2), Cluster::dual(2)] {
        nothing_open_is_lost(&Rig::of(cluster));
    }
}

fn nothing_open_is_lost(rig: &Rig) {
    let (cluster, local) = (service().with("type: NodePort"), external_local());
    rig.serve(&cluster, None);
    let interval = Duration::from_millis(10);
    let mut streams = Vec::new();
    for six in [false, true] {
        streams.push(Streams::open(&rig.cluster.outside, rig.node_port(0, six), 10, interval));
        let to = cluster_address(six, Protocol::Tcp);
        streams.push(Streams::open(&rig.clients[0].netns, to, 10, interval));
    }
    for round in 0..6 {
        rig.serve(if round % 2 == 0 { &local } else { &cluster }, None);
        for six in [false, true] {
            let report = rig.ask(&rig.cluster.outside, rig.node_port(0, six), Protocol::Tcp);
            assert_eq!(report.by_server.len(), if round % 2 == 0 { 2 } else { 4 }, "{report}");
        }
    }
    for streams in streams {
        streams.close().assert_clean(10);
    }
}

/// What else a service may want, it gets from outside as well.
#[test]
fn affinity_source_ranges_and_port_ranges_hold_under_a_local_policy() {
    let rig = Rig::new();
    let ports: Vec<u16> = (9100..9110).collect();
    let _servers: Vec<Server> =
        rig.servers.iter().map(|(at, _)| Server::start_on(&at.netns, &at.name, &ports)).collect();
    let local = |name: &str, host: u8, port: Port| {
        Service::new(name, vip(host), &[port])
            .dual(vip6(host))
            .with("type: LoadBalancer")
            .with("externalTrafficPolicy: Local")
            .with(&format!("externalIPs: [10.96.0.1{host}, \"fd00:10:96::1{host}\"]"))
    };
    let sticky = local("sticky", 3, Port::tcp(80, 8080)).with("sessionAffinity: ClientIP");
    let span = local("span", 4, Port::udp(20_000, 9100).through(20_009));
    let closed = local("closed", 5, Port::tcp(80, 8080)).with("loadBalancerSourceRanges: [203.0.113.0/24]");
    for service in [&sticky, &span, &closed] {
        rig.serve(service, None);
    }
    let status = "status:\n  loadBalancer:\n    ingress: [{ip: 10.96.0.25}]\n";
    rig.cluster.manifests().write("closed.service.yaml", &format!("{}{status}", closed.yaml()));
    rig.cluster.wait_converged();
    let outside = &rig.cluster.outside;
    for six in [false, true] {
        let at = |host: u8, port| {
            let text = if six { format!("fd00:10:96::1{host}") } else { format!("10.96.0.1{host}") };
            SocketAddr::new(text.parse().unwrap(), port)
        };
        let report = rig.ask(outside, at(3, 80), Protocol::Tcp);
        assert_eq!(report.by_server.len(), 1, "{report}");
        for port in [20_000, 20_004, 20_009] {
            let report = rig.ask(outside, at(4, port), Protocol::Udp);
            assert!(report.by_server.keys().all(|name| name.contains("-n0-")), "{report}");
            let report = rig.ask(&rig.clients[0].netns, at(4, port), Protocol::Udp);
            assert_eq!(report.by_server.len(), 4, "{report}");
        }
        // Only what a load balancer has given is not for all.
        rig.ask(outside, at(5, 80), Protocol::Tcp);
    }
    silent(outside, SocketAddr::new([10, 96, 0, 25].into(), 80));
    let dropped = rig.cluster.nodes[0].agent().counters()["drop_source_range"];
    assert!(dropped > 0);
}

/// `trafficDistribution`, by where nodes and endpoints are.
#[test]
fn the_same_zone_is_preferred_and_nodes_may_move() {
    let rig = Rig::new();
    let zones = |zones: [&str; 2]| {
        for (node, zone) in rig.cluster.nodes.iter().zip(zones) {
            let labelled = format!("metadata:\n  labels: {{topology.kubernetes.io/zone: {zone}}}\n");
            let yaml = node.yaml().replacen("metadata:\n", &labelled, 1);
            rig.cluster.manifests().write(&format!("{}.yaml", node.name), &yaml);
        }
    };
    zones(["east", "west"]);
    let close = service().with("trafficDistribution: PreferSameZone");
    let addresses: Vec<IpAddr> = rig.servers.iter().flat_map(|(at, _)| at.addresses()).collect();
    let slice = close.slice(&addresses).placed();
    let placed = slice.yaml().replace("nodeName: n0\n", "nodeName: n0\n  zone: east\n");
    let placed = placed.replace("nodeName: n1\n", "nodeName: n1\n  zone: west\n");
    rig.cluster.manifests().write("web.slice.yaml", &placed);
    rig.cluster.manifests().write("web.service.yaml", &close.yaml());
    rig.cluster.wait_converged();
    let servers = |six| -> Vec<String> {
        let report = rig.ask(&rig.clients[0].netns, cluster_address(six, Protocol::Tcp), Protocol::Tcp);
        report.by_server.into_keys().collect()
    };
    for six in [false, true] {
        assert_eq!(servers(six), ["web-n0-0", "web-n0-1"], "in the east");
    }
    // What a controller has found better comes before.
    let hinted = placed.replace("zone: west\n", "zone: west\n  hints: {forZones: [{name: east}]}\n");
    let hinted = hinted.replace("zone: east\n", "zone: east\n  hints: {forZones: [{name: west}]}\n");
    rig.cluster.manifests().write("web.slice.yaml", &hinted);
    rig.cluster.wait_converged();
    for six in [false, true] {
        assert_eq!(servers(six), ["web-n1-0", "web-n1-1"], "hinted to the east");
    }
    rig.cluster.manifests().write("web.slice.yaml", &placed);
    zones(["west", "west"]);
    rig.cluster.wait_converged();
    for six in [false, true] {
        assert_eq!(servers(six), ["web-n1-0", "web-n1-1"], "moved to the west");
    }
    zones(["north", "west"]);
    rig.cluster.wait_converged();
    for six in [false, true] {
        assert_eq!(servers(six).len(), 4, "nobody is near");
    }
}
