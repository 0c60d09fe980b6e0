//! SVC-23, OBS-06: does a cluster that knows kube-proxy find what it asks that for?
//! Load balancers a node's health, operators how long a change takes.

use std::{
    net::{IpAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    apiserver::{documents, kind},
    http::{Answer, get},
    manifest::{Port, Service},
    pinned::Pinned,
    topology::{Cluster, PATIENCE, node_address, node_address6, vip},
    until::until,
};
use jiff::Timestamp;
use serde_json::{Value, json};

const HEALTH: u16 = 10_256;
const CONFIG: &str = "healthz = \"[::]:10256\"\n";

/// Status and body; `None`: nobody answers.
fn ask(cluster: &Cluster, address: IpAddr, path: &str) -> Option<(u16, Value)> {
    let Answer { status, body } = cluster.outside.run(|| get((address, HEALTH), path)).ok()?;
    Some((status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"))))
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
    let (status, said) = until("an answer", PATIENCE, || ask(&cluster, here, "/healthz"));
    assert_eq!((status, &said["nodeEligible"]), (200, &json!(true)));
    for at in ["lastUpdated", "currentTime"] {
        let at: Timestamp = said[at].as_str().unwrap().parse().unwrap();
        assert!(Timestamp::now().duration_since(at).abs().as_secs() <= 2, "{said}");
    }
    assert_eq!(ask(&cluster, node_address6(0).into(), "/healthz").unwrap().0, 200);

    // The autoscaler is about to take the node.
    let mut node = documents(&cluster.nodes[0].yaml()).remove(0);
    node["spec"]["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    api.put(node);
    let eligible = |cluster: &Cluster| {
        ask(cluster, here, "/healthz").map(|(status, said)| (status, said["nodeEligible"].clone()))
    };
    until("no more traffic", PATIENCE, || (eligible(&cluster)? == (503, json!(false))).then_some(()));
    let (status, said) = ask(&cluster, here, "/livez").unwrap();
    assert!(status == 200 && said.get("nodeEligible").is_none(), "{said}");
    api.apply(&cluster.nodes[0].yaml());
    until("traffic again", PATIENCE, || (eligible(&cluster)? == (200, json!(true))).then_some(()));
    // A node that goes as it was about to is not one that stays.
    let mut node = documents(&cluster.nodes[0].yaml()).remove(0);
    node["metadata"]["deletionTimestamp"] = json!("2026-11-22T12:00:00Z");
    api.put(node);
    until("no more traffic", PATIENCE, || (eligible(&cluster)? == (503, json!(false))).then_some(()));
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
    until("traffic still", PATIENCE, || (eligible(&cluster)? == (200, json!(true))).then_some(()));
    assert!(!cluster.nodes[0].agent().status().converged);
}

/// A minute late, as kube-proxy may be.
#[test]
fn a_node_that_cannot_follow_is_ill_after_a_minute() {
    let mut cluster = Cluster::idle(1);
    cluster.nodes[0].start_with(Some(CONFIG));
    cluster.wait_converged();
    let here = node_address(0).into();
    let well = || ask(&cluster, here, "/livez").map(|(status, _)| status == 200);
    until("an answer", PATIENCE, well);
    Pinned::new(cluster.nodes[0].agent().pins()).freeze("FRONTENDS_V4");
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    cluster.manifests().service(&web, &web.slice(&[cluster.nodes[0].pod_address(10)]));
    cluster.nodes[0].agent().wait_status("a write that fails", PATIENCE, |status| !status.alarms.is_empty());
    let begun = Instant::now();
    thread::sleep(Duration::from_secs(50));
    assert_eq!(well(), Some(true), "it may mend itself");
    let (status, said) = until("the node ill", Duration::from_secs(15), || {
        ask(&cluster, here, "/healthz").filter(|(status, _)| *status == 503)
    });
    let took = begun.elapsed().as_secs();
    assert!(
        (58..63).contains(&took) && status == 503 && said["lastUpdated"] != said["currentTime"],
        "{took} {said}"
    );
    assert_eq!(well(), Some(false));
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
        until("one more", PATIENCE, || (line("count") >= f64::from(host) - 1.0).then_some(()));
    }
    let (count, sum, quick) = (line("count"), line("sum"), line("bucket{le=\"0.25\"}"));
    println!("{count} changes took {sum} s");
    assert!((count, quick) == (10.0, 10.0) && sum > 0.0 && sum < 1.0, "{count} {sum} {quick}");
    // What has waited in the cluster counts, as it does for whoever waits.
    thread::sleep(Duration::from_secs(3));
    publish(1, Timestamp::now() - Duration::from_secs(2));
    let waited = until("one more", PATIENCE, || {
        let count = line("count");
        (count > 10.0).then(|| line("sum") - sum)
    });
    assert!((2.0..2.5).contains(&waited), "{waited}");
}
