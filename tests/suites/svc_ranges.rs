//! SVC-17: do many ports, or a whole address, lead to a service by one map
//! entry? To the port that the client asked for, and not beside the range.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    thread,
    time::{Duration, Instant},
};

use aya::maps::MapData;
use causeway_testkit::{
    client::{PATIENCE, first_answer, request, requests},
    frame::Frame,
    manifest::{Port, Service},
    netns::Netns,
    pinned::Pinned,
    server::Server,
    table::Table,
    topology::{Cluster, Container, UPLINK, vip, vip6},
    wire::Protocol::{self, Tcp, Udp},
};

const FAMILIES: [bool; 2] = [false, true];
const RANGES: &str = "causeway.io/port-ranges";
const WHOLE: &str = "causeway.io/whole-address";

struct Rig {
    cluster: Cluster,
    server: Container,
    client: Container,
    _servers: Vec<Server>,
}

impl Rig {
    /// A container with a server at each of these ports, named after it.
    fn new(ports: &[u16]) -> Self {
        let cluster = Cluster::dual(1);
        let server = cluster.nodes[0].container("server", 2);
        let client = cluster.nodes[0].container("client", 3);
        let start = |&port: &u16| Server::start(&server.netns, &format!("port-{port}"), port);
        let _servers = ports.iter().map(start).collect();
        Self { cluster, server, client, _servers }
    }

    fn backends(&self) -> [IpAddr; 2] {
        [self.server.address.into(), self.server.address6.unwrap().into()]
    }

    fn write(&self, service: &Service) {
        self.cluster.manifests().service(service, &service.slice(&self.backends()));
    }

    fn serve(&self, service: &Service) {
        self.write(service);
        self.cluster.wait_converged();
        let problems = self.cluster.nodes[0].agent().status().problems;
        assert!(problems.is_empty(), "{problems:?}");
    }

    fn clients(&self) -> [&Netns; 2] {
        [&self.client.netns, &self.cluster.outside]
    }

    /// A port of VIP 1 leads to a port of the server, for all clients.
    #[track_caller]
    fn leads(&self, port: u16, protocol: Protocol, to: u16) {
        for (six, netns) in FAMILIES.iter().flat_map(|&six| self.clients().map(|netns| (six, netns))) {
            let at = frontend(six, port);
            let report = requests(netns, at, 3, protocol);
            report.assert_clean(3, at);
            assert!(report.by_server.keys().eq([&format!("port-{to}")]), "{at} {protocol:?}: {report}");
        }
    }

    /// A port of VIP 1 is refused at once, for all clients.
    #[track_caller]
    fn refuses(&self, port: u16, protocol: Protocol) {
        for (six, netns) in FAMILIES.iter().flat_map(|&six| self.clients().map(|netns| (six, netns))) {
            let (at, begun) = (frontend(six, port), Instant::now());
            assert_eq!(
                netns.run(|| refusal(at, protocol)),
                ErrorKind::ConnectionRefused,
                "{at} {protocol:?}"
            );
            assert!(begun.elapsed() < Duration::from_secs(1));
        }
    }

    fn pinned(&self) -> Pinned {
        Pinned::new(self.cluster.nodes[0].agent().pins())
    }

    /// Rows of a hash map.
    fn rows(&self, map: &str) -> usize {
        Table::of(&self.pinned().hash_map(map)).keys().len()
    }

    /// Bytes that the kernel counts for the agent's maps, of both families.
    fn map_bytes(&self) -> u64 {
        let maps = self.pinned().file("CONFIG").parent().unwrap().to_owned();
        let mut sum = 0;
        for map in fs::read_dir(maps).unwrap().map(|entry| entry.unwrap().path()) {
            let map = MapData::from_pin(map).unwrap();
            let text = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
            let text = fs::read_to_string(text).unwrap();
            let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
            sum += bytes.trim().parse::<u64>().unwrap();
        }
        sum
    }
}

fn frontend(six: bool, port: u16) -> SocketAddr {
    SocketAddr::new(if six { vip6(1).into() } else { vip(1).into() }, port)
}

/// How a request fails, from the calling thread's namespace.
fn refusal(at: SocketAddr, protocol: Protocol) -> ErrorKind {
    if protocol == Tcp {
        return TcpStream::connect_timeout(&at, PATIENCE).expect_err("a connection").kind();
    }
    let own: IpAddr = if at.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    // Connected, so that an ICMP error is told.
    let socket = UdpSocket::bind((own, 0)).unwrap();
    socket.connect(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"who").unwrap();
    socket.recv(&mut [0; 64]).expect_err("an answer").kind()
}

/// `udp` 10000 to 60000, and a lone TCP port.
fn media() -> Service {
    let ports = [Port::udp(10_000, 10_000).through(60_000), Port::tcp(80, 10_000)];
    Service::new("media", vip(1), &ports).dual(vip6(1))
}

#[test]
fn who_comes_from_outside_finds_a_port_a_range_and_all_ports_apart() {
    let mut rig = Rig::new(&[2000, 5500, 8050, 9000]);
    let local = |name: &str, host: u8, port: Port| {
        Service::new(name, vip(host), &[port])
            .dual(vip6(host))
            .with("type: LoadBalancer")
            .with("externalTrafficPolicy: Local")
            .with("externalIPs: [10.96.0.1, \"fd00:10:96::1\"]")
    };
    // Whoever comes first.
    for [one, other] in [["a", "b"], ["b", "a"]] {
        for service in [
            local(one, 2, Port::tcp(7000, 9000)),
            local(other, 3, Port::tcp(7000, 8000).through(7100)),
            local("low", 4, Port::tcp(1, 5001).through(1023)),
            local("all", 5, Port::tcp(7900, 9000)).annotated(WHOLE, "true"),
        ] {
            let slice = service.slice(&rig.backends()).placed();
            rig.cluster.manifests().service(&service, &slice);
        }
        rig.cluster.wait_converged();
        assert!(rig.cluster.nodes[0].agent().status().problems.is_empty());
        for (port, to) in [(7000, 9000), (7050, 8050), (500, 5500), (2000, 2000)] {
            rig.leads(port, Tcp, to);
        }
    }
    // A new agent knows the old one's rows again.
    rig.cluster.nodes[0].agent_mut().kill9();
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    assert_eq!(rig.cluster.nodes[0].agent().status().drift.repaired, 0);
    rig.leads(500, Tcp, 5500);
}

#[test]
fn a_range_leads_to_the_port_asked_for_and_not_beside_it() {
    let mut rig = Rig::new(&[9_999, 10_000, 35_000, 60_000, 60_001, 7_000, 7_010, 7_011]);
    rig.serve(&media().annotated(RANGES, "7000-7010/TCP"));
    for port in [10_000, 35_000, 60_000] {
        rig.leads(port, Udp, port);
        rig.refuses(port, Tcp);
    }
    for port in [7_000, 7_010] {
        rig.leads(port, Tcp, port);
        rig.refuses(port, Udp);
    }
    rig.refuses(9_999, Udp);
    rig.refuses(60_001, Udp);
    rig.refuses(6_999, Tcp);
    rig.refuses(7_011, Tcp);
    rig.leads(80, Tcp, 10_000);
    // A pod that calls its own service, and a new agent over the old one's maps.
    for six in FAMILIES {
        let at = frontend(six, 35_000);
        requests(&rig.server.netns, at, 3, Udp).assert_clean(3, at);
    }
    rig.cluster.nodes[0].agent_mut().kill9();
    rig.leads(10_000, Udp, 10_000);
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    assert_eq!(rig.cluster.nodes[0].agent().status().drift.repaired, 0);
    rig.leads(60_000, Udp, 60_000);
    rig.cluster.manifests().remove("media.service.yaml");
    rig.cluster.wait_converged();
    assert_eq!((rig.rows("PORT_RANGES_V4"), rig.rows("FRONTENDS_V6")), (0, 0));
}

#[test]
fn fifty_thousand_ports_are_one_entry_programmed_at_once() {
    let rig = Rig::new(&[10_000]);
    let service = Service { ports: vec![Port::udp(10_000, 10_000).through(60_000)], ..media() };
    rig.cluster.manifests().slice(&service.slice(&rig.backends()));
    rig.cluster.wait_converged();
    let (before, table) = (rig.map_bytes(), rig.pinned().hash_map("PORT_RANGES_V6"));
    // The best of some: a row says how soon it can be, not how busy the machine is.
    let times = (0..5).map(|_| {
        let begun = Instant::now();
        rig.write(&service);
        // The last that is written; the pauses are a fraction of what is measured.
        while Table::of(&table).keys().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "never programmed");
            thread::sleep(Duration::from_micros(200));
        }
        let seen = begun.elapsed();
        rig.cluster.wait_converged();
        let applied = Duration::from_micros(rig.cluster.nodes[0].agent().status().last_apply_micros);
        rig.cluster.manifests().remove("media.service.yaml");
        rig.cluster.wait_converged();
        (applied, seen)
    });
    let (applied, seen) = times.min().unwrap();
    rig.serve(&service);
    let delta = rig.map_bytes() - before;
    println!(
        "10000-60000/UDP over two families: {seen:?} from the file to its row in the kernel, {applied:?} from the \
         event to all of it read back; {delta} bytes of maps"
    );
    // A frontend is the marker of the address.
    let maps = ["PORT_RANGES_V4", "PORT_RANGES_V6", "FRONTENDS_V4", "FRONTENDS_V6"];
    assert_eq!(maps.map(|map| rig.rows(map)), [1; 4]);
    assert!(applied < Duration::from_millis(5) && seen < Duration::from_secs(1));
    assert!((1..4096).contains(&delta), "{delta} bytes");
    rig.leads(10_000, Udp, 10_000);
}

#[test]
fn ports_come_before_ranges_and_ranges_before_the_address() {
    let rig = Rig::new(&[1, 8_000, 8_050, 9_000, 9_005, 65_535]);
    // Ranges keep the distance to a target port; what is of the whole address, its port.
    let ports = [
        Port::tcp(7_000, 8_000).through(7_100),
        Port::tcp(7_050, 9_000).named("one"),
        Port::udp(5_000, 9_000).through(5_010),
    ];
    let service = Service::new("web", vip(1), &ports).dual(vip6(1));
    rig.serve(&service);
    rig.leads(7_000, Tcp, 8_000);
    rig.leads(7_050, Tcp, 9_000);
    rig.leads(5_005, Udp, 9_005);
    rig.refuses(8_050, Tcp);
    rig.serve(&service.clone().annotated(WHOLE, "true"));
    rig.leads(7_000, Tcp, 8_000);
    rig.leads(7_050, Tcp, 9_000);
    rig.leads(5_005, Udp, 9_005);
    for (port, protocol) in [1, 8_050, 65_535].iter().flat_map(|&port| [(port, Tcp), (port, Udp)]) {
        rig.leads(port, protocol, port);
    }
    assert_eq!((rig.rows("PORT_RANGES_V4"), rig.rows("PORT_RANGES_V6")), (1, 1));
    // Without its own frontend a port is the range's again, without that the address'.
    let mut fewer = service.annotated(WHOLE, "true");
    fewer.ports.remove(1);
    rig.serve(&fewer);
    rig.leads(7_050, Tcp, 8_050);
    fewer.ports.remove(0);
    rig.serve(&fewer);
    rig.leads(8_000, Tcp, 8_000);
    rig.refuses(7_050, Tcp);
}

#[test]
fn a_backends_own_refusal_comes_back_as_the_services() {
    let rig = Rig::new(&[10_000]);
    rig.serve(&media());
    let translated = |rig: &Rig| rig.cluster.nodes[0].agent().counters()["icmp_translated"];
    for six in FAMILIES {
        let before = translated(&rig);
        // In the range, but nobody listens there.
        let kind = rig.client.netns.run(|| refusal(frontend(six, 44_444), Udp));
        assert_eq!(kind, ErrorKind::ConnectionRefused);
        assert!(translated(&rig) > before, "an error of the backend's");
    }
    // Without a backend, the sender hears of it too.
    let service = media();
    rig.cluster.manifests().slice(&service.slice::<IpAddr>(&[]));
    rig.cluster.wait_converged();
    rig.refuses(10_000, Udp);
    assert!(rig.cluster.nodes[0].agent().counters()["drop_no_backend"] > 0);
}

#[test]
fn affinity_and_source_ranges_hold_for_ranges() {
    let rig = Rig::new(&[]);
    let other = rig.cluster.nodes[0].container("other", 4);
    let ports = [10_000, 10_001, 20_000, 30_000];
    let _servers = [&rig.server, &other].map(|at| Server::start_on(&at.netns, &at.name, &ports));
    let backends = [&rig.server, &other].map(|at| [IpAddr::from(at.address), at.address6.unwrap().into()]);
    let write = |affinity: &str| {
        let service = media()
            .with(&format!("sessionAffinity: {affinity}"))
            .with("type: LoadBalancer")
            .with("loadBalancerSourceRanges: [\"10.244.0.0/16\", \"fd00:10:244::/48\"]");
        rig.cluster.manifests().slice(&service.slice(&backends.concat()));
        let status = "status:\n  loadBalancer:\n    ingress: [{ip: 10.96.0.9}, {ip: \"fd00:10:96::9\"}]\n";
        rig.cluster.manifests().write("media.service.yaml", &format!("{}{status}", service.yaml()));
        rig.cluster.wait_converged();
    };
    let met = |six: bool| -> std::collections::BTreeSet<String> {
        let ask =
            |&port: &u16| requests(&rig.client.netns, frontend(six, port), 10, Udp).by_server.into_keys();
        ports.iter().flat_map(ask).collect()
    };
    write("None");
    assert_eq!(FAMILIES.map(|six| met(six).len()), [2, 2]);
    write("ClientIP");
    assert_eq!(FAMILIES.map(|six| met(six).len()), [1, 1]);
    for at in ["10.96.0.9:20000", "[fd00:10:96::9]:20000"].map(|at| at.parse::<SocketAddr>().unwrap()) {
        assert!(rig.client.netns.run(|| request(at, Udp)).is_ok(), "{at}");
        assert!(
            first_answer(&rig.cluster.outside, at, Duration::from_millis(200), |_| true).is_none(),
            "{at}"
        );
    }
    assert!(rig.cluster.nodes[0].agent().counters()["drop_source_range"] > 0);
}

#[test]
fn what_the_operator_sees() {
    let rig = Rig::new(&[]);
    rig.serve(&media().annotated(RANGES, "7000-7010/TCP"));
    let agent = rig.cluster.nodes[0].agent();
    for (protocol, tuple, reason, service, backend) in [
        ("--udp", "192.168.77.200:4000-10.96.0.1:10005", "delivered", "udp", "10.244.0.2:10005"),
        ("--tcp", "192.168.77.200:4000-10.96.0.1:7003", "delivered", "7000-7010/TCP", "10.244.0.2:7003"),
        ("--udp", "[fd00:77::200]:4000-[fd00:10:96::1]:60000", "delivered", "udp", "[fd00:10:244::2]:60000"),
        ("--tcp", "192.168.77.200:4000-10.96.0.1:80", "delivered", "tcp", "10.244.0.2:10000"),
        ("--udp", "192.168.77.200:4000-10.96.0.1:9999", "drop_no_frontend", "", ""),
    ] {
        let told = agent.ask(&["trace", "--interface", UPLINK, protocol, tuple]);
        let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        let service = if service.is_empty() { String::new() } else { format!("default/media:{service}") };
        assert_eq!(
            [text("reason"), text("service"), text("backend")],
            [reason, &service, backend],
            "{tuple}"
        );
        if !backend.is_empty() {
            let hex = text("packet_out");
            let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
            let frame = Frame::read(&bytes.collect::<Vec<_>>()).unwrap().to_string();
            let port = backend.rsplit(':').next().unwrap();
            assert!(frame.contains(port), "{frame}");
        }
    }
    let shown = agent.ask(&["show", "services"]);
    let frontends = |name: &str| {
        let services = shown.as_array().unwrap();
        services.iter().find(|service| service["name"] == name).unwrap()["frontends"].clone()
    };
    let expected = serde_json::json!(["10.96.0.1:10000-60000/UDP", "[fd00:10:96::1]:10000-60000/UDP"]);
    assert_eq!(frontends("default/media:udp"), expected);
    assert!(agent.text(&["show", "services"]).contains("10.96.0.1:7000-7010/TCP"));
    let rows = agent
        .status()
        .maps
        .iter()
        .filter(|map| map.map.contains("port_ranges"))
        .map(|map| map.used)
        .sum::<u64>();
    assert_eq!(rows, 2);

    // Another service that wants some of it is told so, and has the rest.
    let late = Service::new("other", vip(1), &[Port::udp(60_000, 9_000).through(60_100)]);
    rig.write(&late);
    let status = agent.wait_status("the overlap named", PATIENCE, |status| !status.problems.is_empty());
    let problem = &status.problems[0];
    assert!(
        problem.origin.contains("other.service.yaml") && problem.message.contains("default/media:udp"),
        "{problem:?}"
    );
    // A stranger's hand is undone.
    let table = rig.pinned().hash_map("PORT_RANGES_V4");
    let (table, key) = (Table::of(&table), [10, 96, 0, 1]);
    let sound = table.get(&key).unwrap();
    let mut row = sound.clone();
    row[1] ^= 0xff;
    table.put(&key, &row);
    let drift = agent.wait_status("the repair", PATIENCE, |status| status.drift.repaired > 0).drift;
    assert!(drift.last.iter().any(|line| line.contains("port_ranges 10.96.0.1: altered")), "{drift:?}");
    assert_eq!(table.get(&key).unwrap(), sound);
}
