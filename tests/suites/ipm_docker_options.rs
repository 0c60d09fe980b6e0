//! IPM-02: does a container of Docker get what its network, its options and its labels
//! ask for, and does the driver answer in time?

use std::{net::SocketAddr, time::Instant};

use causeway_testkit::{
    client::requests,
    docker::{ANSWERED, Docker},
    http::get,
    manifest::{Port, Service},
    server::Server,
    topology::{Cluster, PATIENCE, node_address, node_address6, vip},
    until::until,
    wire::Protocol,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

fn rig() -> (Cluster, Docker) {
    let mut cluster = Cluster::dual(1);
    let docker = Docker::watched(&mut cluster);
    (cluster, docker)
}

#[test]
fn a_network_has_its_pool_its_mtu_and_its_labels() {
    let mut cluster = Cluster::idle(1);
    let pools = "[[pools]]\nname = \"one\"\nnetworks = [\"10.245.0.0/24\"]\n\
                 [[pools]]\nname = \"two\"\nnetworks = [\"10.246.0.0/24\", \"10.247.0.0/24\", \"fd00:246::/64\"]\n";
    cluster.nodes[0].start_with(Some(pools));
    cluster.wait_converged();
    let docker = Docker::new(&cluster.nodes[0]);
    let ours = ["network", "create", "--driver", "causeway", "--ipam-driver", "causeway"];
    let refused = |options: &[&str], words: &str| {
        let (success, said) = docker.try_done(&[&ours[..], options, &["wrong"]].concat());
        assert!(!success && said.contains(words), "{options:?}: {said}");
    };
    refused(&["--subnet", "10.246.0.0/24"], "has other networks beside");
    refused(&["--ipam-opt", "pool=three"], "no such pool of IPv4");
    refused(&["--ipam-opt", "color=red"], "ipam-opt color is not known");
    refused(&["--ip-range", "10.245.0.0/28", "--subnet", "10.245.0.0/24"], "--ip-range is not known");
    refused(&["--opt", "mtu=big"], "option mtu");
    let plain = ["--subnet", "10.245.0.0/24", "--opt", "mtu=1400", "--opt", "label.team=red"];
    docker.done(&[&ours[..], &plain, &["plain"]].concat());
    docker.network("both", &["--ipam-opt", "pool=two"]);
    let [v4, none] = docker.serve("plain", "first", &[]);
    assert!(v4.starts_with("10.245.0.") && none.is_empty(), "{v4} {none}");
    let shown = docker.exec("first", &["ip", "link", "show", "eth0"]);
    assert!(shown.contains("mtu 1400"), "{shown}");
    let [v4, v6] = docker.serve("both", "second", &[]);
    assert!(v4.starts_with("10.246.0.") || v4.starts_with("10.247.0."), "{v4}");
    assert!(v6.starts_with("fd00:246::"), "{v6}");
    let endpoints = cluster.nodes[0].agent().ask(&["show", "endpoints"]);
    let labelled =
        endpoints.as_array().unwrap().iter().filter(|endpoint| endpoint["labels"]["team"] == "red");
    assert_eq!(labelled.count(), 1, "{endpoints}");
}

#[test]
fn addresses_of_both_families_are_as_asked_for() {
    let (cluster, docker) = rig();
    let node = &cluster.nodes[0];
    docker.network("net", &["--subnet", &node.pod_cidr(), "--subnet", &node.pod_cidr6()]);
    let asked = ["10.244.0.77", "fd00:10:244::77"];
    let got = docker.serve("net", "fixed", &["--ip", asked[0], "--ip6", asked[1]]);
    assert_eq!(got, asked.map(str::to_owned));
    let (success, said) =
        docker.try_done(&["run", "--rm", "--network", "net", "--ip", asked[0], "tools", "sleep", "0"]);
    assert!(!success && said.contains("10.244.0.77 belongs to docker/"), "{said}");
}

#[test]
fn a_port_is_at_the_address_named_and_for_its_protocol() {
    let (cluster, docker) = rig();
    docker.network("net", &[]);
    let at = format!("{}:81:8080", node_address(0));
    docker.serve("net", "web", &["--publish", &at, "--publish", "82:9000/udp"]);
    let v4 = SocketAddr::from((node_address(0), 81));
    let answer = || cluster.outside.run(|| get(v4, "/name")).ok();
    assert_eq!(until("served", PATIENCE, answer).body.trim(), "web");
    let v6 = SocketAddr::from((node_address6(0), 81));
    assert!(cluster.outside.run(|| get(v6, "/name")).is_err(), "the other address was not named");
    let _server = Server::start(&docker.netns("web"), "web", 9000);
    let at = SocketAddr::from((node_address(0), 82));
    requests(&cluster.outside, at, 10, Protocol::Udp).assert_clean(10, at);
    assert_eq!(requests(&cluster.outside, at, 1, Protocol::Tcp).failed, 1, "only datagrams");
    for (option, words) in
        [("-P", "-p NUMBER:"), ("--publish=80", "-p NUMBER:80"), ("--publish=83:80/sctp", "not protocol 132")]
    {
        let run = ["run", "--rm", "--expose", "80", "--network", "net", option, "tools", "sleep", "0"];
        let (success, said) = docker.try_done(&run);
        assert!(!success && said.contains(words), "{option}: {said}");
    }
}

#[test]
fn a_backend_has_its_share_and_is_one_while_it_is_healthy() {
    let (cluster, docker) = rig();
    docker.network("net", &[]);
    let label = format!("causeway.io/vip={}:80>8080", vip(1));
    docker.serve("net", "heavy", &["--label", &label, "--label", "causeway.io/weight=3"]);
    docker.serve("net", "light", &["--label", &label]);
    let weights = || {
        let backends = cluster.nodes[0].agent().ask(&["show", "backends"]);
        let mut weights: Vec<u64> = backends
            .as_array()?
            .iter()
            .flat_map(|backend| backend["services"].as_object().unwrap().values())
            .filter_map(Value::as_u64)
            .collect();
        weights.sort_unstable();
        (weights == [1, 3]).then_some(())
    };
    until("both", PATIENCE, weights);
    ["heavy", "light"].iter().for_each(|name| docker.remove(name));
    let healthy =
        ["--health-cmd", "test -e /www/well", "--health-interval", "200ms", "--health-retries", "1"];
    let words = [&["--label", label.as_str()][..], &healthy].concat();
    docker.serve("net", "patient", &words);
    let served = || cluster.outside.run(|| get((vip(1), 80), "/name")).is_ok();
    cluster.wait_converged();
    assert!(!served(), "it has not said that it is well");
    docker.exec("patient", &["sh", "-c", "echo > /www/well"]);
    until("well", PATIENCE, || served().then_some(()));
    docker.exec("patient", &["busybox", "rm", "/www/well"]);
    until("ill", PATIENCE, || (!served()).then_some(()));
}

#[test]
fn a_label_makes_a_service_of_datagrams_and_of_ipv6() {
    let (cluster, docker) = rig();
    docker.network("net", &[]);
    // First: an address that is asked for may be one that another has drawn.
    let client = cluster.nodes[0].container("client", 20).netns;
    let label = format!("causeway.io/vip={}:53/udp>9000, [fd00:96::9]:80>8080", vip(2));
    docker.serve("net", "web", &["--label", &label]);
    let _server = Server::start(&docker.netns("web"), "web", 9000);
    let v6: SocketAddr = "[fd00:96::9]:80".parse().unwrap();
    let answer = || client.run(|| get(v6, "/name")).ok();
    assert_eq!(until("IPv6", PATIENCE, answer).body.trim(), "web");
    let at = SocketAddr::from((vip(2), 53));
    requests(&client, at, 10, Protocol::Udp).assert_clean(10, at);
}

/// The driver alone, whatever the engine takes beside.
#[test]
fn the_driver_answers_within_a_second() {
    let (mut cluster, mut docker) = rig();
    docker.network("net", &[]);
    let [address, _] = docker.serve("net", "stays", &[]);
    let at: SocketAddr = format!("{address}:8080").parse().unwrap();
    let network = docker.done(&["network", "inspect", "net", "--format", "{{.Id}}"]);
    let endpoint = json!({
        "NetworkID": network, "EndpointID": "0123456789abcdef", "SandboxKey": "/run/x",
        "Interface": {"Address": "10.244.0.50/32"},
    });
    let ask = |docker: &Docker, why: &str| {
        for (method, question, works) in [
            ("Plugin.Activate", json!({}), true),
            ("IpamDriver.RequestPool", json!({"Pool": ""}), false),
            ("IpamDriver.RequestAddress", json!({"PoolID": "4/default"}), false),
            ("IpamDriver.ReleaseAddress", json!({"PoolID": "4/default", "Address": "10.244.0.50"}), true),
            ("NetworkDriver.CreateEndpoint", endpoint.clone(), false),
            ("NetworkDriver.Join", endpoint.clone(), false),
            ("NetworkDriver.Leave", endpoint.clone(), true),
            ("NetworkDriver.DeleteEndpoint", endpoint.clone(), true),
            ("NetworkDriver.DeleteNetwork", json!({"NetworkID": "another"}), true),
        ] {
            let begun = Instant::now();
            let (status, said) = docker.call(method, &question);
            let took = begun.elapsed();
            assert!(took < ANSWERED, "{method}: {took:?}");
            assert_eq!(status, if works { 200 } else { 500 }, "{method}: {said}");
            assert!(works || said["Err"].as_str().unwrap().contains(why), "{method}: {said}");
        }
    };
    let pid = Pid::from_raw(cluster.nodes[0].agent().pid() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    ask(&docker, "does not answer within");
    // An engine that starts meanwhile comes up, and touches nobody.
    docker.stop();
    docker.start();
    assert!(cluster.nodes[0].netns.run(|| get(at, "/name")).is_ok());
    kill(pid, Signal::SIGCONT).unwrap();
    cluster.nodes[0].agent_mut().kill9();
    ask(&docker, "no agent answers at");
    docker.stop();
    docker.start();
    assert!(cluster.nodes[0].netns.run(|| get(at, "/name")).is_ok());
}

/// SRC-07: the origin of every backend is named, and who is down takes nothing of the
/// others'.
#[test]
fn three_sources_feed_one_service() {
    let (mut cluster, mut api) = Cluster::beside_api(1);
    cluster.nodes[0].start_watching(&api, true);
    let mut docker = Docker::watched(&mut cluster);
    let servers = cluster.servers(2, 8080);
    docker.network("net", &[]);
    docker.serve("net", "web", &["--label", &format!("causeway.io/vip={}:80>9000", vip(1))]);
    let _server = Server::start(&docker.netns("web"), "web", 9000);
    // The others join the service that the label has made.
    let name = "vip-10-96-0-1-80-tcp";
    let service = Service::new(name, vip(1), &[Port::tcp(80, 8080).named("\"\"")]);
    let slice = |of: &str, server: usize| {
        let slice = service.slice(&[servers[server].0.address]).weighted(of, 1);
        slice.yaml().replace("namespace: default", "namespace: docker")
    };
    api.apply(&slice("of-api", 0));
    cluster.manifests().write("slice.yaml", &slice("of-file", 1));

    let named = format!("docker/{name}");
    let origins = || -> Vec<String> {
        let said = cluster.nodes[0].agent().cli(&["explain", "service", &named]).json;
        let endpoints = said["ports"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        let serving = endpoints.iter().filter(|endpoint| endpoint["serves"] == true);
        let mut origins: Vec<String> =
            serving.map(|endpoint| endpoint["origin"].as_str().unwrap().to_owned()).collect();
        origins.sort_unstable();
        origins
    };
    let all = ["docker:web", "kubernetes:EndpointSlice/docker/of-api", "manifests:slice.yaml#1"];
    let are = |wanted: &[&str]| {
        until(&format!("{wanted:?}"), PATIENCE, || (origins() == wanted).then_some(()));
        let answers = requests(&cluster.outside, (vip(1), 80), 60, Protocol::Tcp);
        assert_eq!((answers.failed, answers.by_server.len()), (0, wanted.len()), "{answers}");
    };
    are(&all);
    api.down();
    docker.stop();
    are(&all);
    cluster.manifests().remove("slice.yaml");
    are(&all[..2]);
}
