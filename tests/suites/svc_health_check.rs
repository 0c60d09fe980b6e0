//! SVC-23: what do load balancers hear at a service's `healthCheckNodePort`, and
//! does it follow what becomes of the service?

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::Ordering,
    thread,
    time::Duration,
};

use causeway_testkit::{
    client::requests,
    manifest::{Port, Service, Slice},
    server::Server,
    topology::{Cluster, Container, node_address, node_address6, vip, vip6},
    wire::Protocol,
    worker::Worker,
};
use serde_json::{Value, json};

const NODE_PORT: u16 = 30_080;
const HEALTH: u16 = 30_081;
const OTHER: u16 = 30_082;
const PATIENCE: Duration = Duration::from_millis(1500);

struct Rig {
    cluster: Cluster,
    /// Two on each node.
    servers: Vec<(Container, Server)>,
}

/// What somebody who asked is told.
#[derive(Debug)]
struct Answer {
    head: String,
    body: Value,
}

impl Answer {
    /// Reads one, of a connection that may be kept; `None`: it has ended.
    fn read(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).ok()?;
        Some(Self { head, body: serde_json::from_slice(&body).unwrap() })
    }

    fn service(&self) -> &str {
        self.body["service"]["name"].as_str().unwrap()
    }

    fn endpoints(&self) -> u64 {
        self.body["localEndpoints"].as_u64().unwrap()
    }
}

fn connect(address: IpAddr, port: u16) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// On a connection that stays open; `None`: it has ended.
fn ask(stream: &mut BufReader<TcpStream>) -> Option<Answer> {
    stream.get_mut().write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").ok()?;
    Answer::read(stream)
}

impl Rig {
    fn new() -> Self {
        let cluster = Cluster::dual(2);
        let servers = cluster.servers(2, 8080);
        Self { cluster, servers }
    }

    /// The servers' addresses of a family, but for those that are left out.
    fn addresses(&self, six: bool, wanted: impl Fn(&str) -> bool) -> Vec<IpAddr> {
        let chosen = self.servers.iter().filter(|(at, _)| wanted(&at.name));
        chosen.map(|(at, _)| at.addresses()[usize::from(six)]).collect()
    }

    /// All servers but those of the node that is left out.
    fn serve(&self, service: &Service, without: Option<&str>, draining: &[&str]) {
        let both =
            |wanted: &dyn Fn(&str) -> bool| [false, true].map(|six| self.addresses(six, wanted)).concat();
        let there = both(&|name| without.is_none_or(|node| !name.contains(node)));
        let leaving = both(&|name| draining.contains(&name));
        self.cluster.manifests().service(service, &service.slice(&there).placed().draining(&leaving));
        self.cluster.wait_converged();
    }

    /// All of one family, in a file of their own; those of the first node terminate.
    fn slice(&self, service: &Service, six: bool, terminating: bool) {
        let leaving = self.addresses(six, |name| terminating && name.contains("-n0-"));
        let slice = service.slice(&self.addresses(six, |_| true)).placed().draining(&leaving);
        self.cluster.manifests().slice(&Slice { name: format!("web-{six}"), ..slice });
        self.cluster.wait_converged();
    }

    fn hears(&self, node: u8, port: u16) -> Option<[Answer; 2]> {
        let hear = |address: IpAddr| ask(&mut connect(address, port).ok()?);
        self.cluster
            .outside
            .run(|| Some([hear(node_address(node).into())?, hear(node_address6(node).into())?]))
    }
}

fn service(name: &str, host: u8, port: u16) -> Service {
    Service::new(name, vip(host), &[Port::tcp(80, 8080)])
        .dual(vip6(host))
        .with("type: LoadBalancer")
        .with(&format!("externalIPs: [10.96.0.2{host}, \"fd00:10:96::2{host}\"]"))
        .with("externalTrafficPolicy: Local")
        .with(&format!("healthCheckNodePort: {port}"))
}

fn web() -> Service {
    let web = service("web", 1, HEALTH);
    Service { ports: vec![Port::tcp(80, 8080).at_node(NODE_PORT)], ..web }
}

#[test]
fn load_balancers_hear_how_many_endpoints_a_node_has() {
    let rig = Rig::new();
    let check = |node: u8, endpoints: usize| {
        for Answer { head, body } in rig.hears(node, HEALTH).expect("nobody answers") {
            let status = if endpoints > 0 { "HTTP/1.1 200 OK" } else { "HTTP/1.1 503 Service Unavailable" };
            assert!(head.starts_with(status), "{head}");
            let weight = format!("x-load-balancing-endpoint-weight: {endpoints}");
            assert!(head.lines().any(|line| line == weight), "{head}");
            let service = json!({"namespace": "default", "name": "web"});
            let expected = json!({
                "service": service, "localEndpoints": endpoints, "serviceProxyHealthy": true,
            });
            assert_eq!(body, expected);
        }
    };
    rig.serve(&web(), None, &[]);
    // Each has an address of either family, and is one all the same.
    check(0, 2);
    rig.serve(&web(), None, &["web-n0-0"]);
    check(0, 1);
    // All of them terminate: they serve, but nobody new is to come here.
    rig.serve(&web(), None, &["web-n0-0", "web-n0-1"]);
    check(0, 0);
    check(1, 2);
    for address in [IpAddr::from(node_address(0)), node_address6(0).into()] {
        let to = SocketAddr::new(address, NODE_PORT);
        requests(&rig.cluster.outside, to, 10, Protocol::Tcp).assert_clean(10, to);
    }
    rig.serve(&web(), Some("-n0-"), &[]);
    check(0, 0);

    // Another service with the same port is told so, and the first is served on.
    rig.serve(&service("a", 2, HEALTH), None, &[]);
    let status = rig.cluster.nodes[0].agent().status();
    let told = status.problems.iter().find(|problem| problem.field == "spec.healthCheckNodePort");
    assert!(told.unwrap().message.contains("is that of service default/web"), "{:?}", status.problems);
    check(1, 2);
    rig.cluster.manifests().remove("a.service.yaml");
    let plain = Service { spec: "  type: LoadBalancer\n".into(), ..web() };
    rig.serve(&plain, None, &[]);
    assert!(rig.hears(0, HEALTH).is_none(), "it is no longer wanted");
}

/// A controller writes the slices of two families one after the other.
#[test]
fn families_that_terminate_one_after_the_other_are_both_heard_of() {
    let rig = Rig::new();
    rig.cluster.manifests().write("web.service.yaml", &web().yaml());
    let heard = || rig.hears(0, HEALTH).unwrap().map(|answer| answer.endpoints());
    for first in [false, true] {
        rig.slice(&web(), first, false);
        rig.slice(&web(), !first, false);
        assert_eq!(heard(), [2, 2]);
        rig.slice(&web(), first, true);
        // IPv4 counts, where a service has it.
        assert_eq!(heard(), if first { [2, 2] } else { [0, 0] });
        rig.slice(&web(), !first, true);
        assert_eq!(heard(), [0, 0], "IPv6 first: {first}");
    }
}

#[test]
fn of_a_service_with_one_family_that_one_is_counted() {
    let rig = Rig::new();
    let six = web().yaml().replace("clusterIP: 10.96.0.1\n", "clusterIP: \"fd00:10:96::1\"\n");
    let six = six.replace("[\"10.96.0.1\", \"fd00:10:96::1\"]", "[\"fd00:10:96::1\"]");
    let six = six.replace("[IPv4, IPv6]", "[IPv6]").replace("10.96.0.21, ", "");
    rig.slice(&web(), true, false);
    rig.cluster.manifests().write("web.service.yaml", &six);
    rig.cluster.wait_converged();
    assert_eq!(rig.hears(0, HEALTH).unwrap().map(|answer| answer.endpoints()), [2, 2]);
}

#[test]
fn a_connection_that_is_kept_hears_what_is_so_now_and_ends_with_the_service() {
    let rig = Rig::new();
    rig.serve(&web(), None, &[]);
    let mut kept = rig.cluster.outside.run(|| connect(node_address(0).into(), HEALTH).unwrap());
    assert_eq!(ask(&mut kept).unwrap().endpoints(), 2);
    rig.serve(&web(), None, &["web-n0-0"]);
    assert_eq!(ask(&mut kept).unwrap().endpoints(), 1);
    rig.cluster.manifests().remove("web.service.yaml");
    rig.cluster.wait_converged();
    let answer = ask(&mut kept);
    assert!(answer.is_none(), "{answer:?}");
    assert!(rig.hears(0, HEALTH).is_none(), "the service is gone");
}

/// Whoever asks meanwhile is always answered.
#[test]
fn ports_go_over_from_one_service_to_another() {
    let rig = Rig::new();
    let both = |ports: [u16; 2]| {
        let texts = [service("a", 2, ports[0]).yaml(), service("b", 3, ports[1]).yaml()];
        rig.cluster.manifests().write("both.yaml", &texts.join("---\n"));
        rig.cluster.wait_converged();
        let status = rig.cluster.nodes[0].agent().status();
        assert!(status.problems.is_empty(), "{:?}", status.problems);
        for (name, port) in ["a", "b"].into_iter().zip(ports) {
            for answer in rig.hears(0, port).unwrap() {
                assert_eq!(answer.service(), name);
            }
        }
    };
    both([HEALTH, OTHER]);
    let asking = Worker::start(&rig.cluster.outside, |stop| {
        let mut asked = 0;
        while !stop.load(Ordering::Relaxed) {
            let answer = connect(node_address(0).into(), HEALTH).map(|mut stream| ask(&mut stream));
            assert!(matches!(answer, Ok(Some(_))), "{answer:?}");
            asked += 1;
            thread::sleep(Duration::from_millis(1));
        }
        asked
    });
    for round in 0..6 {
        both(if round % 2 == 0 { [OTHER, HEALTH] } else { [HEALTH, OTHER] });
    }
    let asked: u64 = asking.end();
    assert!(asked >= 100, "{asked}");
}

#[test]
fn both_families_are_answered_whatever_the_host_makes_of_sockets() {
    let rig = Rig::new();
    rig.cluster.nodes[0].netns.set_sysctl("net/ipv6/bindv6only", "1");
    rig.serve(&web(), None, &[]);
    assert!(rig.hears(0, HEALTH).is_some());
}
