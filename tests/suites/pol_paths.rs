//! POL-01: are policies right for every way that packets go? Pings and errors,
//! fragments, other protocols, node ports, direct return, masquerade, a
//! container that calls itself, and what began before anybody asked.

use std::{
    io::{ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use causeway_schema::{GATEWAY_MAC, protocol::SCTP};
use causeway_testkit::{
    client::{request, requests},
    direct::{counted, direct, of_both, service},
    frame::{Body, Datagram, Frame, fragment},
    link::mac,
    manifest::{Port, Service},
    netns::Netns,
    ping::ping,
    raw::Raw,
    server::Server,
    streams::Streams,
    topology::{
        Cluster, Container, PATIENCE, node_address, node_address6, outside_address, outside_address6, vip,
        vip6,
    },
    wire::Protocol,
};
use socket2::{Domain, Socket, Type};

/// How long what is denied is waited for.
const IN_VAIN: Duration = Duration::from_millis(200);

/// Of containers, who are their own labels.
fn pods(containers: &[&Container]) -> String {
    let pods = containers.iter().map(|container| container.pod(&format!("app: {}", container.name)));
    pods.collect::<Vec<_>>().join("---\n")
}

/// A NetworkPolicy for `app`, with these rules and nothing else allowed.
fn policy(app: &str, directions: &str, rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {app}}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: {app}}}}}\n  policyTypes: [{directions}]\n{rules}"
    )
}

fn outside() -> [IpAddr; 2] {
    [outside_address().into(), outside_address6().into()]
}

/// Allows `app: LABEL` on these ports.
fn from(label: &str, ports: &str) -> String {
    format!("  ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {label}}}}}}}], ports: [{ports}]}}]\n")
}

/// A guarded container, those that it accepts, on its node and another, and one
/// that it does not.
struct Stage {
    cluster: Cluster,
    web: Container,
    friends: [Container; 2],
    foe: Container,
}

impl Stage {
    fn new() -> Self {
        let cluster = Cluster::dual(2);
        let [home, away] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (web, foe) = (home.container("web", 2), home.container("foe", 3));
        let friends = [home.container("friend", 4), away.container("friend-1", 5)];
        let all = pods(&[&web, &foe, &friends[0], &friends[1]]).replace("app: friend-1", "app: friend");
        cluster.manifests().write("pods.yaml", &all);
        Self { cluster, web, friends, foe }
    }

    fn policies(&self, policies: &[String]) {
        self.cluster.manifests().write("policies.yaml", &policies.join("---\n"));
        self.cluster.wait_converged();
    }
}

#[test]
fn pings_and_errors_are_judged() {
    let stage = Stage::new();
    let Stage { web, friends, foe, .. } = &stage;
    let guard = policy("web", "Ingress", &from("friend", "{port: 80}"));
    stage.policies(std::slice::from_ref(&guard));
    let pinged = |from: &Container, to: IpAddr, count| {
        from.netns.run(|| ping(to, count, if count == 1 { IN_VAIN } else { PATIENCE })).unwrap()
    };
    for to in web.addresses() {
        for from in [&friends[0], &friends[1], foe] {
            assert_eq!(pinged(from, to, 1), 0, "{} may ping {to}", from.name);
        }
    }
    // What the guarded asks for it gets: answers, and errors about its packets.
    for (index, peer) in [foe, &friends[1]].into_iter().enumerate() {
        for (family, to) in peer.addresses().into_iter().enumerate() {
            assert_eq!(pinged(web, to, 5), 5, "answers of {to}");
            let own = SocketAddr::new(web.addresses()[family], 9100 + index as u16);
            let socket = web.netns.run(|| UdpSocket::bind(own)).unwrap();
            socket.connect(SocketAddr::new(to, 9)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"anybody?").unwrap();
            let refused = socket.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to} tells that nobody listens");
        }
    }
    let allowed = "apiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {name: pings}\nspec:\n  tier: Admin\n  priority: 5\n\
        \x20 subject: {pods: {podSelector: {matchLabels: {app: web}}}}\n\
        \x20 ingress: [{action: Allow, from: [{pods: {podSelector: {matchLabels: {app: friend}}}}], ports: [{protocol: ICMP}]}]\n";
    stage.policies(&[guard, allowed.to_owned()]);
    assert_eq!(stage.cluster.nodes[0].agent().status().problems, []);
    for to in web.addresses() {
        for from in friends {
            assert_eq!(pinged(from, to, 5), 5, "{} pings {to}", from.name);
        }
        assert_eq!(pinged(foe, to, 1), 0, "the foe may ping {to}");
        assert!(foe.netns.run(|| request(SocketAddr::new(to, 80), Protocol::Tcp)).is_err());
    }
}

/// Sends a packet in fragments, the first of them last.
fn send(netns: &Netns, packet: &Datagram, id: u32) {
    let (raw, mac) = (Raw::open(netns, "eth0"), mac(netns, "eth0"));
    for piece in fragment(packet, 1400, id).into_iter().rev() {
        raw.send(&Frame::new(piece).macs(mac, GATEWAY_MAC).bytes());
    }
}

/// What a datagram in fragments, the first of them last, brings to `to`.
fn arrives(from: &Container, to: &UdpSocket, port: u16) -> bool {
    let to_address = to.local_addr().unwrap();
    let own = SocketAddr::new(from.addresses()[usize::from(to_address.is_ipv6())], port);
    let payload = vec![port as u8; 5000];
    let packet = Datagram::udp(&own.to_string(), &to_address.to_string(), &payload);
    send(&from.netns, &packet, u32::from(port));
    let mut buffer = [0; 6000];
    match to.recv_from(&mut buffer) {
        Ok((length, source)) => {
            assert_eq!((source, &buffer[..length]), (own, &payload[..]));
            true
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            false
        }
    }
}

#[test]
fn fragments_are_judged_as_their_datagram() {
    let stage = Stage::new();
    let Stage { web, friends, foe, .. } = &stage;
    stage.policies(&[policy("web", "Ingress", &from("friend", "{port: 7000, protocol: UDP}"))]);
    for address in web.addresses() {
        for (port, open) in [(7000, true), (7001, false)] {
            let socket = web.netns.run(|| UdpSocket::bind(SocketAddr::new(address, port))).unwrap();
            for (number, (from, may)) in
                [(&friends[0], open), (&friends[1], open), (foe, false)].into_iter().enumerate()
            {
                let patience = if may { PATIENCE } else { IN_VAIN };
                socket.set_read_timeout(Some(patience)).unwrap();
                let from_port = 6000 + port % 10 * 10 + number as u16;
                assert_eq!(arrives(from, &socket, from_port), may, "{} to {address}, port {port}", from.name);
            }
        }
    }
}

/// Sends an SCTP packet, in fragments of which the first comes last if it is
/// long, and says whether it arrives.
fn sctp(
    from: (&Container, u16),
    to: (&Container, u16),
    six: usize,
    length: usize,
    patience: Duration,
) -> bool {
    let (source, target) = (from.0.addresses()[six], to.0.addresses()[six]);
    let receiver = to.0.netns.run(|| {
        let domain = if six == 0 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(i32::from(SCTP).into())).unwrap();
        socket.bind(&SocketAddr::new(target, 0).into()).unwrap();
        socket
    });
    let mut bytes = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    bytes.resize(length, from.1 as u8);
    let packet = Datagram::new(source, target, Body::Raw { protocol: SCTP, bytes: bytes.clone() });
    send(&from.0.netns, &packet, u32::from(from.1));
    let until = Instant::now() + patience;
    let mut buffer = [MaybeUninit::uninit(); 4000];
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        receiver.set_read_timeout(Some(left)).unwrap();
        let Ok((length, sender)) = receiver.recv_from(&mut buffer) else { continue };
        // SAFETY: the kernel has written so many bytes.
        let received: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        // IPv4 comes with its header.
        if sender.as_socket().unwrap().ip() == source && received.ends_with(&bytes) {
            return true;
        }
    }
    false
}

/// A packet, or one in fragments, the first of them last.
#[test]
fn sctp_is_judged_by_ports() {
    let stage = Stage::new();
    let Stage { web, friends, foe, .. } = &stage;
    stage.policies(&[
        policy("web", "Ingress", &from("friend", "{port: 5000, protocol: SCTP}")),
        // Whoever calls gets answers.
        policy("friend", "Ingress", ""),
    ]);
    for (six, length) in [(0, 12), (1, 12), (0, 3000), (1, 3000)] {
        // Ports of their own: what is known of a flow stays for a while.
        let port = 9000 + 100 * (length / 3000) as u16;
        for friend in friends {
            let try_it = |from: (&Container, u16), to: (&Container, u16), may: bool| {
                let came = sctp(from, to, six, length, if may { PATIENCE } else { IN_VAIN });
                assert_eq!(came, may, "{}:{} to {}:{}, {length} bytes", from.0.name, from.1, to.0.name, to.1);
            };
            // No answer to anything.
            try_it((web, 5000), (friend, port), false);
            try_it((friend, port), (web, 5000), true);
            try_it((web, 5000), (friend, port), true);
            try_it((friend, port), (web, 5000), true);
            try_it((web, 5000), (friend, port + 1), false);
            try_it((friend, port), (web, 5001), false);
            try_it((foe, port), (web, 5000), false);
            try_it((foe, port), (friend, port), false);
        }
    }
}

/// Node ports, external addresses and direct return: whom the policy sees.
#[test]
fn clients_from_outside_are_judged() {
    let cluster = Cluster::dual(2);
    let (near, far) = (cluster.nodes[0].container("near", 2), cluster.nodes[1].container("far", 3));
    let _servers = [Server::start(&near.netns, "near", 8080), Server::start(&far.netns, "far", 8080)];
    cluster.manifests().write(
        "pods.yaml",
        &pods(&[&near, &far]).replace("app: near", "app: web").replace("app: far", "app: web"),
    );
    let block = |addresses: &[IpAddr]| {
        let blocks: Vec<String> = addresses
            .iter()
            .map(|address| {
                format!("{{ipBlock: {{cidr: \"{address}/{}\"}}}}", if address.is_ipv4() { 32 } else { 128 })
            })
            .collect();
        policy(
            "web",
            "Ingress",
            &format!("  ingress: [{{from: [{}], ports: [{{port: 8080}}]}}]\n", blocks.join(", ")),
        )
    };
    let client = outside();
    let node = [node_address(0).into(), node_address6(0).into()];
    let stranger = ["192.168.77.99".parse().unwrap(), "fd00:77::99".parse().unwrap()];
    // Who serves, and whom its policy sees: a backend elsewhere sees the node that
    // chose it, unless it answers its client itself.
    let cases = [
        ("near", service("web"), &near, client),
        ("far", service("web"), &far, node),
        ("far, direct", direct("web"), &far, client),
    ];
    for (name, service, backend, seen) in cases {
        let manifests = cluster.manifests();
        manifests.service(&service, &service.slice(&of_both(&[backend])));
        for (allowed, may) in [(seen, true), (stranger, false)] {
            manifests.write("policy.yaml", &block(&allowed));
            cluster.wait_converged();
            let before: u64 = cluster.nodes.iter().map(|node| counted(node, "drop_policy")).sum();
            for to in causeway_testkit::direct::frontends() {
                if may {
                    requests(&cluster.outside, to, 20, Protocol::Tcp).assert_clean(20, to);
                } else {
                    let tried = cluster.outside.run(|| std::net::TcpStream::connect_timeout(&to, IN_VAIN));
                    assert_eq!(tried.unwrap_err().kind(), ErrorKind::TimedOut, "{name}: {to}");
                }
            }
            let after: u64 = cluster.nodes.iter().map(|node| counted(node, "drop_policy")).sum();
            assert_eq!(after > before, !may, "{name}: {before} to {after} drops");
        }
    }
}

#[test]
fn a_container_may_always_call_itself() {
    let stage = Stage::new();
    let web = &stage.web;
    let _server = Server::start(&web.netns, "web", 8080);
    let service = Service::new("web", vip(1), &[Port::tcp(80, 8080), Port::udp(80, 8080)]).dual(vip6(1));
    stage.cluster.manifests().service(&service, &service.slice(&web.addresses()));
    stage.policies(&[policy("web", "Ingress, Egress", "")]);
    for address in [IpAddr::from(vip(1)), vip6(1).into()] {
        let to = SocketAddr::new(address, 80);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            requests(&web.netns, to, 20, protocol).assert_clean(20, to);
            assert!(stage.foe.netns.run(|| {
                let tried = std::net::TcpStream::connect_timeout(&to, IN_VAIN);
                tried.is_err()
            }));
        }
    }
}

#[test]
fn masqueraded_flows_are_judged_by_their_own_names() {
    let cluster = Cluster::masquerading(1);
    let node = &cluster.nodes[0];
    let web = node.container("web", 2);
    let _world = Server::start_on(&cluster.outside, "world", &[8000, 8001]);
    cluster.manifests().write("pods.yaml", &pods(&[&web]));
    let [four, six] = outside();
    let rules = format!(
        "  egress: [{{to: [{{ipBlock: {{cidr: {four}/32}}}}, {{ipBlock: {{cidr: \"{six}/128\"}}}}], ports: [{{port: 8000}}, {{port: 8000, protocol: UDP}}]}}]\n"
    );
    cluster.manifests().write("policy.yaml", &policy("web", "Ingress, Egress", &rules));
    cluster.wait_converged();
    let nodes: [IpAddr; 2] = [node_address(0).into(), node_address6(0).into()];
    for (address, own) in outside().into_iter().zip(nodes) {
        let to = SocketAddr::new(address, 8000);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let report = requests(&web.netns, to, 50, protocol);
            report.assert_clean(50, to);
            assert!(report.peers_seen.keys().eq([&own]), "{:?}", report.peers_seen);
        }
        let shut = SocketAddr::new(address, 8001);
        let tried = web.netns.run(|| std::net::TcpStream::connect_timeout(&shut, IN_VAIN));
        assert_eq!(tried.unwrap_err().kind(), ErrorKind::TimedOut, "{shut}");
        assert_eq!(web.netns.run(|| ping(address, 1, IN_VAIN)).unwrap(), 0, "a ping of {address}");
    }
}

/// Connections from before any policy that the first one allows, whichever side
/// it is about.
#[test]
fn what_is_allowed_goes_on_under_the_first_policy() {
    let stage = Stage::new();
    let Stage { web, friends, foe, .. } = &stage;
    let _server = Server::start(&web.netns, "web", 80);
    stage.cluster.wait_converged();
    let streams: Vec<Streams> = friends
        .iter()
        .flat_map(|friend| web.addresses().map(|address| (friend, SocketAddr::new(address, 80))))
        .map(|(friend, to)| Streams::open(&friend.netns, to, 5, Duration::from_millis(5)))
        .collect();
    let cut = Streams::open(&foe.netns, SocketAddr::new(web.address.into(), 80), 5, Duration::from_millis(5));
    stage.policies(&[
        policy("web", "Ingress", &from("friend", "{port: 80}")),
        policy("friend", "Ingress", ""),
    ]);
    thread::sleep(Duration::from_millis(500));
    for streams in streams {
        let report = streams.close();
        assert!(report.echoes > 100, "{report:?}");
        report.assert_clean(5);
    }
    assert_eq!(cut.close().lost, 5, "the foe's connections end");
}

/// Who was called before anybody asked cannot keep the caller by speaking first, nor
/// does the caller go on by having the lower port.
#[test]
fn what_is_denied_does_not_go_on_whoever_speaks_first() {
    let stage = Stage::new();
    stage.foe.netns.set_sysctl("net/ipv4/ip_local_port_range", "40000 40999");
    let connect = |(address, port)| {
        let listener = stage.web.netns.run(|| TcpListener::bind((address, port))).unwrap();
        let caller = stage.foe.netns.run(|| TcpStream::connect((address, port))).unwrap();
        [caller, listener.accept().unwrap().0]
    };
    // The caller is 0, who was called 1.
    let ways = [(80, 1), (50_051, 0), (50_051, 1)];
    let ways = ways.map(|(port, first)| (first, stage.web.addresses().map(|to| connect((to, port)))));
    stage.policies(&[policy("web", "Ingress", &from("friend", "{port: 80}"))]);
    for (first, mut ends) in ways.into_iter().flat_map(|(first, pairs)| pairs.map(|ends| (first, ends))) {
        ends[first].write_all(b"still there?").unwrap();
        for end in &mut ends {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            let said = end.read(&mut [0; 16]);
            assert_eq!(said.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
        }
    }
}
