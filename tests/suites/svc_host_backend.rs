//! SVC-16, in part: do containers and the outside reach a service whose backends
//! are nodes themselves (`hostNetwork`), the one that they are on, or come to, as
//! well as any other?

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use causeway::snapshot::Status;
use causeway_testkit::{
    client::{ask, requests},
    direct::{DSR, bytes, counted, sink},
    load::ConnectLoad,
    manifest::{Port, Service},
    pinned::Pinned,
    sentinel::assert_no_netfilter,
    server::Server,
    streams::{STALL, Streams},
    told::{self, PROXY, connect, greeted, hear_back, say},
    topology::{
        Cluster, Container, PATIENCE, UPLINK, node_address, node_address6, outside_address, outside_address6,
        vip, vip6,
    },
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
    xdp::Crowd,
};

const REQUESTS: u64 = 200;
const API: u16 = 6443;
const NODE_PORT: u16 = 30_443;

struct Rig {
    cluster: Cluster,
    /// One on each node, in the host's own network namespace.
    servers: Vec<Server>,
    clients: Vec<Container>,
}

impl Rig {
    fn new(cluster: Cluster) -> Self {
        let servers = cluster.nodes.iter().map(|node| Server::start(&node.netns, &node.name, API)).collect();
        let clients =
            cluster.nodes.iter().map(|node| node.container(&format!("c-{}", node.name), 100)).collect();
        let rig = Self { cluster, servers, clients };
        rig.served_by(&[0, 1]);
        rig
    }

    fn served_by(&self, nodes: &[u8]) {
        let ports = [
            Port::tcp(443, API).at_node(NODE_PORT),
            Port::udp(53, API).at_node(NODE_PORT),
            Port::tcp(9000, 9000).named("hears"),
            Port::tcp(9001, 9001).named("speaks"),
            Port::udp(9100, 9100).named("long"),
        ];
        let service = Service::new("api", vip(1), &ports).dual(vip6(1)).with("type: NodePort");
        let backends: Vec<IpAddr> = nodes.iter().flat_map(|&node| own(node)).collect();
        self.serve(&service, &backends);
    }

    fn serve(&self, service: &Service, backends: &[IpAddr]) {
        self.cluster.manifests().service(service, &service.slice(backends).placed());
        self.cluster.wait_converged();
    }
}

fn own(node: u8) -> [IpAddr; 2] {
    [node_address(node).into(), node_address6(node).into()]
}

fn vips(port: u16) -> [SocketAddr; 2] {
    [IpAddr::from(vip(1)), vip6(1).into()].map(|address| SocketAddr::new(address, port))
}

#[test]
fn nodes_serve_containers_of_their_own_and_of_others() {
    let rig = Rig::new(Cluster::dual(2));
    for client in &rig.clients {
        for (to, protocol) in
            vips(443).map(|to| (to, Protocol::Tcp)).into_iter().chain(vips(53).map(|to| (to, Protocol::Udp)))
        {
            let report = requests(&client.netns, to, REQUESTS, protocol);
            report.assert_clean(REQUESTS, to);
            assert_eq!(report.by_server.len(), 2, "{to}: {report}");
            let seen = client.addresses()[usize::from(to.is_ipv6())];
            assert!(report.peers_seen.keys().eq([&seen]), "{to}: {:?}", report.peers_seen);
        }
    }
    for node in &rig.cluster.nodes {
        assert!(counted(node, "host_answered") > REQUESTS);
        assert_no_netfilter(&node.netns);
    }
}

#[test]
fn a_node_serves_the_outside_that_comes_to_it() {
    serves_the_outside(Cluster::dual(2));
}

#[test]
fn what_the_driver_sees_first_comes_to_the_node_as_well() {
    serves_the_outside(Cluster::xdp(2));
}

#[test]
fn an_older_kernel_serves_it_by_filters() {
    let cluster = Cluster::clsact(2);
    assert_eq!(cluster.nodes[0].agent().status().hook, "clsact+sockets");
    serves_the_outside(cluster);
}

fn serves_the_outside(cluster: Cluster) {
    let mut rig = Rig::new(cluster);
    let outside: [IpAddr; 2] = [outside_address().into(), outside_address6().into()];
    let doors = |six: usize| {
        let [tcp, udp] = [443, 53].map(|port| vips(port)[six]);
        let node_port = SocketAddr::new(own(0)[six], NODE_PORT);
        [(tcp, Protocol::Tcp), (udp, Protocol::Udp), (node_port, Protocol::Tcp), (node_port, Protocol::Udp)]
    };
    for six in [0, 1] {
        for (to, protocol) in doors(six) {
            let report = requests(&rig.cluster.outside, to, REQUESTS, protocol);
            report.assert_clean(REQUESTS, to);
            assert_eq!(report.by_server.len(), 2, "{to}: {report}");
            // By the other node, answers come back by the one that was asked.
            let seen: BTreeSet<IpAddr> = report.peers_seen.keys().copied().collect();
            assert_eq!(seen, [outside[six], own(0)[six]].into(), "{to}");
        }
    }
    // What stands goes on, and what is new begins, while the agent is away.
    rig.served_by(&[0]);
    let streams = vips(443).map(|to| Streams::open(&rig.cluster.outside, to, 10, Duration::from_millis(5)));
    rig.cluster.nodes[0].agent_mut().kill9();
    for six in [0, 1] {
        for (to, protocol) in doors(six) {
            let report = requests(&rig.cluster.outside, to, 20, protocol);
            report.assert_clean(20, to);
            assert!(report.peers_seen.keys().eq([&outside[six]]), "{to}: {:?}", report.peers_seen);
        }
    }
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    // Nor do they end with the service's last backend here, whoever looks after it.
    rig.served_by(&[1]);
    // By then its row is gone, too.
    thread::sleep(Duration::from_secs(2));
    rig.cluster.nodes[0].agent_mut().kill9();
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    thread::sleep(STALL * 3 / 2);
    streams.into_iter().for_each(|streams| streams.close().assert_clean(10));
}

/// A service that there is no room for at first.
#[test]
fn the_outside_is_served_whenever_the_service_gets_its_place() {
    let cluster = Cluster::configured(1, "[capacity]\nservices = 8\n");
    let (node, manifests) = (&cluster.nodes[0], cluster.manifests());
    let ports: Vec<Port> = (1..=8).map(|port| Port::tcp(port, port).named(&format!("p{port}"))).collect();
    let first = Service::new("first", vip(2), &ports).dual(vip6(2));
    manifests.service(&first, &first.slice::<IpAddr>(&[]));
    cluster.wait_converged();
    let service = Service::new("api", vip(1), &[Port::tcp(443, API)]).dual(vip6(1));
    manifests.service(&service, &service.slice(&own(0)).placed());
    node.agent().wait_status("no room", PATIENCE, |status| !status.problems.is_empty());
    manifests.remove("first.service.yaml");
    node.agent().wait_status("room", PATIENCE, |status| status.problems.is_empty());
    let _server = Server::start(&node.netns, "n0", API);
    for to in vips(443) {
        requests(&cluster.outside, to, 20, Protocol::Tcp).assert_clean(20, to);
    }
}

#[test]
fn super_packets_fragments_and_long_streams() {
    let mut rig = Rig::new(Cluster::dual(2));
    rig.served_by(&[0]);
    let (node, client) = (&rig.cluster.nodes[0], &rig.clients[0]);
    let whole = sink(&node.netns, 9000);
    for (to, own) in vips(9000).into_iter().zip(client.addresses()) {
        client.netns.run(|| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.write_all(&bytes(3_000_000)).unwrap();
        });
        let (peer, length, right) = whole.recv_timeout(PATIENCE).unwrap();
        assert_eq!((peer.ip().to_canonical(), length, right), (own, 3_000_000, true));
    }
    // The other way.
    let speaker = node.netns.run(|| TcpListener::bind(("::", 9001)).unwrap());
    let speaks = thread::spawn(move || {
        speaker
            .incoming()
            .flatten()
            .take(2)
            .for_each(|mut stream| stream.write_all(&bytes(3_000_000)).unwrap());
    });
    for to in vips(9001) {
        let mut heard = Vec::new();
        let mut stream = client.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_end(&mut heard).unwrap();
        assert!(heard == bytes(3_000_000), "{} bytes", heard.len());
    }
    speaks.join().unwrap();
    for (index, to) in vips(9100).into_iter().enumerate() {
        let server = UdpEnd::bind(&node.netns, SocketAddr::new(own(0)[index], 9100), Fragments::Allowed);
        let near =
            UdpEnd::bind(&client.netns, SocketAddr::new(client.addresses()[index], 6000), Fragments::Allowed);
        for length in [1, 1400, 4000, 20_000] {
            near.send(to, &bytes(length)).unwrap();
            let (payload, from) = server.receive(PATIENCE).unwrap();
            assert_eq!((payload.len(), from.ip()), (length, client.addresses()[index]));
            server.send(from, &payload).unwrap();
            let (payload, from) = near.receive(PATIENCE).unwrap();
            assert!(payload == bytes(length) && from == to, "{} bytes from {from}", payload.len());
        }
    }
    // They outlast the agent.
    let streams = vips(443).map(|to| Streams::open(&client.netns, to, 10, Duration::from_millis(5)));
    let loads = vips(443).map(|to| ConnectLoad::start(&client.netns, to, 50));
    rig.cluster.nodes[0].agent_mut().kill9();
    thread::sleep(Duration::from_millis(500));
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    // So does what leads here, if somebody takes it away.
    let links = Pinned::new(rig.cluster.nodes[0].agent().pins());
    let attached = links.attached();
    for load in loads {
        let report = load.stop().report;
        assert!(report.failed == 0 && report.ok > 20, "{report}");
    }
    streams.into_iter().for_each(|streams| streams.close().assert_clean(10));
    assert_eq!(links.detach_links(), attached);
    rig.cluster.nodes[0]
        .agent()
        .wait_status("drift is mended", PATIENCE, |status| status.drift.repaired >= attached as u64);
    for to in vips(443) {
        requests(&rig.clients[0].netns, to, 20, Protocol::Tcp).assert_clean(20, to);
    }
    assert!(rig.servers[0].connections() > 40);
}

/// The service's answers and the node's own look alike where they set out.
#[test]
fn a_connection_to_the_node_itself_may_have_the_port_of_one_to_the_service() {
    let rig = Rig::new(Cluster::dual(2));
    rig.served_by(&[0]);
    let client = &rig.clients[0];
    client.netns.set_sysctl("net/ipv4/ip_local_port_range", "20001 20001");
    for (to, own) in vips(443).into_iter().zip(own(0)) {
        let direct = SocketAddr::new(own, API);
        let connect = |to| client.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        let first = connect(to);
        assert_eq!(ask(&first).unwrap().peer.port(), 20_001);
        let second = connect(direct);
        assert_ne!(ask(&second).unwrap().peer.port(), 20_001);
        for stream in [&first, &second] {
            assert_eq!(ask(stream).unwrap().server, "n0");
        }
        drop((first, second));
    }
    // What a node sends of its own accord is nobody's answer.
    let server = Server::start(&client.netns, "inside", 7000);
    for address in client.addresses() {
        let to = SocketAddr::new(address, 7000);
        requests(&rig.cluster.nodes[0].netns, to, 20, Protocol::Tcp).assert_clean(20, to);
    }
    drop(server);
}

/// What else a service may want.
#[test]
fn a_node_is_a_backend_like_others() {
    let rig = Rig::new(Cluster::dual(2));
    let outside: [IpAddr; 2] = [outside_address().into(), outside_address6().into()];
    let service = |name: &str, host: u8, port: Port| {
        // Datagrams have no header, whatever the service says.
        let ports = [port, Port::udp(53, API).named("datagrams")];
        Service::new(name, vip(host), &ports).dual(vip6(host)).with("type: NodePort")
    };
    let at = |host: u8, port: u16| {
        [IpAddr::from(vip(host)), vip6(host).into()].map(|address| SocketAddr::new(address, port))
    };
    let everybody = [own(0), own(1)].concat();
    let (direct, sticky, local, header) = (
        service("direct", 2, Port::tcp(443, API)).annotated(DSR.0, DSR.1),
        service("sticky", 3, Port::tcp(443, API)).with("sessionAffinity: ClientIP"),
        service("local", 4, Port::tcp(443, API).at_node(NODE_PORT + 1)).with("externalTrafficPolicy: Local"),
        service("header", 5, Port::tcp(443, told::PORT)).annotated(PROXY.0, PROXY.1),
    );
    rig.serve(&direct, &everybody);
    rig.serve(&sticky, &everybody);
    rig.serve(&local, &everybody);
    let told = told::serve(&rig.cluster.nodes[0].netns);
    rig.serve(&header, &own(0));

    for netns in [&rig.cluster.outside, &rig.clients[0].netns, &rig.clients[1].netns] {
        for to in at(2, 443) {
            let report = requests(netns, to, 50, Protocol::Tcp);
            report.assert_clean(50, to);
            assert_eq!(report.by_server.len(), 2, "{to}: {report}");
        }
        for to in at(3, 443) {
            let report = requests(netns, to, 20, Protocol::Tcp);
            report.assert_clean(20, to);
            assert_eq!(report.by_server.len(), 1, "{to}: {report}");
        }
        for to in at(5, 53) {
            let report = requests(netns, to, 20, Protocol::Udp);
            report.assert_clean(20, to);
            assert!(report.by_server.keys().eq([&rig.cluster.nodes[0].name]), "{report}");
        }
        for to in at(5, 443) {
            let stream = connect(netns, to);
            greeted(&stream).unwrap_or_else(|error| panic!("{to}: {error}"));
            say(&stream, "after the greeting").unwrap();
            hear_back(&stream, "after the greeting").unwrap();
            let header = told.recv_timeout(PATIENCE).unwrap().unwrap().header;
            assert_eq!((header.source, header.destination), (stream.local_addr().unwrap(), to));
        }
    }
    for (node, six) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let to = SocketAddr::new(own(node)[six], NODE_PORT + 1);
        let report = requests(&rig.cluster.outside, to, 20, Protocol::Tcp);
        report.assert_clean(20, to);
        assert!(report.by_server.keys().eq([&rig.cluster.nodes[usize::from(node)].name]), "{report}");
        assert!(report.peers_seen.keys().eq([&outside[six]]), "{report}");
    }
}

/// Not the one that other nodes know it by.
#[test]
fn another_address_of_the_node_serves_its_containers() {
    let rig = Rig::new(Cluster::dual(2));
    let others = ["192.168.77.60", "fd00:77::60"].map(|address| address.parse::<IpAddr>().unwrap());
    rig.cluster.nodes[0].netns.ip("address add 192.168.77.60/24 dev up0");
    rig.cluster.nodes[0].netns.ip("address add fd00:77::60/64 dev up0 nodad");
    let port = Port::tcp(443, API).at_node(NODE_PORT + 2);
    let service = Service::new("other", vip(6), &[port]).dual(vip6(6)).with("type: NodePort");
    rig.cluster.manifests().service(&service, &service.slice(&others));
    rig.cluster.wait_converged();
    let nodes = rig.cluster.nodes.iter().map(|node| &node.netns);
    for netns in rig.clients.iter().map(|client| &client.netns).chain(nodes) {
        for to in [IpAddr::from(vip(6)), vip6(6).into()].map(|address| SocketAddr::new(address, 443)) {
            let report = requests(netns, to, 50, Protocol::Tcp);
            report.assert_clean(50, to);
            assert!(report.by_server.keys().eq([&rig.cluster.nodes[0].name]), "{report}");
        }
    }
    // To the outside by the other node alone.
    for (node, served) in [(1, 20), (0, 0)] {
        for to in own(node).map(|address| SocketAddr::new(address, NODE_PORT + 2)) {
            let report =
                requests(&rig.cluster.outside, to, if served > 0 { served } else { 1 }, Protocol::Tcp);
            assert_eq!(report.ok, served, "{to}: {report}");
        }
    }
}

/// Though nothing changes meanwhile.
#[test]
fn a_program_that_finds_no_place_is_tried_again() {
    let cluster = Cluster::dual(1);
    let (node, service) =
        (&cluster.nodes[0], Service::new("api", vip(1), &[Port::tcp(443, API)]).dual(vip6(1)));
    let _server = Server::start(&node.netns, "n0", API);
    let crowd = Crowd::at(&node.netns, UPLINK);
    cluster.manifests().service(&service, &service.slice(&own(0)).placed());
    let told = |status: &Status| status.alarms.iter().any(|alarm| alarm.contains("cannot attach programs"));
    let status = node.agent().wait_status("an alarm", PATIENCE, told);
    assert!(!status.converged, "{status:?}");
    // It stays one, look after look.
    thread::sleep(Duration::from_secs(1));
    assert!(told(&node.agent().status()));
    drop(crowd);
    cluster.wait_converged();
    for to in vips(443) {
        requests(&cluster.outside, to, 20, Protocol::Tcp).assert_clean(20, to);
    }
}
