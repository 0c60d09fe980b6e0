//! SVC-23, OBS-06: does a cluster that knows kube-proxy find what it asks that for?
//! Load balancers a node's health, operators how long a change takes.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    apiserver::{documents, kind},
    manifest::{Port, Service},
    topology::{Cluster, PATIENCE, node_address, node_address6, vip},
};
use jiff::Timestamp;
use serde_json::{Value, json};

const HEALTH: u16 = 10_256;
const CONFIG: &str = "healthz = \"[::]:10256\"\n";

/// Status and body; `None`: nobody answers.
fn get(cluster: &Cluster, address: IpAddr, path: &str) -> Option<(u16, Value)> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, HEALTH), PATIENCE).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{text}"))))
    };
    cluster.outside.run(ask)
}

fn until<T>(what: &str, good: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = good() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn load_balancers_hear_whether_to_send_to_a_node() {
    let (mut cluster, mut api) = Cluster::beside_api(1);
    // As a kube-proxy that still runs.
    let taken = cluster.nodes[0].netns.run(|| TcpListener::bind(("::", HEALTH)).unwrap());
    cluster.nodes[0].start_watching_with(&api, CONFIG);
    cluster.wait_converged();
    drop(taken);
    let here = node_address(0).into();
    let (status, said) = until("an answer", || get(&cluster, here, "/healthz"));
    assert_eq!((status, &said["nodeEligible"]), (200, &json!(true)));
    for at in ["lastUpdated", "currentTime"] {
        let at: Timestamp = said[at].as_str().unwrap().parse().unwrap();
        assert!(Timestamp::now().duration_since(at).abs().as_secs() <= 2, "{said}");
    }
    assert_eq!(get(&cluster, node_address6(0).into(), "/healthz").unwrap().0, 200);

    // The autoscaler is about to take the node.
    let mut node = documents(&cluster.nodes[0].yaml()).remove(0);
    node["spec"]["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    api.put(node);
    let eligible = |cluster: &Cluster| {
        get(cluster, here, "/healthz").map(|(status, said)| (status, said["nodeEligible"].clone()))
    };
    until("no more traffic", || (eligible(&cluster)? == (503, json!(false))).then_some(()));
    let (status, said) = get(&cluster, here, "/livez").unwrap();
    assert!(status == 200 && said.get("nodeEligible").is_none(), "{said}");
    api.apply(&cluster.nodes[0].yaml());
    until("traffic again", || (eligible(&cluster)? == (200, json!(true))).then_some(()));
    // A node that goes as it was about to is not one that stays.
    let mut node = documents(&cluster.nodes[0].yaml()).remove(0);
    node["metadata"]["deletionTimestamp"] = json!("2026-11-22T12:00:00Z");
    api.put(node);
    until("no more traffic", || (eligible(&cluster)? == (503, json!(false))).then_some(()));
    api.delete(kind("Node"), "", "n0");
    cluster.nodes[0].agent().wait_status("no node", PATIENCE, |status| status.nodes == 0);
    assert_eq!(eligible(&cluster), Some((503, json!(false))));

    // An agent that starts while its sources are away has what another left.
    api.apply(&cluster.nodes[0].yaml());
    let agent = cluster.nodes[0].agent_mut();
    agent.kill9();
    api.down();
    cluster.nodes[0].agent_mut().restart();
    cluster.nodes[0].agent().wait_up(PATIENCE);
    until("traffic still", || (eligible(&cluster)? == (200, json!(true))).then_some(()));
    assert!(!cluster.nodes[0].agent().status().converged);
}

#[test]
fn how_long_changes_take_is_counted_as_kube_proxy_counts() {
    let (cluster, api) = Cluster::watching(1);
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    let publish = |host: u8, changed: Timestamp| {
        let mut slice = documents(&web.slice(&[cluster.nodes[0].pod_address(host)]).yaml()).remove(0);
        let at = json!({"endpoints.kubernetes.io/last-change-trigger-time": changed.to_string()});
        slice["metadata"]["annotations"] = at;
        api.put(slice);
    };
    let line = |name: &str| {
        let metrics = cluster.nodes[0].agent().get("/metrics");
        let name = format!("causeway_network_programming_duration_seconds_{name} ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok())
            .unwrap_or_else(|| panic!("{metrics}"))
    };
    // Of before the agent's time.
    publish(1, Timestamp::now() - Duration::from_secs(3600));
    api.apply(&web.yaml());
    cluster.wait_converged();
    assert_eq!(line("count"), 0.0);
    for host in 2..=11 {
        publish(host, Timestamp::now());
        until("one more", || (line("count") >= f64::from(host) - 1.0).then_some(()));
    }
    let (count, sum, quick) = (line("count"), line("sum"), line("bucket{le=\"0.25\"}"));
    println!("{count} changes took {sum} s");
    assert!((count, quick) == (10.0, 10.0) && sum > 0.0 && sum < 1.0, "{count} {sum} {quick}");
    // What has waited in the cluster counts, as it does for whoever waits.
    thread::sleep(Duration::from_secs(3));
    publish(1, Timestamp::now() - Duration::from_secs(2));
    let waited = until("one more", || {
        let count = line("count");
        (count > 10.0).then(|| line("sum") - sum)
    });
    assert!((2.0..2.5).contains(&waited), "{waited}");
}
