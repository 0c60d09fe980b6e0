//! Does an operator see the policies that the manifests hold, whom they are
//! about, and what of them could not be understood?

use std::time::Duration;

use causeway_testkit::{agent::Agent, netns::Netns, topology::Cluster};
use serde_json::{Value, json};

const POLICIES: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop, annotations: {causeway.io/audit: 'true'}}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{namespaceSelector: {matchLabels: {team: a}}}]
    ports: [{port: 80, endPort: 89}]
---
apiVersion: causeway.io/v1alpha1
kind: Policy
metadata: {name: db}
spec:
  tier: Admin
  priority: 20
  subject: {pods: {podSelector: {matchLabels: {app: db}}}}
  ingress:
  - {name: out, action: Reject, from: [{networks: [0.0.0.0/0, '::/0']}]}
";

fn wait(agent: &Agent) {
    agent.ask(&["wait", "--timeout", "10"]);
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let items = list.as_array().unwrap();
    items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("{name} in {list:#}"))
}

#[test]
fn policies_are_shown_counted_and_planned() {
    let cluster = Cluster::running(1);
    let agent = cluster.nodes[0].agent();
    assert_eq!(agent.ask(&["show", "policies"]), json!([]));
    cluster.manifests().write("policies.yaml", POLICIES);
    wait(agent);
    let status = agent.status();
    assert_eq!((status.policies, status.problems.len()), (2, 0), "{:?}", status.problems);
    assert!(agent.text(&["status"]).contains(", 2 policies;"));
    let shown = agent.ask(&["show", "policies"]);
    let expected = json!([
        {
            "kind": "NetworkPolicy", "namespace": "shop", "name": "web", "tier": "namespaced",
            "priority": null, "subject": "pods app=web of namespace shop",
            "ingress": ["allow from all pods of namespaces team=a at 80-89/TCP"], "egress": [],
            "audit": true, "reject": false, "faulty": false, "origin": "manifests:policies.yaml#2",
        },
        {
            "kind": "Policy", "namespace": "", "name": "db", "tier": "admin", "priority": 20,
            "subject": "pods app=db of all namespaces",
            "ingress": ["out: reject from 0.0.0.0/0 or ::/0"], "egress": null,
            "audit": false, "reject": false, "faulty": false, "origin": "manifests:policies.yaml#3",
        },
    ]);
    assert_eq!(shown, expected);
    let table = agent.text(&["show", "policies"]);
    assert!(table.contains("NetworkPolicy shop/web") && table.contains("audit"), "{table}");
    assert!(
        agent.text(&["show", "policies", "-o", "yaml"]).contains("subject: pods app=db of all namespaces")
    );

    let next = causeway_testkit::manifest::Manifests::new();
    next.write(
        "policies.yaml",
        &POLICIES.replace("priority: 20", "priority: 21").replace("endPort: 89", "endPort: 99"),
    );
    let plan = agent.text(&["plan", "--manifests", next.path().to_str().unwrap()]);
    for line in [
        "~ policy NetworkPolicy shop/web (manifests:policies.yaml#2)",
        "    + ingress rule allow from all pods of namespaces team=a at 80-99/TCP",
        "    - ingress rule allow from all pods of namespaces team=a at 80-89/TCP",
        "~ policy Policy db (manifests:policies.yaml#3)",
        "    tier: admin priority 20 -> admin priority 21",
    ] {
        assert!(plan.lines().any(|there| there == line), "{line} in\n{plan}");
    }

    cluster.manifests().remove("policies.yaml");
    wait(agent);
    assert_eq!(agent.ask(&["show", "policies"]), json!([]));
    assert_eq!(agent.status().policies, 0);
}

#[test]
fn a_spoilt_policy_is_named_and_its_last_sound_version_stands() {
    let cluster = Cluster::running(1);
    let agent = cluster.nodes[0].agent();
    let spoilt = POLICIES.replace("port: 80", "port: 80000").replace("'::/0'", "nowhere");
    cluster.manifests().write("policies.yaml", &spoilt);
    let fields = || {
        let problems = agent.status().problems;
        let fields: Vec<_> =
            problems.iter().map(|problem| format!("{} {}", problem.origin, problem.field)).collect();
        fields
    };
    let named_fields = [
        "manifests:policies.yaml#2 spec.ingress[0].ports[0].port",
        "manifests:policies.yaml#3 spec.ingress[0].from[0].networks[1]",
    ];
    wait(agent);
    assert_eq!(fields(), named_fields);
    // There never was a sound one: what is refused closes.
    let shown = agent.ask(&["show", "policies"]);
    let rule = "allow from all pods of namespaces team=a at no port";
    assert_eq!(named(&shown, "web")["ingress"], json!([rule]));
    assert_eq!(named(&shown, "db")["ingress"], json!(["out: reject from anybody"]));
    assert_eq!(named(&shown, "db")["faulty"], json!(true));
    assert!(agent.text(&["show", "policies"]).contains("FAULTY"));

    cluster.manifests().write("policies.yaml", POLICIES);
    agent.wait_status("mended", Duration::from_secs(5), |status| status.problems.is_empty());
    let sound = agent.ask(&["show", "policies"]);
    cluster.manifests().write("policies.yaml", &spoilt);
    wait(agent);
    assert_eq!(fields(), named_fields);
    assert_eq!(agent.ask(&["show", "policies"]), sound);
}

#[test]
fn endpoints_have_labels_of_their_own_and_of_their_pods() {
    let mut cluster = Cluster::running(1);
    let netns = Netns::new();
    let path = netns.path().to_str().unwrap().to_owned();
    let labels =
        |agent: &Agent, name: &str| named(&agent.ask(&["show", "endpoints"]), name)["labels"].clone();
    {
        let node = &cluster.nodes[0];
        let agent = node.agent();
        let given = ["--label", "app=db", "--label", "example.com/x="];
        let attach = ["endpoint", "attach", "default/web", "--netns", &path, "--address", "10.244.0.9"];
        let attached = agent.ask(&[&attach[..], &given[..]].concat());
        assert_eq!(attached["labels"], json!({"app": "db", "example.com/x": ""}));
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web, tier: front}}\nspec: {nodeName: n0}\nstatus: {podIP: 10.244.0.9}\n";
        cluster.manifests().write("pod.yaml", pod);
        wait(agent);
        assert_eq!(labels(agent, "default/web"), json!({"app": "db", "tier": "front", "example.com/x": ""}));
        let said = agent.cli(&[&attach[..], &["--label", "app=a b"]].concat());
        assert_eq!(said.code, 2, "{said:?}");
        assert!(agent.text(&["show", "endpoints"]).contains("app=db,example.com/x=,tier=front"));
    }
    let agent = cluster.nodes[0].agent_mut();
    agent.kill9();
    agent.restart();
    agent.wait_up(Duration::from_secs(5));
    wait(agent);
    assert_eq!(labels(agent, "default/web"), json!({"app": "db", "tier": "front", "example.com/x": ""}));
    // Attaching again replaces what was given.
    agent.ask(&["endpoint", "attach", "default/web", "--netns", &path, "--address", "10.244.0.9"]);
    assert_eq!(labels(agent, "default/web"), json!({"app": "web", "tier": "front"}));
}

#[test]
fn a_list_of_ports_that_is_too_long_is_told() {
    let cluster = Cluster::running(1);
    let node = &cluster.nodes[0];
    let _guarded = node.container("guarded", 10);
    let lets = |ports: &str| {
        let policy = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: many}}\n\
             spec: {{podSelector: {{}}, ingress: [{{ports: [{ports}]}}]}}\n"
        );
        cluster.manifests().write("policy.yaml", &policy);
        cluster.wait_converged();
        node.agent().status().problems
    };
    let ports: Vec<String> = (1..=2500).map(|number| format!("{{port: {}}}", number * 2)).collect();
    let problems = lets(&ports.join(", "));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].origin, "manifests:policy.yaml#1");
    assert!(problems[0].message.contains("more than 4096 ranges of ports"), "{problems:?}");
    assert_eq!(lets("{port: 2, endPort: 5000}"), []);
}
