//! Who may come to a load balancer's address? Those in the service's source
//! ranges; the others hear nothing, and its other addresses are for all.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::requests,
    manifest::{Port, Service},
    netns::Netns,
    server::Server,
    topology::{Cluster, Container, PATIENCE, vip, vip6},
    until::until,
    wire::{Protocol, WHO},
};

/// How long a client knocks at a door that should be shut.
const KNOCK: Duration = Duration::from_millis(300);
const OUTSIDE: [&str; 2] = ["192.168.77.0/24", "fd00:77::/64"];
const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

struct Rig {
    cluster: Cluster,
    server: Container,
    _server: Server,
    client: Container,
}

impl Rig {
    fn new() -> Self {
        let cluster = Cluster::dual(1);
        let server = cluster.nodes[0].container("server", 2);
        let client = cluster.nodes[0].container("client", 3);
        let _server = Server::start(&server.netns, "server", 8080);
        Self { cluster, server, _server, client }
    }

    /// Writes the service, its load-balancer addresses open to these alone.
    fn allow(&self, ranges: &[&str]) {
        let ports = [Port::tcp(80, 8080), Port::udp(80, 8080).at_node(30_080)];
        let service = Service::new("web", vip(1), &ports)
            .dual(vip6(1))
            .with("type: LoadBalancer")
            .with("externalIPs: [10.96.0.8, \"fd00:10:96::8\"]")
            .with(&format!("loadBalancerSourceRanges: {ranges:?}"));
        let backends: [IpAddr; 2] = [self.server.address.into(), self.server.address6.unwrap().into()];
        let manifests = self.cluster.manifests();
        manifests.slice(&service.slice(&backends));
        let status = "status:\n  loadBalancer:\n    ingress: [{ip: 10.96.0.9}, {ip: \"fd00:10:96::9\"}]\n";
        manifests.write("web.service.yaml", &format!("{}{status}", service.yaml()));
        self.cluster.wait_converged();
    }

    fn dropped(&self) -> u64 {
        let shown = self.cluster.nodes[0].agent().ask(&["show", "counters"]);
        let counters = shown.as_array().unwrap();
        let counter = counters.iter().find(|counter| counter["name"] == "drop_source_range").unwrap();
        assert_eq!(counter["drop"], true);
        counter["packets"].as_u64().unwrap()
    }

    /// Who comes in by IPv4 and IPv6: clients outside, and pods.
    #[track_caller]
    fn check(&self, outside: [bool; 2], pods: [bool; 2]) {
        for (index, six) in [false, true].into_iter().enumerate() {
            for (netns, open) in [(&self.cluster.outside, outside[index]), (&self.client.netns, pods[index])]
            {
                let before = self.dropped();
                assert_eq!(comes_in(netns, balanced(six)), open, "{} by {}", netns.name(), balanced(six));
                assert_eq!(self.dropped() > before, !open, "the counter");
            }
        }
    }
}

fn balanced(six: bool) -> SocketAddr {
    SocketAddr::new(if six { "fd00:10:96::9".parse().unwrap() } else { [10, 96, 0, 9].into() }, 80)
}

/// Each time from a port that was never used: who has come in once stays in.
fn comes_in(netns: &Netns, to: SocketAddr) -> bool {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    comes_in_from(netns, to, || NEXT.fetch_add(1, Relaxed))
}

fn comes_in_from(netns: &Netns, to: SocketAddr, port: impl Fn() -> u16 + Sync) -> bool {
    let own: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let knock = || {
        let port = port();
        // A child that another test is starting may have the last one's socket still.
        let socket = until("the port", PATIENCE, || UdpSocket::bind((own, port)).ok());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        socket.send_to(WHO.as_bytes(), to).is_ok() && socket.recv_from(&mut [0; 512]).is_ok()
    };
    let end = Instant::now() + KNOCK;
    netns.run(|| std::iter::repeat_with(knock).take_while(|_| Instant::now() < end).any(|answered| answered))
}

/// What comes back for a line.
fn exchange(stream: &TcpStream, line: &str) -> String {
    (&*stream).write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}

#[test]
fn ranges_keep_others_out_and_change_live() {
    let mut rig = Rig::new();
    rig.allow(&[]);
    rig.check([true; 2], [true; 2]);
    rig.allow(&OUTSIDE);
    rig.check([true; 2], [false; 2]);
    rig.allow(&PODS);
    rig.check([false; 2], [true; 2]);
    rig.allow(&[OUTSIDE, PODS].concat());
    rig.check([true; 2], [true; 2]);
    rig.allow(&["192.168.77.200/32", "fd00:77::201/128"]);
    rig.check([true, false], [false; 2]);
    rig.allow(&["0.0.0.0/0"]);
    rig.check([true, false], [true, false]);

    rig.cluster.nodes[0].agent_mut().kill9();
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    let drift = rig.cluster.nodes[0].agent().status().drift;
    assert_eq!(drift.repaired, 0, "a restart found something to mend: {drift:?}");
    rig.check([true, false], [true, false]);
    rig.allow(&[]);
    rig.check([true; 2], [true; 2]);
}

#[test]
fn other_addresses_are_for_all() {
    let rig = Rig::new();
    rig.allow(&["203.0.113.0/24"]);
    rig.check([false; 2], [false; 2]);
    let node: IpAddr = rig.cluster.nodes[0].address.into();
    let open: [SocketAddr; 5] = [
        (vip(1), 80).into(),
        (vip6(1), 80).into(),
        "10.96.0.8:80".parse().unwrap(),
        "[fd00:10:96::8]:80".parse().unwrap(),
        (node, 30_080).into(),
    ];
    for to in open {
        assert!(comes_in(&rig.cluster.outside, to) && comes_in(&rig.client.netns, to), "{to}");
    }
}

#[test]
fn a_flow_of_udp_stays_as_long_as_it_is_open() {
    let rig = Rig::new();
    rig.allow(&OUTSIDE);
    for six in [false, true] {
        let comes_in = |port| comes_in_from(&rig.cluster.outside, balanced(six), || port);
        assert!(comes_in(30_000));
        rig.allow(&PODS);
        assert!(comes_in(30_000) && !comes_in(30_001), "IPv6 {six}");
        rig.allow(&OUTSIDE);
    }
}

#[test]
fn open_connections_stay_and_new_ones_hear_nothing() {
    let rig = Rig::new();
    rig.allow(&OUTSIDE);
    for six in [false, true] {
        let to = balanced(six);
        let stream =
            rig.cluster.outside.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)).unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        assert_eq!(exchange(&stream, "before"), "before");
        rig.allow(&PODS);
        assert_eq!(exchange(&stream, "after"), "after");
        let refused = rig.cluster.outside.run(|| TcpStream::connect_timeout(&to, KNOCK).unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::TimedOut, "a silent drop: {refused}");
        requests(&rig.client.netns, to, 5, Protocol::Tcp).assert_clean(5, to);
        rig.allow(&OUTSIDE);
    }
}

#[test]
fn a_trace_and_the_lists_say_why() {
    let rig = Rig::new();
    rig.allow(&["198.51.100.0/24", "everybody"]);
    let agent = rig.cluster.nodes[0].agent();
    for (tuple, reason) in [
        ("198.51.100.7:4000-10.96.0.9:80", "delivered"),
        ("198.51.101.7:4000-10.96.0.9:80", "drop_source_range"),
        ("198.51.101.7:4000-10.96.0.1:80", "delivered"),
        ("[2001:db8::7]:4000-[fd00:10:96::9]:80", "drop_source_range"),
    ] {
        let told = agent.ask(&["trace", "--interface", "up0", "--tcp", tuple]);
        assert_eq!(
            (&told["reason"], &told["service"]),
            (&reason.into(), &"default/web:tcp".into()),
            "{tuple}"
        );
    }
    let service = &agent.ask(&["show", "services"])[0];
    assert_eq!(service["source_ranges"]["clients"], serde_json::json!(["198.51.100.0/24"]), "{service}");
    let text = agent.text(&["show", "services"]);
    assert!(text.contains("(10.96.0.9, fd00:10:96::9 only from 198.51.100.0/24)"), "{text}");
    let problems = agent.status().problems;
    assert!(
        problems.iter().any(|problem| problem.field == "spec.loadBalancerSourceRanges[1]"),
        "{problems:?}"
    );
}
