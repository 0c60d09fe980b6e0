//! POL-06, POL-08, POL-09: what policies mean for flows under way, for restarts
//! of the agent, and for containers that are just starting.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::{request, requests},
    container::Container,
    manifest::{Port, Service},
    netns::Netns,
    server::Server,
    streams::Streams,
    topology::{Cluster, outside_address, outside_address6, vip, vip6},
    wire::Protocol,
    worker::Worker,
};

/// From the policy's rows to the reset, on either side.
const SOON: Duration = Duration::from_millis(100);
/// For what is not to come through.
const QUICK: Duration = Duration::from_millis(10);
/// A client whose first packet is lost sends the next after a second.
const FIRST: Duration = Duration::from_millis(700);

/// Denies everything that comes to `app: LABEL` but from `from`.
fn guard(label: &str, from: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: guard-{label}}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: {label}}}}}\n  policyTypes: [Ingress]\n  ingress: [{from}]\n"
    )
}

/// A connection, and what its two sides hear of its end.
struct Talk {
    sides: [(&'static str, TcpStream); 2],
    /// Nobody says anything meanwhile.
    quiet: bool,
}

impl Talk {
    fn open(client: &Netns, server: &Netns, to: SocketAddr, backend: SocketAddr) -> Self {
        let listener = server.run(|| TcpListener::bind(backend).unwrap());
        let mut near = client.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)).unwrap());
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(b"hello").unwrap();
        far.read_exact(&mut [0; 5]).unwrap();
        far.write_all(b"hello").unwrap();
        near.read_exact(&mut [0; 5]).unwrap();
        Self { sides: [("client", near), ("server", far)], quiet: false }
    }

    /// Lets the client go on talking, if it does, and waits until both sides have
    /// been reset; how long each took from `start` on.
    fn resets(mut self, start: Instant) -> [(&'static str, Option<Duration>); 2] {
        let mut heard = self.sides.each_ref().map(|(side, _)| (*side, None));
        for (_, stream) in &self.sides {
            stream.set_nonblocking(true).unwrap();
        }
        while start.elapsed() < Duration::from_secs(2) && heard.iter().any(|(_, when)| when.is_none()) {
            // Who writes hears of it there.
            let told = !self.quiet
                && self.sides[0].1.write(b"x").is_err_and(|error| error.kind() != ErrorKind::WouldBlock);
            if told && heard[0].1.is_none() {
                heard[0].1 = Some(start.elapsed());
            }
            for ((_, stream), (_, when)) in self.sides.iter_mut().zip(&mut heard) {
                let reset =
                    stream.read(&mut [0; 64]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
                if reset && when.is_none() {
                    *when = Some(start.elapsed());
                }
            }
            thread::sleep(Duration::from_millis(2));
        }
        heard
    }
}

/// Connections to port 80 of an address, one after the other.
struct Tries {
    passed: Arc<AtomicU64>,
    worker: Worker<()>,
}

impl Tries {
    /// Each may take `patience`.
    fn start(netns: &Netns, to: IpAddr, patience: Duration) -> Self {
        let passed = Arc::<AtomicU64>::default();
        let count = passed.clone();
        let worker = Worker::start(netns, move |stop| {
            while !stop.load(Ordering::Relaxed) {
                let tried = TcpStream::connect_timeout(&(to, 80).into(), patience);
                count.fetch_add(u64::from(tried.is_ok()), Ordering::Relaxed);
                thread::sleep(Duration::from_micros(200));
            }
        });
        Self { passed, worker }
    }

    /// How many came through.
    fn end(self) -> u64 {
        self.worker.end();
        self.passed.load(Ordering::Relaxed)
    }
}

/// Of connections to a container's own address and to a service, from a
/// container and from outside, one that began under a policy that allowed it
/// and one from before any; those under one both while the client talks and while
/// nobody does.
#[test]
fn revoked_connections_are_reset_on_both_sides() {
    let guarded = || Some(guard("web", "{}"));
    for (state, policy, quiet) in [
        ("under a policy", guarded(), false),
        ("under a policy and silent", guarded(), true),
        ("without a policy", None, false),
    ] {
        let cluster = Cluster::dual(2);
        let manifests = cluster.manifests();
        let web = cluster.nodes[0].container("web", 2);
        let (near, far) = (cluster.nodes[0].container("near", 3), cluster.nodes[1].container("far", 4));
        manifests.write("pods.yaml", &web.pod("app: web"));
        let service = Service::new("web", vip(1), &[Port::tcp(80, 7000)]).dual(vip6(1));
        manifests.service(&service, &service.slice(&web.addresses()));
        policy.iter().for_each(|policy| manifests.write("policy.yaml", policy));
        cluster.wait_converged();
        let mut talks = Vec::new();
        for (who, netns) in [("near", &near.netns), ("far", &far.netns), ("outside", &cluster.outside)] {
            for (index, address) in web.addresses().into_iter().enumerate() {
                let port = 7001 + talks.len() as u16;
                let backend = SocketAddr::new(address, port);
                talks.push((
                    format!("{who} {index} directly"),
                    Talk::open(netns, &web.netns, backend, backend),
                ));
                if who != "outside" {
                    let to = [IpAddr::from(vip(1)), vip6(1).into()][index];
                    let (to, backend) = (SocketAddr::new(to, 80), SocketAddr::new(address, 7000));
                    talks
                        .push((format!("{who} {index} service"), Talk::open(netns, &web.netns, to, backend)));
                }
            }
        }
        talks.iter_mut().for_each(|(_, talk)| talk.quiet = quiet);
        manifests.write("policy.yaml", &guard("web", ""));
        cluster.wait_converged();
        let start = Instant::now();
        let heard = thread::scope(|scope| {
            let waits: Vec<_> = talks
                .into_iter()
                .map(|(name, talk)| (name, scope.spawn(move || talk.resets(start))))
                .collect();
            waits.into_iter().map(|(name, wait)| (name, wait.join().unwrap())).collect::<Vec<_>>()
        });
        for (name, sides) in &heard {
            for (side, when) in sides {
                assert!(
                    when.is_some_and(|when| when < SOON),
                    "{state}, {name}: {side} heard {when:?} of {heard:?}"
                );
            }
        }
    }
}

/// While agents are killed and start again, what is denied stays so and what is
/// allowed goes on.
#[test]
fn restarts_open_and_close_nothing() {
    let mut cluster = Cluster::dual(1);
    let node = &cluster.nodes[0];
    let (web, friend, foe) =
        (node.container("web", 2), node.container("friend", 3), node.container("foe", 4));
    let _server = Server::start(&web.netns, "web", 80);
    // Without an object of its own.
    let bare = node.container("bare", 5);
    let _bare = Server::start(&bare.netns, "bare", 80);
    let pods = [web.pod("app: web"), friend.pod("app: friend"), foe.pod("app: foe")].join("---\n");
    cluster.manifests().write("pods.yaml", &pods);
    let from = "{from: [{podSelector: {matchLabels: {app: friend}}}]}";
    let all = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all}\n\
        spec: {podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}}\n";
    cluster.manifests().write("policy.yaml", &format!("{}---\n{all}", guard("web", from)));
    cluster.wait_converged();
    let targets = [web.addresses(), bare.addresses()].concat();
    let tries: Vec<_> = targets
        .into_iter()
        .map(|address| Tries::start(&foe.netns, address, Duration::from_millis(20)))
        .collect();
    let streams = Streams::open(&friend.netns, (web.address, 80), 20, Duration::from_millis(5));
    for _ in 0..5 {
        cluster.nodes[0].agent_mut().kill9();
        for address in web.addresses() {
            let to = SocketAddr::new(address, 80);
            requests(&friend.netns, to, 50, Protocol::Tcp).assert_clean(50, to);
        }
        // Whoever is attached before the agent knows the rules gets none through.
        cluster.nodes[0].agent_mut().restart();
        for address in web.addresses() {
            let to = SocketAddr::new(address, 80);
            requests(&friend.netns, to, 50, Protocol::Tcp).assert_clean(50, to);
        }
        cluster.wait_converged();
    }
    for tries in tries {
        assert_eq!(tries.end(), 0, "connections that a policy denies");
    }
    streams.close().assert_clean(20);
    let drift = cluster.nodes[0].agent().status().drift;
    assert_eq!(drift.repaired, 0, "{drift:?}");
}

/// A container that talks from the moment its interface is there: nothing that
/// is denied ever passes, either way, and what is allowed does once it is attached,
/// with its first packet.
#[test]
fn containers_start_closed() {
    let starts: u32 = std::env::var("CAUSEWAY_STARTS").map_or(20, |starts| starts.parse().unwrap());
    let cluster = Cluster::dual(1);
    let node = &cluster.nodes[0];
    let open = node.container("open", 2);
    let _open = Server::start(&open.netns, "open", 80);
    let shut = node.container("shut", 3);
    let _shut = Server::start(&shut.netns, "shut", 80);
    let _outside = Server::start(&cluster.outside, "outside", 80);
    cluster.manifests().write("pods.yaml", &[open.pod("app: open"), shut.pod("app: shut")].join("---\n"));
    cluster.manifests().write(
        "policy.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: starting}\n\
         spec:\n  podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}\n  policyTypes: [Ingress, Egress]\n\
         \x20 egress: [{to: [{podSelector: {matchLabels: {app: open}}}]}]\n",
    );
    cluster.wait_converged();
    for start in 0..starts {
        let netns = Netns::new();
        let server = Server::start(&netns, "new", 80);
        let host = 10 + (start % 200) as u8;
        let new = [node.pod_address(host).into(), node.pod_address6(host).into()];
        let shut = shut.addresses().into_iter().chain([outside_address().into(), outside_address6().into()]);
        let mut denied: Vec<_> = shut.map(|to| Tries::start(&netns, to, QUICK)).collect();
        denied.extend(new.map(|to| Tries::start(&open.netns, to, QUICK)));
        node.attach(&format!("new-{start}"), netns.path(), node.pod_address(host));
        for address in open.addresses() {
            let to = SocketAddr::new(address, 80);
            let tried = netns.run(|| TcpStream::connect_timeout(&to, FIRST));
            assert!(tried.is_ok(), "start {start}: the first packet to {to}, which is allowed: {tried:?}");
        }
        thread::sleep(Duration::from_millis(20));
        for tries in denied {
            assert_eq!(tries.end(), 0, "start {start}: what is denied came through");
        }
        drop(server);
        node.detach(&format!("new-{start}"));
    }
}

/// Through a connected socket, which hears of errors.
fn first_word(to: SocketAddr, protocol: Protocol) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => drop(TcpStream::connect_timeout(&to, FIRST)?),
        Protocol::Udp => {
            let unspecified: IpAddr =
                if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((unspecified, 0))?;
            socket.set_read_timeout(Some(FIRST))?;
            socket.connect(to)?;
            socket.send(b"who")?;
            socket.recv(&mut [0; 64])?;
        }
    }
    Ok(())
}

/// POL-13: by TCP and UDP, of either family.
#[test]
fn who_is_rejected_hears_it_and_who_is_denied_does_not() {
    let cluster = Cluster::dual(2);
    let servers = cluster.servers(2, 8080);
    let client = cluster.nodes[0].container("client", 100);
    let rule = |action: &str, server: &Container| {
        let [v4, v6] = server.addresses();
        format!("  - {{action: {action}, to: [{{networks: [{v4}/32, \"{v6}/128\"]}}]}}\n")
    };
    cluster.manifests().write("pods.yaml", &client.pod("app: client"));
    cluster.manifests().write(
        "policy.yaml",
        &format!(
            "apiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {{name: client}}\nspec:\n  tier: Admin\n  \
             priority: 1\n  subject: {{pods: {{podSelector: {{matchLabels: {{app: client}}}}}}}}\n  egress:\n{}{}",
            rule("Reject", &servers[0].0),
            rule("Deny", &servers[1].0),
        ),
    );
    cluster.wait_converged();
    for family in 0..2 {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let ask = |server: usize| {
                let to = SocketAddr::new(servers[server].0.addresses()[family], 8080);
                let begun = Instant::now();
                let error = client.netns.run(|| first_word(to, protocol)).unwrap_err();
                (begun.elapsed(), error.kind())
            };
            let (took, kind) = ask(0);
            let unheard = [ErrorKind::TimedOut, ErrorKind::WouldBlock];
            assert!(
                took < SOON && !unheard.contains(&kind),
                "{protocol:?} {family} rejected: {took:?} {kind:?}"
            );
            let (took, kind) = ask(1);
            assert!(
                took > SOON && unheard.contains(&kind),
                "{protocol:?} {family} denied: {took:?} {kind:?}"
            );
        }
    }
}

/// Egress to a service by its name, whoever serves it; what is denied to a
/// backend is denied through the service; the rule is named.
#[test]
fn services_are_peers_by_name() {
    let cluster = Cluster::dual(2);
    let servers = cluster.servers(4, 8080);
    let client = cluster.nodes[0].container("client", 100);
    let service = Service::new("web", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1));
    let manifests = cluster.manifests();
    manifests.write("pods.yaml", &client.pod("app: client"));
    let backends = |range: std::ops::Range<usize>| {
        let all = servers[range].iter().flat_map(|(at, _)| at.addresses());
        service.slice(&all.collect::<Vec<IpAddr>>())
    };
    manifests.service(&service, &backends(0..2));
    manifests.write(
        "policy.yaml",
        "apiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {name: web-alone}\nspec:\n  tier: Admin\n  priority: 1\n\
         \x20 subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}\n  egress:\n\
         \x20 - {name: web, action: Allow, to: [{service: {namespace: default, name: web}}]}\n\
         \x20 - {name: rest, action: Reject, to: [{networks: [0.0.0.0/0, \"::/0\"]}]}\n",
    );
    cluster.wait_converged();
    for backing in [0..2, 2..4] {
        manifests.slice(&backends(backing.clone()));
        cluster.wait_converged();
        for (index, address) in [IpAddr::from(vip(1)), vip6(1).into()].into_iter().enumerate() {
            let to = SocketAddr::new(address, 80);
            requests(&client.netns, to, 50, Protocol::Tcp).assert_clean(50, to);
            for (number, (server, _)) in servers.iter().enumerate() {
                let to = SocketAddr::new(server.addresses()[index], 8080);
                let asked = client.netns.run(|| request(to, Protocol::Tcp));
                if backing.contains(&number) {
                    assert!(asked.is_ok(), "{to} serves: {asked:?}");
                } else {
                    assert_eq!(
                        asked.unwrap_err().kind(),
                        ErrorKind::ConnectionRefused,
                        "{to} does not serve"
                    );
                }
            }
        }
    }
    let agent = cluster.nodes[0].agent();
    let tuple = format!("{}:4000-{}:8080", client.address, servers[0].0.address);
    let told = agent.ask(&["trace", "--interface", "client", "--tcp", &tuple]);
    assert_eq!((&told["verdict"], &told["reason"]), (&"drop".into(), &"drop_policy_reject".into()), "{told}");
    assert_eq!(told["rule"], "Policy web-alone egress[1] \"rest\"", "{told}");
    let counters = agent.counters();
    assert!(counters["rule Policy web-alone egress[1] \"rest\""] >= 8, "{counters:?}");
    assert!(counters["rule Policy web-alone egress[0] \"web\""] >= 100, "{counters:?}");
}
