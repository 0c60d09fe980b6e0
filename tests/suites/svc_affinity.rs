//! SVC-18: does a client come to one backend by every port of a service, for a
//! day, whatever becomes of the agent and of the other backends?

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Barrier,
    thread,
};

use aya::maps::Map;
use causeway_testkit::{
    client::{request, requests},
    manifest::{Port, Service},
    pinned::Pinned,
    server::Server,
    table::Table,
    topology::{Cluster, Container, vip, vip6},
    wire::Protocol,
};

/// Requests that show where a port leads: of six backends they would miss
/// another one once in 10^15 times.
const REQUESTS: u64 = 20;
const DAY: u32 = 86_400;
/// The kernel's clock may go on while a test rewrites a row.
const SLACK: u32 = 30;

/// A service of three ports on six containers of two nodes, and two clients.
/// The second TCP port is another on every other backend.
struct Rig {
    cluster: Cluster,
    servers: Vec<(Container, Server)>,
    client: Container,
    other: Container,
}

impl Rig {
    fn new() -> Self {
        let cluster = Cluster::dual(2);
        let servers: Vec<_> = cluster
            .nodes
            .iter()
            .flat_map(|node| (0..3).map(move |index| (node, index)))
            .map(|(node, index)| {
                let container = node.container(&format!("web-{}-{index}", node.name), 10 + index);
                let server = Server::start_on(&container.netns, &container.name, &[8080, 8081, 8082]);
                (container, server)
            })
            .collect();
        let client = cluster.nodes[0].container("client", 100);
        let other = cluster.nodes[0].container("other", 101);
        let rig = Self { cluster, servers, client, other };
        rig.serve(service(), &(0..6).collect::<Vec<_>>());
        rig
    }

    /// Writes the service with some of the backends, and waits until it stands.
    fn serve(&self, service: Service, backends: &[usize]) {
        let manifests = self.cluster.manifests();
        for half in 0..2 {
            let chosen =
                backends.iter().filter(|&&index| index % 2 == half).map(|&index| &self.servers[index].0);
            let addresses: Vec<IpAddr> =
                chosen.flat_map(|at| [at.address.into(), at.address6.unwrap().into()]).collect();
            let mut slice = service.slice(&addresses);
            slice.name = format!("web-{half}");
            slice.ports[1].target = 8081 + half as u16;
            manifests.slice(&slice);
        }
        manifests.write("web.service.yaml", &service.yaml());
        self.cluster.wait_converged();
    }

    /// The backends that a client meets, by any of the ports.
    fn met(&self, client: &Container, six: bool) -> BTreeSet<String> {
        let mut met = BTreeSet::new();
        for (to, protocol) in ways(six) {
            let report = requests(&client.netns, to, REQUESTS, protocol);
            report.assert_clean(REQUESTS, to);
            met.extend(report.by_server.into_keys());
        }
        met
    }

    /// The one backend that a client meets by all of the ports.
    fn only(&self, client: &Container, six: bool) -> String {
        let met = self.met(client, six);
        assert_eq!(met.len(), 1, "{} met {met:?}", client.name);
        met.into_iter().next().unwrap()
    }

    fn index(&self, name: &str) -> usize {
        self.servers.iter().position(|(container, _)| container.name == name).unwrap()
    }

    /// The first node's memory of clients.
    fn memory(&self, six: bool) -> Map {
        let name = if six { "AFFINITY_V6" } else { "AFFINITY_V4" };
        Pinned::new(self.cluster.nodes[0].agent().pins()).hash_map(name)
    }

    /// When each client was last seen, by its address; seconds of the kernel.
    fn stamps(&self, six: bool) -> Vec<(IpAddr, u32)> {
        let memory = self.memory(six);
        let table = Table::of(&memory);
        let address = |key: &[u8]| match six {
            true => IpAddr::from(<[u8; 16]>::try_from(&key[..16]).unwrap()),
            false => IpAddr::from(<[u8; 4]>::try_from(&key[..4]).unwrap()),
        };
        table.keys().iter().map(|key| (address(key), *stamp(&mut table.get(key).unwrap()))).collect()
    }

    /// Lets so many seconds pass for every client.
    fn age(&self, six: bool, seconds: u32) {
        let memory = self.memory(six);
        let table = Table::of(&memory);
        for key in table.keys() {
            let mut row = table.get(&key).unwrap();
            *stamp(&mut row) -= seconds;
            table.put(&key, &row);
        }
    }

    fn forget(&self, six: bool) {
        let memory = self.memory(six);
        let table = Table::of(&memory);
        table.keys().iter().for_each(|key| table.remove(key));
    }
}

/// The last word of a client's row.
fn stamp(row: &mut [u8]) -> &mut u32 {
    bytemuck::cast_slice_mut(row).last_mut().unwrap()
}

fn plain() -> Service {
    let alternative = Port { name: "alternative".into(), ..Port::tcp(81, 8081) };
    Service::new("web", vip(1), &[Port::tcp(80, 8080), alternative, Port::udp(53, 8080)]).dual(vip6(1))
}

fn service() -> Service {
    plain()
        .with("sessionAffinity: ClientIP")
        .with(&format!("sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {DAY}}}}}"))
}

fn ways(six: bool) -> [(SocketAddr, Protocol); 3] {
    let vip: IpAddr = if six { vip6(1).into() } else { vip(1).into() };
    [(80, Protocol::Tcp), (81, Protocol::Tcp), (53, Protocol::Udp)]
        .map(|(port, protocol)| (SocketAddr::new(vip, port), protocol))
}

#[test]
fn a_client_stays_while_its_backend_does() {
    let mut rig = Rig::new();
    for six in [false, true] {
        rig.serve(service(), &[0, 1, 2]);
        let first = rig.only(&rig.client, six);
        rig.cluster.nodes.iter_mut().for_each(|node| node.agent_mut().kill9());
        assert_eq!(rig.only(&rig.client, six), first, "without an agent");
        rig.cluster.nodes.iter_mut().for_each(|node| node.agent_mut().restart());
        rig.cluster.wait_converged();
        assert_eq!(rig.only(&rig.client, six), first, "after a restart");
        let drift = rig.cluster.nodes[0].agent().status().drift;
        assert_eq!(drift.repaired, 0, "a restart found something to mend: {drift:?}");
        rig.serve(service(), &[0, 1, 2, 3, 4, 5]);
        assert_eq!(rig.only(&rig.client, six), first, "after backends came");

        let gone = rig.index(&first);
        let rest: Vec<usize> = (0..6).filter(|&index| index != gone).collect();
        rig.serve(service(), &rest);
        let second = rig.only(&rig.client, six);
        assert_ne!(second, first, "its backend has left");
        rig.serve(service(), &[0, 1, 2, 3, 4, 5]);
        assert_eq!(rig.only(&rig.client, six), second, "after its first backend came back");
    }
}

#[test]
fn without_affinity_clients_meet_all() {
    let rig = Rig::new();
    for six in [false, true] {
        rig.only(&rig.client, six);
        rig.serve(plain(), &[0, 1, 2, 3, 4, 5]);
        assert_eq!(rig.met(&rig.client, six).len(), 6, "affinity was taken away");
        rig.serve(service(), &[0, 1, 2, 3, 4, 5]);
        // Not the client that met all: a datagram of its may come from the port of an
        // earlier one, and follow its flow.
        rig.only(&rig.other, six);
    }
    let shown = rig.cluster.nodes[0].agent().ask(&["show", "services"]);
    assert!(shown.as_array().unwrap().iter().all(|service| service["affinity_seconds"] == DAY), "{shown}");
}

#[test]
fn a_day_is_neither_shorter_nor_longer() {
    let rig = Rig::new();
    for six in [false, true] {
        let mut current = rig.only(&rig.client, six);
        let mut met = BTreeSet::new();
        for round in 0..30 {
            // Streams alone: a datagram may come from the port of an earlier one, and
            // follow its flow to a backend of the day before.
            let (to, protocol) = ways(six)[round % 2];
            let ask = || {
                let report = requests(&rig.client.netns, to, 1, protocol);
                report.assert_clean(1, to);
                report.by_server.into_keys().next().unwrap()
            };
            // Nearly twice the day: each new connection renews it.
            for _ in 0..2 {
                rig.age(six, DAY - SLACK);
                let old = rig.stamps(six)[0].1;
                assert_eq!(ask(), current, "just before the day was over");
                let new = rig.stamps(six)[0].1;
                assert!(new.wrapping_sub(old) >= DAY - SLACK, "{old} was not renewed but is {new}");
            }
            rig.age(six, DAY);
            current = ask();
            met.insert(current.clone());
        }
        assert!(met.len() > 2, "when the day was over it always was one of {met:?}");
    }
}

#[test]
fn clients_are_remembered_apart_and_traces_are_not() {
    let rig = Rig::new();
    let node = &rig.cluster.nodes[0];
    for six in [false, true] {
        let address =
            |at: &Container| -> IpAddr { if six { at.address6.unwrap().into() } else { at.address.into() } };
        let (to, _) = ways(six)[0];
        let trace = |client: &Container, port: u16| {
            let tuple = format!("{}-{to}", SocketAddr::new(address(client), port));
            let told = node.agent().ask(&["trace", "--interface", &client.name, "--tcp", &tuple]);
            assert_eq!(told["verdict"], "redirect", "{told}");
            told["backend"].as_str().unwrap().parse::<SocketAddr>().unwrap().ip()
        };
        let traced: BTreeSet<IpAddr> = (0..30).map(|port| trace(&rig.other, 2000 + port)).collect();
        assert!(traced.len() > 2, "nothing is remembered, yet the choice is {traced:?}");
        assert!(rig.stamps(six).is_empty(), "a trace is remembered: {:?}", rig.stamps(six));

        let backend = address(&rig.servers[rig.index(&rig.only(&rig.client, six))].0);
        rig.age(six, 1000);
        let before = rig.stamps(six);
        let traced: BTreeSet<IpAddr> = (0..30).map(|port| trace(&rig.client, 2000 + port)).collect();
        assert_eq!(traced, [backend].into(), "a trace tells where the client goes");
        assert_eq!(rig.stamps(six), before, "a trace renews nothing");
        rig.age(six, DAY);
        let before = rig.stamps(six);
        trace(&rig.client, 2000);
        assert_eq!(rig.stamps(six), before, "a trace forgets nothing");

        // Streams alone, as in `a_day_is_neither_shorter_nor_longer`.
        for client in [&rig.other, &rig.client] {
            requests(&client.netns, to, 1, Protocol::Tcp).assert_clean(1, to);
        }
        let clients: BTreeSet<IpAddr> = rig.stamps(six).into_iter().map(|(client, _)| client).collect();
        assert_eq!(clients, [address(&rig.client), address(&rig.other)].into());
    }
}

#[test]
fn connections_that_begin_at_a_time_go_together() {
    let rig = Rig::new();
    for six in [false, true] {
        // A datagram may come from the port of an earlier one, and follow its flow.
        let connections = || ways(six).into_iter().filter(|(_, protocol)| *protocol == Protocol::Tcp);
        for round in 0..60 {
            rig.forget(six);
            let start = Barrier::new(connections().count());
            let met: Vec<String> = thread::scope(|scope| {
                let ask = |(to, protocol)| {
                    let (netns, start) = (&rig.client.netns, &start);
                    scope.spawn(move || {
                        netns.run(|| {
                            start.wait();
                            request(to, protocol).map(|(answer, _)| answer.server).unwrap()
                        })
                    })
                };
                let asked: Vec<_> = connections().map(ask).collect();
                asked.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(met.iter().all(|server| *server == met[0]), "round {round}: {met:?}");
        }
    }
}
