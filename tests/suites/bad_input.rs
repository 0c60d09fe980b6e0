//! Does bad input get named, by file, document and field, while everything
//! else is served?

use std::{net::SocketAddrV4, time::Duration};

use causeway::snapshot::{ProblemView, Status};
use causeway_testkit::{
    client::requests,
    load::ConnectLoad,
    manifest::{Manifests, Port, Service, node, pod},
    topology::{Cluster, vip},
    wire::Protocol,
};

/// Text that is wrong, and the field that an operator must be pointed to
/// (empty: the document as a whole).
struct Bad {
    text: String,
    field: &'static str,
}

fn bad(text: impl Into<String>, field: &'static str) -> Bad {
    Bad { text: text.into(), field }
}

/// Each `from` in `text` replaced by each of `wrong`.
fn variants(bads: &mut Vec<Bad>, text: &str, field: &'static str, from: &str, wrong: &[&str]) {
    assert!(text.contains(from), "{from} in\n{text}");
    bads.extend(wrong.iter().map(|wrong| bad(text.replacen(from, wrong, 1), field)));
}

/// Documents that cannot be served.
fn documents() -> Vec<Bad> {
    let web = Service::new("bad", vip(77), &[Port::tcp(80, 8080)]);
    let service = web.yaml();
    let slice = web.slice(&[std::net::Ipv4Addr::new(10, 244, 0, 77)]).weighted("bad", 3).yaml();
    let node = node("bad", &[[192, 168, 77, 77].into()], &["10.244.77.0/24".into()]);
    let pod = pod("bad", "n0", [10, 244, 0, 78].into());
    let mut bads = Vec::new();
    let numbers = [
        "port: 0",
        "port: -1",
        "port: 65536",
        "port: 70000",
        "port: http",
        "port: 1.5",
        "port: [80]",
        "port: {}",
    ];
    variants(&mut bads, &service, "port", "port: 80", &numbers);
    variants(&mut bads, &slice, "port", "port: 8080", &numbers);
    let ends = ["endPort: 79", "endPort: 65536", "endPort: -1", "endPort: x", "endPort: []"];
    let ends = ends.map(|end| format!("port: 80\n    {end}"));
    variants(&mut bads, &service, "endPort", "port: 80", &ends.each_ref().map(String::as_str));
    variants(
        &mut bads,
        &service.replacen("port: 80\n", "port: 80\n    endPort: 90\n", 1),
        "targetPort",
        "targetPort: 8080",
        &["targetPort: 65526"],
    );
    let noted = |note: &str| {
        let text = service.replacen("metadata:\n", &format!("metadata:\n  annotations:\n    {note}\n"), 1);
        bad(text, "causeway.io/")
    };
    let ranges = ["80-", "-", "90-80/TCP", "0-9/UDP", "1-65536/UDP", "1-9/SCTP", "7-9/TCP,9-12/TCP", "x-y"];
    bads.extend(ranges.iter().map(|wrong| noted(&format!("causeway.io/port-ranges: \"{wrong}\""))));
    bads.extend(
        ["yes", "1", ""].iter().map(|wrong| noted(&format!("causeway.io/whole-address: \"{wrong}\""))),
    );
    let protocols = ["protocol: ICMP", "protocol: SCTP", "protocol: tcpp", "protocol: 6", "protocol: [TCP]"];
    variants(&mut bads, &service, "protocol", "protocol: TCP", &protocols);
    variants(&mut bads, &slice, "protocol", "protocol: TCP", &protocols);
    let addresses =
        ["10.96.0", "300.1.1.1", "10.96.0.1/24", "10.96.0.1:80", "[1]", "{}", "web.example", "\"\\n\""];
    let with = |key: &str| addresses.map(|address| format!("{key}{address}"));
    let texts = |texts: &[String; 8]| -> Vec<Bad> {
        texts
            .iter()
            .map(|wrong| bad(service.replacen("clusterIP: 10.96.0.77", wrong, 1), "clusterIP"))
            .collect()
    };
    bads.extend(texts(&with("clusterIP: ")));
    for wrong in &addresses[..4] {
        bads.push(bad(slice.replacen("[10.244.0.77]", &format!("[{wrong}]"), 1), "addresses"));
        bads.push(bad(node.replacen("address: 192.168.77.77", &format!("address: {wrong}"), 1), "address"));
        bads.push(bad(pod.replacen("podIP: 10.244.0.78", &format!("podIP: {wrong}"), 1), "podIP"));
        bads.push(bad(pod.replacen("ip: 10.244.0.78", &format!("ip: {wrong}"), 1), "podIPs"));
    }
    let cidrs = ["podCIDRs: [10.244.0.0/33]", "podCIDRs: [10.244.0.0]", "podCIDRs: [x/8]", "podCIDRs: 5"];
    variants(&mut bads, &node, "podCIDRs", "podCIDRs: [10.244.77.0/24]", &cidrs);
    let weights =
        ["weight: \"-1\"", "weight: \"1001\"", "weight: \"heavy\"", "weight: \"\"", "weight: \"1.5\""];
    variants(&mut bads, &slice, "weight", "weight: \"3\"", &weights);
    for text in [&service, &slice, &node, &pod] {
        variants(&mut bads, text, "name", "name: bad", &["name: \"\"", "name: [a]", "name: {}"]);
        variants(&mut bads, text, "metadata", "metadata:", &["metadata: 5\nrest:", "metadata: [1]\nrest:"]);
        // Half-written, and not YAML at all.
        bads.push(bad(&text[..text.find("metadata").unwrap() + 4], ""));
        bads.push(bad(text.replacen("metadata:", "metadata: {name: ", 1), ""));
        bads.push(bad(text.replacen("kind:", "kind\tx", 1), ""));
    }
    variants(&mut bads, &slice, "ready", "ready: true", &["ready: maybe", "ready: 5", "ready: [true]"]);
    variants(
        &mut bads,
        &slice,
        "addressType",
        "addressType: IPv4",
        &["addressType: FQDN", "addressType: IPv5"],
    );
    variants(&mut bads, &service, "spec", "spec:", &["spec: 5\nrest:", "spec: [1]\nrest:"]);
    policies(&mut bads);
    variants(&mut bads, &slice, "endpoints", "endpoints:", &["endpoints: 5\nrest:", "endpoints: web\nrest:"]);
    bads
}

/// Policies, and what they select by.
fn policies(bads: &mut Vec<Bad>) {
    let head = |api: &str, kind: &str| format!("apiVersion: {api}\nkind: {kind}\nmetadata:\n  name: bad\n");
    let namespace = head("v1", "Namespace") + "  labels: {team: a}\n";
    variants(bads, &namespace, "labels", "team: a", &["team: a b", "te am: a", "team: 5", "team: [a]"]);
    variants(bads, &namespace, "name", "name: bad", &["name: a.b", "name: B", "name: {}"]);

    let network = head("networking.k8s.io/v1", "NetworkPolicy")
        + "spec:\n  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Ingress]\n  ingress:\n  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]\n    ports: [{protocol: TCP, port: 80, endPort: 90}]\n";
    let selectors =
        ["{app: web}", "web", "{matchLabels: {app: a b}}", "{matchExpressions: [{key: a}]}", "[]"];
    variants(bads, &network, "podSelector", "{matchLabels: {app: web}}", &selectors);
    variants(bads, &network, "policyTypes", "[Ingress]", &["[ingress]", "Ingress", "[5]"]);
    variants(bads, &network, "spec", "policyTypes", &["policyType", "types"]);
    variants(bads, &network, "ingress", "- from", &["- to", "- form", "- 5\n  - from", "- []\n  - from"]);
    variants(bads, &network, "cidr", "10.0.0.0/8", &["10.0.0.0", "10.0.0.0/33", "x", "[]"]);
    variants(bads, &network, "except", "10.1.0.0/16", &["11.0.0.0/16", "10.0.0.0/8", "fd00::/16", "x", "{}"]);
    variants(
        bads,
        &network,
        "port",
        "port: 80",
        &["port: 0", "port: 65536", "port: Web_1", "port: 1.5", "p: 80"],
    );
    variants(bads, &network, "endPort", "endPort: 90", &["endPort: 79", "endPort: 70000", "endPort: x"]);
    variants(bads, &network, "protocol", "TCP", &["ICMP", "tcp", "6", "[TCP]"]);

    let admin = head("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy")
        + "spec:\n  priority: 5\n  subject: {namespaces: {}}\n  egress:\n  - action: Deny\n    to: [{networks: [10.0.0.0/8]}]\n    ports: [{portNumber: {protocol: TCP, port: 80}}]\n";
    variants(
        bads,
        &admin,
        "priority",
        "priority: 5",
        &["priority: -1", "priority: 1001", "priority: x", "p: 5"],
    );
    variants(bads, &admin, "subject", "{namespaces: {}}", &["{}", "all", "{pods: {}}", "{nodes: {}}"]);
    variants(bads, &admin, "action", "Deny", &["deny", "Reject", "[]", "5"]);
    variants(
        bads,
        &admin,
        "to",
        "{networks: [10.0.0.0/8]}",
        &["{}", "{nodes: {}}", "{networks: [x]}", "{networks: []}", "5"],
    );
    variants(bads, &admin, "ports", "port: 80", &["port: 0", "port: http", "p: 80", "port: 65536"]);
    let own = admin
        .replace("policy.networking.k8s.io/v1alpha1", "causeway.io/v1alpha1")
        .replace("AdminNetworkPolicy", "Policy")
        .replace("priority: 5", "priority: 5\n  tier: Admin");
    variants(bads, &own, "tier", "Admin", &["Middle", "5", "[]"]);
    variants(bads, &own, "action", "Deny", &["Drop"]);
    variants(
        bads,
        &own,
        "service",
        "{networks: [10.0.0.0/8]}",
        &["{service: {}}", "{service: {name: W}}", "{service: 5}"],
    );
}

/// Enough of them for the promise: alone, and behind a good document.
fn files() -> Vec<(String, Bad)> {
    let mut files = Vec::new();
    for (index, one) in documents().into_iter().enumerate() {
        let good = Service::new(&format!("good-{index}"), [10, 97, 0, index as u8], &[Port::udp(9, 9)]);
        files.push((
            format!("second-{index}.yaml"),
            bad(format!("{}---\n{}", good.yaml(), one.text), one.field),
        ));
        files.push((format!("alone-{index}.yaml"), one));
    }
    files
}

#[test]
fn there_are_two_hundred_and_no_two_alike() {
    let texts: std::collections::BTreeSet<_> = files().into_iter().map(|(_, bad)| bad.text).collect();
    assert!(texts.len() >= 200, "{}", texts.len());
    assert_eq!(texts.len(), files().len());
}

/// Each file's fault is among the problems, by file and by field.
fn assert_all_named(files: &[(String, Bad)], problems: &[ProblemView]) {
    let missing: Vec<_> = files
        .iter()
        .filter_map(|(name, bad)| {
            let said: Vec<_> =
                problems.iter().filter(|problem| problem.origin.contains(name.as_str())).collect();
            let named = said.iter().any(|problem| {
                let said = format!("{} {}", problem.field, problem.message);
                !problem.message.is_empty() && (bad.field.is_empty() || said.contains(bad.field))
            });
            (!named).then(|| format!("{name}: no problem names {:?}: {said:?}\n{}", bad.field, bad.text))
        })
        .collect();
    assert!(missing.is_empty(), "{} of {} not named:\n{}", missing.len(), files.len(), missing.join("\n"));
}

#[test]
fn the_provider_names_each_by_file_and_field() {
    let files = files();
    let manifests = Manifests::new();
    for (name, bad) in &files {
        manifests.write(name, &bad.text);
    }
    let batch = causeway::providers::manifests::scan(manifests.path());
    let problems: Vec<_> = batch.problems.iter().map(ProblemView::from).collect();
    assert_all_named(&files, &problems);
    // The good half of each pair is there.
    let good = batch.events.iter().filter(|event| event.key.name.starts_with("good-")).count();
    assert_eq!(good, files.len() / 2);
}

#[test]
fn what_the_kit_writes_is_right() {
    let manifests = Manifests::new();
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080), Port::udp(53, 8080)]);
    manifests.service(&web, &web.slice(&[std::net::Ipv4Addr::new(10, 244, 0, 1)]).weighted("web-1", 3));
    manifests.slice(&web.slice::<std::net::IpAddr>(&[]));
    manifests.write("node.yaml", &node("n0", &[[192, 168, 77, 10].into()], &["10.244.0.0/24".into()]));
    manifests.write("pod.yaml", &pod("p", "n0", [10, 244, 9, 9].into()));
    let batch = causeway::providers::manifests::scan(manifests.path());
    assert!(batch.problems.is_empty(), "{:?}", batch.problems);
    assert_eq!(batch.events.len(), 5, "{:?}", batch.events);
}

#[test]
fn two_hundred_bad_manifests_are_named_and_the_rest_serves() {
    // So many services go at once in the end that they are held for a while.
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].start_with(Some("second_look_ms = 1000\n"));
    cluster.wait_converged();
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    let servers = cluster.serve(&web, 2);
    let client = cluster.nodes[0].container("client", 100);
    cluster.wait_converged();
    let to = SocketAddrV4::new(vip(1), 80);
    let load = ConnectLoad::start(&client.netns, to, 200);

    let files = files();
    println!("{} bad files", files.len());
    for (name, bad) in &files {
        cluster.manifests().write(name, &bad.text);
    }
    let agent = cluster.nodes[0].agent();
    agent.cli(&["wait", "--timeout", "10"]);
    let status = agent.status();
    assert_all_named(&files, &status.problems);
    // The second document of a file is told from the first.
    let second = status.problems.iter().filter(|problem| problem.origin.contains("second-"));
    for problem in second.filter(|problem| !problem.field.is_empty()) {
        assert!(problem.origin.ends_with("#2"), "{problem:?}");
    }

    // What is right is served, new things too.
    let more = Service::new("more", vip(2), &[Port::tcp(80, 8080)]);
    cluster.manifests().service(&more, &more.slice(&[servers[0].0.address, servers[1].0.address]));
    agent.cli(&["wait", "--timeout", "10"]);
    let also = SocketAddrV4::new(vip(2), 80);
    requests(&client.netns, also, 50, Protocol::Tcp).assert_clean(50, also);
    for (name, _) in &files {
        cluster.manifests().remove(name);
    }
    let mended = |status: &Status| status.problems.is_empty() && status.converged;
    agent.wait_status("no problem left", Duration::from_secs(10), mended);
    let report = load.stop();
    assert_eq!(report.report.failed, 0, "{report}");
    assert!(cluster.nodes[0].agent_mut().is_alive());
}

#[test]
fn of_two_that_want_one_frontend_the_first_keeps_it() {
    let cluster = Cluster::running(1);
    let servers = cluster.servers(2, 8080);
    let client = cluster.nodes[0].container("client", 100);
    let [first, second] =
        ["a-first", "b-second"].map(|name| Service::new(name, vip(1), &[Port::tcp(80, 8080)]));
    cluster.manifests().service(&first, &first.slice(&[servers[0].0.address]));
    cluster.wait_converged();
    cluster.manifests().service(&second, &second.slice(&[servers[1].0.address]));
    let agent = cluster.nodes[0].agent();
    let status =
        agent.wait_status("the overlap named", Duration::from_secs(5), |status| !status.problems.is_empty());
    let problem = &status.problems[0];
    assert!(problem.origin.contains("b-second") && problem.message.contains("a-first"), "{problem:?}");
    let to = SocketAddrV4::new(vip(1), 80);
    let report = requests(&client.netns, to, 50, Protocol::Tcp);
    report.assert_clean(50, to);
    assert!(report.by_server.keys().eq([&servers[0].0.name]), "{report}");
    // When the winner goes, the other takes over.
    cluster.manifests().remove("a-first.service.yaml");
    agent.wait_status("the overlap gone", Duration::from_secs(5), |status| status.problems.is_empty());
    cluster.wait_converged();
    let report = requests(&client.netns, to, 50, Protocol::Tcp);
    report.assert_clean(50, to);
    assert!(report.by_server.keys().eq([&servers[1].0.name]), "{report}");
}

#[test]
fn a_pod_has_one_endpoint() {
    let cluster = Cluster::running(1);
    let node = &cluster.nodes[0];
    for (first, second) in [("web", "default/web"), ("default/db", "db")] {
        let there = node.container(first, 2);
        let refused = node.try_container(second, 3).err().unwrap_or_default();
        let expected = format!("endpoint {second}: name: {first} is the same pod: detach that one first");
        assert!(refused.contains(&expected), "{refused:?}");
        assert!(!node.agent().text(&["show", "endpoints"]).contains("10.244.0.3"));
        // Another of that name is another pod; and the same one may be told again.
        node.detach("shop/web");
        drop(node.try_container("shop/web", 4).unwrap());
        node.attach(first, there.netns.path(), there.address);
        node.detach(first);
        node.detach("shop/web");
        drop(node.try_container(second, 3).unwrap());
        node.detach(second);
    }
}

#[test]
fn seventy_thousand_backends_are_too_many_and_say_so() {
    let cluster = Cluster::running(1);
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    let _servers = cluster.serve(&web, 1);
    let client = cluster.nodes[0].container("client", 100);
    cluster.wait_converged();
    let huge = Service::new("huge", vip(2), &[Port::tcp(80, 8080)]);
    cluster.manifests().write("huge.service.yaml", &huge.yaml());
    for part in 0..70_u8 {
        let backends: Vec<std::net::IpAddr> =
            (0..1000_u16).map(|host| [10, 100 + part, (host >> 8) as u8, host as u8].into()).collect();
        let mut slice = huge.slice(&backends);
        slice.name = format!("huge-{part}");
        cluster.manifests().slice(&slice);
    }
    let agent = cluster.nodes[0].agent();
    let status = agent.wait_status("the limit named", Duration::from_secs(20), |status| {
        status.problems.iter().any(|problem| problem.object.contains("huge"))
    });
    println!("{:?}", status.problems);
    let to = SocketAddrV4::new(vip(1), 80);
    requests(&client.netns, to, 100, Protocol::Tcp).assert_clean(100, to);
}
