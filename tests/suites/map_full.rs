//! OPS-09: when a map is full, does what was served stay served, and does the
//! operator hear of it?

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    thread,
    time::Duration,
};

use causeway_testkit::{
    agent::Agent,
    client::requests,
    container::pod,
    manifest::{Port, Service},
    server::Server,
    streams::Streams,
    topology::{Cluster, Container, vip},
    wire::Protocol,
};

const STREAMS: usize = 20;

/// Runs traffic while `fill` takes more than `map` has room for.
fn full<T>(map: &str, capacity: u32, fill: impl FnOnce(&Cluster, &Container) -> T) {
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].start_with(Some(&format!("[capacity]\n{map} = {capacity}\n")));
    cluster.wait_converged();
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    let _servers = cluster.serve(&web, 2);
    let client = cluster.nodes[0].container("client", 100);
    cluster.wait_converged();
    let to = SocketAddrV4::new(vip(1), 80);
    let streams = Streams::open(&client.netns, to, STREAMS, Duration::from_millis(50));
    thread::sleep(Duration::from_millis(300));

    let _kept = fill(&cluster, &client);
    let agent = cluster.nodes[0].agent();
    // A table that evicts is full by design, and no cause for alarm.
    if map != "embryonic" {
        assert_alarm(agent, map);
    }
    // What was there goes on, for old flows and new ones.
    requests(&client.netns, to, 100, Protocol::Tcp).assert_clean(100, to);
    thread::sleep(Duration::from_millis(300));
    streams.close().assert_clean(STREAMS);
}

fn assert_alarm(agent: &Agent, map: &str) {
    agent.wait_status(&format!("an alarm for {map}"), Duration::from_secs(5), |status| {
        status.alarms.iter().any(|alarm| alarm.contains(map))
    });
    let metrics = agent.get("/metrics");
    assert!(
        metrics.lines().any(|line| line.contains("alarm") && line.contains(map) && line.ends_with(" 1")),
        "no alarm for {map} in the metrics:\n{metrics}"
    );
}

/// `count` more services, each with `backends` of its own.
fn services(cluster: &Cluster, count: u8, backends: u8) {
    for index in 0..count {
        let service = Service::new(&format!("more-{index}"), vip(50 + index), &[Port::tcp(80, 8080)]);
        let backends: Vec<_> = (1..=backends).map(|host| Ipv4Addr::new(10, 230, index, host)).collect();
        cluster.manifests().service(&service, &service.slice(&backends));
    }
}

#[test]
fn frontend_rows() {
    full("frontends", 16, |cluster, _| services(cluster, 30, 1));
}

#[test]
fn port_range_rows() {
    full("port_ranges", 4, |cluster, _| {
        for index in 0..6 {
            let ports = [Port::udp(10_000, 10_000).through(60_000)];
            let service = Service::new(&format!("more-{index}"), vip(50 + index), &ports);
            cluster.manifests().service(&service, &service.slice(&[Ipv4Addr::new(10, 230, index, 1)]));
        }
    });
}

#[test]
fn service_rows() {
    full("services", 16, |cluster, _| services(cluster, 30, 1));
}

#[test]
fn backend_rows() {
    full("backends", 32, |cluster, _| services(cluster, 30, 5));
}

#[test]
fn arena_cells() {
    full("arena", 32, |cluster, _| services(cluster, 30, 20));
}

#[test]
fn endpoint_slots() {
    full("endpoints", 8, |cluster, _| {
        let tries = (150..170).map(|host| cluster.nodes[0].try_container(&format!("more-{host}"), host));
        // Those that found room stay, or there would be room again.
        let (kept, refused): (Vec<_>, Vec<_>) = tries.partition(Result::is_ok);
        let refused: Vec<_> = refused.into_iter().filter_map(Result::err).collect();
        assert!(!refused.is_empty(), "twenty containers in eight slots");
        assert!(refused.iter().all(|error| error.contains("endpoints")), "{refused:?}");
        kept
    });
}

/// Rules that need more rows than there are change nothing, and hold once there is room.
#[test]
fn policies_peers() {
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].start_with(Some("[capacity]\npeers = 64\n"));
    cluster.wait_converged();
    let containers = [("web", 10), ("friend", 11), ("foe", 12)].map(|(name, host)| {
        let container = cluster.nodes[0].container(name, host);
        cluster.manifests().write(&format!("{name}.yaml"), &container.pod(&format!("app: {name}")));
        container
    });
    let [web, friend, foe] = &containers;
    let _server = Server::start(&web.netns, "web", 8080);
    let policy = |name: &str, from: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n\
             \x20 podSelector: {{matchLabels: {{app: {name}}}}}\n\
             \x20 ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {from}}}}}}}]}}]\n"
        )
    };
    cluster.manifests().write("policy.yaml", &policy("web", "friend"));
    cluster.wait_converged();
    let comes = |from: &Container| {
        let to = (web.address, 8080).into();
        from.netns.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok())
    };
    assert_eq!([comes(friend), comes(foe)], [true, false]);

    let far = |count: u8| -> String {
        let address = |host| Ipv4Addr::new(10, 244, 9, host).into();
        (0..count).map(|host| pod(&format!("far-{host}"), &[address(host)], "app: foe") + "---\n").collect()
    };
    cluster.manifests().write("far.yaml", &far(100));
    cluster.manifests().write("policy.yaml", &policy("web", "foe"));
    let agent = cluster.nodes[0].agent();
    agent.wait_status("no room is told", Duration::from_secs(5), |status| {
        status.reasons.iter().any(|reason| reason.contains("CLASSES_V4"))
    });
    // However often it is tried again, and whatever else changes.
    for round in 0..10 {
        cluster
            .manifests()
            .write("other.yaml", &policy("friend", if round % 2 == 0 { "web" } else { "foe" }));
        thread::sleep(Duration::from_millis(100));
        assert_eq!([comes(friend), comes(foe)], [true, false], "round {round}");
    }
    cluster.manifests().write("far.yaml", &far(30));
    cluster.wait_converged();
    assert_eq!([comes(friend), comes(foe)], [false, true]);
}

#[test]
fn established_flows() {
    full("flows", 128, |_, client| {
        let to = SocketAddrV4::new(vip(1), 80);
        let more = Streams::open(&client.netns, to, 100, Duration::from_millis(50));
        thread::sleep(Duration::from_secs(2));
        more.report().assert_clean(100);
        more
    });
}

#[test]
fn embryonic_flows() {
    full("embryonic", 256, |cluster, client| {
        // Datagrams that nobody answers: flows that stay embryonic.
        let mute = Service::new("mute", vip(2), &[Port::udp(9, 9)]);
        cluster.manifests().service(&mute, &mute.slice(&[cluster.nodes[0].pod_address(10)]));
        cluster.wait_converged();
        client.netns.run(|| {
            for _ in 0..2000 {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                let _ = socket.send_to(b"who", SocketAddrV4::new(vip(2), 9));
            }
        });
    });
}
