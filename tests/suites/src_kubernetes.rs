//! SRC-01, SRC-07, SRC-08, SRC-11: agents that watch an API server. Is what it
//! holds served, do connections notice what goes wrong with it, and who said
//! what?

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    thread,
    time::{Duration, Instant},
};

use causeway::snapshot::Status;
use causeway_testkit::{
    agent::Agent,
    apiserver::{ApiServer, Fault, kind},
    client::{request, requests},
    load::ConnectLoad,
    manifest::{Port, Service},
    scratch::Dir,
    server::Server,
    streams::Streams,
    topology::{API_PORT, Cluster, Container, Node, PATIENCE, outside_address, vip, vip6},
    wire::Protocol,
};
use serde_json::{Value, json};

const RATE: u32 = 200;
const STREAMS: usize = 10;

fn web() -> Service {
    Service::new("web", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1))
}

/// Both addresses of each.
fn addresses<'a>(servers: impl IntoIterator<Item = &'a (Container, Server)>) -> Vec<IpAddr> {
    servers.into_iter().flat_map(|(at, _)| at.addresses()).collect()
}

fn publish(api: &ApiServer, service: &Service, backends: &[IpAddr]) {
    api.apply(&service.slice(backends).yaml());
    api.apply(&service.yaml());
}

/// Until new connections to the service go to these servers, each of them.
fn until_served_by(client: &Container, to: impl Into<SocketAddr>, names: &[&str]) {
    let (to, end) = (to.into(), Instant::now() + PATIENCE);
    loop {
        let report = requests(&client.netns, to, 40, Protocol::Tcp);
        let by: Vec<&str> = report.by_server.keys().map(String::as_str).collect();
        if report.failed == 0 && by == names {
            return;
        }
        assert!(Instant::now() < end, "{to} is served by {by:?}, not {names:?}: {report}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What an agent's problems say, as one text.
fn problems(status: &Status) -> String {
    status.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn origins(agent: &Agent, service: &str) -> Value {
    let shown = agent.ask(&["show", "services"]);
    let list = shown.as_array().unwrap();
    let service = list.iter().find(|item| item["name"] == service).unwrap_or_else(|| panic!("{shown:#}"));
    let backends = service["backends"].as_array().unwrap().iter().map(|backend| backend["origin"].clone());
    json!([service["origin"], backends.collect::<Vec<_>>()])
}

#[test]
fn services_of_the_api_are_served_and_change_without_loss() {
    let (cluster, api) = Cluster::watching(2);
    let servers = cluster.servers(2, 8080);
    let client = cluster.nodes[0].container("client", 100);
    let service = web();
    publish(&api, &service, &addresses(&servers));
    let names: Vec<&str> = servers.iter().map(|(container, _)| container.name.as_str()).collect();
    for to in [SocketAddr::from((vip(1), 80)), (vip6(1), 80).into()] {
        until_served_by(&client, to, &names);
    }
    let agent = cluster.nodes[0].agent();
    let slices = ["kubernetes:EndpointSlice/default/web", "kubernetes:EndpointSlice/default/web-v6"];
    let slices: Vec<&str> = slices.into_iter().flat_map(|slice| [slice; 4]).collect();
    assert_eq!(origins(agent, "default/web:tcp"), json!(["kubernetes:Service/default/web", slices]));
    let status = agent.status();
    assert!(status.problems.is_empty() && status.sources.len() == 1, "{status:#?}");
    assert_eq!((status.sources[0].name.as_str(), status.sources[0].synced), ("kubernetes", true));
    assert_eq!(status.nodes, 2);

    // Every backend leaves and comes back, one after the other.
    let streams = Streams::open(&client.netns, (vip(1), 80), STREAMS, Duration::from_millis(20));
    let load = ConnectLoad::start(&client.netns, (vip(1), 80), RATE);
    for out in 0..servers.len() {
        let rest = servers.iter().enumerate().filter(|(index, _)| *index != out);
        let rest: Vec<_> = rest.map(|(_, server)| server).collect();
        let names: Vec<&str> = rest.iter().map(|(container, _)| container.name.as_str()).collect();
        publish(&api, &service, &addresses(rest.iter().copied()));
        until_served_by(&client, (vip(1), 80), &names);
        thread::sleep(Duration::from_millis(300));
    }
    publish(&api, &service, &addresses(&servers));
    until_served_by(&client, (vip(1), 80), &names);
    let (streams, load) = (streams.close(), load.stop());
    println!("{streams}\n{load}");
    streams.assert_clean(STREAMS);
    assert!(load.report.failed == 0 && load.report.ok > 100, "{load}");

    api.delete(kind("Service"), "default", "web");
    let refused = || client.netns.run(|| request((vip(1), 80).into(), Protocol::Tcp)).is_err();
    let end = Instant::now() + PATIENCE;
    while !refused() {
        assert!(Instant::now() < end, "a service that is gone is served");
    }
}

/// Writes the server's objects for an agent that reads files, and waits until
/// the one that watches wants and has the same.
fn settle(watcher: &Agent, reader: &Node, api: &ApiServer, what: &str) {
    let list = json!({"kind": "List", "apiVersion": "v1", "items": api.objects()});
    reader.manifests.write("all.json", &list.to_string());
    reader.agent().wait_converged(PATIENCE);
    let wanted = reader.agent().status().digest;
    let same = |status: &Status| {
        status.converged
            && status.digest == wanted
            && status.kernel_digest == wanted
            && status.problems.is_empty()
    };
    watcher.wait_status(&format!("the digest of the files after {what}"), Duration::from_secs(30), same);
}

/// One node watches, the other reads files with the same objects; connections
/// to the watching one go on all the while.
#[test]
fn each_fault_ends_as_it_should_and_no_connection_notices() {
    let (mut cluster, api) = Cluster::beside_api(2);
    cluster.nodes[0].start_watching(&api, false);
    for node in 0..2 {
        let name = format!("{}.yaml", cluster.nodes[node].name);
        cluster.manifests().remove(&name);
    }
    cluster.nodes[1].start();
    cluster.wait_converged();
    let watching = &cluster.nodes[0];
    let servers: Vec<(Container, Server)> = (0..2)
        .map(|index| {
            let container = watching.container(&format!("web-{index}"), 10 + index);
            let server = Server::start(&container.netns, &container.name, 8080);
            (container, server)
        })
        .collect();
    let client = watching.container("client", 100);
    let service = web();
    publish(&api, &service, &addresses(&servers));
    until_served_by(&client, (vip(1), 80), &["web-0", "web-1"]);
    let reader = &cluster.nodes[1];
    settle(watching.agent(), reader, &api, "nothing yet");

    let streams = Streams::open(&client.netns, (vip(1), 80), STREAMS, Duration::from_millis(20));
    let loads = [SocketAddr::from((vip(1), 80)), (vip6(1), 80).into()]
        .map(|to| ConnectLoad::start(&client.netns, to, RATE));
    // A service that comes and goes beside the one that is talked to.
    let mut turn = 0;
    let mut change = || {
        turn += 1;
        let other = Service::new(&format!("other-{}", turn % 3), vip(10 + turn % 3), &[Port::tcp(80, 8080)]);
        if turn % 3 == 0 {
            api.delete(kind("Service"), "default", &format!("other-{}", (turn + 1) % 3));
        }
        publish(&api, &other, &[servers[usize::from(turn % 2)].0.address.into()]);
        publish(&api, &service, &addresses(&servers));
    };
    let faults: [(&str, &[Fault]); 14] = [
        ("a watch that ends", &[Fault::End]),
        ("a watch cut in the middle of an event", &[Fault::Cut]),
        ("events told twice", &[Fault::Repeat, Fault::Repeat]),
        ("a kind that comes late", &[Fault::Late(300)]),
        ("bookmarks", &[Fault::Bookmark, Fault::Bookmark]),
        ("410 in the middle of a watch", &[Fault::GoneLater]),
        ("410 at the start of a watch", &[Fault::Cut, Fault::Gone]),
        ("410 as the status of a watch", &[Fault::Cut, Fault::GoneStatus]),
        ("429 with Retry-After for list and watch", &[Fault::GoneLater, Fault::Busy(1), Fault::Busy(0)]),
        ("500 for list and watch", &[Fault::GoneLater, Fault::Broken, Fault::Broken]),
        ("a proxy's own page", &[Fault::GoneLater, Fault::Foreign]),
        ("a proxy's own page for a watch", &[Fault::End, Fault::Foreign]),
        ("somebody else's 404 for a watch", &[Fault::End, Fault::Stranger(404)]),
        ("500 in the middle of a watch", &[Fault::Failed]),
    ];
    for (name, faults) in faults {
        let begun = Instant::now();
        for kind in [kind("Service"), kind("EndpointSlice"), kind("Node"), kind("Pod")] {
            api.plan(kind, faults.iter().copied());
        }
        change();
        settle(watching.agent(), reader, &api, name);
        let end = Instant::now() + PATIENCE;
        while api.planned() > 0 {
            assert!(Instant::now() < end, "{name}: {} faults have not happened", api.planned());
            thread::sleep(Duration::from_millis(20));
        }
        settle(watching.agent(), reader, &api, name);
        println!("{name}: {:?}", begun.elapsed());
    }
    // The past forgotten while nobody listened.
    for kind in 0..6 {
        api.plan(kind, [Fault::Cut]);
    }
    change();
    api.compact();
    change();
    settle(watching.agent(), reader, &api, "compaction");
    let streams = streams.close();
    println!("{streams}");
    streams.assert_clean(STREAMS);
    for load in loads {
        let load = load.stop();
        println!("{load}");
        assert!(load.report.failed == 0 && load.report.ok > 500, "{load}");
    }
}

#[test]
fn without_the_api_everything_goes_on_and_it_is_said() {
    let (mut cluster, mut api) = Cluster::watching(1);
    let servers = cluster.servers(2, 8080);
    let client = cluster.nodes[0].container("client", 100);
    let service = web();
    publish(&api, &service, &addresses(&servers));
    until_served_by(&client, (vip(1), 80), &["web-n0-0", "web-n0-1"]);
    // What is served at once is read back a moment later.
    cluster.wait_converged();
    let digest = cluster.nodes[0].agent().status().digest;

    let streams = Streams::open(&client.netns, (vip(1), 80), STREAMS, Duration::from_millis(20));
    let load = ConnectLoad::start(&client.netns, (vip(1), 80), RATE);
    api.down();
    let silent = |status: &Status| problems(status).contains("does not answer since 2");
    let agent = cluster.nodes[0].agent();
    let status = agent.wait_status("the silence is said", PATIENCE, silent);
    assert_eq!(status.problems.len(), 1, "{}", problems(&status));
    assert_eq!((&status.digest, status.converged), (&digest, true), "{status:#?}");
    let said = agent.cli(&["wait", "--timeout", "1"]);
    assert!(said.code == 1 && said.stderr.contains("source kubernetes cannot be read"), "{said:?}");
    thread::sleep(Duration::from_secs(3));

    // Not even an agent that starts now has anything to take away.
    cluster.nodes[0].agent_mut().kill9();
    cluster.nodes[0].agent_mut().restart();
    let agent = cluster.nodes[0].agent();
    let status = agent.wait_status("the silence is said anew", PATIENCE, silent);
    assert!(!status.converged && !status.sources[0].synced, "{status:#?}");
    thread::sleep(Duration::from_secs(2));
    requests(&client.netns, (vip(1), 80), 100, Protocol::Tcp).assert_clean(100, (vip(1), 80));
    let (streams, load) = (streams.close(), load.stop());
    println!("{streams}\n{load}");
    streams.assert_clean(STREAMS);
    assert_eq!(load.report.failed, 0, "{load}");

    publish(&api, &service, &addresses(&servers[..1]));
    api.up();
    let back = Instant::now();
    until_served_by(&client, (vip(1), 80), &["web-n0-0"]);
    println!("a change came {:?} after the server", back.elapsed());
    agent.wait_status("all is well", PATIENCE, |status| status.converged && status.problems.is_empty());
    agent.wait_converged(PATIENCE);
}

/// Not even a reset says that it has gone.
#[test]
fn a_server_that_vanishes_without_a_word_is_missed() {
    let (cluster, api) = Cluster::watching(1);
    let agent = cluster.nodes[0].agent();
    cluster.outside.ip("link set eth0 down");
    let silent = |status: &Status| problems(status).contains("does not answer since 2");
    let begun = Instant::now();
    // Half a minute, and a connection that fails.
    agent.wait_status("the silence is said", Duration::from_secs(45), silent);
    println!("missed after {:?}", begun.elapsed());
    api.apply(&web().yaml());
    cluster.outside.ip("link set eth0 up");
    agent.wait_status("the service", Duration::from_secs(30), |status| {
        status.services == 1 && status.problems.is_empty()
    });
}

/// The API server's own address is a service, as in every cluster.
#[test]
fn the_api_is_reached_before_its_service_is_set_up() {
    let (cluster, api) = Cluster::watching(1);
    let client = cluster.nodes[0].container("client", 100);
    let kubernetes = Service::new("kubernetes", vip(254), &[Port::tcp(443, API_PORT)]);
    publish(&api, &kubernetes, &[outside_address().into()]);
    let to = SocketAddr::from((vip(254), 443));
    let version = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: kubernetes\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let end = Instant::now() + PATIENCE;
    loop {
        match client.netns.run(version) {
            Ok(answer) if answer.contains("v1.36") => break,
            other => assert!(Instant::now() < end, "{other:?}"),
        }
    }
}

/// One service with backends of a directory and of the API.
#[test]
fn two_sources_feed_one_service_and_each_keeps_its_own() {
    let (mut cluster, mut api) = Cluster::beside_api(1);
    cluster.nodes[0].start_watching(&api, true);
    cluster.wait_converged();
    let servers = cluster.servers(2, 8080);
    let client = cluster.nodes[0].container("client", 100);
    let service = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    publish(&api, &service, &[servers[0].0.address.into()]);
    let slice = service.slice(&[servers[1].0.address]).weighted("web-files", 1);
    cluster.manifests().slice(&slice);
    until_served_by(&client, (vip(1), 80), &["web-n0-0", "web-n0-1"]);
    let agent = cluster.nodes[0].agent();
    agent.wait_converged(PATIENCE);
    let of_api = "kubernetes:EndpointSlice/default/web";
    assert_eq!(
        origins(agent, "default/web:tcp"),
        json!(["kubernetes:Service/default/web", [of_api, "manifests:web-files.slice.yaml#1"]])
    );
    let names: Vec<_> = agent.status().sources.into_iter().map(|source| source.name).collect();
    assert_eq!(names, ["manifests", "kubernetes"]);

    api.down();
    agent.wait_status("the silence is said", PATIENCE, |status| problems(status).contains("does not answer"));
    cluster.manifests().remove("web-files.slice.yaml");
    until_served_by(&client, (vip(1), 80), &["web-n0-0"]);
    assert_eq!(origins(agent, "default/web:tcp"), json!(["kubernetes:Service/default/web", [of_api]]));
}

/// Neither a server that is not there nor a plugin that hangs holds up its end.
#[test]
fn an_agent_ends_when_it_is_told_to() {
    let mut cluster = Cluster::dual(1);
    let dir = Dir::new();
    let [config, plugin, order, hangs] = ["config", "plugin", "order", "hangs"].map(|name| dir.join(name));
    let credentials = r#"{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t", "expirationTimestamp": "2020-01-01T00:00:00Z"}}"#;
    let (wanted, done) = (order.display(), hangs.display());
    let script =
        format!("#!/bin/sh\n[ -e {wanted} ] && touch {done} && exec sleep 20\necho '{credentials}'\n");
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let server = format!("http://{}:{API_PORT}", outside_address());
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: k, cluster: {{server: '{server}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
         users: [{{name: u, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: '{}', interactiveMode: Never}}}}}}]\n",
        plugin.display()
    );
    fs::write(&config, kubeconfig).unwrap();
    let agent = cluster.nodes[0].agent_mut();
    agent.stop();
    for (line, has_plugin) in
        [(format!("kubernetes_server = \"{server}\"\n"), false), (format!("kubeconfig = {config:?}\n"), true)]
    {
        agent.reconfigure(&line);
        agent.restart();
        agent.wait_up(PATIENCE);
        agent.wait_status("the silence is said", PATIENCE, |status| {
            problems(status).contains("does not answer")
        });
        fs::write(&order, "").unwrap();
        let end = Instant::now() + PATIENCE;
        while has_plugin && !hangs.exists() {
            assert!(Instant::now() < end, "the plugin is not asked again");
            thread::sleep(Duration::from_millis(20));
        }
        let begun = Instant::now();
        agent.stop();
        assert!(begun.elapsed() < Duration::from_secs(2), "{line}: ended after {:?}", begun.elapsed());
        fs::remove_file(&order).unwrap();
    }
}
