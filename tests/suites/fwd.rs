//! FWD-01, FWD-03, FWD-05: do packets travel without bridge, proxy ARP and
//! NAT, between every pair of kinds, and is a port free on every address?

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use causeway_testkit::{
    client::requests,
    netns::Netns,
    sentinel::assert_no_netfilter,
    server::Server,
    snapshot::Snapshot,
    topology::{Cluster, Container, outside_address},
    wire::Protocol,
};

const PORT: u16 = 7000;

#[test]
fn every_pair_sees_real_addresses() {
    let cluster = Cluster::running(2);
    let [here, there] = [&cluster.nodes[0], &cluster.nodes[1]];
    let client = here.container("client", 100);
    let [near, far] = [here.container("near", 10), there.container("far", 10)];
    cluster.wait_converged();
    let _servers = [
        Server::start(&near.netns, "near", PORT),
        Server::start(&far.netns, "far", PORT),
        Server::start(&here.netns, "host", PORT),
        Server::start(&there.netns, "other-host", PORT),
        Server::start(&cluster.outside, "outside", PORT),
    ];
    let pairs: [(&str, &Netns, Ipv4Addr, Ipv4Addr); 8] = [
        ("container to container", &client.netns, client.address, near.address),
        ("container to container elsewhere", &client.netns, client.address, far.address),
        ("container to its host", &client.netns, client.address, here.address),
        ("container to another host", &client.netns, client.address, there.address),
        ("container to outside", &client.netns, client.address, outside_address()),
        ("host to its container", &here.netns, here.address, near.address),
        ("host to a container elsewhere", &here.netns, here.address, far.address),
        ("outside to container", &cluster.outside, outside_address(), near.address),
    ];
    for (what, from, source, to) in pairs {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let to = SocketAddrV4::new(to, PORT);
            let report = requests(from, to, 20, protocol);
            assert!(report.failed == 0, "{what}, {protocol:?}: {report}");
            report.assert_clean(20, to);
            assert!(
                report.peers_seen.keys().eq([&IpAddr::from(source)]),
                "{what}, {protocol:?}: {:?}",
                report.peers_seen
            );
        }
    }
    for node in &cluster.nodes {
        assert_no_netfilter(&node.netns);
    }
    // One hardware address of each node on the wire: containers' stay inside.
    let learned = cluster.switch.netns().command("bridge", "fdb show br sw0").1;
    let learned = learned.lines().filter(|line| !line.contains("permanent")).count();
    assert!(learned <= 3, "{learned} addresses on a switch with three hosts");
}

#[test]
fn no_bridge_no_proxy_arp_no_sysctl() {
    let mut cluster = Cluster::new(1);
    let nothing = std::path::Path::new("/nonexistent");
    let before = Snapshot::take(&cluster.nodes[0].netns, nothing);
    cluster.start();
    let node = &cluster.nodes[0];
    let _containers: Vec<Container> = (1..=3).map(|host| node.container(&format!("c{host}"), host)).collect();
    let after = Snapshot::take(&node.netns, nothing);
    let difference = before.difference(&after);
    // Interfaces bring sysctls of their own; those that were there stay.
    let changed: Vec<_> = difference.lines().filter(|line| line.starts_with("- sysctl")).collect();
    assert!(changed.is_empty(), "sysctls that were changed:\n{}", changed.join("\n"));
    let bridges = node.netns.ip("-o link show type bridge");
    assert!(bridges.is_empty(), "{bridges}");
    let proxies: Vec<_> =
        after.lines().filter(|line| line.contains("proxy_arp =") && !line.ends_with("= 0")).collect();
    assert!(proxies.is_empty(), "{proxies:?}");
}

#[test]
fn three_hundred_containers_on_one_port() {
    const CONTAINERS: u16 = 300;
    let cluster = Cluster::running(1);
    let node = &cluster.nodes[0];
    let client = node.container_at("client", Ipv4Addr::new(10, 244, 0, 250));
    let servers: Vec<_> = (0..CONTAINERS)
        .map(|index| {
            // Beyond the pod CIDR as well: addresses are routed one by one.
            let address = Ipv4Addr::new(10, 244, 64 + (index / 200) as u8, 1 + (index % 200) as u8);
            let name = format!("web-{index}");
            let container = node.container_at(&name, address);
            let server = Server::start(&container.netns, &name, 80);
            (container, server)
        })
        .collect();
    for (container, _) in &servers {
        let to = SocketAddrV4::new(container.address, 80);
        let report = requests(&client.netns, to, 1, Protocol::Tcp);
        report.assert_clean(1, to);
        assert!(report.by_server.keys().eq([&container.name]), "{report}");
    }
    assert_eq!(node.agent().status().endpoints, usize::from(CONTAINERS) + 1);
}

#[test]
fn attaching_again_changes_nothing_and_detaching_leaves_nothing() {
    let cluster = Cluster::running(1);
    let node = &cluster.nodes[0];
    let nothing = std::path::Path::new("/nonexistent");
    let netns = Netns::new();
    let peer = node.container("peer", 10);
    let _server = Server::start(&peer.netns, "peer", PORT);
    let to = SocketAddrV4::new(peer.address, PORT);
    let before = Snapshot::take(&node.netns, nothing);
    node.attach("twice", netns.path(), node.pod_address(20));
    let once = Snapshot::take(&node.netns, nothing);
    node.attach("twice", netns.path(), node.pod_address(20));
    assert_eq!(once.difference(&Snapshot::take(&node.netns, nothing)), "");
    requests(&netns, to, 10, Protocol::Tcp).assert_clean(10, to);
    node.detach("twice");
    // Detaching what is gone is fine.
    node.detach("twice");
    assert_eq!(before.difference(&Snapshot::take(&node.netns, nothing)), "");
}
