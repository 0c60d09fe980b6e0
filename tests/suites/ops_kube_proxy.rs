//! OPS-02: may kube-proxy's rules stand while Causeway takes over? They are
//! there before the agent, for the same service, and lead to nobody: TCP and
//! UDP, IPv4 and IPv6, the service's addresses and the node's.

use std::{
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use causeway_testkit::{
    client::requests,
    manifest::{Port, Service},
    netns::Netns,
    scratch::Dir,
    server::Server,
    topology::{Cluster, UPLINK, node_address, node_address6, outside_address, outside_address6, vip, vip6},
    wire::Protocol,
};

const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
const CHAINS: [(&str, &str); 2] = [("in", "prerouting"), ("own", "output")];

/// Where the service is asked for.
fn places() -> Vec<(SocketAddr, Protocol)> {
    let addresses: [(IpAddr, u16); 4] = [
        (vip(1).into(), PORT),
        (vip6(1).into(), PORT),
        (node_address(0).into(), NODE_PORT),
        (node_address6(0).into(), NODE_PORT),
    ];
    let both =
        |(address, port)| [Protocol::Tcp, Protocol::Udp].map(|protocol| ((address, port).into(), protocol));
    addresses.into_iter().flat_map(both).collect()
}

/// As kube-proxy in nftables mode would send each place on, to a pod that has
/// gone: what comes to the node, and what its own processes send.
fn rules() -> String {
    let rule = |(to, protocol): &(SocketAddr, Protocol)| {
        let (family, pod) = match to {
            SocketAddr::V4(_) => ("ip", "10.244.0.250:8080"),
            SocketAddr::V6(_) => ("ip6", "[fd00:10:244::250]:8080"),
        };
        let protocol = if *protocol == Protocol::Tcp { "tcp" } else { "udp" };
        let (address, port) = (to.ip(), to.port());
        format!("{family} daddr {address} {protocol} dport {port} counter dnat {family} to {pod}; ")
    };
    let rules: String = places().iter().map(rule).collect();
    let chain = |(name, hook)| format!("chain {name} {{ type nat hook {hook} priority -100; {rules} }}\n");
    format!("table inet kube-proxy {{\n{}}}\n", CHAINS.map(chain).concat())
}

fn nft(netns: &Netns, arguments: &str) -> String {
    let (success, said) = netns.command("nft", arguments);
    assert!(success, "nft {arguments}: {said}");
    said
}

/// How many connections each rule of a chain has sent on.
fn hits(netns: &Netns, chain: &str) -> Vec<u64> {
    let listed = nft(netns, &format!("list chain inet kube-proxy {chain}"));
    let counts = listed.split("counter packets ").skip(1);
    counts.map(|text| text.split(' ').next().unwrap().parse().unwrap()).collect()
}

/// Says something to a place, whoever hears it.
fn call(to: SocketAddr, protocol: Protocol) {
    match protocol {
        Protocol::Tcp => assert!(TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_err()),
        Protocol::Udp => {
            let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
            UdpSocket::bind(any).unwrap().send_to(b"?", to).unwrap();
        }
    }
}

#[test]
fn what_causeway_serves_does_not_come_to_them() {
    let mut cluster = Cluster::idle(1);
    let node = &cluster.nodes[0];
    // By it a process of the node comes as far as the rules.
    for (family, via) in [("-4", IpAddr::from(outside_address())), ("-6", outside_address6().into())] {
        node.netns.ip(&format!("{family} route add default via {via} dev {UPLINK}"));
    }
    let dir = Dir::new();
    let file = dir.join("rules");
    std::fs::write(&file, rules()).unwrap();
    nft(&node.netns, &format!("-f {}", file.display()));
    // Nobody but the rules knows the service yet: they do send it on.
    for netns in [&cluster.outside, &node.netns] {
        netns.run(|| places().into_iter().for_each(|(to, protocol)| call(to, protocol)));
    }
    let all = |cluster: &Cluster| CHAINS.map(|(chain, _)| hits(&cluster.nodes[0].netns, chain));
    let before = all(&cluster);
    for hits in &before {
        assert!(hits.len() == places().len() && hits.iter().all(|count| *count > 0), "{before:?}");
    }

    cluster.start();
    let node = &cluster.nodes[0];
    let (client, server) = (node.container("client", 100), node.container("web-1", 10));
    let _server = Server::start(&server.netns, "web-1", 8080);
    let ports = [Port::tcp(PORT, 8080), Port::udp(PORT, 8080)].map(|port| port.at_node(NODE_PORT));
    let web = Service::new("web", vip(1), &ports).dual(vip6(1)).with("type: NodePort");
    cluster.manifests().service(&web, &web.slice(&server.addresses()));
    cluster.wait_converged();
    for netns in [&client.netns, &cluster.outside, &node.netns] {
        for (to, protocol) in places() {
            requests(netns, to, 30, protocol).assert_clean(30, to);
        }
    }
    assert_eq!(all(&cluster), before, "{}", nft(&node.netns, "list table inet kube-proxy"));
}
