//! OPS-04: does `uninstall` leave the machine as it was?

use std::net::SocketAddrV4;

use causeway_testkit::{
    client::requests,
    manifest::{Port, Service},
    netns::Netns,
    server::Server,
    snapshot::Snapshot,
    topology::{Cluster, vip, widen},
    wire::Protocol,
};

#[test]
fn nothing_is_left() {
    let mut cluster = Cluster::new(2);
    let nothing = std::path::Path::new("/nonexistent");
    let before = Snapshot::take(&cluster.nodes[0].netns, nothing);
    let (client, server) = (Netns::new(), Netns::new());
    widen(&client);
    let client_before = Snapshot::take(&client, nothing);

    cluster.start();
    let node = &cluster.nodes[0];
    let address = node.pod_address(10);
    node.attach("client", client.path(), node.pod_address(100));
    node.attach("server", server.path(), address);
    let _server = Server::start(&server, "server", 8080);
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    cluster.manifests().service(&web, &web.slice(&[address]));
    cluster.wait_converged();
    let to = SocketAddrV4::new(vip(1), 80);
    requests(&client, to, 50, Protocol::Tcp).assert_clean(50, to);
    let pins = node.agent().pins().to_owned();
    let during = before.difference(&Snapshot::take(&node.netns, &pins));
    assert!(during.contains("+ pin") && during.contains("+ link"), "nothing was installed:\n{during}");

    cluster.nodes[0].agent().ask(&["uninstall"]);
    cluster.nodes[0].agent_mut().stop();
    let after = Snapshot::take(&cluster.nodes[0].netns, &pins);
    assert_eq!(before.difference(&after), "", "left on the node");
    assert_eq!(client_before.difference(&Snapshot::take(&client, nothing)), "", "left in the container");
}

#[test]
fn an_uninstalled_node_can_be_installed_again() {
    let mut cluster = Cluster::running(1);
    for round in 0..2 {
        let name = format!("client-{round}");
        let client = cluster.nodes[0].container(&name, 100);
        let server = cluster.nodes[0].container("server", 10);
        let _server = Server::start(&server.netns, "server", 8080);
        let to = SocketAddrV4::new(server.address, 8080);
        requests(&client.netns, to, 10, Protocol::Tcp).assert_clean(10, to);
        cluster.nodes[0].agent().ask(&["uninstall"]);
        cluster.nodes[0].agent_mut().stop();
        cluster.nodes[0].agent_mut().restart();
        cluster.wait_converged();
        assert_eq!(cluster.nodes[0].agent().status().endpoints, 0);
    }
}
