//! SRC-01: does the owner of an object that cannot be served hear of it, by an Event
//! on the object, once, however many nodes find the same?

use std::{fs, thread, time::Duration};

use causeway_testkit::{
    apiserver::{ApiServer, kind},
    manifest::{Port, Service},
    topology::{Cluster, PATIENCE, vip},
    until::until,
};
use serde_json::Value;

/// Until it is told of, and until nobody tells any more.
const TOLD: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_secs(8);

/// One that is not served at all, one of which a part is not, and one of a kind
/// without a namespace.
const WRONG: &str = "\
apiVersion: v1
kind: Service
metadata: {name: nothing, namespace: default}
spec: {clusterIP: 10.96.0.66, ports: [{port: 0}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: half, namespace: default}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: ten}}]}]}
---
apiVersion: v1
kind: Node
metadata: {name: far}
spec: {podCIDR: 10.9.0.5/24}
";

/// Kind, name, reason and namespace of each, sorted.
fn told(api: &ApiServer) -> Vec<[String; 4]> {
    let text = |event: &Value, path: &str| event.pointer(path).unwrap().as_str().unwrap().to_owned();
    let line = |event: &Value| {
        ["/regarding/kind", "/regarding/name", "/reason", "/metadata/namespace"].map(|path| text(event, path))
    };
    let mut told: Vec<_> = api.events().0.iter().map(line).collect();
    told.sort();
    told
}

#[test]
fn the_owner_hears_once_for_all_nodes_and_anew_when_it_comes_back() {
    let (cluster, api) = Cluster::watching(3);
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    let other = Service { name: "other".into(), ..web.clone() };
    [web.yaml(), other.yaml(), WRONG.to_owned()].iter().for_each(|yaml| api.apply(yaml));
    let wanted = [
        ["NetworkPolicy", "half", "NotEnforced", "default"],
        ["Node", "far", "NotServed", "default"],
        ["Service", "nothing", "NotServed", "default"],
        ["Service", "web", "NotServed", "default"],
    ];
    until("all four", TOLD, || (told(&api).len() == wanted.len()).then_some(()));
    // Every node has tried, each thing once, and is quiet from then on.
    until("three times", TOLD, || (api.events().1 == 3 * wanted.len() as u64).then_some(()));
    thread::sleep(QUIET);
    let (events, asked) = api.events();
    assert_eq!((told(&api), asked), (wanted.map(|line| line.map(str::to_owned)).to_vec(), 12), "{events:#?}");
    for event in &events {
        let about = &event["regarding"];
        let (namespace, name) = (about["namespace"].as_str().unwrap(), about["name"].as_str().unwrap());
        let uid = format!("{}-{namespace}-{name}-", kind(about["kind"].as_str().unwrap()));
        assert!(about["uid"].as_str().unwrap().starts_with(&uid), "{about} is not of this very object");
    }
    let note = |name: &str| {
        let event = events.iter().find(|event| event["regarding"]["name"] == name).unwrap();
        event["note"].as_str().unwrap().to_owned()
    };
    assert!(note("nothing").starts_with("spec.ports[0].port: "), "{}", note("nothing"));
    assert!(note("web").contains("default/other"), "{}", note("web"));
    assert!(note("far").contains("10.9.0.0/24"), "{}", note("far"));

    // Mended, forgotten, and wrong again.
    api.apply(&WRONG.replace("port: 0", "port: 80"));
    cluster.nodes[0].agent().wait_status("one less", PATIENCE, |status| status.problems.len() == 3);
    api.forget_events();
    api.apply(WRONG);
    until("once more", TOLD, || (told(&api).iter().any(|line| line[1] == "nothing")).then_some(()));
    assert_eq!(told(&api).len(), 1, "of the rest it was told within the hour");

    // Of one that is made anew, while the server remembers what was said of the other.
    let deleted = |problems| {
        api.delete(kind("Service"), "default", "nothing");
        cluster.nodes[0]
            .agent()
            .wait_status("one less", PATIENCE, |status| status.problems.len() == problems);
    };
    deleted(3);
    api.apply(WRONG);
    until("of the new one", TOLD, || (told(&api).len() == 2).then_some(()));
}

#[test]
fn who_may_not_tell_serves_all_the_same() {
    let (mut cluster, api) = Cluster::watching(1);
    api.allow_events(false);
    api.apply(WRONG);
    until("all three", TOLD, || (api.events().1 == 3).then_some(()));
    thread::sleep(QUIET);
    assert_eq!(api.events(), (Vec::new(), 3), "it does not insist");
    let status = cluster.nodes[0].agent().status();
    assert!(status.converged && status.alarms.is_empty() && status.problems.len() == 3, "{status:#?}");
    let log = fs::read_to_string(cluster.nodes[0].agent().log_path()).unwrap();
    assert!(log.contains("cannot tell of it by an Event"), "{log}");

    // Nor does anybody tell where that is not wanted.
    api.allow_events(true);
    let agent = cluster.nodes[0].agent_mut();
    agent.stop();
    agent.restart_with(&["--events", "false"]);
    agent.wait_status("what is wrong", PATIENCE, |status| status.problems.len() == 3);
    thread::sleep(QUIET);
    assert_eq!(api.events(), (Vec::new(), 3));
}

/// POL-10: of two rules at odds, the one that is asked second is told of.
#[test]
fn the_owner_of_a_rule_that_is_void_hears_of_it() {
    let (mut cluster, api) = Cluster::beside_api(1);
    api.install(kind("Policy"), true);
    cluster.nodes[0].start_watching(&api, false);
    cluster.wait_converged();
    let [client, server] =
        [("client", 10), ("server", 11)].map(|(name, host)| cluster.nodes[0].container(name, host));
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    let policy = |name: &str, priority: u8, action: &str, to: &str| {
        format!(
            "apiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  tier: Admin\n  \
             priority: {priority}\n  subject: {{pods: {{podSelector: {{matchLabels: {{app: client}}}}}}}}\n  \
             egress: [{{action: {action}, to: [{to}]}}]\n"
        )
    };
    for yaml in [
        client.pod("app: client"),
        server.pod("app: server"),
        web.yaml(),
        web.slice(&[server.address]).yaml(),
        policy("backend", 1, "Deny", "{pods: {podSelector: {matchLabels: {app: server}}}}"),
        policy("service", 2, "Allow", "{service: {namespace: default, name: web}}"),
    ] {
        api.apply(&yaml);
    }
    until("an Event", TOLD, || (!told(&api).is_empty()).then_some(()));
    let (events, _) = api.events();
    assert_eq!((events.len(), told(&api)[0][..3].join(" ")), (1, "Policy service NotEnforced".to_owned()));
    let note = events[0]["note"].as_str().unwrap();
    assert!(note.contains("backends of it are denied by Policy backend egress[0]"), "{note}");
}
