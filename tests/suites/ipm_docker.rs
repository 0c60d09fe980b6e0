//! IPM-02, SRC-02, POL-11: do containers of a real Docker engine get their network
//! from us, serve by their labels, and keep to policies?

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use causeway_testkit::{
    cni::Plugin,
    containerd::Containerd,
    docker::{ANSWERED, Docker},
    http::get,
    netns::Netns,
    podman::Podman,
    topology::{Cluster, PATIENCE, node_address, node_address6, vip},
    until::until,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// A node whose agent knows the engine, and a network of both families.
fn rig() -> (Cluster, Docker) {
    let mut cluster = Cluster::dual(1);
    let docker = Docker::watched(&mut cluster);
    // With a network by name: Docker takes addresses that are asked for in such alone.
    docker.network("blue", &["--subnet", &cluster.nodes[0].pod_cidr()]);
    (cluster, docker)
}

/// What a new container hears there in two seconds; `None`: nothing, and nothing else is
/// wrong.
fn hears(docker: &Docker, options: &[&str], to: &str) -> Option<String> {
    let fetch = format!("busybox timeout 2 wget -q -O - http://{to}/name; exit $?");
    let run = [&["run", "--rm", "--network", "blue"][..], options, &["tools", "sh", "-c", &fetch]].concat();
    let (success, said) = docker.try_done(&run);
    assert!(success || said.trim() == "Terminated", "{run:?}: {said}");
    success.then(|| said.trim().to_owned())
}

fn endpoints(cluster: &Cluster) -> Vec<Value> {
    cluster.nodes[0].agent().ask(&["show", "endpoints"]).as_array().unwrap().clone()
}

fn nobody_is_left(cluster: &Cluster) {
    until("nobody left", PATIENCE, || endpoints(cluster).is_empty().then_some(()));
    let links = cluster.nodes[0].netns.ip("-o link show");
    let ours =
        |line: &&str| line.split(": ").nth(1).is_some_and(|n| n.starts_with("cw") || n.starts_with("ci"));
    assert_eq!(links.lines().find(ours), None);
}

#[test]
fn containers_talk_over_both_families_and_go() {
    let (cluster, docker) = rig();
    let [v4, v6] = docker.serve("blue", "server", &["--publish", "82:8080"]);
    for to in [format!("{v4}:8080"), format!("[{v6}]:8080")] {
        assert_eq!(hears(&docker, &[], &to).as_deref(), Some("server"), "{to}");
    }
    let at: [SocketAddr; 2] =
        [SocketAddr::from((node_address(0), 82)), SocketAddr::from((node_address6(0), 82))];
    for to in at {
        for from in [&cluster.outside, &cluster.nodes[0].netns] {
            assert_eq!(from.run(|| get(to, "/name")).unwrap().body.trim(), "server", "{to}");
        }
    }
    // As people call it.
    // By a network without a subnet of its own, which is made while containers have addresses.
    docker.network("green", &[]);
    docker.run(&["--detach", "--name", "plain", "--network", "blue"], &["sleep", "600"]);
    let (success, said) = docker.try_done(&["network", "connect", "green", "plain"]);
    assert!(!success && said.contains("a container has one network of this driver"), "{said}");
    let fetch = format!("wget -q -O - http://{v4}:8080/name");
    assert_eq!(docker.run(&["--rm", "--network", "green"], &["sh", "-c", &fetch]), "server");
    docker.done(&["network", "rm", "green"]);
    let is_server = |endpoint: &&Value| endpoint["addresses"][0] == v4.as_str();
    let labels = || endpoints(&cluster).iter().find(is_server).map(|endpoint| endpoint["labels"].clone());
    let name = until("its name", PATIENCE, || labels()?.get("causeway.io/container").cloned());
    assert_eq!((name, &labels().unwrap()["causeway.io/docker-network"]), ("server".into(), &"blue".into()));
    // The one asked for, and the same again when it is started again.
    let fixed = ["--ip", "10.244.0.77", "--mac-address", "02:aa:bb:cc:dd:ee"];
    docker.run(
        &[&["--detach", "--name", "fixed", "--network", "blue"][..], &fixed].concat(),
        &["sleep", "600"],
    );
    docker.done(&["restart", "--time", "0", "fixed"]);
    let said = docker.exec("fixed", &["ip", "address", "show", "eth0"]);
    assert!(said.contains("10.244.0.77/32") && said.contains("02:aa:bb:cc:dd:ee"), "{said}");
    ["server", "plain", "fixed"].iter().for_each(|name| docker.remove(name));
    nobody_is_left(&cluster);
    docker.done(&["network", "rm", "blue"]);
}

#[test]
fn a_label_makes_a_service() {
    let (cluster, docker) = rig();
    let frontend = format!("{}:80>8080", vip(1));
    let label = format!("causeway.io/vip={frontend}");
    let at = vip(1).to_string();
    let answer =
        || cluster.outside.run(|| get((vip(1), 80), "/name")).ok().map(|said| said.body.trim().to_owned());
    let heard = |name: &str| until(name, PATIENCE, || answer().filter(|said| said == name));
    docker.serve("blue", "one", &["--label", &label]);
    heard("one");
    assert_eq!(hears(&docker, &[], &at).as_deref(), Some("one"));
    docker.serve("blue", "two", &["--label", &label]);
    heard("two");
    // One that is stopped is no backend; nobody is sent to it any more.
    docker.done(&["stop", "--time", "0", "two"]);
    cluster.wait_converged();
    for _ in 0..20 {
        assert_eq!(answer().as_deref(), Some("one"));
    }
    docker.done(&["start", "two"]);
    heard("two");
    // What is wrong is said, and the others are served.
    docker.run(
        &["--detach", "--name", "odd", "--network", "blue", "--label", "causeway.io/vip=here"],
        &["sleep", "600"],
    );
    let problems = until("a problem", PATIENCE, || {
        Some(cluster.nodes[0].agent().status().problems).filter(|problems| !problems.is_empty())
    });
    assert!(problems[0].to_string().contains("container odd: labels[causeway.io/vip]"), "{}", problems[0]);
    ["one", "two"].iter().for_each(|name| docker.remove(name));
    until("no service", PATIENCE, || answer().is_none().then_some(()));
}

#[test]
fn policies_know_containers_by_their_labels() {
    let (cluster, docker) = rig();
    cluster.manifests().write(
        "guard.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard, namespace: docker}\nspec:\n  \
         podSelector: {matchLabels: {app: web}}\n  ingress:\n  - from:\n    - podSelector: {matchLabels: {app: friend}}\n",
    );
    cluster.manifests().write(
        "locked.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: locked, namespace: docker}\nspec:\n  \
         podSelector: {matchLabels: {app: locked}}\n  policyTypes: [Egress]\n",
    );
    let [address, _] = docker.serve("blue", "server", &["--label", "app=web"]);
    let [open, _] = docker.serve("blue", "open", &[]);
    let open = format!("{open}:8080");
    let to = format!("{address}:8080");
    // Its rules stand before its first packet: nothing is waited for.
    for _ in 0..3 {
        assert_eq!(hears(&docker, &["--label", "app=friend"], &to).as_deref(), Some("server"));
        assert_eq!(hears(&docker, &["--label", "app=stranger"], &to), None);
        // The first thing that it does is what it must not.
        assert_eq!(hears(&docker, &["--label", "app=locked"], &open), None);
        assert_eq!(hears(&docker, &["--label", "app=free"], &open).as_deref(), Some("open"));
    }
    // Containers of another runtime, attached by the plugin, are under the same policy.
    let podman = Podman::new(&Plugin::of(&cluster.nodes[0]), &[]);
    let fetch = format!("busybox timeout 2 wget -q -O - http://{to}/name; exit $?");
    let asks = || podman.try_run(&["--rm"], &["sh", "-c", &fetch]);
    let (success, said) = asks();
    // Its time is over, and nothing else is wrong.
    assert!(!success && said.trim() == "Terminated", "{said}");
    let containerd = Containerd::new(&cluster.nodes[0].netns, &Plugin::of(&cluster.nodes[0]));
    let (success, said) = containerd.run("late", &fetch);
    assert!(!success && said.trim() == "Terminated", "{said}");
    cluster.manifests().remove("guard.yaml");
    until("no policy", PATIENCE, || (asks().1.trim() == "server").then_some(()));
    assert_eq!(containerd.run("again", &fetch), (true, "server\n".into()));
}

/// As between the driver's answer and the engine's word of whose it is.
#[test]
fn an_endpoint_that_nobody_knows_is_cut_off() {
    let (cluster, docker) = rig();
    let network = docker.done(&["network", "inspect", "blue", "--format", "{{.Id}}"]);
    let endpoint = json!({
        "NetworkID": network, "EndpointID": "0123456789abcdef",
        "Interface": {"Address": "10.244.0.50/32", "AddressIPv6": "", "MacAddress": ""},
    });
    let (status, made) = docker.call("NetworkDriver.CreateEndpoint", &endpoint);
    assert!(status == 200 && made["Interface"]["MacAddress"].is_string(), "{made}");
    let (status, joined) = docker.call("NetworkDriver.Join", &endpoint);
    assert_eq!((status, &joined["InterfaceName"]["SrcName"]), (200, &"ci0123456789ab".into()), "{joined}");
    // Moved as the engine does it.
    let container = Netns::new();
    let node = &cluster.nodes[0].netns;
    node.ip(&format!("link set ci0123456789ab netns {}", container.name()));
    for step in [
        "link set ci0123456789ab name eth0 up",
        "address add 10.244.0.50/32 dev eth0",
        "route add 169.254.1.1 dev eth0",
        "route add default via 169.254.1.1",
    ] {
        container.ip(step);
    }
    let [address, _] = docker.serve("blue", "server", &[]);
    let at: SocketAddr = format!("{address}:8080").parse().unwrap();
    let talks = || container.run(|| TcpStream::connect_timeout(&at, Duration::from_millis(300)).is_ok());
    until("no policy, no secret", PATIENCE, || talks().then_some(()));
    // About others alone; but who knows whom it is about?
    cluster.manifests().write(
        "guard.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard, namespace: docker}\nspec:\n  \
         podSelector: {matchLabels: {app: another}}\n",
    );
    until("cut off", PATIENCE, || (!talks()).then_some(()));
    assert!(cluster.nodes[0].agent().text(&["status"]).contains("1 endpoints are cut off"));
    cluster.manifests().remove("guard.yaml");
    until("no policy again", PATIENCE, || talks().then_some(()));
    // Twice, as the engine may ask; and what is not there is gone as well.
    for _ in 0..2 {
        assert_eq!(docker.call("NetworkDriver.Leave", &endpoint), (200, json!({})));
        assert_eq!(docker.call("NetworkDriver.DeleteEndpoint", &endpoint), (200, json!({})));
    }
    docker.remove("server");
    nobody_is_left(&cluster);
    let (status, said) = docker.call("NetworkDriver.Join", &endpoint);
    assert!(status == 500 && said["Err"].as_str().unwrap().contains("no container is attached"), "{said}");
    let (status, said) = docker.call("NetworkDriver.Dance", &json!({}));
    assert_eq!((status, &said["Err"]), (500, &"NetworkDriver.Dance is not known here".into()));
}

#[test]
fn who_may_not_be_in_a_network_is_refused_with_the_reason() {
    let (cluster, docker) = rig();
    cluster.manifests().write(
        "red.yaml",
        "apiVersion: causeway.io/v1alpha1\nkind: VirtualNetwork\nmetadata: {name: red}\nspec:\n  \
         members: {pods: {podSelector: {matchLabels: {team: red}}}}\n",
    );
    cluster.wait_converged();
    docker.network("red", &["--opt", "network=red"]);
    let run = |options: &str| {
        let words = ["run", "--rm", "--network", options, "tools", "cat", "/proc/sys/kernel/hostname"];
        docker.timed(&words)
    };
    let (success, said, _) = run("name=red,driver-opt=label.team=red");
    assert!(success, "{said}");
    for stranger in ["red", "name=red,driver-opt=label.team=blue"] {
        let (success, said, _) = run(stranger);
        assert!(!success && said.contains("may not be in VirtualNetwork red: its members are"), "{said}");
    }
    nobody_is_left(&cluster);
    let refused = |arguments: &[&str], words: &str| {
        let (success, said) =
            docker.try_done(&[&["network", "create", "--driver", "causeway"], arguments].concat());
        assert!(!success && said.contains(words), "{said}");
    };
    refused(&["other"], "are not routed here");
    refused(&["--ipam-driver", "causeway", "--internal", "other"], "--internal is not known");
    let gateway =
        ["--ipam-driver", "causeway", "--subnet", &cluster.nodes[0].pod_cidr(), "--gateway", "10.244.0.9"];
    refused(&[&gateway[..], &["other"]].concat(), "the gateway is the node itself");
    refused(&["--ipam-driver", "causeway", "--opt", "color=red", "other"], "option color is not known");
    refused(
        &["--ipam-driver", "causeway", "--subnet", "10.99.0.0/16", "other"],
        "the agent has 10.244.0.0/24",
    );
}

#[test]
fn docker_is_answered_whatever_becomes_of_the_agent() {
    let (mut cluster, docker) = rig();
    for name in ["stays", "goes", "late"] {
        docker.serve("blue", name, &[]);
    }
    let [stays, _] = docker.addresses("stays");
    let to = format!("{stays}:8080");
    let talks = |cluster: &Cluster| {
        cluster.nodes[0].netns.run(|| get(to.parse::<SocketAddr>().unwrap(), "/name").is_ok())
    };
    let quick = |arguments: &[&str], works: bool, words: &str| {
        let (success, said, took) = docker.timed(arguments);
        assert!(success == works && said.contains(words), "{arguments:?}: {said}");
        // What the engine and its runtime take beside.
        assert!(took < ANSWERED + Duration::from_secs(1), "{arguments:?}: {took:?}: {said}");
    };
    let run = ["run", "--rm", "--network", "blue", "tools", "sleep", "0"];
    // Stopped: it holds its socket, and says nothing.
    let pid = Pid::from_raw(cluster.nodes[0].agent().pid() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    quick(&run, false, "does not answer within");
    quick(&["stop", "--time", "0", "goes"], true, "goes");
    assert!(talks(&cluster));
    kill(pid, Signal::SIGCONT).unwrap();
    until("the one that went", PATIENCE, || (endpoints(&cluster).len() == 2).then_some(()));
    // Dead.
    cluster.nodes[0].agent_mut().kill9();
    quick(&run, false, "no agent answers at");
    quick(&["rm", "--force", "late"], true, "late");
    network_goes_and_comes(&docker);
    assert!(talks(&cluster));
    cluster.nodes[0].agent_mut().restart_with(&["--docker", &docker.host()]);
    cluster.nodes[0].agent().wait_up(PATIENCE);
    until("the late one", PATIENCE, || (endpoints(&cluster).len() == 1).then_some(()));
    // No room to write anything down.
    let state = cluster.nodes[0].agent().state_dir();
    let aside = state.with_file_name("aside");
    fs::rename(&state, &aside).unwrap();
    fs::write(&state, "").unwrap();
    quick(&run, false, "write the state directory");
    assert!(talks(&cluster));
    fs::remove_file(&state).unwrap();
    fs::rename(&aside, &state).unwrap();
    until("one more", PATIENCE, || docker.try_done(&run).0.then_some(()));
    docker.remove("stays");
    docker.remove("goes");
    nobody_is_left(&cluster);
}

/// Without an agent, networks go; they cannot come.
fn network_goes_and_comes(docker: &Docker) {
    let create = ["network", "create", "--driver", "causeway", "--ipam-driver", "causeway", "green"];
    let (success, said, took) = docker.timed(&create);
    assert!(!success && said.contains("no agent answers at") && took < ANSWERED, "{took:?} {said}");
}

#[test]
fn containers_outlive_the_engine_and_the_driver() {
    let (mut cluster, mut docker) = rig();
    let label = format!("causeway.io/vip={}:80>8080", vip(1));
    docker.serve("blue", "server", &["--label", &label]);
    let answers = |cluster: &Cluster| cluster.outside.run(|| get((vip(1), 80), "/name")).is_ok();
    until("served", PATIENCE, || answers(&cluster).then_some(()));
    docker.stop();
    assert!(answers(&cluster), "without the engine");
    // An agent that starts without it keeps what it finds.
    cluster.nodes[0].agent_mut().kill9();
    docker.watch(cluster.nodes[0].agent_mut());
    assert!(answers(&cluster), "with another agent");
    docker.start();
    cluster.wait_converged();
    assert!(answers(&cluster), "with the engine again");
    docker.restart_driver();
    assert_eq!(hears(&docker, &[], &vip(1).to_string()).as_deref(), Some("server"));
    docker.remove("server");
    nobody_is_left(&cluster);
}

#[test]
fn ten_thousand_ports_are_one_range() {
    let (cluster, docker) = rig();
    let begun = Instant::now();
    docker.serve("blue", "server", &["--publish", "20000-30000:8000-18000"]);
    println!("started with 10,001 ports after {:?}", begun.elapsed());
    let shown = cluster.nodes[0].agent().ask(&["show", "services"]).to_string();
    assert!(shown.contains("20000-30000"), "{shown}");
    // The container's 8080 is the eighty-first.
    for at in [SocketAddr::from((node_address(0), 20_080)), SocketAddr::from((node_address6(0), 20_080))] {
        let asked = || cluster.outside.run(|| get(at, "/name")).ok();
        assert_eq!(until("served", PATIENCE, asked).body.trim(), "server", "{at}");
    }
    let rival = ["run", "--rm", "--network", "blue", "--publish", "25000:80", "tools", "sleep", "0"];
    let (success, said) = docker.try_done(&rival);
    assert!(!success && said.contains("20000-30000/TCP belongs to endpoint docker/"), "{said}");
    docker.remove("server");
    nobody_is_left(&cluster);
}
