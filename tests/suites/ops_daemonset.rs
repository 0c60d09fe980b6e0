//! OPS-02: does an agent work as deploy/daemonset.yaml starts it, with what
//! deploy/rbac.yaml lets it read, and are its rights no more than it needs? Its
//! capabilities and volumes, each taken away by itself; its roles, held against
//! all that agents ask the API server for.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    agent::{Agent, Said, Setup},
    apiserver::{
        ApiServer, KINDS, kind,
        rbac::Rules,
        secure::{Identity, pem},
    },
    client::requests,
    cni::Plugin,
    http::{self, Answer},
    manifest::{Port, Service},
    netns::Netns,
    pod::Pod,
    server::Server,
    topology::{API_PORT, Cluster, PATIENCE, UPLINK, outside_address, vip, vip6},
    until::until,
    wire::Protocol,
};
use serde_json::{Value, json};

const TOKEN: &str = "of-the-service-account";

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn rbac() -> String {
    fs::read_to_string(deploy("rbac.yaml")).unwrap()
}

/// A node and a server that knows it, and the pod that is to run there.
fn scene() -> (Cluster, ApiServer, Pod) {
    let (cluster, plain) = Cluster::beside_api(1);
    drop(plain);
    let identity = Arc::new(Identity::of(&outside_address().to_string()));
    let at = (outside_address(), API_PORT + 1);
    let api = ApiServer::secured(&cluster.outside, at, identity.clone());
    api.apply(&cluster.nodes[0].yaml());
    api.require(TOKEN);
    api.authorise(&Rules::of(&rbac(), "kube-system", "causeway"));
    // The uplink is that of the default route.
    cluster.nodes[0].netns.ip(&format!("route add default via {} dev {UPLINK}", outside_address()));
    let mut pod = Pod::read(&deploy("daemonset.yaml"), "DaemonSet");
    pod.account = (pem(&identity), TOKEN.into());
    pod.fields = vec![("status.hostIP", cluster.nodes[0].address.to_string())];
    pod.set_env("CAUSEWAY_KUBERNETES_SERVER", &api.url());
    (cluster, api, pod)
}

fn start(cluster: &mut Cluster, pod: Pod) {
    let node = &mut cluster.nodes[0];
    let agent = Agent::start(Setup {
        node: node.name.clone(),
        manifests: None,
        netns: node.netns.path().to_owned(),
        uplink: None,
        config: None,
        arguments: vec![],
        pod: Some(pod),
    });
    node.hold(agent);
}

/// To somebody outside the node.
fn get(cluster: &Cluster, port: u16, path: &str) -> Answer {
    cluster.outside.run(|| http::get((cluster.nodes[0].address, port), path)).unwrap()
}

/// What the command says that attaches a container of the node.
fn attach(agent: &Agent) -> Said {
    let inside = Netns::new();
    let path = inside.path().display().to_string();
    agent.cli(&["endpoint", "attach", "default/late", "--netns", &path, "--address", "10.244.0.200"])
}

#[test]
fn a_pod_of_the_daemon_set_serves() {
    let (mut cluster, api, pod) = scene();
    start(&mut cluster, pod.clone());
    cluster.wait_converged();
    let node = &cluster.nodes[0];
    let (client, server) = (node.container("client", 100), node.container("web-1", 10));
    let _server = Server::start(&server.netns, "web-1", 8080);
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1));
    api.apply(&web.slice(&server.addresses()).yaml());
    api.apply(&web.yaml());
    // By the Leases that the role lets it keep.
    node.agent().ask(&["wait", "--cluster"]);
    let addresses: [IpAddr; 2] = [vip(1).into(), vip6(1).into()];
    let serves = |netns: &Netns| {
        for to in addresses.map(|address| SocketAddr::new(address, 80)) {
            requests(netns, to, 50, Protocol::Tcp).assert_clean(50, to);
        }
    };
    serves(&client.netns);
    // A process of the node itself, by way of its socket.
    serves(&node.netns);
    let status = node.agent().status();
    assert_eq!((status.hook.as_str(), status.alarms.as_slice()), ("tcx+sockets", [].as_slice()));
    assert_eq!(status.uplink.as_deref(), Some(UPLINK));

    // The kubelet and Prometheus come by the node's address.
    let of_container = |path: &str| pod.spec(&format!("/containers/0/{path}"));
    for probe in ["livenessProbe", "readinessProbe"] {
        let path = of_container(&format!("{probe}/httpGet/path"));
        let port = of_container("ports/0/containerPort").as_u64().unwrap() as u16;
        let said = get(&cluster, port, path.as_str().unwrap());
        assert_eq!(said.status, 200, "{probe}: {said:?}");
    }
    let note = |key: &str| pod.annotation(&format!("prometheus.io/{key}"));
    let metrics = get(&cluster, note("port").parse().unwrap(), &note("path")).body;
    assert!(metrics.contains("causeway_converged 1"), "{metrics}");
    // And load balancers at kube-proxy's port.
    let said = get(&cluster, 10256, "/healthz");
    assert!(said.status == 200 && said.body.contains("nodeEligible\":true"), "{said:?}");

    // Pods are attached by the plugin, where and as a runtime is told.
    let [bin, conf] = cluster.nodes[0].agent().cni_dirs();
    let list = conf.join("05-causeway.conflist");
    let mut config = conflist(&list);
    config["socket"] = cluster.nodes[0].agent().socket().to_str().unwrap().into();
    let plugin = Plugin { program: bin.join("causeway-cni"), ..Plugin::of(&cluster.nodes[0]) };
    let sandbox = Netns::new();
    // Runtimes say it by a path that is none in the agent's container.
    let place = format!("/var{}", sandbox.path().display());
    let ask = |verb| plugin.ask(verb, "sandbox", &place, &config);
    let added = ask("ADD");
    assert!(
        added.code == 0 && added.json["ips"][0]["address"].as_str().unwrap().starts_with("10.244.0."),
        "{added:?}"
    );
    serves(&sandbox);
    assert_eq!(ask("DEL").code, 0);

    // An Event is what the role lets it write.
    let wrong = Service { name: "wrong".into(), ..web.clone() };
    api.apply(&wrong.yaml());
    until("an Event", PATIENCE, || (!api.events().0.is_empty()).then_some(()));
    api.delete(kind("Service"), "default", "wrong");

    // A pod is replaced: what it pinned stays, and is taken over.
    cluster.nodes[0].agent_mut().stop();
    serves(&client.netns);
    serves(&cluster.nodes[0].netns);
    cluster.nodes[0].agent_mut().restart();
    cluster.wait_converged();
    serves(&client.netns);
    assert_eq!(cluster.nodes[0].agent().status().endpoints, 2);

    // And when it is to end, by docs/install.md.
    cluster.nodes[0].agent_mut().stop();
    cluster.nodes[0].agent_mut().restart_with(&["--uninstall"]);
    let at = (cluster.nodes[0].address, note("port").parse().unwrap());
    let probed = until("the probes", PATIENCE, || cluster.outside.run(|| http::get(at, "/readyz")).ok());
    assert_eq!((probed.status, probed.body.as_str()), (200, "uninstalled\n"));
    assert!(!cluster.nodes[0].agent().pins().join("causeway").exists());
    // What is still attached by another agent's work may go.
    assert!(!list.exists() && plugin.program.exists());
    assert_eq!(ask("DEL").code, 0);
}

/// The one plugin of a list, as a runtime hands it on.
fn conflist(path: &Path) -> Value {
    let list: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(list["plugins"].as_array().unwrap().len(), 1);
    let mut config = list["plugins"][0].clone();
    assert_eq!(
        (&config["type"], &config["socket"]),
        (&json!("causeway-cni"), &json!("/run/causeway/agent.sock"))
    );
    for key in ["cniVersion", "name"] {
        config[key] = list[key].clone();
    }
    config
}

/// Something of the manifest, and how the node looks without it.
type Need = (&'static str, fn(&Agent) -> bool);

const CAPABILITIES: [Need; 3] = [
    ("NET_ADMIN", |agent| attach(agent).stderr.contains("create the veth pair: Operation not permitted")),
    ("NET_RAW", |agent| alarms(agent, "cannot watch the neighbours")),
    ("SYS_ADMIN", |agent| agent.log_tail().contains("cannot load the embedded BPF object")),
];

const VOLUMES: [Need; 8] = [
    // The agent helps itself, but nothing is pinned where it outlives the pod.
    ("bpf", |agent| agent.cli(&["converged"]).code == 0 && !agent.pins().join("causeway/maps").exists()),
    ("cgroup", |agent| alarms(agent, "processes of the node itself cannot call services")),
    ("sysctl", |agent| attach(agent).stderr.contains("mount the host's at /host/proc/sys/net")),
    ("netns", |agent| attach(agent).stderr.contains("No such file")),
    ("run", |agent| agent.log_tail().contains("create /run/causeway: Read-only file system")),
    ("state", |agent| agent.log_tail().contains("/var/lib/causeway: Read-only file system")),
    ("cni-bin", |agent| alarms(agent, "put the CNI plugin in place: /opt/cni/bin/causeway-cni")),
    ("cni-conf", |agent| alarms(agent, "put the CNI plugin in place: /etc/cni/net.d/05-causeway.conflist")),
];

fn alarms(agent: &Agent, words: &str) -> bool {
    agent.try_status().is_some_and(|status| status.alarms.iter().any(|alarm| alarm.contains(words)))
}

#[test]
fn each_right_and_place_is_needed() {
    let pod = Pod::read(&deploy("daemonset.yaml"), "DaemonSet");
    let volumes = pod.spec("/volumes");
    let volumes = volumes.as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap());
    let names = |needs: &[Need]| -> Vec<&str> { needs.iter().map(|(name, _)| *name).collect() };
    assert_eq!(volumes.collect::<Vec<_>>(), names(&VOLUMES));
    assert_eq!(pod.capabilities(), names(&CAPABILITIES));

    // Nothing is missed of what is there.
    let (mut cluster, _api, pod) = scene();
    start(&mut cluster, pod);
    cluster.wait_converged();
    for (name, is_missed) in CAPABILITIES.iter().chain(&VOLUMES) {
        assert!(!is_missed(cluster.nodes[0].agent()), "{name}");
    }
    let without = |name: &str, is_missed: fn(&Agent) -> bool, take: fn(&mut Pod, &str)| {
        let (mut cluster, _api, mut pod) = scene();
        take(&mut pod, name);
        start(&mut cluster, pod);
        let agent = cluster.nodes[0].agent();
        let end = Instant::now() + PATIENCE;
        while !is_missed(agent) {
            assert!(Instant::now() < end, "nobody misses {name}: {:?}\n{}", attach(agent), agent.log_tail());
            thread::sleep(Duration::from_millis(50));
        }
    };
    CAPABILITIES.iter().for_each(|(name, is_missed)| without(name, *is_missed, Pod::drop_capability));
    VOLUMES.iter().for_each(|(name, is_missed)| without(name, *is_missed, Pod::drop_volume));
}

#[test]
fn the_roles_allow_what_is_read_and_kept_and_nothing_else() {
    let rules = Rules::of(&rbac(), "kube-system", "causeway");
    let right = |group: &str, thing: &str, verb: &str| (group.into(), thing.into(), verb.into());
    let read = KINDS.iter().flat_map(|(api, _, resource, ..)| {
        let group = api.split_once('/').map_or("", |(group, _)| group);
        ["list", "watch"].map(|verb| right(group, resource, verb))
    });
    let discovered = ["/apis", "/apis/*"].map(|path| right("", path, "get"));
    let told = [right("events.k8s.io", "events", "create")];
    let kept = ["list", "create", "patch"].map(|verb| right("coordination.k8s.io", "leases", verb));
    assert_eq!(rules.granted(), [read.chain(discovered).chain(told).collect(), kept.into()]);
    assert_eq!(Pod::read(&deploy("daemonset.yaml"), "DaemonSet").spec("/serviceAccountName"), "causeway");
}

#[test]
fn a_kind_that_must_not_be_read_is_told() {
    let (mut cluster, api, pod) = scene();
    let less = rbac().replace("[endpointslices]", "[leases]");
    api.authorise(&Rules::of(&less, "kube-system", "causeway"));
    start(&mut cluster, pod);
    cluster.nodes[0].agent().wait_status("the refusal is told", PATIENCE, |status| {
        let told = |problem: &str| problem.contains("EndpointSlice") && problem.contains("deploy/rbac.yaml");
        status.problems.iter().any(|problem| told(&problem.to_string()))
    });
}

#[test]
fn each_verb_for_leases_is_needed_in_the_accounts_namespace() {
    let (mut cluster, api, pod) = scene();
    let authorise = |verbs: &str, namespace: &str| {
        let rules = rbac().replace("[list, create, patch]", verbs);
        let rules = Rules::of(&rules, "kube-system", "causeway");
        assert!(!rules.may_lease("list", "default") && !rules.may_lease("delete", namespace));
        api.authorise(&rules);
    };
    let cannot_write = |agent: &Agent| alarms(agent, "Lease kube-system/causeway-n0");
    // Whoever applies an object that is not there creates it.
    authorise("[list, patch]", "kube-system");
    start(&mut cluster, pod);
    let wait = |what: &str, good: &dyn Fn(&Agent) -> bool| {
        let agent = cluster.nodes[0].agent();
        let end = Instant::now() + PATIENCE;
        while !good(agent) {
            assert!(Instant::now() < end, "{what}: {:?}\n{}", agent.try_status(), agent.log_tail());
            thread::sleep(Duration::from_millis(50));
        }
    };
    wait("create is missed", &cannot_write);
    authorise("[list, create]", "kube-system");
    api.apply(&cluster.nodes[0].yaml());
    wait("patch is missed", &cannot_write);
    authorise("[create, patch]", "kube-system");
    wait("a Lease is written", &|agent| !cannot_write(agent));
    wait("list is missed", &|agent| {
        let said = agent.cli(&["converged", "--cluster"]);
        said.code != 0 && said.stderr.contains("Leases of namespace kube-system")
    });
    authorise("[list, create, patch]", "kube-system");
    wait("all is well", &|agent| agent.cli(&["converged", "--cluster"]).code == 0);
}
