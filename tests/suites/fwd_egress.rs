//! FWD-04, the other part: do selected containers reach the world under an
//! address of their own, whichever node they are on, and whichever node holds it?

use std::{
    io::{ErrorKind, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::{ask, request, requests},
    direct::{bytes, counted, sink},
    egress::{
        Attempts, EGRESS, PORT, away, cluster, has, hold, holder, label, manifest, selected, wait_held, world,
    },
    load::ConnectLoad,
    ping::ping,
    sentinel::assert_no_netfilter,
    server::Server,
    streams::Streams,
    topology::{Cluster, Container, PATIENCE, node_address, node_address6},
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
};

const REQUESTS: u64 = 100;
/// The row's: new flows after the node that held the address is gone.
const FAILOVER: Duration = Duration::from_secs(2);

fn assert_seen(container: &Container, to: SocketAddr, as_whom: IpAddr) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let report = requests(&container.netns, to, REQUESTS, protocol);
        report.assert_clean(REQUESTS, to);
        assert!(report.peers_seen.keys().eq([&as_whom]), "{} to {to}: {report}", container.name);
        println!("{} {protocol:?} to {to}: {:?}", container.name, report.peers_seen);
    }
    assert_eq!(container.netns.run(|| ping(to.ip(), 10, PATIENCE)).unwrap(), 10, "pings of {to}");
}

/// A node's own addresses, by family.
fn node(number: u8) -> [IpAddr; 2] {
    [node_address(number).into(), node_address6(number).into()]
}

/// The cable of a node, by its number.
fn cable(cluster: &Cluster, number: usize, state: &str) {
    cluster.switch.netns().ip(&format!("link set p{} {state}", number + 1));
}

#[test]
fn the_world_sees_one_address_whichever_node_they_are_on() {
    let cluster = cluster(3);
    let _world = Server::start(&cluster.outside, "world", PORT);
    let chosen: Vec<Container> =
        (0..3).map(|at| selected(&cluster.nodes[at], &format!("s{at}"), 2)).collect();
    let others: Vec<Container> = (0..3).map(|at| cluster.nodes[at].container(&format!("o{at}"), 3)).collect();
    hold(&cluster, &["n1", "n0"]);
    for number in 0..3_u8 {
        for (family, to) in world().into_iter().enumerate() {
            assert_seen(&chosen[usize::from(number)], to, EGRESS[family]);
            assert_seen(&others[usize::from(number)], to, node(number)[family]);
        }
    }
    let [away, here] = [2, 1].map(|at| &cluster.nodes[at]);
    assert!(counted(away, "encapsulated") > 8 * REQUESTS && counted(here, "decapsulated") > 8 * REQUESTS);
    assert_eq!(counted(here, "encapsulated"), 0, "who holds it translates at once");

    // Long streams, both ways, and more than fits into one packet.
    for to in world() {
        let streams = Streams::open(&chosen[2].netns, to, 20, Duration::from_millis(5));
        thread::sleep(Duration::from_millis(300));
        streams.close().assert_clean(20);
    }
    let whole = sink(&cluster.outside, 9000);
    for (family, to) in world().into_iter().enumerate() {
        chosen[2].netns.run(|| {
            let mut stream = TcpStream::connect(SocketAddr::new(to.ip(), 9000)).unwrap();
            stream.write_all(&bytes(3_000_000)).unwrap();
        });
        let (peer, length, right) = whole.recv_timeout(PATIENCE).unwrap();
        assert_eq!((peer.ip().to_canonical(), length, right), (EGRESS[family], 3_000_000, true));
    }
    // Nobody listens: the world says so, and the sender hears it.
    for to in world() {
        let refused = chosen[2].netns.run(|| {
            let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(own).unwrap();
            socket.connect(SocketAddr::new(to.ip(), 9)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"x").unwrap();
            socket.recv(&mut [0; 8]).unwrap_err().kind()
        });
        assert_eq!(refused, ErrorKind::ConnectionRefused, "{to}");
    }
    // Containers and nodes see one another as they are.
    let _peer = Server::start(&chosen[0].netns, "peer", PORT);
    let _node = Server::start(&cluster.nodes[1].netns, "node", PORT);
    let pairs = [
        (chosen[0].addresses()[0], chosen[2].addresses()[0]),
        (chosen[0].addresses()[1], chosen[2].addresses()[1]),
        (node(1)[0], chosen[2].addresses()[0]),
        (node(1)[1], chosen[2].addresses()[1]),
    ];
    for (to, own) in pairs {
        let report = requests(&chosen[2].netns, SocketAddr::new(to, PORT), REQUESTS, Protocol::Tcp);
        assert!(report.peers_seen.keys().eq([&own]) && report.failed == 0, "{to}: {report}");
    }
    cluster.nodes.iter().for_each(|node| assert_no_netfilter(&node.netns));
}

#[test]
fn datagrams_of_any_length_leave_and_errors_about_answers() {
    let (cluster, _world, container) = away();
    for (family, to) in world().into_iter().enumerate() {
        let at = SocketAddr::new(to.ip(), 9100);
        let far = UdpEnd::bind(&cluster.outside, at, Fragments::Allowed);
        let own = SocketAddr::new(container.addresses()[family], 6000);
        let near = UdpEnd::bind(&container.netns, own, Fragments::Allowed);
        let mut client = None;
        for length in [1, 1400, 1450, 4000, 20_000] {
            let sent = bytes(length);
            // What is too long with its outer header is told once, and then sent in pieces.
            let came = (0..3).find_map(|_| {
                near.send(at, &sent).unwrap();
                far.receive(Duration::from_millis(500)).ok()
            });
            let (payload, from) = came.unwrap_or_else(|| panic!("{length} bytes to {at} do not arrive"));
            assert!(payload == sent && from.ip() == EGRESS[family], "{length} bytes from {from}");
            far.send(from, &sent).unwrap();
            let (payload, from_world) = near.receive(PATIENCE).unwrap();
            assert!(payload == sent && from_world == at, "{length} bytes back from {from_world}");
            assert_eq!(*client.get_or_insert(from), from);
        }
        // It hears nothing any more: its kernel's error goes the way of its packets.
        drop((near, far));
        let refused = cluster.outside.run(|| {
            let far = UdpSocket::bind(at).unwrap();
            far.connect(client.unwrap()).unwrap();
            far.set_read_timeout(Some(PATIENCE)).unwrap();
            far.send(b"late").unwrap();
            far.recv(&mut [0; 8]).unwrap_err().kind()
        });
        assert_eq!(refused, ErrorKind::ConnectionRefused, "{to}");
    }
}

#[test]
fn the_address_itself_serves_nobody() {
    let cluster = cluster(2);
    let _wild = Server::start(&cluster.nodes[0].netns, "host", 22);
    cluster.manifests().write("egress.yaml", &manifest(&["n0"]));
    cluster.wait_converged();
    let before = counted(&cluster.nodes[0], "drop_egress_closed");
    for address in EGRESS {
        assert_eq!(cluster.outside.run(|| ping(address, 5, PATIENCE)).unwrap(), 5, "it can be found");
        let refused = cluster.outside.run(|| request(SocketAddr::new(address, 22), Protocol::Udp));
        assert!(refused.is_err(), "a socket of the host's is reached: {refused:?}");
        let attempt = TcpStream::connect_timeout;
        let error = cluster.outside.run(|| attempt(&SocketAddr::new(address, 22), FAILOVER)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "no reset may end somebody's connection: {error}");
    }
    assert!(counted(&cluster.nodes[0], "drop_egress_closed") > before);
    // The host's own connections do not take it.
    let _world = Server::start(&cluster.outside, "world", PORT);
    for (family, to) in world().into_iter().enumerate() {
        let report = requests(&cluster.nodes[0].netns, to, 5, Protocol::Tcp);
        assert!(report.peers_seen.keys().eq([&node(0)[family]]), "{report}");
    }
}

#[test]
fn selection_follows_labels_and_the_object() {
    let cluster = cluster(2);
    let _world = Server::start(&cluster.outside, "world", PORT);
    let container = cluster.nodes[1].container("c", 2);
    hold(&cluster, &["n0"]);
    for (family, to) in world().into_iter().enumerate() {
        assert_seen(&container, to, node(1)[family]);
    }
    label(&cluster.nodes[1], &container, &["--label", "leaves=so"]);
    let shown = cluster.nodes[1].agent().ask(&["show", "egress"]);
    assert_eq!(
        (shown[0]["name"].as_str(), shown[0]["endpoints"][0].as_str()),
        (Some("out"), Some("c")),
        "{shown}"
    );
    thread::sleep(Duration::from_millis(500));
    for (family, to) in world().into_iter().enumerate() {
        assert_seen(&container, to, EGRESS[family]);
    }
    // Moved by the operator, to the container's own node.
    hold(&cluster, &["n1"]);
    for (family, to) in world().into_iter().enumerate() {
        assert_seen(&container, to, EGRESS[family]);
    }
    // A node that is not there: nobody holds it, and nothing leaves otherwise.
    cluster.manifests().write("egress.yaml", &manifest(&["n9"]));
    cluster.wait_converged();
    assert_eq!((has(&cluster.nodes[0]), has(&cluster.nodes[1])), ([false; 2], [false; 2]));
    let problems = cluster.nodes[1].agent().status().problems;
    assert!(problems.iter().any(|problem| problem.field == "spec.nodes[0]"), "{problems:?}");
    let before = counted(&cluster.nodes[1], "drop_no_egress");
    for to in world() {
        container.netns.run(|| request(to, Protocol::Udp)).unwrap_err();
    }
    assert!(counted(&cluster.nodes[1], "drop_no_egress") > before);
    cluster.manifests().remove("egress.yaml");
    cluster.wait_converged();
    for (family, to) in world().into_iter().enumerate() {
        assert_seen(&container, to, node(1)[family]);
    }
}

#[test]
fn policies_are_asked_as_ever() {
    let cluster = cluster(2);
    let _world = Server::start(&cluster.outside, "world", PORT);
    let _other = Server::start(&cluster.outside, "other", PORT + 1);
    let container = selected(&cluster.nodes[1], "c", 2);
    // Nobody may come in, so answers are let in by their flow alone.
    let [v4, v6] = world().map(|to| to.ip());
    let policy = format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: closed}}
spec:
  podSelector: {{matchLabels: {{leaves: so}}}}
  policyTypes: [Ingress, Egress]
  egress:
  - to: [{{ipBlock: {{cidr: {v4}/32}}}}, {{ipBlock: {{cidr: \"{v6}/128\"}}}}]
    ports: [{{protocol: TCP, port: {PORT}}}, {{protocol: UDP, port: {PORT}}}]
"
    );
    cluster.manifests().write("policy.yaml", &policy);
    hold(&cluster, &["n0"]);
    thread::sleep(Duration::from_millis(500));
    for (family, to) in world().into_iter().enumerate() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let report = requests(&container.netns, to, REQUESTS, protocol);
            report.assert_clean(REQUESTS, to);
            assert!(report.peers_seen.keys().eq([&EGRESS[family]]), "{to}: {report}");
        }
        let denied = SocketAddr::new(to.ip(), PORT + 1);
        container.netns.run(|| request(denied, Protocol::Udp)).unwrap_err();
    }
    assert!(counted(&cluster.nodes[1], "drop_policy") >= 2);
}

#[test]
fn an_agent_that_dies_changes_nothing() {
    let (mut cluster, _world, container) = away();
    let streams = world().map(|to| Streams::open(&container.netns, to, 5, Duration::from_millis(5)));
    let loads = world().map(|to| ConnectLoad::start(&container.netns, to, 50));
    cluster.nodes[0].agent_mut().kill9();
    thread::sleep(Duration::from_secs(3));
    assert_eq!((has(&cluster.nodes[0]), has(&cluster.nodes[1])), ([true; 2], [false; 2]));
    assert_eq!(holder(&cluster.nodes[2]).as_deref(), Some("n0"));
    cluster.nodes[2].agent_mut().kill9();
    thread::sleep(Duration::from_secs(1));
    for at in [0, 2] {
        cluster.nodes[at].agent_mut().restart();
    }
    cluster.wait_converged();
    wait_held(&cluster, "n0");
    thread::sleep(Duration::from_secs(1));
    for load in loads {
        let report = load.stop().report;
        assert!(report.failed == 0 && report.ok > 150, "{report}");
        assert!(report.peers_seen.keys().all(|peer| EGRESS.contains(peer)), "{report}");
    }
    streams.into_iter().for_each(|streams| streams.close().assert_clean(5));
}

#[test]
fn another_node_takes_over_and_gives_back() {
    let cluster = cluster(3);
    let _world = Server::start(&cluster.outside, "world", PORT);
    // On a node that only uses it, and on the one that will hold it.
    let containers = [selected(&cluster.nodes[2], "c2", 2), selected(&cluster.nodes[1], "c1", 2)];
    let other = cluster.nodes[2].container("other", 3);
    hold(&cluster, &["n0", "n1"]);
    let both = || containers.iter().flat_map(|container| world().map(|to| (container, to)));
    let streams: Vec<Streams> = both()
        .map(|(container, to)| Streams::open(&container.netns, to, 5, Duration::from_millis(20)))
        .collect();
    for (state, holder) in [("down", "n1"), ("up", "n0")] {
        let attempts: Vec<_> = both().map(|(container, to)| Attempts::start(&container.netns, to)).collect();
        let beside = Attempts::start(&other.netns, world()[0]);
        thread::sleep(Duration::from_millis(300));
        let since = Instant::now();
        cable(&cluster, 0, state);
        thread::sleep(Duration::from_secs(4));
        for ((container, to), attempts) in both().zip(attempts) {
            let gap = attempts.gap(since);
            println!("n0 {state}: {} to {to}: {gap:?} without a new connection", container.name);
            assert!(gap <= FAILOVER, "n0 {state}: {} to {to}: {gap:?}", container.name);
        }
        let gap = beside.gap(since);
        assert!(gap < Duration::from_millis(500), "who is not selected notices nothing: {gap:?}");
        let has = [0, 1].map(|at| has(&cluster.nodes[at]));
        match holder {
            "n1" => assert_eq!(has, [[true; 2]; 2], "nobody can tell n0"),
            _ => assert_eq!(has, [[true; 2], [false; 2]]),
        }
        for container in &containers {
            for (family, to) in world().into_iter().enumerate() {
                assert_seen(container, to, EGRESS[family]);
            }
        }
    }
    wait_held(&cluster, "n0");
    // The ports follow from the flow: even connections go on.
    for streams in streams {
        let report = streams.close();
        println!("{report}");
        assert!(report.lost == 0 && report.corrupt == 0, "{report}");
    }
}

/// Two of one port: the world has the old one's still, and the node that holds the
/// address now has seen neither.
#[test]
fn a_new_connection_leaves_its_port_to_one_that_goes_on() {
    let cluster = cluster(3);
    let _world = Server::start(&cluster.outside, "world", PORT);
    let [old, new] = [2, 1].map(|at| selected(&cluster.nodes[at], &format!("c{at}"), 2));
    for container in [&old, &new] {
        container.netns.set_sysctl("net/ipv4/ip_local_port_range", "20001 20001");
    }
    hold(&cluster, &["n0", "n1"]);
    let stands = world().map(|to| old.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap()));
    let seen = |stream: &TcpStream| ask(stream).map(|answer| answer.peer);
    let ports = stands.each_ref().map(|stream| seen(stream).unwrap());
    thread::sleep(Duration::from_secs(1));
    cable(&cluster, 0, "down");
    thread::sleep(FAILOVER);
    let begin = |to: SocketAddr| move || TcpStream::connect_timeout(&to, PATIENCE);
    let asking = world().map(|to| new.netns.spawn_thread(begin(to)));
    thread::sleep(Duration::from_millis(300));
    for (stream, port) in stands.iter().zip(ports) {
        assert_eq!(seen(stream).unwrap(), port);
    }
    for ((begun, stream), port) in asking.into_iter().zip(&stands).zip(ports) {
        let begun = begun.join().unwrap().unwrap();
        let other = seen(&begun).unwrap();
        assert!(other.ip() == port.ip() && other.port() != port.port(), "{other}, {port}");
        assert_eq!(seen(stream).unwrap(), port);
    }
}

#[test]
fn who_leaves_gives_back_the_address() {
    let (mut cluster, _world, container) = away();
    // Only of who has been heard of is it known that it was there.
    thread::sleep(Duration::from_secs(1));
    // Nobody's but its own goes with it.
    cluster.nodes[0].netns.ip("address add 192.168.77.60/32 dev up0");
    let attempts = world().map(|to| Attempts::start(&container.netns, to));
    let since = Instant::now();
    cluster.nodes[0].agent().ask(&["uninstall"]);
    cluster.nodes[0].agent_mut().stop();
    assert_eq!(has(&cluster.nodes[0]), [false; 2]);
    assert!(cluster.nodes[0].netns.ip("address show dev up0").contains("192.168.77.60/32"));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(has(&cluster.nodes[1]), [true; 2]);
    for attempts in attempts {
        let gap = attempts.gap(since);
        assert!(gap <= FAILOVER, "{gap:?}");
    }
    // An address that an agent has left behind goes when nobody wants it.
    cluster.nodes[1].agent_mut().kill9();
    cluster.manifests().remove("egress.yaml");
    assert_eq!(has(&cluster.nodes[1]), [true; 2]);
    cluster.nodes[1].agent_mut().restart();
    cluster.nodes[1].agent().wait_up(PATIENCE);
    cluster.nodes[1].agent().wait_converged(PATIENCE);
    assert_eq!(has(&cluster.nodes[1]), [false; 2]);
}
