//! POL-07: does the agent say which rule decides, what would have to be
//! different, and that the loaded program does the same?

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use causeway_testkit::{
    client::request,
    manifest::{Port, Service},
    server::Server,
    topology::{Cluster, vip, vip6},
    wire::Protocol,
};
use serde_json::Value;

const POLICIES: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guard}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - {from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 8080}]}
---
apiVersion: causeway.io/v1alpha1
kind: Policy
metadata: {name: still}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: foe}}}}
  egress:
  - {name: dns, action: Allow, to: [{networks: [192.168.0.0/16]}], ports: [{portNumber: {protocol: UDP, port: 53}}]}
  - {name: rest, action: Reject, to: [{networks: [0.0.0.0/0, '::/0']}]}
";

/// What is explained is what happens to real connections.
#[test]
fn the_deciding_rule_is_named_and_proved() {
    let cluster = Cluster::dual(2);
    let (home, away) = (&cluster.nodes[0], &cluster.nodes[1]);
    let [web, friend, foe] =
        [("web", 2), ("friend", 3), ("foe", 4)].map(|(name, number)| home.container(name, number));
    let remote = away.container("remote", 5);
    let _server = Server::start(&web.netns, "web", 8080);
    let pods = [(&web, "web"), (&friend, "friend"), (&foe, "foe"), (&remote, "friend")];
    let pods = pods.map(|(container, label)| container.pod(&format!("app: {label}"))).join("---\n");
    cluster.manifests().write("pods.yaml", &pods);
    let service = Service::new("web", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1));
    let backends = web.addresses();
    cluster.manifests().service(&service, &service.slice(&backends));
    let empty = Service::new("empty", vip(2), &[Port::tcp(80, 8080)]).dual(vip6(2));
    cluster.manifests().service(&empty, &empty.slice::<IpAddr>(&[]));
    cluster.manifests().write("policies.yaml", POLICIES);
    cluster.wait_converged();

    let agent = home.agent();
    let explain = |from: &str, to: &str, port: &str| -> (bool, Value) {
        let said = agent.cli(&["explain", "--from", from, "--to", to, "--port", port]);
        let reply = said.json;
        assert_eq!(said.code == 0, reply["allowed"] == true, "{reply:#} {}", said.stderr);
        assert_eq!(reply["agrees"], true, "{from} to {to}: {reply:#}");
        (said.code == 0, reply)
    };
    let guard = "NetworkPolicy default/guard ingress[0]";
    let rest = "Policy still egress[1] \"rest\"";
    let dns = "Policy still egress[0] \"dns\"";
    let shut = "default deny by NetworkPolicy default/guard (ingress)";
    let unspoken = Value::Null;
    // From, to, port; may they; the rule of egress, that of ingress, the nearest that would allow.
    let cases = [
        ("default/friend", "web", "8080", true, None, Some(guard), None),
        (
            "default/friend",
            "web",
            "8081",
            false,
            None,
            Some(shut),
            Some((guard, "it is not about port 8081")),
        ),
        ("foe", "default/web", "8080", false, Some(rest), Some(shut), Some((guard, "is none of its peers"))),
        ("remote", "web", "8080", true, None, Some(guard), None),
        ("192.168.77.200", "web", "8080", false, None, Some(shut), Some((guard, "192.168.77.200 is none"))),
        ("web", "192.168.77.200", "443", true, None, None, None),
        ("web", "remote", "1", true, None, None, None),
        // Itself, its node, from its node.
        ("web", "web", "8081", true, None, None, None),
        ("foe", "192.168.77.10", "22", true, None, None, None),
        ("192.168.77.10", "web", "8081", true, None, None, None),
    ];
    for (from, to, port, allowed, egress, ingress, nearest) in cases {
        let (may, reply) = explain(from, to, port);
        let name = format!("{from} to {to} at {port}: {reply:#}");
        assert_eq!(may, allowed, "{name}");
        let rule = |direction: &str| reply[direction].get("rule").unwrap_or(&unspoken).as_str();
        assert_eq!((rule("egress"), rule("ingress")), (egress, ingress), "{name}");
        let near = reply["ingress"].get("nearest").unwrap_or(&unspoken).as_str();
        assert_eq!(near, nearest.map(|(rule, _)| rule), "{name}");
        let text = reply["ingress"]["text"].as_str().unwrap_or_default();
        assert!(nearest.is_none_or(|(_, differs)| text.contains(differs)), "{name}");
    }
    // A service's rules are those of the backend that is chosen.
    for address in [IpAddr::from(vip(1)), vip6(1).into()] {
        for (container, from, may) in [(&friend, "friend", true), (&foe, "foe", false)] {
            let (said, reply) = explain(from, &address.to_string(), "80");
            assert_eq!(said, may, "{from} to {address}: {reply:#}");
            let served = SocketAddr::new(backends[usize::from(address.is_ipv6())], 8080);
            assert_eq!(reply["to"], served.to_string(), "{reply:#}");
            let real = container.netns.run(|| request(SocketAddr::new(address, 80), Protocol::Tcp));
            assert_eq!(real.is_ok(), may, "{from} to {address}: {real:?}");
        }
    }
    // What is dropped before any rule is asked may be denied as well.
    for address in [IpAddr::from(vip(2)), vip6(2).into()] {
        let (may, reply) = explain("foe", &address.to_string(), "80");
        let said = (reply["egress"]["rule"].as_str(), reply["program"]["reason"].as_str());
        assert_eq!((may, said), (false, (Some(rest), Some("drop_no_backend"))), "{reply:#}");
    }
    let udp = ["explain", "--from", "foe", "--to", "192.168.77.200", "--port", "53", "--protocol", "udp"];
    let said = agent.cli(&udp);
    assert!(said.code == 0 && said.json["egress"]["rule"] == dns, "{said:?}");

    let table = agent.text(&["explain", "--from", "foe", "--to", "web", "--port", "8080"]);
    let expected = [
        format!("{} -> {}:8080: denied", foe.address, web.address),
        format!(
            "  egress reject: {rest}; nearest rule that would allow: {dns}, but it is not about protocol 6, and {} (pod default/web) is none of its peers",
            web.address
        ),
        format!(
            "  ingress deny: {shut}; nearest rule that would allow: {guard}, but {} (pod default/foe) is none of its peers",
            foe.address
        ),
        format!("  the loaded program: drop (drop_policy_reject) by {rest}"),
    ];
    assert_eq!(table.trim_end(), expected.join("\n"));
}

#[test]
fn who_is_not_known_is_named() {
    let cluster = Cluster::dual(1);
    let web = cluster.nodes[0].container("web", 2);
    cluster.wait_converged();
    let agent = cluster.nodes[0].agent();
    let stranger = Ipv4Addr::new(192, 0, 2, 1).to_string();
    let six = web.address6.unwrap().to_string();
    let cases = [
        ("nobody", "web", "nobody is neither an address, nor an endpoint of this node, nor a pod"),
        ("web", "shop/nobody", "shop/nobody is neither"),
        (&stranger, "192.0.2.2", "neither 192.0.2.1 nor 192.0.2.2 is an endpoint of this node"),
        (&stranger, &six, "no addresses of one family"),
    ];
    for (from, to, word) in cases {
        let said = agent.cli(&["explain", "--from", from, "--to", to, "--port", "80"]);
        assert!(said.code == 1 && said.stderr.contains(word), "{word} in {said:?}");
    }
    let said = agent.cli(&["explain", "--from", "web", "--to", "web", "--port", "0x"]);
    assert_eq!(said.code, 2, "{said:?}");
    // Without policies, and without a backend.
    let service = Service::new("empty", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1));
    cluster.manifests().service(&service, &service.slice::<IpAddr>(&[]));
    cluster.wait_converged();
    let said = agent.cli(&["explain", "--from", "web", "--to", &vip(1).to_string(), "--port", "80"]);
    assert!(said.code == 1 && said.json["program"]["reason"] == "drop_no_backend", "{said:?}");
    let said = agent.text(&["explain", "--from", "web", "--to", "192.168.77.200", "--port", "80"]);
    assert!(said.contains("allowed") && said.contains("no policy says anything about it"), "{said:?}");
}
