//! FWD-04, in part: do containers reach the world under the node's address,
//! and the cluster under their own? Streams, datagrams, fragments, pings and
//! errors, ports of the host's left to the host, and as many new connections
//! to one address and port as there are ports, several times over.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use causeway_testkit::{
    client::requests,
    hop::Hop,
    load::ConnectLoad,
    ping::{ends_at, ping},
    sentinel::assert_no_netfilter,
    server::Server,
    topology::{
        Cluster, Container, PATIENCE, node_address, node_address6, outside_address, outside_address6, widen,
    },
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
};

const REQUESTS: u64 = 500;
/// New connections a second, and for how long: `CAUSEWAY_SECONDS` has the row's 120.
const RATE: u32 = 2000;
const SECONDS: u64 = 16;

/// The world's addresses, the container's, and those of its node.
fn ways(container: &Container, node: u8) -> [(IpAddr, IpAddr, IpAddr); 2] {
    [
        (outside_address().into(), container.address.into(), node_address(node).into()),
        (outside_address6().into(), container.address6.unwrap().into(), node_address6(node).into()),
    ]
}

#[test]
fn the_world_sees_the_node_and_the_cluster_the_container() {
    let cluster = Cluster::masquerading(2);
    let _world = Server::start(&cluster.outside, "world", 8000);
    let containers = [cluster.nodes[0].container("a", 2), cluster.nodes[1].container("b", 2)];
    let _peer = Server::start(&containers[1].netns, "b", 8000);
    for (number, container) in (0..).zip(&containers) {
        for (world, own, node) in ways(container, number) {
            let to = SocketAddr::new(world, 8000);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let report = requests(&container.netns, to, REQUESTS, protocol);
                report.assert_clean(REQUESTS, to);
                assert!(report.peers_seen.keys().eq([&node]), "{to}: {:?}", report.peers_seen);
            }
            let answered = container.netns.run(|| ping(world, 20, PATIENCE)).unwrap();
            assert_eq!(answered, 20, "pings of {world} from {own}");
            // The node's own pings and connections are its own.
            let netns = &cluster.nodes[usize::from(number)].netns;
            assert_eq!(netns.run(|| ping(world, 20, PATIENCE)).unwrap(), 20, "pings of {world} from {node}");
            requests(netns, to, REQUESTS, Protocol::Tcp).assert_clean(REQUESTS, to);
        }
    }
    // Between containers of two nodes nothing is translated.
    for (own, peer) in [
        (IpAddr::from(containers[0].address), IpAddr::from(containers[1].address)),
        (containers[0].address6.unwrap().into(), containers[1].address6.unwrap().into()),
    ] {
        let report = requests(&containers[0].netns, SocketAddr::new(peer, 8000), REQUESTS, Protocol::Tcp);
        assert!(report.peers_seen.keys().eq([&own]), "{peer}: {:?}", report.peers_seen);
    }
    for node in &cluster.nodes {
        assert_no_netfilter(&node.netns);
    }
}

#[test]
fn datagrams_fragments_and_errors_find_their_way_back() {
    let cluster = Cluster::masquerading(2);
    let [a, b] = ["a", "b"].map(|name| cluster.nodes[0].container(name, 2 + (name == "b") as u8));
    for ((world, own, node), (_, other, _)) in ways(&a, 0).into_iter().zip(ways(&b, 0)) {
        let server = UdpEnd::bind(&cluster.outside, SocketAddr::new(world, 9000), Fragments::Allowed);
        // Two clients from one port: the world must tell them apart.
        let clients = [(&a, own), (&b, other)].map(|(container, address)| {
            UdpEnd::bind(&container.netns, SocketAddr::new(address, 5000), Fragments::Allowed)
        });
        for (number, client) in (0_u8..).zip(&clients) {
            for length in [10, 1400, 8000] {
                let sent = vec![number; length];
                client.send(SocketAddr::new(world, 9000), &sent).unwrap();
                let (got, from) = server.receive(PATIENCE).unwrap();
                assert_eq!((got.len(), from.ip()), (length, node), "the world sees the node");
                // Not a port that the host gives its own sockets, nor one of its services.
                assert!((1024..30_000).contains(&from.port()), "{from}");
                server.send(from, &sent).unwrap();
                let (answer, source) = client.receive(PATIENCE).unwrap();
                assert_eq!((answer, source), (sent, SocketAddr::new(world, 9000)));
            }
        }
        // A port where nobody listens: the host says so, and the sender hears it.
        let refused = a.netns.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(own, 0)).unwrap();
            socket.connect(SocketAddr::new(world, 9)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"x").unwrap();
            socket.recv(&mut [0; 8]).unwrap_err().kind()
        });
        assert_eq!(refused, ErrorKind::ConnectionRefused, "{world}");
    }
}

/// As a traceroute by pings wants it; a container with a policy that lets nobody
/// in hears of its own questions too.
#[test]
fn routers_errors_about_pings_find_who_asked() {
    let mut cluster = Cluster::masquerading(1);
    let hop = Hop::behind(&mut cluster.switch, 1500);
    let node = &cluster.nodes[0];
    hop.reach_from(&node.netns);
    let [open, shut] = [node.container("open", 2), node.container("shut", 3)];
    cluster.manifests().write("shut.pod.yaml", &shut.pod("app: shut"));
    cluster.manifests().write(
        "shut.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut}\nspec:\n  podSelector: \
         {matchLabels: {app: shut}}\n  policyTypes: [Ingress]\n",
    );
    cluster.wait_converged();
    for container in [&open, &shut] {
        let far = [IpAddr::from(hop.far_address()), hop.far_address6().into()];
        for (own, far) in container.addresses().into_iter().zip(far) {
            // The gateway is the first hop; behind it are two routers.
            let routers: [&str; 2] = if far.is_ipv4() {
                ["192.168.77.254", "203.0.113.2"]
            } else {
                ["fd00:77::254", "fd00:203::2"]
            };
            for (hops, router) in (2..).zip(routers) {
                let said = container.netns.run(|| ends_at(own, far, hops, PATIENCE)).unwrap();
                assert_eq!(said, Some(router.parse().unwrap()), "{hops} hops from {own} to {far}");
            }
            assert_eq!(container.netns.run(|| ping(far, 3, PATIENCE)).unwrap(), 3, "{own} to {far}");
        }
    }
}

#[test]
fn ports_do_not_run_out() {
    let cluster = Cluster::masquerading(2);
    let container = cluster.nodes[0].container("a", 2);
    widen(&cluster.outside);
    let _world = Server::start(&cluster.outside, "world", 8000);
    let seconds = std::env::var("CAUSEWAY_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    for world in [IpAddr::from(outside_address()), outside_address6().into()] {
        let load = ConnectLoad::start(&container.netns, SocketAddr::new(world, 8000), RATE);
        thread::sleep(Duration::from_secs(seconds));
        let report = load.stop();
        println!("{report}");
        assert_eq!(report.report.failed, 0, "{report}");
        // More than there are ports.
        let asked = seconds * u64::from(RATE);
        assert!(report.report.ok > asked * 3 / 4, "{} of {asked} connections were made", report.report.ok);
    }
}
