//! FWD-12: is a container with several addresses reached at each of them, and
//! may it speak from each, and from no other?

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use causeway_testkit::{
    client::requests,
    manifest::{Port, Service},
    netns::Netns,
    server::Server,
    snapshot::Snapshot,
    topology::{
        Cluster, Container, Node, PATIENCE, node_address6, outside_address, outside_address6, vip, vip6,
        widen,
    },
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
};

const PORT: u16 = 7000;
/// Another, where a socket of one address answers under that address.
const DATAGRAMS: u16 = 9000;
const REQUESTS: u64 = 10;
const NAME: &str = "several";

/// Three of each family, anywhere in the node's pod networks.
fn addresses() -> [IpAddr; 6] {
    [
        Ipv4Addr::new(10, 244, 0, 20).into(),
        Ipv4Addr::new(10, 244, 0, 21).into(),
        Ipv4Addr::new(10, 244, 0, 200).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0x20).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 1, 0x21).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0xffff, 0x200).into(),
    ]
}

/// One of each family that nobody gave it.
fn stolen() -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 244, 0, 22).into(), Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0x22).into()]
}

fn attach(node: &Node, netns: &Netns, addresses: &[IpAddr]) {
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let netns = netns.path().to_str().unwrap();
    node.agent().ask(&["endpoint", "attach", NAME, "--netns", netns, "--address", &list.join(",")]);
}

/// One of the same family as `other`.
fn alike(own: [IpAddr; 2], other: IpAddr) -> IpAddr {
    if other.is_ipv4() { own[0] } else { own[1] }
}

fn of(container: &Container) -> [IpAddr; 2] {
    [container.address.into(), container.address6.unwrap().into()]
}

/// A datagram to `at`, from `own` if that is given, which arrives at `server`;
/// and the answer to it, which comes from `at`. Whom the server saw.
fn exchange(what: &str, (client, own): (&Netns, Option<IpAddr>), at: SocketAddr, server: &UdpEnd) -> IpAddr {
    let any: IpAddr = if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let client = UdpEnd::bind(client, SocketAddr::new(own.unwrap_or(any), 0), Fragments::Never);
    client.send(at, b"question").unwrap();
    let silence = |error| panic!("{what}, {own:?} to {at}: {error}");
    let (_, from) = server.receive(PATIENCE).unwrap_or_else(silence);
    server.send(from, b"answer").unwrap();
    let answer = client.receive(PATIENCE).unwrap_or_else(silence);
    assert_eq!(answer, (b"answer".to_vec(), at), "{what}, {own:?} to {at}");
    from.ip()
}

/// Sockets that answer under the address that they were asked at.
fn listen(netns: &Netns, addresses: &[IpAddr]) -> Vec<(IpAddr, UdpEnd)> {
    let bind =
        |&address| (address, UdpEnd::bind(netns, SocketAddr::new(address, DATAGRAMS), Fragments::Never));
    addresses.iter().map(bind).collect()
}

/// Over TCP and UDP, at each address, by clients seen at their `source`.
fn reached(what: &str, client: &Netns, source: [IpAddr; 2], servers: &[(IpAddr, UdpEnd)]) {
    for (address, server) in servers {
        let seen = alike(source, *address);
        let to = SocketAddr::new(*address, PORT);
        let report = requests(client, to, REQUESTS, Protocol::Tcp);
        assert!(report.failed == 0, "{what}, {to}: {report}");
        report.assert_clean(REQUESTS, to);
        assert!(report.peers_seen.keys().eq([&seen]), "{what}, {to}: {report}");
        assert_eq!(exchange(what, (client, None), SocketAddr::new(*address, DATAGRAMS), server), seen);
    }
}

/// A datagram from each address to each server of the family.
fn usable(what: &str, client: &Netns, servers: &[(IpAddr, UdpEnd)]) {
    for own in addresses() {
        for (at, server) in servers.iter().filter(|(at, _)| at.is_ipv4() == own.is_ipv4()) {
            let seen = exchange(what, (client, Some(own)), SocketAddr::new(*at, DATAGRAMS), server);
            assert_eq!(seen, own, "{what}");
        }
    }
}

#[test]
fn each_of_several_addresses_serves_and_speaks() {
    let cluster = Cluster::dual(2);
    let [here, there] = [&cluster.nodes[0], &cluster.nodes[1]];
    let [near, far] = [here.container("near", 10), there.container("far", 10)];
    let several = Netns::new();
    widen(&several);
    attach(here, &several, &addresses());
    cluster.wait_converged();
    let _server = Server::start(&several, NAME, PORT);
    let servers = listen(&several, &addresses());
    let host: [IpAddr; 2] = [here.address.into(), node_address6(0).into()];
    let other_host: [IpAddr; 2] = [there.address.into(), node_address6(1).into()];
    let outside: [IpAddr; 2] = [outside_address().into(), outside_address6().into()];
    for (what, netns, own) in [
        ("a container here", &near.netns, of(&near)),
        ("a container elsewhere", &far.netns, of(&far)),
        ("its node", &here.netns, host),
        ("another node", &there.netns, other_host),
        ("outside", &cluster.outside, outside),
    ] {
        reached(what, netns, own, &servers);
        usable(what, &several, &listen(netns, &own));
    }
}

#[test]
fn an_address_that_was_not_given_is_none() {
    let cluster = Cluster::dual(1);
    let node = &cluster.nodes[0];
    let near = node.container("near", 10);
    let several = Netns::new();
    attach(node, &several, &addresses());
    cluster.wait_converged();
    let servers = listen(&near.netns, &of(&near));
    // The gateway is known from here on: it is not asked for in another's name.
    usable("the given ones", &several, &servers);
    for (address, (at, server)) in stolen().into_iter().zip(&servers) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let nodad = if address.is_ipv4() { "" } else { "nodad" };
        several.ip(&format!("address add {address}/{length} dev eth0 {nodad}"));
        let client = UdpEnd::bind(&several, SocketAddr::new(address, 0), Fragments::Never);
        let before = node.agent().counters();
        for _ in 0..REQUESTS {
            client.send(SocketAddr::new(*at, DATAGRAMS), b"a lie").unwrap();
        }
        assert!(server.receive(Duration::from_millis(100)).is_err(), "{address} got through");
        let after = node.agent().counters();
        assert_eq!(after["drop_spoofed"] - before["drop_spoofed"], REQUESTS, "{address}");
    }
    usable("the given ones still", &several, &servers);
}

#[test]
fn services_may_stand_on_any_of_the_addresses() {
    let cluster = Cluster::dual(2);
    let [here, there] = [&cluster.nodes[0], &cluster.nodes[1]];
    let [near, far] = [here.container("near", 10), there.container("far", 10)];
    let several = Netns::new();
    attach(here, &several, &addresses());
    widen(&cluster.outside);
    let _server = Server::start(&several, NAME, PORT);
    let all = addresses();
    let servers = listen(&several, &all);
    // By the backends' places among the addresses.
    let services = [(1, [1, 4]), (2, [2, 5])];
    for (host, backends) in services {
        let ports = [Port::tcp(80, PORT), Port::udp(80, DATAGRAMS)];
        let service = Service::new(&format!("at-{host}"), vip(host), &ports).dual(vip6(host));
        cluster.manifests().service(&service, &service.slice(&backends.map(|at| all[at])));
    }
    cluster.wait_converged();
    for (what, client) in [
        ("a container here", &near.netns),
        ("a container elsewhere", &far.netns),
        ("outside", &cluster.outside),
        // It asks its own service, whichever address it does so from.
        ("the container itself", &several),
    ] {
        for (host, [backend, backend6]) in services {
            for (at, backend) in [(vip(host).into(), backend), (vip6(host).into(), backend6)] {
                let to = SocketAddr::new(at, 80);
                let report = requests(client, to, REQUESTS, Protocol::Tcp);
                assert!(report.failed == 0, "{what}, {to}: {report}");
                report.assert_clean(REQUESTS, to);
                assert!(report.by_server.keys().eq([NAME]), "{what}, {to}: {report}");
                exchange(what, (client, None), to, &servers[backend].1);
            }
        }
    }
}

#[test]
fn addresses_come_and_go() {
    let cluster = Cluster::dual(1);
    let node = &cluster.nodes[0];
    let near = node.container("near", 10);
    let nothing = std::path::Path::new("/nonexistent");
    let several = Netns::new();
    let _server = Server::start(&several, NAME, PORT);
    let rows = || {
        let used = node.agent().status().maps.into_iter();
        used.filter(|map| map.map.starts_with("endpoint")).map(|map| (map.map, map.used)).collect::<Vec<_>>()
    };
    let before = Snapshot::take(&node.netns, nothing);
    let rows_before = rows();
    let all = addresses();
    attach(node, &several, &all);
    node.agent().wait_converged(PATIENCE);
    println!("{rows_before:?} -> {:?}", rows());
    assert_ne!(rows(), rows_before);
    reached("all", &near.netns, of(&near), &listen(&several, &all));
    // Fewer of them: those that stay are still served, the other is refused.
    let fewer = [all[0], all[1], all[3], all[4]];
    attach(node, &several, &fewer);
    node.agent().wait_converged(PATIENCE);
    reached("those that stay", &near.netns, of(&near), &listen(&several, &fewer));
    for gone in [all[2], all[5]] {
        let refused = near.netns.run(|| TcpStream::connect_timeout(&SocketAddr::new(gone, PORT), PATIENCE));
        assert!(refused.is_err(), "{gone} is still served");
    }
    let inside = several.ip("address show eth0");
    assert!(!inside.contains(&all[2].to_string()) && !inside.contains(&all[5].to_string()), "{inside}");
    attach(node, &several, &all);
    reached("all again", &near.netns, of(&near), &listen(&several, &all));

    node.detach(NAME);
    node.agent().wait_converged(PATIENCE);
    let after = Snapshot::take(&node.netns, nothing);
    assert_eq!(before.difference(&after), "", "left on the node");
    assert_eq!(rows(), rows_before, "rows that are left");
}
