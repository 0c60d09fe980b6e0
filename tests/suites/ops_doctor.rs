//! OPS-05: does `causeway doctor` find what is planted, by its name, and nothing
//! else? On a node with an agent, and on one without.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use causeway_testkit::{
    container::Container,
    doctor::{expect, findings, run},
    manifest::{self, Port, Service},
    netns::Netns,
    scratch::Dir,
    server::Server,
    topology::{Cluster, Node, PATIENCE, UPLINK, node_address, vip},
    xdp::{First, Pass},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A cluster whose first node is looked at.
struct Patient {
    cluster: Cluster,
    _web: Vec<(Container, Server)>,
}

impl Patient {
    fn new() -> Self {
        let cluster = Cluster::forwarding(2);
        for key in ["all", UPLINK] {
            cluster.nodes[0].netns.set_sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0");
        }
        let web = cluster.serve(&Service::new("web", vip(1), &[Port::tcp(80, 8080)]), 1);
        cluster.wait_converged();
        Self { cluster, _web: web }
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    fn look(&self, more: &[&str]) -> (i32, Value) {
        let (netns, agent) = (self.node().netns.path().to_str().unwrap(), self.node().agent());
        let words = ["doctor", "--netns", netns, "--bpffs", agent.pins().to_str().unwrap()];
        let said = agent.cli(&[&words, more].concat());
        assert_eq!(said.stderr, "", "{said:?}");
        (said.code, said.json)
    }

    /// Shows that a finding comes with its cause and goes with it; `also`: what
    /// may follow from it.
    #[track_caller]
    fn plant(&self, finding: (&str, &str), also: &[&str], cause: impl FnOnce(), remedy: impl FnOnce()) {
        expect(&[], &[], || self.look(&[]));
        cause();
        expect(&[finding], also, || self.look(&[]));
        remedy();
        expect(&[], &[], || self.look(&[]));
        if finding.0 == "note" {
            let found = findings(&self.look(&[]).1);
            assert!(found.iter().all(|(_, check)| check != finding.1), "{found:?}");
        }
    }

    /// A setting of the node's, and back.
    #[track_caller]
    fn setting(&self, finding: (&str, &str), key: &str, value: &str) {
        let netns = &self.node().netns;
        let before = netns.sysctl(key);
        self.plant(finding, &[], || netns.set_sysctl(key, value), || netns.set_sysctl(key, &before));
    }

    /// Two commands in the node's namespace.
    #[track_caller]
    fn commands(&self, finding: (&str, &str), cause: &str, remedy: &str) {
        let netns = &self.node().netns;
        self.plant(finding, &[], || run(netns, cause), || run(netns, remedy));
    }

    /// A manifest, for as long as it lies there.
    #[track_caller]
    fn manifest(&self, finding: (&str, &str), also: &[&str], text: &str) {
        let manifests = self.cluster.manifests();
        self.plant(
            finding,
            also,
            || manifests.write("planted.yaml", text),
            || manifests.remove("planted.yaml"),
        );
    }
}

#[test]
fn a_sound_node_is_called_sound_within_a_second() {
    let patient = Patient::new();
    let quickest = (0..3).map(|_| {
        let begin = Instant::now();
        expect(&[], &[], || patient.look(&[]));
        begin.elapsed()
    });
    let quickest = quickest.min().unwrap();
    assert!(quickest < Duration::from_secs(1), "{quickest:?}");
    let (_, report) = patient.look(&[]);
    assert_eq!(report["uplink"], UPLINK);
    let features = report["features"].as_array().unwrap();
    let present = |name: &str| &features.iter().find(|feature| feature["name"] == name).unwrap()["present"];
    for name in ["tcx", "sockets", "xdp", "bpf_redirect_peer", "bpf_fib_lookup"] {
        assert_eq!(present(name), true, "{name}: {report:#}");
    }
    let (netns, pins) = (patient.node().netns.path(), patient.node().agent().pins());
    let (netns, pins) = (netns.to_str().unwrap(), pins.to_str().unwrap());
    let text = patient.node().agent().text(&["doctor", "--netns", netns, "--bpffs", pins]);
    assert!(text.trim_end().ends_with("nothing is wrong with this node"), "{text}");
    assert!(text.contains("FEATURE") && text.contains("tcx"), "{text}");
}

#[test]
fn settings_are_found() {
    let patient = Patient::new();
    patient.setting(("warning", "rp-filter"), "net/ipv4/conf/all/rp_filter", "1");
    patient.setting(("warning", "rp-filter"), &format!("net/ipv4/conf/{UPLINK}/rp_filter"), "1");
    let ports = "net/ipv4/ip_local_port_range";
    patient.setting(("warning", "node-ports"), ports, "10000 65535");
    let reserved = "net/ipv4/ip_local_reserved_ports";
    patient.node().netns.set_sysctl(reserved, "30000-32767");
    patient.setting(("warning", "source-ports"), ports, "1024 65535");
    patient.node().netns.set_sysctl(reserved, "");

    let direct = Service::new("direct", vip(7), &[Port::tcp(80, 8080)]).annotated("causeway.io/dsr", "l2");
    patient.cluster.manifests().write("direct.yaml", &direct.yaml());
    patient.cluster.wait_converged();
    patient.setting(("warning", "forwarding"), &format!("net/ipv4/conf/{UPLINK}/forwarding"), "0");

    let by = format!("default via fd00:77::1 dev {UPLINK} proto ra");
    let (add, remove) = (format!("ip -6 route add {by}"), format!("ip -6 route del {by}"));
    patient.node().netns.set_sysctl(&format!("net/ipv6/conf/{UPLINK}/accept_ra"), "1");
    patient.commands(("fault", "accept-ra"), &add, &remove);
}

#[test]
fn ipv6_that_is_switched_off_is_found() {
    let patient = Patient::new();
    let (netns, key) = (&patient.node().netns, format!("net/ipv6/conf/{UPLINK}/disable_ipv6"));
    expect(&[], &[], || patient.look(&[]));
    netns.set_sysctl(&key, "1");
    // Its addresses and routes have gone with it.
    let also = ["agent-problems", "agent-not-converged", "agent-alarm", "drift"];
    expect(&[("fault", "ipv6-disabled")], &also, || patient.look(&[]));
    netns.set_sysctl(&key, "0");
    expect(&[], &also, || patient.look(&[]));
}

#[test]
fn addresses_that_mean_two_things_are_found() {
    let patient = Patient::new();
    let node = |cidr: &str| manifest::node("n9", &[node_address(9).into()], &[cidr.to_owned()]);
    patient.manifest(("fault", "pod-network-overlap"), &["agent-problems"], &node("10.244.1.0/25"));
    patient.manifest(("warning", "host-network-overlap"), &["agent-problems"], &node("192.168.77.128/25"));
    patient.manifest(("fault", "host-network-overlap"), &["agent-problems"], &node("192.168.77.0/28"));
    let service = |last: [u8; 4]| Service::new("planted", last, &[Port::tcp(80, 8080)]).yaml();
    patient.manifest(("fault", "service-in-pod-network"), &[], &service([10, 244, 1, 200]));
    patient.manifest(("note", "service-in-host-network"), &[], &service([192, 168, 77, 99]));
    run(&patient.node().netns, "ip link add br0 type bridge");
    let address = "10.244.1.65/27 dev br0";
    let commands = (format!("ip address add {address}"), format!("ip address del {address}"));
    patient.commands(("fault", "host-network-overlap"), &commands.0, &commands.1);
    for route in ["10.244.0.10/32", "10.244.1.0/24"] {
        let by = format!("{route} via 192.168.77.200 metric 50");
        let commands = (format!("ip route add {by}"), format!("ip route del {by}"));
        patient.commands(("warning", "foreign-route"), &commands.0, &commands.1);
    }
    let netns = Netns::new();
    let (path, node) = (netns.path().to_str().unwrap(), patient.node());
    let attach = ["endpoint", "attach", "long", "--netns", path, "--address", "10.244.0.99", "--mtu", "9000"];
    let attach = || drop(node.agent().ask(&attach));
    patient.plant(("warning", "container-mtu"), &[], attach, || node.detach("long"));
}

#[test]
fn strangers_are_found() {
    let patient = Patient::new();
    let netns = &patient.node().netns;
    let table = |name| (format!("nft add table ip {name}"), format!("nft delete table ip {name}"));
    let (add, delete) = table("kube-proxy");
    patient.commands(("warning", "kube-proxy-rules"), &add, &delete);
    let chain = "iptables -t nat";
    let commands = (format!("{chain} -N KUBE-SERVICES"), format!("{chain} -X KUBE-SERVICES"));
    patient.commands(("warning", "kube-proxy-rules"), &commands.0, &commands.1);
    let (add, delete) = table("docker");
    run(netns, &add);
    let forward = "nft add chain ip docker FORWARD { type filter hook forward priority 0; policy drop; }";
    patient.commands(("warning", "forward-drop"), forward, &delete);
    let ipvs = "kube-ipvs0";
    let commands = (format!("ip link add {ipvs} type bridge"), format!("ip link del {ipvs}"));
    patient.commands(("fault", "ipvs"), &commands.0, &commands.1);
}

#[test]
fn programs_of_others_are_found() {
    let patient = Patient::new();
    let netns = &patient.node().netns;
    let first = std::cell::Cell::new(None);
    let before = || first.set(Some(First::at(netns, UPLINK)));
    patient.plant(("warning", "foreign-tc"), &[], before, || drop(first.take()));
    let pass = std::cell::Cell::new(None);
    let driver = || pass.set(Some(Pass::at(netns, UPLINK)));
    patient.plant(("warning", "foreign-xdp"), &[], driver, || drop(pass.take()));
    run(netns, &format!("tc qdisc add dev {UPLINK} clsact"));
    let filter = format!("tc filter add dev {UPLINK} ingress prio 9 u32 match u32 0 0 classid 1:1");
    patient.commands(
        ("note", "foreign-tc-after"),
        &filter,
        &format!("tc filter del dev {UPLINK} ingress prio 9"),
    );

    let proxy = std::cell::Cell::new(None);
    let dir = Dir::new();
    let start = || proxy.set(Some(process(netns, dir.path(), "kube-proxy")));
    patient.plant(("fault", "other-dataplane"), &[], start, || end(proxy.take()));
    // On another node of this machine it is none of ours.
    let elsewhere = process(&patient.cluster.nodes[1].netns, dir.path(), "kube-proxy");
    expect(&[], &[], || patient.look(&[]));
    end(Some(elsewhere));
}

/// A process of a name, in a namespace.
fn process(netns: &Netns, dir: &Path, name: &str) -> Child {
    let path = dir.join(name);
    if !path.exists() {
        fs::copy("/bin/sleep", &path).unwrap();
    }
    netns.run(|| Command::new(&path).arg("60").spawn().unwrap())
}

fn end(child: Option<Child>) {
    let mut child = child.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_the_agent_suffers_from_is_found() {
    let mut patient = Patient::new();
    let broken = "apiVersion: v1\nkind: Service\nmetadata: {name: broken}\n\
                  spec: {clusterIP: 10.96.0.300, ports: [{port: 80}]}\n";
    patient.manifest(("warning", "agent-problems"), &[], broken);
    let (node, manifests) = (patient.node(), patient.cluster.manifests());
    let own = format!("{}.yaml", node.name);
    let back = || manifests.write(&own, &node.yaml());
    patient.plant(("fault", "node-unknown"), &[], || manifests.remove(&own), back);
    let moved = manifest::node(&node.name, &[node_address(9).into()], &[node.pod_cidr(), node.pod_cidr6()]);
    patient.plant(("fault", "node-address"), &[], || manifests.write(&own, &moved), back);
    expect(&[("fault", "uplink-missing")], &[], || patient.look(&["--uplink", "nosuch"]));

    let drift = |times: usize| {
        for _ in 0..times {
            let before = node.agent().status().drift.repaired;
            run(&node.netns, &format!("ip route del {}", patient.cluster.nodes[1].pod_cidr()));
            node.agent().wait_status("is repaired", PATIENCE, |status| status.drift.repaired > before);
        }
    };
    drift(1);
    expect(&[("note", "drift-once")], &[], || patient.look(&[]));
    drift(2);
    expect(&[("warning", "drift")], &[], || patient.look(&[]));

    let pid = Pid::from_raw(node.agent().pid() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    expect(&[("fault", "agent-silent")], &[], || patient.look(&[]));
    kill(pid, Signal::SIGCONT).unwrap();
    expect(&[("warning", "drift")], &[], || patient.look(&[]));
    patient.cluster.nodes[0].agent_mut().kill9();
    expect(&[("fault", "agent-silent")], &[], || patient.look(&[]));
    patient.cluster.nodes[0].agent_mut().restart();
    patient.cluster.wait_converged();
    expect(&[], &[], || patient.look(&[]));
    patient.cluster.nodes[0].agent_mut().stop();
    expect(&[("warning", "pins-without-agent")], &[], || patient.look(&[]));
    patient.cluster.nodes[0].agent_mut().restart();
    patient.cluster.wait_converged();
    expect(&[], &[], || patient.look(&[]));
}

#[test]
fn our_own_program_in_the_driver_is_no_strangers() {
    let patient = Patient { cluster: Cluster::xdp(1), _web: Vec::new() };
    assert_eq!(patient.node().agent().status().hook, "tcx+xdp+sockets");
    expect(&[], &["rp-filter"], || patient.look(&[]));
}

#[test]
fn a_lack_of_room_is_found() {
    let patient = Patient { cluster: Cluster::configured(1, "[capacity]\nservices = 4\n"), _web: Vec::new() };
    expect(&[], &[], || patient.look(&[]));
    let service = |host| Service::new(&format!("s{host}"), vip(host), &[Port::tcp(80, 8080)]).yaml();
    (0..9).for_each(|host| patient.cluster.manifests().write(&format!("{host}.yaml"), &service(host)));
    let also = ["agent-problems", "agent-alarm"];
    expect(&[("fault", "agent-not-converged")], &also, || patient.look(&[]));
    (2..9).for_each(|host| patient.cluster.manifests().remove(&format!("{host}.yaml")));
    expect(&[], &[], || patient.look(&[]));
}
