//! OPS-04: does `uninstall` leave the machine as it was?

use std::{
    net::{SocketAddr, SocketAddrV4, TcpStream},
    process::Command,
    time::Duration,
};

use causeway_schema::NodeConfig;
use causeway_testkit::{
    agent::binary,
    client::requests,
    http::get,
    manifest::{Port, Service},
    netns::Netns,
    pinned::Pinned,
    server::Server,
    snapshot::Snapshot,
    topology::{Cluster, PATIENCE, vip, widen},
    until::until,
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

/// As a DaemonSet does it: the pod's agent has gone, and the next is to end it all.
#[test]
fn an_agent_that_is_to_uninstall_takes_off_what_another_left() {
    let mut cluster = Cluster::new(1);
    let before = Snapshot::take(&cluster.nodes[0].netns, std::path::Path::new("/nonexistent"));
    cluster.start();
    let client = Netns::new();
    widen(&client);
    cluster.nodes[0].attach("client", client.path(), cluster.nodes[0].pod_address(100));
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    cluster.manifests().service(&web, &web.slice(&[cluster.nodes[0].pod_address(10)]));
    cluster.wait_converged();
    let pins = cluster.nodes[0].agent().pins().to_owned();

    // Not while there is one.
    let agent = cluster.nodes[0].agent();
    let mut second = Command::new(binary());
    second.args(["agent", "--uninstall", "--socket"]).arg(agent.socket()).arg("--bpffs").arg(agent.pins());
    second.arg("--state-dir").arg(agent.state_dir()).arg("--netns").arg(cluster.nodes[0].netns.path());
    let said = second.output().unwrap();
    assert!(!said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("another program answers at"), "{said:?}");
    assert!(agent.status().converged);

    cluster.nodes[0].agent_mut().kill9();
    // Of a build with other maps, which no usual agent takes over.
    let mut config = Pinned::new(&pins).array::<{ size_of::<NodeConfig>() }>("CONFIG");
    let mut row: NodeConfig = bytemuck::pod_read_unaligned(&config.get(&0, 0).unwrap());
    row.version += 1;
    config.set(0, <[u8; _]>::try_from(bytemuck::bytes_of(&row)).unwrap(), 0).unwrap();
    cluster.nodes[0].agent_mut().restart();
    assert_eq!(cluster.nodes[0].agent_mut().ended(PATIENCE), Some(1));
    cluster.nodes[0].agent_mut().stop();
    cluster.nodes[0].agent_mut().restart_with(&["--uninstall", "--metrics", "127.0.0.1:9102"]);
    let netns = &cluster.nodes[0].netns;
    let probed = until("the probes", PATIENCE, || netns.run(|| get(([127, 0, 0, 1], 9102), "/readyz")).ok());
    assert_eq!((probed.status, probed.body.as_str()), (200, "uninstalled\n"));
    assert!(cluster.nodes[0].agent_mut().is_alive(), "it would be started again");
    assert_eq!(before.difference(&Snapshot::take(&cluster.nodes[0].netns, &pins)), "", "left on the node");
    cluster.nodes[0].agent_mut().stop();

    // Where there is nothing, and nobody who probes, it is done at once.
    cluster.nodes[0].agent_mut().restart_with(&["--uninstall"]);
    assert_eq!(cluster.nodes[0].agent_mut().ended(PATIENCE), Some(0));
    assert_eq!(before.difference(&Snapshot::take(&cluster.nodes[0].netns, &pins)), "", "left on the node");
}

/// Endpoints go one by one; until one has gone, its policies are in force.
#[test]
fn who_was_closed_is_closed_until_it_is_gone() {
    let mut cluster = Cluster::running(2);
    let (home, away) = (&cluster.nodes[0], &cluster.nodes[1]);
    let _others: Vec<_> =
        (0..30).map(|number| home.container(&format!("a-{number:02}"), 20 + number)).collect();
    let closed = home.container("z-closed", 10);
    let _server = Server::start(&closed.netns, "z-closed", 8080);
    let client = away.container("client", 100);
    cluster.manifests().write("pods.yaml", &closed.pod("app: closed"));
    let to = SocketAddr::from((closed.address, 8080));
    let opens = |patience| TcpStream::connect_timeout(&to, patience).is_ok();
    cluster.wait_converged();
    assert!(client.netns.run(|| opens(PATIENCE)), "it answers");
    cluster.manifests().write(
        "policy.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed}\n\
         spec: {podSelector: {matchLabels: {app: closed}}, policyTypes: [Ingress]}\n",
    );
    cluster.wait_converged();
    cluster.nodes[0].agent_mut().kill9();
    cluster.nodes[0].agent_mut().restart_with(&["--uninstall"]);
    let mut tried = 0;
    while cluster.nodes[0].agent_mut().is_alive() {
        assert!(!client.netns.run(|| opens(Duration::from_millis(3))), "it opened after {tried} attempts");
        tried += 1;
    }
    assert!(tried > 10, "{tried} attempts");
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
