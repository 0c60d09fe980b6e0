//! IPM-01: does a real runtime get along with the plugin?

use std::net::Ipv4Addr;

use causeway_testkit::{
    cni::Plugin,
    http::get,
    manifest::{Port, Service},
    podman::Podman,
    topology::{Cluster, PATIENCE, node_address, vip},
    until::until,
};
use serde_json::json;

#[test]
fn containers_of_podman_talk_and_go() {
    let cluster = Cluster::dual(1);
    cluster.wait_converged();
    let plugin = Plugin::of(&cluster.nodes[0]);
    let endpoints = || cluster.nodes[0].agent().ask(&["show", "endpoints"]).as_array().unwrap().clone();
    // Behind ours a plugin of others, which gets our result.
    let tuning = json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "777"}});
    let podman = Podman::new(&plugin, &[tuning]);
    let serve = "busybox mkdir -p /www; echo it-is-the-server > /www/name; exec httpd -f -p 8080 -h /www";
    podman.run(&["--detach", "--name", "server", "--publish", "82:8080"], &["sh", "-c", serve]);
    let address =
        podman.done(&["inspect", "server", "--format", "{{.NetworkSettings.Networks.causeway.IPAddress}}"]);
    let backend: Ipv4Addr = address.parse().unwrap();
    assert_eq!(endpoints()[0]["addresses"][0], address);
    assert_eq!(podman.exec("server", &["cat", "/proc/sys/net/core/somaxconn"]), "777");
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    cluster.manifests().service(&web, &web.slice(&[backend]));
    cluster.wait_converged();
    for to in [format!("{address}:8080"), vip(1).to_string()] {
        let said = podman.run(&["--rm"], &["sh", "-c", &format!("wget -q -O - http://{to}/name")]);
        assert_eq!(said, "it-is-the-server", "{to}");
    }
    // From outside, at a port of the node.
    let published = cluster.outside.run(|| get((node_address(0), 82), "/name")).unwrap();
    assert_eq!((published.status, published.body.trim()), (200, "it-is-the-server"));
    // As asked for.
    let network = "causeway:ip=10.244.0.99,mac=02:aa:bb:cc:dd:ee";
    let said = podman.run(&["--rm", "--network", network], &["ip", "address", "show", "eth0"]);
    assert!(said.contains("10.244.0.99/32") && said.contains("02:aa:bb:cc:dd:ee"), "{said}");
    // Containers that have ended have left.
    until("the server alone", PATIENCE, || (endpoints().len() == 1).then_some(()));
    podman.remove("server");
    assert_eq!(endpoints().len(), 0);
}
