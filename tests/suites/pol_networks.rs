//! POL-11: are virtual networks apart, and does nobody attach to one that does
//! not have them? Who reaches whom is in the cases of `tests/netpol`.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use causeway_testkit::{
    agent::Agent,
    egress,
    netns::Netns,
    server::Server,
    topology::{Cluster, Container},
};

const NETWORKS: &str = "apiVersion: causeway.io/v1alpha1
kind: VirtualNetwork
metadata: {name: blue}
spec: {members: {namespaces: {matchLabels: {team: a}}}}
---
apiVersion: causeway.io/v1alpha1
kind: VirtualNetwork
metadata: {name: red}
spec: {members: {pods: {podSelector: {matchLabels: {app: web}}}}}
";

fn namespace(name: &str, team: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{team: {team}}}}}\n")
}

fn pod(container: &Container, network: &str) -> String {
    container.pod(&format!("app: web, causeway.io/network: {network}"))
}

/// What `attach` says of somebody whom the network does not have; nothing of it
/// is left.
fn refused(agent: &Agent, name: &str, more: &[&str]) -> String {
    let netns = Netns::new();
    let path = netns.path().to_str().unwrap().to_owned();
    let attach = ["endpoint", "attach", name, "--netns", &path, "--address", "10.244.0.77"];
    let said = agent.cli(&[&attach[..], more].concat());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(!netns.ip("link show").contains("eth0"), "an interface is there");
    assert!(!agent.text(&["show", "endpoints"]).contains(name));
    said.stderr
}

fn reach(from: &Container, to: &Container) -> [bool; 2] {
    to.addresses().map(|address| {
        let to = SocketAddr::new(address, 80);
        from.netns.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300))).is_ok()
    })
}

#[test]
fn nobody_attaches_to_a_network_that_does_not_have_them() {
    let cluster = Cluster::dual(1);
    let agent = cluster.nodes[0].agent();
    let write = |text: &[&str]| {
        cluster.manifests().write("networks.yaml", &text.join("---\n"));
        cluster.wait_converged();
    };
    write(&[NETWORKS, &namespace("shop", "a"), &namespace("bank", "b")]);
    let members =
        "its members are pods causeway.io/network=blue of namespaces team=a (manifests:networks.yaml#1)";
    assert!(refused(agent, "bank/web", &["--network", "blue"]).contains(members));
    let none = refused(agent, "bank/web", &["--network", "green"]);
    assert!(none.contains("endpoint bank/web: there is no VirtualNetwork green: apply one"), "{none}");
    // By what its pod says, too.
    let claims = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: bank, name: web, labels: {causeway.io/network: blue}}\n";
    write(&[NETWORKS, &namespace("shop", "a"), &namespace("bank", "b"), claims]);
    assert!(refused(agent, "bank/web", &[]).contains(members));

    let netns = Netns::new();
    let path = netns.path().to_str().unwrap().to_owned();
    let attach =
        ["endpoint", "attach", "shop/web", "--netns", &path, "--address", "10.244.0.9", "--network", "blue"];
    assert_eq!(agent.ask(&attach)["labels"]["causeway.io/network"], "blue");
    assert_eq!(agent.status().problems, []);
    // It is there, but its network does not have it any more.
    write(&[NETWORKS, &namespace("shop", "b"), &namespace("bank", "b"), claims]);
    let problems = agent.status().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    let problem = &problems[0];
    assert_eq!(problem.object, "endpoint shop/web");
    assert!(problem.message.starts_with("may not be in VirtualNetwork blue: its members are"), "{problem:?}");
    write(&[NETWORKS, &namespace("shop", "a"), &namespace("bank", "b")]);
    assert_eq!(agent.status().problems, []);
    // Its last sound version stands.
    write(&[
        &NETWORKS.replace("{team: a}", "{team: 'a b'}"),
        &namespace("shop", "a"),
        &namespace("bank", "b"),
    ]);
    assert_eq!(agent.status().problems.len(), 1);
    let shown = agent.text(&["show", "policies"]);
    assert!(shown.contains("VirtualNetwork blue") && shown.contains("network"), "{shown}");
}

/// Who changes a pod's label, or a namespace's, moves it only as far as the
/// networks have it.
#[test]
fn labels_alone_open_nothing() {
    let cluster = Cluster::dual(2);
    let [home, away] = [&cluster.nodes[0], &cluster.nodes[1]];
    // The endpoints are called as their pods are.
    let place = |node: &causeway_testkit::topology::Node, name: &str, host: u8| {
        let mut container = node.container(name, host);
        container.name = name.to_owned();
        container
    };
    let (one, two) = (place(home, "shop/one", 2), place(away, "shop/two", 3));
    let thief = place(away, "bank/thief", 4);
    let _servers = [Server::start(&one.netns, "one", 80), Server::start(&two.netns, "two", 80)];
    let write = |thief_network: &str, bank: &str| {
        let pods = [pod(&one, "blue"), pod(&two, "blue"), pod(&thief, thief_network)];
        let all = [NETWORKS.to_owned(), namespace("shop", "a"), namespace("bank", bank), pods.join("---\n")];
        cluster.manifests().write("all.yaml", &all.join("---\n"));
        cluster.wait_converged();
    };
    write("red", "b");
    assert_eq!((reach(&one, &two), reach(&two, &one)), ([true; 2], [true; 2]));
    assert_eq!((reach(&thief, &one), reach(&thief, &two)), ([false; 2], [false; 2]));
    write("blue", "b");
    assert_eq!((reach(&thief, &one), reach(&thief, &two)), ([false; 2], [false; 2]), "by its label");
    let said = home.agent().cli(&["explain", "--from", "bank/thief", "--to", "shop/one", "--port", "80"]);
    let rule = "VirtualNetwork blue ingress[0] \"another network\"";
    assert_eq!((said.code, &said.json["ingress"]["rule"]), (1, &rule.into()), "{}", said.json);
    write("blue", "a");
    assert_eq!((reach(&thief, &one), reach(&thief, &two)), ([true; 2], [true; 2]), "as a member");
    write("blue", "b");
    assert_eq!((reach(&thief, &one), reach(&thief, &two)), ([false; 2], [false; 2]), "as one no more");
}

/// Neither do other objects that select by labels take somebody for a member.
#[test]
fn an_egress_is_for_members_alone() {
    let cluster = egress::cluster(1);
    let node = &cluster.nodes[0];
    let [member, stranger] = [("member", 2), ("stranger", 3)].map(|(name, host)| node.container(name, host));
    let blue = "apiVersion: causeway.io/v1alpha1\nkind: VirtualNetwork\nmetadata: {name: blue}\n\
                spec: {members: {pods: {podSelector: {matchLabels: {team: a}}}}}\n";
    let out = egress::manifest(&["n0"]).replace("leaves: so", "causeway.io/network: blue");
    let pods = [
        member.pod("team: a, causeway.io/network: blue"),
        stranger.pod("team: b, causeway.io/network: blue"),
    ];
    cluster.manifests().write("all.yaml", &[blue, &out, &pods[0], &pods[1]].join("---\n"));
    cluster.wait_converged();
    let shown = node.agent().ask(&["show", "egress"]);
    assert_eq!(shown[0]["endpoints"], serde_json::json!(["member"]), "{shown}");
    let labels = |name: &str| {
        let shown = node.agent().ask(&["show", "endpoints"]);
        let row = shown.as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
        row.unwrap()["labels"]["causeway.io/network"].clone()
    };
    assert_eq!((labels("member"), labels("stranger")), ("blue".into(), serde_json::Value::Null));
}
