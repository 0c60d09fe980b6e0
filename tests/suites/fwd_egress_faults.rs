//! FWD-04: where something is in the way of an egress address, is that said, is
//! all the rest kept, and does nobody leave under another?

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use causeway::snapshot::Status;
use causeway_testkit::{
    client::{request, requests},
    direct::counted,
    egress::{EGRESS, LABEL, PORT, cluster, has, hold, holder, label, manifest, selected, wait_held, world},
    netns::Netns,
    pinned::Pinned,
    server::Server,
    topology::{Cluster, Container, Node, PATIENCE, UPLINK, node_address, node_address6},
    wire::Protocol,
};

fn says(status: &Status, words: &[&str]) -> bool {
    status.reasons.iter().any(|reason| words.iter().all(|word| reason.contains(word)))
}

/// Whom the world sees, by family.
fn seen(container: &Container) -> [Vec<IpAddr>; 2] {
    world().map(|to| {
        let report = requests(&container.netns, to, 5, Protocol::Tcp);
        assert!(report.failed == 0, "{} to {to}: {report}", container.name);
        report.peers_seen.into_keys().collect()
    })
}

#[test]
fn an_address_that_is_somebody_elses_is_named_and_the_other_is_held() {
    let cluster = cluster(2);
    let _world = Server::start(&cluster.outside, "world", PORT);
    let container = selected(&cluster.nodes[1], "c", 2);
    let (node, other) = (&cluster.nodes[0], &cluster.nodes[1]);
    node.netns.ip(&format!("address add {}/32 dev {UPLINK}", EGRESS[0]));
    cluster.manifests().write("egress.yaml", &manifest(&["n0"]));
    let words = ["keep egress addresses", "hold 192.168.77.50", "not from us"];
    node.agent().wait_status("it is named", PATIENCE, |status| says(status, &words));
    other.agent().wait_converged(PATIENCE);
    wait_held(&cluster, "n0");
    assert_eq!(seen(&container), EGRESS.map(|address| vec![address]));

    // It goes with the object, and so does what was said.
    cluster.manifests().remove("egress.yaml");
    cluster.wait_converged();
    assert_eq!(has(node), [true, false], "what is not ours stays");
    assert_eq!(node.agent().status().alarms, [""; 0]);

    // It is held as soon as the other has gone.
    cluster.manifests().write("egress.yaml", &manifest(&["n0"]));
    node.agent().wait_status("it is named", PATIENCE, |status| says(status, &words));
    node.netns.ip(&format!("address del {}/32 dev {UPLINK}", EGRESS[0]));
    cluster.wait_converged();
    wait_held(&cluster, "n0");
}

fn attach(node: &Node, name: &str, netns: &Netns, more: &[&str]) -> (i32, String) {
    let words = ["endpoint", "attach", name, "--netns", netns.path().to_str().unwrap()];
    let said = node.agent().cli(&[&words, more].concat());
    (said.code, said.stderr)
}

#[test]
fn who_would_leave_under_the_nodes_address_is_not_attached() {
    let cluster = cluster(1);
    let node = &cluster.nodes[0];
    let _world = Server::start(&cluster.outside, "world", PORT);
    let (there, plain) = (selected(node, "there", 2), node.container("plain", 3));
    hold(&cluster, &["n0"]);
    let pinned = Pinned::new(node.agent().pins());
    pinned.freeze("EGRESS_V4");
    let netns = Netns::new();
    let more = ["--address", "10.244.0.4", "--address", "fd00:10:244::4", "--label", LABEL];
    let (code, said) = attach(node, "late", &netns, &more);
    let expected = "endpoint late: its egress address cannot be kept: write the row of 10.244.0.4";
    assert!(code == 1 && said.contains(expected), "{said}");
    assert!(!netns.ip("link show").contains("eth0"), "an interface is there");
    assert!(!node.agent().text(&["show", "endpoints"]).contains("late"));
    // One that is there is selected by its new label; its other family is kept.
    let [four, six] = plain.addresses().map(|address| address.to_string());
    let more = ["--address", &four, "--address", &six, "--label", LABEL];
    let (code, said) = attach(node, "plain", &plain.netns, &more);
    assert!(code == 1 && said.contains("endpoint plain: its egress address cannot be kept"), "{said}");
    let words = ["keep egress addresses: write the row of 10.244.0.3"];
    node.agent().wait_status("it is named", PATIENCE, |status| says(status, &words));
    assert_eq!(seen(&plain)[1], [EGRESS[1]]);
    assert_eq!(seen(&there), EGRESS.map(|address| vec![address]));
    // Who is not selected needs no row.
    label(node, &plain, &[]);
    node.container("other", 5);
}

const MASQUERADE: &str = "masquerade = true\nnative = [\"10.0.0.0/8\", \"fd00:10::/32\"]\n";

#[test]
fn until_the_sources_have_spoken_newcomers_are_held_back() {
    let mut cluster = cluster(2);
    let _world = Server::start(&cluster.outside, "world", PORT);
    let (old, plain) = (selected(&cluster.nodes[1], "old", 2), cluster.nodes[1].container("plain", 3));
    hold(&cluster, &["n0"]);
    let until = Instant::now() + PATIENCE;
    while holder(&cluster.nodes[1]).is_none() {
        assert!(Instant::now() < until, "n1 does not hear of n0");
        thread::sleep(Duration::from_millis(50));
    }
    // One of its sources never speaks.
    let silent = format!("{MASQUERADE}kubernetes_server = \"http://192.168.77.200:6443\"\n");
    restart(&mut cluster, &silent);
    let node = &cluster.nodes[1];
    let status = node.agent().status();
    assert!(status.sources.iter().any(|source| !source.synced), "{status:?}");
    let new = node.container("new", 4);
    let own: [IpAddr; 2] = [node_address(1).into(), node_address6(1).into()];
    let before = counted(node, "drop_no_egress");
    for to in world() {
        let denied = new.netns.run(|| request(to, Protocol::Udp));
        assert!(denied.is_err(), "{to}: {denied:?}");
    }
    assert!(counted(node, "drop_no_egress") >= before + 2);
    // Those whom an earlier agent knew go on.
    node.attach("plain", plain.netns.path(), plain.address);
    assert_eq!(seen(&old), EGRESS.map(|address| vec![address]));
    assert_eq!(seen(&plain), own.map(|address| vec![address]));
    // But not as somebody else.
    label(node, &plain, &["--label", LABEL]);
    for to in world() {
        plain.netns.run(|| request(to, Protocol::Udp)).unwrap_err();
    }

    restart(&mut cluster, MASQUERADE);
    cluster.wait_converged();
    assert_eq!(seen(&new), own.map(|address| vec![address]));
    assert_eq!(seen(&plain), EGRESS.map(|address| vec![address]));
    assert_eq!(cluster.nodes[1].agent().status().drift.repaired, 0);
}

fn restart(cluster: &mut Cluster, config: &str) {
    let agent = cluster.nodes[1].agent_mut();
    agent.kill9();
    agent.reconfigure(config);
    agent.restart();
    agent.wait_up(PATIENCE);
}

#[test]
fn a_link_that_cannot_be_told_is_named() {
    let cluster = cluster(1);
    let node = &cluster.nodes[0];
    node.netns.ip(&format!("link set {UPLINK} down"));
    cluster.manifests().write("egress.yaml", &manifest(&["n0"]));
    let word = ["ask the nodes that may hold egress addresses"];
    node.agent().wait_status("it is named", PATIENCE, |status| says(status, &word));
    node.netns.ip(&format!("link set {UPLINK} up"));
    node.agent().wait_status("it is mended", PATIENCE, |status| !says(status, &word));
}
