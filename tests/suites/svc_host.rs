//! SVC-16, the other part: does a process of the node itself reach services, at
//! their own addresses and by node ports at 127.0.0.1 and ::1, and does its
//! socket say so?

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::{Report, requests},
    manifest::{Port, Service, Slice},
    netns::Netns,
    pinned::Pinned,
    server::Server,
    topology::{
        Cluster, Container, node_address, node_address6, outside_address, outside_address6, vip, vip6, widen,
    },
    wire::{Answer, Protocol, WHO},
};
use socket2::{Domain, Socket, Type};

const REQUESTS: u64 = 200;
const NODE_PORT: u16 = 30_080;
const RANGE: (u16, u16) = (20_000, 20_009);
const AT_ONCE: Duration = Duration::from_millis(100);

struct Rig {
    cluster: Cluster,
    servers: Vec<(Container, Server)>,
}

impl Rig {
    /// Two nodes, three backends on each, behind every kind of frontend.
    fn new(config: &str) -> Self {
        let cluster = Cluster::configured(2, config);
        let servers = cluster.servers(6, 8080);
        let rig = Self { cluster, servers };
        rig.serve(service(), 0..6);
        rig
    }

    fn serve(&self, service: Service, backends: std::ops::Range<usize>) {
        let slice = self.slice(&service, backends);
        self.cluster.manifests().service(&service, &slice);
        self.cluster.wait_converged();
    }

    fn slice(&self, service: &Service, backends: std::ops::Range<usize>) -> Slice {
        let addresses: Vec<IpAddr> = self.servers[backends]
            .iter()
            .flat_map(|(at, _)| [at.address.into(), at.address6.unwrap().into()])
            .collect();
        service.slice(&addresses)
    }

    fn host(&self) -> &Netns {
        &self.cluster.nodes[0].netns
    }

    fn ask(&self, to: SocketAddr, protocol: Protocol) -> Report {
        let report = requests(self.host(), to, REQUESTS, protocol);
        report.assert_clean(REQUESTS, to);
        report
    }
}

fn service() -> Service {
    Service::new(
        "web",
        vip(1),
        &[Port::tcp(80, 8080).at_node(NODE_PORT), Port::udp(53, 8080).at_node(NODE_PORT)],
    )
    .dual(vip6(1))
    .with("type: NodePort")
}

/// Where the service is called, of both families.
fn frontends() -> Vec<(SocketAddr, Protocol)> {
    let mut all = Vec::new();
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        all.push((SocketAddr::new(vip(1).into(), port), protocol));
        all.push((SocketAddr::new(vip6(1).into(), port), protocol));
        // As sockets of both families name it. The kernel itself takes datagrams
        // to such addresses to the other family.
        all.push((SocketAddr::new(vip(1).to_ipv6_mapped().into(), port), protocol));
        for address in own_addresses() {
            all.push((SocketAddr::new(address, NODE_PORT), protocol));
        }
    }
    all
}

/// What the node calls itself.
fn own_addresses() -> [IpAddr; 5] {
    [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 1, 2, 3).into(),
        Ipv6Addr::LOCALHOST.into(),
        node_address(0).into(),
        node_address6(0).into(),
    ]
}

#[test]
fn the_node_calls_services_by_every_name() {
    let mut rig = Rig::new("");
    assert_eq!(rig.cluster.nodes[0].agent().ask(&["status"])["hook"], "tcx+sockets");
    let check = |rig: &Rig, state: &str| {
        for (to, protocol) in frontends() {
            let report = rig.ask(to, protocol);
            assert_eq!(report.by_server.len(), 6, "{state}, {to}: {report}");
            let seen: BTreeSet<&IpAddr> = report.peers_seen.keys().collect();
            let own: IpAddr = match report.peers_seen.keys().next() {
                Some(IpAddr::V4(_)) => node_address(0).into(),
                _ => node_address6(0).into(),
            };
            assert_eq!(seen, [&own].into(), "{state}, {to}: the node under another name");
        }
    };
    check(&rig, "at first");
    let served = rig.cluster.nodes[0].agent().counters()["socket_served"];
    assert!(served >= REQUESTS * frontends().len() as u64, "{served}");
    rig.cluster.nodes[0].agent_mut().kill9();
    check(&rig, "without an agent");
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    check(&rig, "after a restart");
}

/// The socket of a stream that began before its agent was killed still says whom
/// it called, and goes on; a datagram socket that talks to several services by
/// one port sees each under its name.
#[test]
fn sockets_say_whom_they_called() {
    let mut rig = Rig::new("");
    let other = Service::new("other", vip(2), &[Port::udp(53, 8080)]).dual(vip6(2));
    rig.cluster.manifests().service(&other, &rig.slice(&other, 0..6));
    rig.cluster.wait_converged();
    let calls: [SocketAddr; 3] =
        [(vip(1), 80).into(), (vip6(1), 80).into(), (Ipv4Addr::LOCALHOST, NODE_PORT).into()];
    let streams: Vec<TcpStream> =
        rig.host().run(|| calls.iter().map(|to| TcpStream::connect(to).unwrap()).collect());
    rig.cluster.nodes[0].agent_mut().kill9();
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    for (stream, to) in streams.iter().zip(calls) {
        assert_eq!(stream.peer_addr().unwrap(), to);
    }

    for (any, calls) in [
        (
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            [(IpAddr::from(vip(1)), 53), (vip(2).into(), 53), (Ipv4Addr::LOCALHOST.into(), NODE_PORT)],
        ),
        (
            Ipv6Addr::UNSPECIFIED.into(),
            [(vip6(1).into(), 53), (vip6(2).into(), 53), (Ipv6Addr::LOCALHOST.into(), NODE_PORT)],
        ),
    ] {
        let socket = rig.host().run(|| UdpSocket::bind((any, 0))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for round in 0..50 {
            for to in calls.map(SocketAddr::from) {
                socket.send_to(WHO.as_bytes(), to).unwrap();
                let (_, from) = socket.recv_from(&mut [0; 64]).unwrap();
                assert_eq!(from, to, "round {round}");
            }
        }
        // Connected, it hears the service alone.
        for to in calls.map(SocketAddr::from) {
            let socket = rig.host().run(|| UdpSocket::bind((any, 0))).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), to);
            for _ in 0..10 {
                socket.send(WHO.as_bytes()).unwrap();
                let (_, from) = socket.recv_from(&mut [0; 64]).unwrap();
                assert_eq!(from, to);
            }
        }
    }
}

#[test]
fn refusals_come_at_once() {
    let rig = Rig::new("");
    rig.serve(service(), 0..0);
    let nobody_listens = |to: SocketAddr| {
        let begun = Instant::now();
        let refused = rig.host().run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{to}");
        assert!(begun.elapsed() < AT_ONCE, "{to}: {:?}", begun.elapsed());
    };
    for (to, protocol) in frontends() {
        match protocol {
            Protocol::Tcp => nobody_listens(to),
            Protocol::Udp => {
                let any: IpAddr =
                    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = rig.host().run(|| UdpSocket::bind((any, 0))).unwrap();
                let refused = rig.host().run(|| socket.send_to(WHO.as_bytes(), to)).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{to}");
            }
        }
    }
    rig.serve(service(), 0..6);
    nobody_listens((vip(1), 81).into());
    nobody_listens((vip6(1), 81).into());
    // What is the node's own stays so, whoever has a frontend there.
    let own = Server::start(rig.host(), "own", 9000);
    let datagrams_answered_by_name = |address: &IpAddr| *address != IpAddr::from(Ipv4Addr::new(127, 1, 2, 3));
    for address in own_addresses().into_iter().filter(datagrams_answered_by_name) {
        let to = SocketAddr::new(address, 9000);
        requests(rig.host(), to, 5, Protocol::Tcp).assert_clean(5, to);
        requests(rig.host(), to, 5, Protocol::Udp).assert_clean(5, to);
    }
    assert_eq!((own.connections(), own.datagrams()), (20, 20));
    let counters = rig.cluster.nodes[0].agent().counters();
    assert_eq!(counters["socket_refused"], frontends().len() as u64 + 2);
}

#[test]
fn affinity_ranges_and_source_ranges_hold_for_the_node_too() {
    let rig = Rig::new("");
    let (first, last) = RANGE;
    let ports: Vec<u16> = (0..10).map(|offset| 9100 + offset).collect();
    let _servers: Vec<Server> =
        rig.servers.iter().map(|(at, _)| Server::start_on(&at.netns, &at.name, &ports)).collect();
    let range = Service::new("range", vip(3), &[Port::udp(first, 9100).through(last)]).dual(vip6(3));
    let sticky = Service::new("sticky", vip(4), &[Port::tcp(80, 8080)])
        .dual(vip6(4))
        .with("sessionAffinity: ClientIP");
    let closed = Service::new("closed", vip(5), &[Port::tcp(80, 8080)])
        .dual(vip6(5))
        .with("type: LoadBalancer")
        .with("loadBalancerSourceRanges: [203.0.113.0/24]")
        .with("externalIPs: [192.0.2.80]");
    for service in [&range, &sticky, &closed] {
        rig.cluster.manifests().service(service, &rig.slice(service, 0..6));
    }
    rig.cluster.wait_converged();
    for port in [first, first + 4, last] {
        for address in [IpAddr::from(vip(3)), vip6(3).into()] {
            rig.ask(SocketAddr::new(address, port), Protocol::Udp);
        }
    }
    for address in [IpAddr::from(vip(4)), vip6(4).into()] {
        let report = rig.ask(SocketAddr::new(address, 80), Protocol::Tcp);
        assert_eq!(report.by_server.len(), 1, "{report}");
    }
    rig.ask((Ipv4Addr::new(192, 0, 2, 80), 80).into(), Protocol::Tcp);
}

/// Processes elsewhere on the machine are not the agent's business, and what is
/// taken away comes back.
#[test]
fn only_the_nodes_own_sockets_are_looked_at() {
    let mut rig = Rig::new("");
    let to = SocketAddr::new(vip(1).into(), 80);
    let stranger = Netns::new();
    stranger.ip("link set lo up");
    let served = || rig.cluster.nodes[0].agent().counters()["socket_served"];
    let before = served();
    let error = requests(&stranger, to, 1, Protocol::Tcp);
    assert!(error.errors[0].contains("unreachable"), "{error}");
    assert_eq!(served(), before, "another network's process was given a backend");
    for (address, ip) in [(outside_address().into(), false), (IpAddr::from(outside_address6()), true)] {
        let server = Server::start(&rig.cluster.outside, "outside", 8000 + u16::from(ip));
        let to = SocketAddr::new(address, 8000 + u16::from(ip));
        requests(rig.host(), to, 5, Protocol::Tcp).assert_clean(5, to);
        drop(server);
    }

    let pins = rig.cluster.nodes[0].agent().pins().to_owned();
    let links = Pinned::new(&pins);
    let attached = links.attached();
    assert_eq!(links.detach_links(), attached);
    rig.cluster.nodes[0].agent().wait_status("drift is mended", Duration::from_secs(5), |status| {
        status.drift.repaired >= attached as u64
    });
    assert_eq!(links.attached(), attached);
    rig.ask(to, Protocol::Tcp);

    rig.cluster.nodes[0].agent_mut().kill9();
    rig.cluster.nodes[0].agent_mut().reconfigure("host_services = false\n");
    rig.cluster.nodes[0].agent_mut().restart();
    rig.cluster.wait_converged();
    assert_eq!(rig.cluster.nodes[0].agent().ask(&["status"])["hook"], "tcx");
    assert_eq!(links.attached(), attached - 8, "the programs for sockets are gone");
    assert_eq!(requests(rig.host(), to, 1, Protocol::Tcp).ok, 0);
}

/// Thousands of connections at a time by one node port at 127.0.0.1.
#[test]
fn many_connections_to_a_node_port_at_a_time() {
    const MANY: usize = 2000;
    let rig = Rig::new("");
    widen(rig.host());
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let to = SocketAddr::new(address, NODE_PORT);
        let open: Vec<TcpStream> = rig.host().run(|| {
            (0..MANY)
                .map(|number| {
                    TcpStream::connect_timeout(&to, Duration::from_secs(3))
                        .unwrap_or_else(|error| panic!("connection {number} to {to}: {error}"))
                })
                .collect()
        });
        assert!(open.iter().all(|stream| stream.peer_addr().unwrap() == to));
    }
}

/// The kernel gives connections of the node any port, which may be a node port's
/// number as well: their answers are theirs, and who knocks there from outside is
/// served all the same.
#[test]
fn the_nodes_own_connections_may_have_a_node_ports_number() {
    let rig = Rig::new("");
    let _outside = Server::start(&rig.cluster.outside, "outside", 9000);
    let (near, far) = (&rig.servers[0].0, &rig.servers[3].0);
    let outside: [IpAddr; 2] = [outside_address().into(), outside_address6().into()];
    for six in [false, true] {
        let at = |v4: Ipv4Addr, v6: Ipv6Addr| if six { IpAddr::from(v6) } else { v4.into() };
        let peers = [
            SocketAddr::new(at(vip(1), vip6(1)), 80),
            SocketAddr::new(at(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST), NODE_PORT),
            SocketAddr::new(at(near.address, near.address6.unwrap()), 8080),
            SocketAddr::new(at(far.address, far.address6.unwrap()), 8080),
            SocketAddr::new(outside[usize::from(six)], 9000),
        ];
        let own = SocketAddr::new(at(node_address(0), node_address6(0)), NODE_PORT);
        for to in peers {
            for kind in [Type::STREAM, Type::DGRAM] {
                // Services have datagrams at a port of their own.
                let to = match (kind, to.port()) {
                    (Type::DGRAM, 80) => SocketAddr::new(to.ip(), 53),
                    _ => to,
                };
                let answer = rig.host().run(|| ask_from(own.port(), to, kind));
                let answer = answer.unwrap_or_else(|error| panic!("{kind:?} from {own} to {to}: {error}"));
                assert_eq!(answer.peer, own, "{kind:?} to {to}");
            }
        }
        let knock = || {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                requests(&rig.cluster.outside, own, 20, protocol).assert_clean(20, own);
            }
        };
        knock();
        // A process that listens there, or hears all, takes nothing away.
        let _listens = rig.host().run(|| (TcpListener::bind(own).unwrap(), UdpSocket::bind(own).unwrap()));
        knock();
    }
}

/// One question from a connected socket with that port, and its answer.
fn ask_from(port: u16, to: SocketAddr, kind: Type) -> io::Result<Answer> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut socket = Socket::new(Domain::for_address(to), kind, None)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    // The port is free at once for the next.
    if kind == Type::STREAM {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(2))?;
    let mut buffer = [0; 512];
    let mut length = 0;
    for _ in 0..3 {
        socket.write_all(format!("{WHO}\n").as_bytes())?;
        length = socket.read(&mut buffer)?;
    }
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Answer::parse(&text).ok_or_else(|| io::Error::other(text))
}
