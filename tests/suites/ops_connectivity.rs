//! OPS-05: does `connectivity-test` say of real packets what becomes of them: of those
//! that arrive, of a backend that is away, of a policy, of a link that takes less?

use std::net::IpAddr;

use causeway_testkit::{
    agent::Said,
    manifest::{Port, Service},
    server::Server,
    topology::{Cluster, Container, Node, UPLINK, node_address, vip, vip6},
};
use serde_json::Value;

const NODE_PORT: u16 = 30_080;

const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
";

fn test(node: &Node, more: &[&str]) -> Said {
    let netns = node.netns.path().display().to_string();
    let said =
        node.agent().cli(&[&["connectivity-test", "--timeout", "500ms", "--netns", &netns], more].concat());
    assert_eq!(said.code == 0, said.json["good"] == true, "{said:?}");
    said
}

/// From, to, and why, of those with an outcome; sorted.
fn of(report: &Value, outcome: &str) -> Vec<[String; 3]> {
    let tried = report["tried"].as_array().unwrap().iter().filter(|tried| tried["outcome"] == outcome);
    let text = |tried: &Value, field: &str| tried[field].as_str().unwrap().to_owned();
    let mut found: Vec<_> =
        tried.map(|tried| ["from", "to", "detail"].map(|field| text(tried, field))).collect();
    found.sort();
    found
}

/// Two nodes, two servers on each and a client on the first.
struct Rig {
    cluster: Cluster,
    servers: Vec<(Container, Server)>,
    _client: Container,
    web: Service,
}

impl Rig {
    fn new() -> Self {
        let cluster = Cluster::dual(2);
        let servers = cluster.servers(2, 8080);
        let client = cluster.nodes[0].container("client", 100);
        let ports = [Port::tcp(80, 8080).at_node(NODE_PORT), Port::udp(53, 8080)];
        let web = Service::new("web", vip(1), &ports).dual(vip6(1));
        let backends: Vec<IpAddr> = servers.iter().flat_map(|(at, _)| at.addresses()).collect();
        cluster.manifests().service(&web, &web.slice(&backends).placed());
        cluster.wait_converged();
        Self { cluster, servers, _client: client, web }
    }
}

#[test]
fn what_is_reached_is_counted_and_what_is_not_is_named() {
    let mut rig = Rig::new();
    let node = &rig.cluster.nodes[0];
    let said = test(node, &[]);
    assert_eq!((said.code, said.json["failed"].as_u64()), (0, Some(0)), "{said:?}");
    let reached: Vec<String> =
        of(&said.json, "ok").into_iter().map(|[from, to, _]| format!("{from} > {to}")).collect();
    for to in ["10.96.0.1:80/TCP", "192.168.77.10:30080/TCP", "10.244.0.10:8080/TCP", "10.244.1.10:8080/TCP"]
    {
        for from in ["host", "client"] {
            assert!(reached.contains(&format!("{from} > {to}")), "{from} {to}: {reached:#?}");
        }
    }
    // The other node by both families, and two frontends and four backends of each.
    assert_eq!(reached.len(), 2 + 2 * 12, "{reached:#?}");
    assert_eq!(said.json["tried"].as_array().unwrap().len(), reached.len());
    let text = node.agent().text(&["connectivity-test", "--netns", node.netns.path().to_str().unwrap()]);
    assert_eq!(text.trim(), "26 of 26 reached, 0 denied by policies, 0 skipped, 0 unclear, 0 failed");

    // A backend at which nobody listens any more, seen from a container alone.
    let (_away, server) = rig.servers.pop().unwrap();
    drop(server);
    let said = test(&rig.cluster.nodes[0], &["--from", "client", "--service", "default/web"]);
    let failed = of(&said.json, "failed");
    let away = ["client", "10.244.1.11:8080/TCP", "refused"].map(str::to_owned);
    assert!(said.code == 1 && failed.contains(&away), "{said:?}");
    assert!(failed.iter().all(|[from, ..]| from == "client"), "{failed:#?}");
    // Without endpoints there is nothing to try.
    rig.cluster.manifests().service(&rig.web, &rig.web.slice::<IpAddr>(&[]));
    rig.cluster.wait_converged();
    let said = test(&rig.cluster.nodes[0], &["--from", "client"]);
    assert_eq!((said.code, said.json["skipped"].as_u64()), (0, Some(4)), "{said:?}");

    for (arguments, words) in [
        (["--from", "nobody"], "--from nobody: this node has no such endpoint"),
        (["--service", "default/none"], "--service default/none: there is none"),
    ] {
        let said = rig.cluster.nodes[0].agent().cli(&[&["connectivity-test"][..], &arguments].concat());
        assert!(said.code == 1 && said.stderr.contains(words), "{said:?}");
    }
}

#[test]
fn what_a_policy_denies_is_no_failure() {
    let rig = Rig::new();
    let pods = |selected: &dyn Fn(&str) -> bool| {
        let pods: Vec<String> = rig
            .servers
            .iter()
            .filter(|(at, _)| selected(&at.name))
            .map(|(at, _)| at.pod("app: web"))
            .collect();
        rig.cluster.manifests().write("pods.yaml", &pods.join("---\n"));
    };
    pods(&|name| name.ends_with("-0"));
    rig.cluster.manifests().write("policy.yaml", POLICY);
    rig.cluster.wait_converged();
    let said = test(&rig.cluster.nodes[0], &[]);
    assert_eq!((said.code, said.json["failed"].as_u64()), (0, Some(0)), "{said:?}");
    let denied = of(&said.json, "denied");
    let by = |[from, to, why]: &[String; 3]| {
        from == "client" && to == "10.244.0.10:8080/TCP" && why.contains("closed")
    };
    assert!(denied.iter().any(by), "{denied:#?}");
    // What the other node's policies say is known there.
    let unclear = of(&said.json, "unclear");
    let is_theirs = |[from, to, why]: &[String; 3]| {
        from == "host" && to == "10.244.1.10:8080/TCP" && why.contains("causeway explain")
    };
    assert!(unclear.iter().any(is_theirs), "{unclear:#?}");
    // The node itself reaches its own containers.
    let reached = of(&said.json, "ok");
    assert!(
        reached.iter().any(|[from, to, _]| from == "host" && to == "10.244.0.10:8080/TCP"),
        "{reached:#?}"
    );

    // When nothing on the other node is reached, it is no policy before somebody has looked.
    pods(&|name| name.ends_with("-0") || name.contains("-n1-"));
    rig.cluster.wait_converged();
    let said = test(&rig.cluster.nodes[0], &[]);
    let failed = of(&said.json, "failed");
    let told = failed.iter().all(|[.., why]| why.contains("no backend on node n1 was reached at all"));
    assert!(said.code == 1 && !failed.is_empty() && told, "{failed:#?}");
}

/// As the node is configured, and the service wants it.
#[test]
fn what_is_meant_so_is_no_failure() {
    let mut rig = Rig::new();
    let agent = rig.cluster.nodes[0].agent_mut();
    agent.stop();
    agent.reconfigure("host_services = false\n");
    agent.restart();
    rig.cluster.wait_converged();
    let said = test(&rig.cluster.nodes[0], &["--from", "host"]);
    assert_eq!((said.code, said.json["skipped"].as_u64()), (0, Some(4)), "{said:?}");
    let ranged = Service { name: "ranged".into(), address: vip(2).into(), address6: None, ..rig.web.clone() };
    let ranged = Service { ports: vec![Port::tcp(80, 8080)], ..ranged }
        .with("type: LoadBalancer")
        .with("loadBalancerSourceRanges: [203.0.113.0/24]");
    let text = format!("{}status: {{loadBalancer: {{ingress: [{{ip: 10.96.7.7}}]}}}}\n", ranged.yaml());
    rig.cluster.manifests().write("ranged.yaml", &text);
    rig.cluster.manifests().slice(&ranged.slice(&[rig.servers[0].0.address]).placed());
    rig.cluster.wait_converged();
    let said = test(&rig.cluster.nodes[0], &["--from", "client", "--service", "default/ranged"]);
    let denied = ["client", "10.96.7.7:80/TCP", "its source ranges leave this client out"].map(str::to_owned);
    assert!(said.code == 0 && of(&said.json, "denied") == [denied], "{said:?}");
}

#[test]
fn a_way_that_takes_less_is_told() {
    let rig = Rig::new();
    rig.cluster.nodes[1].netns.ip(&format!("link set {UPLINK} mtu 1400"));
    let said = test(&rig.cluster.nodes[0], &["--from", "host"]);
    let failed = of(&said.json, "failed");
    let other = node_address(1).to_string();
    let narrow = |[from, to, why]: &[String; 3]| {
        from == "host"
            && *to == other
            && why.contains("1500 bytes does not come back")
            && why.contains("one of 84 does")
    };
    assert!(said.code == 1 && failed.iter().any(narrow), "{said:?}");
}
