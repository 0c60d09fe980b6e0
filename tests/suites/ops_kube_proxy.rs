//! OPS-02: may kube-proxy's rules stand while Causeway takes over? They are
//! there before the agent, for the same service, and lead to nobody.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use causeway_testkit::{
    client::requests,
    manifest::{Port, Service},
    netns::Netns,
    scratch::Dir,
    server::Server,
    topology::{Cluster, vip, vip6},
    wire::Protocol,
};

/// As kube-proxy in nftables mode would send two addresses and a node port on,
/// to a pod that has gone.
fn rules(node_address: Ipv4Addr) -> String {
    let chain = |name: &str, hook: &str| {
        format!(
            "chain {name} {{ type nat hook {hook} priority -100; \
             ip daddr {} tcp dport 80 counter dnat ip to 10.244.0.250:8080; \
             ip6 daddr {} tcp dport 80 counter dnat ip6 to [fd00:10:244::250]:8080; \
             ip daddr {node_address} tcp dport 30080 counter dnat ip to 10.244.0.250:8080; }}",
            vip(1),
            vip6(1)
        )
    };
    format!("table inet kube-proxy {{\n{}\n{}\n}}\n", chain("in", "prerouting"), chain("own", "output"))
}

fn nft(netns: &Netns, arguments: &str) -> String {
    let (success, said) = netns.command("nft", arguments);
    assert!(success, "nft {arguments}: {said}");
    said
}

/// How many packets the rules have sent on.
fn hits(netns: &Netns) -> u64 {
    let listed = nft(netns, "list table inet kube-proxy");
    let counts = listed.split("counter packets ").skip(1);
    counts.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn what_causeway_serves_does_not_come_to_them() {
    let cluster = Cluster::dual(1);
    let node = &cluster.nodes[0];
    let dir = Dir::new();
    let file = dir.join("rules");
    std::fs::write(&file, rules(node.address)).unwrap();
    nft(&node.netns, &format!("-f {}", file.display()));
    let to = SocketAddr::new(vip(1).into(), 80);
    // Nobody but the rules knows the address yet: they do send it on.
    let call = || TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok();
    assert!(!cluster.outside.run(call));
    let before = hits(&node.netns);
    assert!(before > 0, "the rules do nothing");

    let (client, server) = (node.container("client", 100), node.container("web-1", 10));
    let _server = Server::start(&server.netns, "web-1", 8080);
    let port = Port { node_port: Some(30_080), ..Port::tcp(80, 8080) };
    let web = Service::new("web", vip(1), &[port]).dual(vip6(1));
    cluster.manifests().service(&web, &web.slice(&server.addresses()));
    cluster.wait_converged();
    let addresses: [IpAddr; 2] = [vip(1).into(), vip6(1).into()];
    for netns in [&client.netns, &cluster.outside, &node.netns] {
        for to in addresses.map(|address| SocketAddr::new(address, 80)) {
            requests(netns, to, 30, Protocol::Tcp).assert_clean(30, to);
        }
    }
    let to = SocketAddr::new(node.address.into(), 30_080);
    for netns in [&client.netns, &cluster.outside, &node.netns] {
        requests(netns, to, 30, Protocol::Tcp).assert_clean(30, to);
    }
    assert_eq!(hits(&node.netns), before, "{}", nft(&node.netns, "list table inet kube-proxy"));
}
