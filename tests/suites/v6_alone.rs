//! V6-02: does a cluster do without IPv4? Nodes, containers and services have
//! IPv6 addresses and no others: services from everywhere, node ports, hairpin,
//! pings, refusals, long datagrams, policies and masquerade, with XDP at the
//! uplink and without, and the agent has nothing to complain of.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use causeway_schema::HAIRPIN_V6;
use causeway_testkit::{
    client::requests,
    container::pod,
    manifest::{Port, Service},
    netns::Netns,
    ping::ping,
    sentinel::assert_no_netfilter,
    server::Server,
    topology::{Cluster, Container, PATIENCE, node_address6, outside_address6, vip6, widen},
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
};

const REQUESTS: u64 = 300;
const NODE_PORT: u16 = 30_080;
/// Nobody else has it, so it tells who is meant.
const SHUT: u16 = 8081;
/// Until a packet that is dropped is given up.
const SILENCE: Duration = Duration::from_millis(300);

const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 8080}, {port: 8080, protocol: UDP}]}, {from: [{podSelector: {matchLabels: {app: friend}}}]}]
";

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn six(container: &Container) -> Ipv6Addr {
    container.address6.unwrap()
}

#[test]
fn everything_stands_without_ipv4() {
    for xdp in [false, true] {
        let mut cluster = Cluster::idle6(2);
        if xdp {
            cluster.start_xdp()
        } else {
            cluster.start()
        }
        serves(&cluster);
    }
}

fn serves(cluster: &Cluster) {
    let servers = cluster.servers(2, 8080);
    let [near, far] = [0, 2].map(|first| [six(&servers[first].0), six(&servers[first + 1].0)]);
    let ports = [Port::tcp(80, 8080).at_node(NODE_PORT), Port::udp(53, 8080).at_node(NODE_PORT)];
    for (number, backends) in
        [(1, [near, far].concat()), (2, near.to_vec()), (3, far.to_vec()), (4, Vec::new())]
    {
        let ports = ports.clone().map(|port| Port { node_port: Some(NODE_PORT + u16::from(number)), ..port });
        let service = Service::new(&format!("s{number}"), vip6(number), &ports).with("type: NodePort");
        cluster.manifests().service(&service, &service.slice(&backends));
    }
    let client = cluster.nodes[0].container("client", 100);
    widen(&cluster.outside);
    cluster.wait_converged();
    let status = cluster.nodes[0].agent().status();
    assert!(status.problems.is_empty() && status.alarms.is_empty(), "{status:#?}");

    // Who asks, for what, how many answer, and whom they see.
    let (outside, host) = (&cluster.outside, &cluster.nodes[0].netns);
    let node = IpAddr::from(node_address6(0));
    let by_vip: [(&Netns, u8, usize, IpAddr); 6] = [
        (&client.netns, 1, 4, six(&client).into()),
        (&client.netns, 3, 2, six(&client).into()),
        (outside, 2, 2, outside_address6().into()),
        (outside, 3, 2, node),
        (host, 1, 4, node),
        (&servers[0].0.netns, 3, 2, six(&servers[0].0).into()),
    ];
    let asks = |netns: &Netns, to: SocketAddr, protocol, answer: usize, seen: IpAddr| {
        let report = requests(netns, to, REQUESTS, protocol);
        report.assert_clean(REQUESTS, to);
        assert_eq!(report.by_server.len(), answer, "{protocol:?} to {to}: {report}");
        assert!(report.peers_seen.keys().eq([&seen]), "{protocol:?} to {to}: {:?}", report.peers_seen);
    };
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        for (netns, service, answer, seen) in by_vip {
            asks(netns, at(vip6(service), port), protocol, answer, seen);
        }
        // At the node's own port, by every name that it has.
        asks(outside, at(node, NODE_PORT + 2), protocol, 2, outside_address6().into());
        asks(outside, at(node, NODE_PORT + 3), protocol, 2, node);
        for own in [Ipv6Addr::LOCALHOST.into(), node] {
            asks(host, at(own, NODE_PORT + 1), protocol, 4, node);
        }
    }

    hairpins(cluster, &client);
    for (netns, service) in [(&client.netns, 1), (outside, 2)] {
        assert_eq!(netns.run(|| ping(vip6(service).into(), 20, PATIENCE)).unwrap(), 20);
        for (service, port) in [(4, 80), (service, 81)] {
            let tried = netns.run(|| TcpStream::connect_timeout(&at(vip6(service), port), PATIENCE));
            assert_eq!(
                tried.unwrap_err().kind(),
                ErrorKind::ConnectionRefused,
                "service {service} port {port}"
            );
        }
    }
    long_datagrams(&client, &servers[2].0);
    obeys(cluster, &servers[0].0, &client);

    for (netns, what) in [(host, "a node"), (&client.netns, "a container")] {
        assert_no_netfilter(netns);
        let shown = netns.ip("-4 -o address show scope global");
        assert!(shown.is_empty(), "{what} has {shown}");
        assert!(netns.ip("-4 route show table all scope global").is_empty(), "{what} has IPv4 routes");
    }
    let explained = cluster.nodes[0].agent().text(&["explain", "service", "s1"]);
    assert!(explained.contains(&vip6(1).to_string()), "{explained}");
}

/// A container calls a service that it serves itself.
fn hairpins(cluster: &Cluster, own: &Container) {
    let _server = Server::start(&own.netns, "own", 9090);
    let service = Service::new("own", vip6(9), &[Port::tcp(80, 9090), Port::udp(53, 9090)]);
    cluster.manifests().service(&service, &service.slice(&[six(own)]));
    cluster.wait_converged();
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        let report = requests(&own.netns, at(vip6(9), port), REQUESTS, protocol);
        report.assert_clean(REQUESTS, at(vip6(9), port));
        assert!(report.peers_seen.keys().eq([&IpAddr::from(Ipv6Addr::from(HAIRPIN_V6))]), "{report}");
    }
}

/// In fragments, to a container of another node.
fn long_datagrams(from: &Container, to: &Container) {
    let server = UdpEnd::bind(&to.netns, at(six(to), 9000), Fragments::Allowed);
    let client = UdpEnd::bind(&from.netns, at(six(from), 5000), Fragments::Allowed);
    for length in [10, 1400, 8000, 60_000] {
        let sent: Vec<u8> = (0..length).map(|at: usize| (at % 251) as u8).collect();
        client.send(at(six(to), 9000), &sent).unwrap();
        let (got, source) = server.receive(PATIENCE).unwrap();
        assert_eq!((got, source), (sent, at(six(from), 5000)));
    }
}

fn obeys(cluster: &Cluster, web: &Container, client: &Container) {
    let _also = Server::start(&web.netns, "also", SHUT);
    let tries =
        |netns: &Netns| netns.run(|| TcpStream::connect_timeout(&at(six(web), SHUT), SILENCE).map(drop));
    tries(&client.netns).unwrap();
    cluster.manifests().write("web.yaml", &pod(&web.name, &[six(web).into()], "app: web"));
    cluster.manifests().write("policy.yaml", POLICY);
    cluster.wait_converged();
    for netns in [&client.netns, &cluster.outside] {
        assert_eq!(tries(netns).unwrap_err().kind(), ErrorKind::TimedOut);
        requests(netns, at(six(web), 8080), 20, Protocol::Tcp).assert_clean(20, at(six(web), 8080));
    }
    let explained = cluster.nodes[0].agent().cli(&[
        "explain",
        "--from",
        &six(client).to_string(),
        "--to",
        &six(web).to_string(),
        "--port",
        &SHUT.to_string(),
    ]);
    assert_eq!((&explained.json["allowed"], &explained.json["agrees"]), (&false.into(), &true.into()));
    cluster.manifests().write("client.yaml", &pod(&client.name, &[six(client).into()], "app: friend"));
    cluster.wait_converged();
    tries(&client.netns).unwrap();
}

/// The world knows the way to the nodes alone.
#[test]
fn the_world_sees_the_node() {
    let mut cluster = Cluster::idle6(1);
    cluster.nodes[0].start_with(Some("masquerade = true\nnative = [\"fd00:10::/32\"]\n"));
    cluster.wait_converged();
    cluster.outside.ip(&format!("-6 route del {}", cluster.nodes[0].pod_cidr6()));
    let _world = Server::start(&cluster.outside, "world", 8000);
    let container = cluster.nodes[0].container("a", 2);
    let to = at(outside_address6(), 8000);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let report = requests(&container.netns, to, REQUESTS, protocol);
        report.assert_clean(REQUESTS, to);
        assert!(report.peers_seen.keys().eq([&IpAddr::from(node_address6(0))]), "{report}");
    }
    assert_eq!(container.netns.run(|| ping(to.ip(), 20, PATIENCE)).unwrap(), 20);
}
