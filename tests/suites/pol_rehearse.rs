//! POL-07: does a rehearsal name exactly the flows that a candidate set of
//! policies would treat differently, and leave everything as it is?

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::requests,
    manifest::{Manifests, Port, Service},
    netns::Netns,
    pinned::Pinned,
    server::Server,
    streams::Streams,
    topology::{Cluster, Container, outside_address, vip, vip6},
    wire::Protocol,
};
use serde_json::Value;

/// Lets to `app: web` whom `from` says.
fn guard(from: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: guard}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: web}}}}\n  policyTypes: [Ingress]\n  ingress: [{from}]\n"
    )
}

const FRIENDS: &str = "{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 8080}]}";
const LIVE: &str = "NetworkPolicy default/guard ingress[0]";
const SHUT: &str = "default deny by NetworkPolicy default/guard (ingress)";

struct Stage {
    cluster: Cluster,
    web: Container,
    friend: Container,
    foe: Container,
    _server: Server,
}

impl Stage {
    fn new() -> Self {
        let cluster = Cluster::dual(1);
        let node = &cluster.nodes[0];
        let [web, friend, foe] =
            [("web", 2), ("friend", 3), ("foe", 4)].map(|(name, number)| node.container(name, number));
        let server = Server::start(&web.netns, "web", 8080);
        let manifests = cluster.manifests();
        let pods = [(&web, "web"), (&friend, "friend"), (&foe, "foe")];
        manifests.write(
            "pods.yaml",
            &pods.map(|(container, label)| container.pod(&format!("app: {label}"))).join("---\n"),
        );
        let service = Service::new("web", vip(1), &[Port::tcp(80, 8080), Port::udp(80, 8080)]).dual(vip6(1));
        let backends = web.addresses();
        manifests.service(&service, &service.slice(&backends));
        manifests.write("policy.yaml", &guard("{}"));
        cluster.wait_converged();
        Self { cluster, web, friend, foe, _server: server }
    }

    /// Exit code and answer.
    fn rehearse(&self, candidate: &Manifests, more: &[&str]) -> (i32, Value) {
        let directory = candidate.path().to_str().unwrap();
        let agent = self.cluster.nodes[0].agent();
        let said = agent.cli(&[&["policy", "rehearse", directory], more].concat());
        assert!(said.code < 2 && said.stderr.is_empty(), "{said:?}");
        (said.code, said.json)
    }

    /// The web's own addresses and those of its service, with their ports.
    fn targets(&self) -> [SocketAddr; 4] {
        let own = self.web.addresses().map(|own| SocketAddr::new(own, 8080));
        let called = [IpAddr::from(vip(1)), vip6(1).into()].map(|vip| SocketAddr::new(vip, 80));
        [own[0], own[1], called[0], called[1]]
    }
}

fn directory(files: &[&str]) -> Manifests {
    let manifests = Manifests::new();
    for (number, text) in files.iter().enumerate() {
        manifests.write(&format!("{number}.yaml"), text);
    }
    manifests
}

/// Sender, receiver, protocol, how many flows, outcomes.
fn rows(reply: &Value) -> Vec<(String, String, String, u64, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let row = |change: &Value| {
        let of = |field: &str| text(&change[field]);
        let outcome = |when: &str| text(&change[when]["outcome"]);
        let flows = change["flows"].as_u64().unwrap();
        (of("from"), of("to"), of("protocol"), flows, outcome("before"), outcome("after"))
    };
    reply["changes"].as_array().unwrap().iter().map(row).collect()
}

/// Connections that a rehearsal says would end do end when it comes to pass,
/// and the others go on.
#[test]
fn recorded_flows_end_as_rehearsed() {
    let stage = Stage::new();
    let agent = stage.cluster.nodes[0].agent();
    let open = |netns: &Netns, targets: &[SocketAddr]| -> Vec<Streams> {
        targets.iter().map(|to| Streams::open(netns, *to, 2, Duration::from_millis(10))).collect()
    };
    let targets = stage.targets();
    let friends = open(&stage.friend.netns, &targets);
    let foes = open(&stage.foe.netns, &targets);
    let strangers = open(&stage.cluster.outside, &targets[2..3]);
    for netns in [&stage.friend.netns, &stage.foe.netns] {
        for to in &targets[2..] {
            requests(netns, *to, 1, Protocol::Udp).assert_clean(1, *to);
        }
    }

    let before = (agent.status().revision, agent.ask(&["show", "policies"]), agent.counters());
    let (code, reply) = stage.rehearse(&directory(&[&guard("{}")]), &[]);
    assert_eq!((code, reply["changed"].as_u64()), (0, Some(0)), "{reply:#}");
    let (code, reply) = stage.rehearse(&directory(&[&guard(FRIENDS)]), &[]);
    assert_eq!(code, 1, "{reply:#}");
    // Of the friend and of the foe eight connections and two datagrams, and two connections of the
    // stranger's; of the friend's only datagrams are not let in.
    let looked_at = (reply["flows"].as_u64(), reply["changed"].as_u64());
    assert_eq!(looked_at, (Some(2 * (8 + 2) + 2), Some(2 + (8 + 2) + 2)), "{reply:#}");
    let row = |from: &str, to: SocketAddr, protocol: &str, flows| {
        let (to, protocol) = (format!("{to} (web)"), protocol.to_owned());
        (from.to_owned(), to, protocol, flows, "allow".to_owned(), "deny".to_owned())
    };
    let both = |at: &Container| at.addresses().map(|address| format!("{address} ({})", at.name));
    let (friend, foe) = (both(&stage.friend), both(&stage.foe));
    let expected = [
        row(&friend[0], targets[0], "UDP", 1),
        row(&foe[0], targets[0], "TCP", 4),
        row(&foe[0], targets[0], "UDP", 1),
        row(&outside_address().to_string(), targets[0], "TCP", 2),
        row(&friend[1], targets[1], "UDP", 1),
        row(&foe[1], targets[1], "TCP", 4),
        row(&foe[1], targets[1], "UDP", 1),
    ];
    assert_eq!(rows(&reply), expected, "{reply:#}");
    for change in reply["changes"].as_array().unwrap() {
        let rule = |when: &str| change[when]["ingress"]["rule"].as_str();
        assert_eq!((rule("before"), rule("after")), (Some(LIVE), Some(SHUT)), "{change:#}");
    }
    // Nothing of it has come to pass.
    let after = (agent.status().revision, agent.ask(&["show", "policies"]), agent.counters());
    assert_eq!((before.0, &before.1), (after.0, &after.1));
    let counted = |counters: &std::collections::BTreeMap<String, u64>| {
        let rules = counters.iter().filter(|(name, _)| name.starts_with("rule "));
        rules.map(|(name, count)| (name.clone(), *count)).collect::<Vec<_>>()
    };
    assert_eq!(counted(&before.2), counted(&after.2));
    for streams in friends.iter().chain(&foes).chain(&strangers) {
        assert_eq!(streams.report().lost, 0, "{}", streams.report());
    }

    stage.cluster.manifests().write("policy.yaml", &guard(FRIENDS));
    stage.cluster.wait_converged();
    std::thread::sleep(Duration::from_millis(300));
    friends.into_iter().for_each(|streams| streams.close().assert_clean(2));
    for streams in foes.into_iter().chain(strangers) {
        let report = streams.close();
        assert_eq!(report.lost, 2, "{report}");
    }
    let (code, reply) = stage.rehearse(&directory(&[&guard(FRIENDS)]), &[]);
    assert_eq!((code, reply["changed"].as_u64()), (0, Some(0)), "{reply:#}");
}

#[test]
fn flows_may_be_given() {
    let stage = Stage::new();
    let agent = stage.cluster.nodes[0].agent();
    let file = Manifests::new();
    let flows = |text: &str| {
        file.write("flows", text);
        file.file("flows").to_str().unwrap().to_owned()
    };
    let given = format!(
        "# who calls whom\nfriend web tcp 8080\nfoe default/web TCP 8080\nfoe {} udp 80\n\
         {{\"from\": \"foe\", \"to\": \"{}\", \"protocol\": \"TCP\", \"port\": 80}}\n\
         {} web tcp 8080\nweb {} tcp 443   # egress\n192.0.2.1 192.0.2.2 tcp 1   # not of this node\n\
         foe web icmp\n192.168.77.10 web tcp 8080\n",
        vip(1),
        vip6(1),
        outside_address(),
        outside_address(),
    );
    let path = flows(&given);
    let candidate = directory(&[&guard(FRIENDS)]);
    let (code, reply) = stage.rehearse(&candidate, &["--flows", &path]);
    assert_eq!((code, &reply["flows"], &reply["changed"]), (1, &11.into(), &7.into()), "{reply:#}");
    let [four, six, ..] = stage.targets();
    let named = |address: IpAddr| format!("{address} (foe)");
    let foe = stage.foe.addresses().map(named);
    let changes: Vec<(String, String, String, u64)> =
        rows(&reply).into_iter().map(|row| (row.0, row.1, row.2, row.3)).collect();
    let row = |from: &str, to: String, protocol: &str, flows| {
        (from.to_owned(), format!("{to} (web)"), protocol.to_owned(), flows)
    };
    let expected = [
        row(&foe[0], four.ip().to_string(), "ICMP", 1),
        row(&foe[0], four.to_string(), "TCP", 1),
        row(&foe[0], four.to_string(), "UDP", 1),
        row(&outside_address().to_string(), four.to_string(), "TCP", 1),
        row(&foe[1], six.to_string(), "TCP", 2),
        row(&foe[1], six.ip().to_string(), "ICMP", 1),
    ];
    assert_eq!(changes, expected, "{reply:#}");

    // Pods of the directory's own are those that its policies are about.
    let renamed = [stage.web.pod("app: web"), stage.foe.pod("app: friend")].join("---\n");
    let path = flows("friend web tcp 8080\nfoe web tcp 8080\n");
    let (code, reply) = stage.rehearse(&directory(&[&guard(FRIENDS), &renamed]), &["--flows", &path]);
    assert_eq!((code, &reply["flows"], &reply["changed"]), (1, &4.into(), &2.into()), "{reply:#}");
    assert!(rows(&reply).iter().all(|row| row.0.contains("(friend)")), "{reply:#}");

    let path = flows("foe web tcp 8080\n");
    let words =
        ["policy", "rehearse", candidate.path().to_str().unwrap(), "--flows", &path].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let table = agent.text(&words);
    let line = |from: &str, to: SocketAddr| {
        format!(
            "{from} -> {to} (web) TCP: allow -> deny\n    before: ingress allow by {LIVE}\n    after: ingress deny by {SHUT}"
        )
    };
    let expected =
        format!("{}\n{}\n2 flows looked at, 2 would change", line(&foe[0], four), line(&foe[1], six));
    assert_eq!(table.trim_end(), expected);
}

#[test]
fn what_cannot_be_meant_is_named() {
    let stage = Stage::new();
    let agent = stage.cluster.nodes[0].agent();
    let file = Manifests::new();
    let empty = Service::new("empty", vip(2), &[Port::tcp(80, 8080)]).dual(vip6(2));
    stage.cluster.manifests().service(&empty, &empty.slice::<IpAddr>(&[]));
    stage.cluster.wait_converged();
    file.write(
        "flows",
        &format!(
            "foe web tcp 80\nfoe nobody tcp 80\nfoe web gre 1\n10.0.0.1 fd00::1 tcp 80\nfoe {} tcp 80\n",
            vip(2)
        ),
    );
    let path = file.file("flows");
    let candidate = directory(&[&guard(FRIENDS)]);
    let directory_ = candidate.path().to_str().unwrap();
    let said = agent.cli(&["policy", "rehearse", directory_, "--flows", path.to_str().unwrap()]);
    assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
    for word in [
        "flows: line 2: nobody is neither an address",
        "flows: line 3: gre is no protocol",
        "flows: line 4: 10.0.0.1 and fd00::1 have no addresses of one family",
        "flows: line 5: 10.96.0.2 serves nobody at port 80",
    ] {
        assert!(said.stderr.contains(word), "{word} in {said:?}");
    }
    assert!(!said.stderr.contains("line 1"), "{said:?}");

    // What is refused of a candidate closes, and is said.
    let spoilt = directory(&[&guard("{from: [{ipBlock: {cidr: nowhere}}]}")]);
    let (code, reply) = stage.rehearse(&spoilt, &[]);
    assert_eq!((code, reply["changed"].as_u64()), (1, Some(0)), "{reply:#}");
    assert!(reply["problems"][0]["field"].as_str().unwrap().contains("cidr"), "{reply:#}");
    for (words, word) in [
        (vec!["policy", "rehearse", "/nowhere"], "read /nowhere"),
        (vec!["policy", "rehearse", directory_, "--flows", "/nowhere"], "read /nowhere"),
    ] {
        let said = agent.cli(&words);
        assert!(said.code == 1 && said.stderr.contains(word), "{said:?}");
    }
    assert_eq!(agent.cli(&["policy", "rehearse"]).code, 2);
}

/// Many flows cost the agent's loop little: they are counted where they are read.
#[test]
fn a_hundred_thousand_flows_hold_nobody_up() {
    const MANY: u32 = 100_000;
    let stage = Stage::new();
    let agent = stage.cluster.nodes[0].agent();
    let _stream = Streams::open(&stage.friend.netns, stage.targets()[2], 1, Duration::from_millis(10));
    let mut flows = Pinned::new(agent.pins()).table::<16, 40>("FLOWS_V4");
    let own = stage.friend.address.octets();
    let (key, row) = flows.iter().map(Result::unwrap).find(|(key, _)| key[..4] == own).unwrap();
    for number in 0..MANY {
        let (mut key, number) = (key, number.to_be_bytes());
        // Clients anywhere.
        key[..4].copy_from_slice(&[172, 16, number[1], number[2]]);
        key[8] = number[3];
        flows.insert(key, row, 0).unwrap();
    }
    let began = Instant::now();
    let (code, reply) = stage.rehearse(&directory(&[&guard(FRIENDS)]), &[]);
    let took = began.elapsed();
    assert_eq!((code, &reply["flows"], &reply["changed"]), (1, &(MANY + 1).into(), &MANY.into()));
    let began = Instant::now();
    let length = agent.get("/v1/recorded-flows").len();
    println!("{MANY} flows: rehearsed in {took:?}; {length} bytes of answer in {:?}", began.elapsed());
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// POL-10: the one that is asked first decides, and whoever wrote the other hears of it.
#[test]
fn rules_by_service_and_by_backend_that_are_at_odds_are_told() {
    let stage = Stage::new();
    let policy = |name: &str, priority: u8, action: &str, to: &str| {
        format!(
            "apiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  tier: Admin\n  \
             priority: {priority}\n  subject: {{pods: {{podSelector: {{matchLabels: {{app: friend}}}}}}}}\n  \
             egress: [{{action: {action}, to: [{to}]}}]\n"
        )
    };
    let service = policy("service", 2, "Allow", "{service: {namespace: default, name: web}}");
    let backend = policy("backend", 1, "Reject", "{pods: {podSelector: {matchLabels: {app: web}}}}");
    let odds = directory(&[&service, &backend]);
    let (code, rehearsal) = stage.rehearse(&odds, &[]);
    let problems = rehearsal["problems"].as_array().unwrap();
    assert_eq!((code, problems.len()), (1, 1), "{rehearsal}");
    let message = problems[0]["message"].as_str().unwrap();
    assert_eq!(problems[0]["origin"], "manifests:0.yaml#1", "{rehearsal}");
    assert!(
        message.contains("backends of it are") && message.contains("denied by Policy backend egress[0]"),
        "{message}"
    );

    let cluster = &stage.cluster;
    cluster.manifests().write("service.yaml", &service);
    cluster.wait_converged();
    let told = || {
        let problems = cluster.nodes[0].agent().status().problems;
        let told =
            problems.iter().map(|problem| format!("{} {} {}", problem.origin, problem.object, problem.field));
        told.collect::<Vec<_>>()
    };
    assert_eq!(told(), Vec::<String>::new());
    assert_eq!(requests(&stage.friend.netns, (vip(1), 80), 1, Protocol::Tcp).failed, 0);
    cluster.manifests().write("backend.yaml", &backend);
    cluster.wait_converged();
    assert_eq!(told(), ["manifests:service.yaml#1 Policy service spec.egress[0]"]);
    assert_eq!(requests(&stage.friend.netns, (vip(1), 80), 1, Protocol::Tcp).failed, 1, "as it was told");
    // In the other order it is the rule by backend that is void.
    cluster.manifests().write("service.yaml", &service.replace("priority: 2", "priority: 0"));
    cluster.wait_converged();
    assert_eq!(told(), ["manifests:backend.yaml#1 Policy backend spec.egress[0]"]);
    assert_eq!(requests(&stage.friend.netns, (vip(1), 80), 1, Protocol::Tcp).failed, 0);
    // It leaves something to do when it speaks of more.
    cluster.manifests().write("backend.yaml", &backend.replace("matchLabels: {app: web}", ""));
    cluster.wait_converged();
    assert_eq!(told(), Vec::<String>::new());
}
