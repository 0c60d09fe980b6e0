//! SVC-10: are ten rolling replacements of every backend free of failed
//! requests? Backends that terminate get no new connection while another is
//! ready, keep those that they have, and serve when nobody else does.

use std::{net::IpAddr, thread, time::Duration};

use causeway_testkit::{
    client::requests,
    load::ConnectLoad,
    manifest::{Port, Service},
    server::Server,
    streams::Streams,
    topology::{Cluster, Container, node_address, node_address6, vip, vip6, widen},
    wire::Protocol,
};

const REPLACEMENTS: u8 = 10;
/// How many are made with XDP at the uplinks.
const SOME: u8 = 2;
const RATE: u32 = 500;
const STREAMS: usize = 10;
const NODE_PORT: u16 = 30_080;

fn addresses(backends: &[&(Container, Server)]) -> Vec<IpAddr> {
    backends.iter().flat_map(|(at, _)| [at.address.into(), at.address6.unwrap().into()]).collect()
}

#[test]
fn rolling_replacements_lose_nothing() {
    for (cluster, count) in [(Cluster::xdp(2), SOME), (Cluster::dual(2), REPLACEMENTS)] {
        replacements_lose_nothing(&cluster, count);
    }
}

fn replacements_lose_nothing(cluster: &Cluster, count: u8) {
    // The row's 60 s, if they are asked for.
    let seconds = std::env::var("CAUSEWAY_SECONDS").map_or(0.0, |text| text.parse().unwrap());
    let pause = Duration::from_secs_f64(seconds / f64::from(count)).max(Duration::from_millis(50));
    // From outside a node serves by its own backends alone.
    let service = Service::new("web", vip(1), &[Port::tcp(80, 8080).at_node(NODE_PORT)])
        .dual(vip6(1))
        .with("type: NodePort")
        .with("externalTrafficPolicy: Local");
    let client = cluster.nodes[0].container("client", 200);
    widen(&cluster.outside);
    // One on each node; the next ones have other addresses.
    let generation = |number: u8| -> Vec<(Container, Server)> {
        let of = |node: &causeway_testkit::topology::Node| {
            let container = node.container(&format!("web-{number}-{}", node.name), 10 + number);
            let server = Server::start(&container.netns, &container.name, 8080);
            (container, server)
        };
        cluster.nodes.iter().map(of).collect()
    };
    let publish = |ready: &[&(Container, Server)], draining: &[&(Container, Server)]| {
        let (ready, draining) = (addresses(ready), addresses(draining));
        let all: Vec<IpAddr> = [ready, draining.clone()].concat();
        cluster.manifests().slice(&service.slice(&all).placed().draining(&draining));
        cluster.wait_converged();
    };
    let mut current = generation(0);
    let first = addresses(&current.iter().collect::<Vec<_>>());
    cluster.manifests().service(&service, &service.slice(&first).placed());
    cluster.wait_converged();
    let loads = [
        ConnectLoad::start(&client.netns, (vip(1), 80), RATE),
        ConnectLoad::start(&client.netns, (vip6(1), 80), RATE),
        ConnectLoad::start(&cluster.outside, (vip(1), 80), RATE),
        ConnectLoad::start(&cluster.outside, (node_address(0), NODE_PORT), RATE),
        ConnectLoad::start(&cluster.outside, (node_address6(1), NODE_PORT), RATE),
    ];
    for number in 1..=count {
        let old: Vec<_> = current.iter().collect();
        let streams = Streams::open(&client.netns, (vip(1), 80), STREAMS, Duration::from_millis(20));
        let next = generation(number);
        let new: Vec<_> = next.iter().collect();
        // One after the other, as a rolling update does it.
        publish(&[new[0], old[1]], &[old[0]]);
        publish(&[new[0], new[1]], &[old[0], old[1]]);
        let (asked, by) = (200, requests(&client.netns, (vip(1), 80), 200, Protocol::Tcp));
        by.assert_clean(asked, (vip(1), 80));
        let names: Vec<_> = by.by_server.keys().collect();
        assert!(names.iter().all(|name| name.starts_with(&format!("web-{number}-"))), "{names:?}");
        // What was open goes on until those who serve it end.
        let report = streams.close();
        report.assert_clean(STREAMS);
        publish(&new, &[]);
        thread::sleep(pause);
        current = next;
    }
    // Nobody is ready any more: those who terminate serve to the end.
    publish(&[], &current.iter().collect::<Vec<_>>());
    requests(&client.netns, (vip(1), 80), 200, Protocol::Tcp).assert_clean(200, (vip(1), 80));
    for load in loads {
        let load = load.stop();
        println!("{load}");
        if load.report.failed > 0 {
            let nodes = cluster.nodes.iter();
            nodes.for_each(|node| println!("{}", node.agent().text(&["show", "counters"])));
        }
        assert_eq!(load.report.failed, 0, "{load}");
        assert!(load.report.ok > 500, "hardly any load: {load}");
    }
}
