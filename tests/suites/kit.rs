//! Does the kit itself do what the suites rely on? Plain veth and routing, no
//! agent.

use std::{net::SocketAddrV4, sync::Arc, time::Duration};

use causeway_testkit::{
    client::requests,
    link::{self, Switch},
    load::ConnectLoad,
    netns::Netns,
    sentinel::{assert_no_netfilter, netfilter},
    server::Server,
    snapshot::Snapshot,
    streams::Streams,
    topology::widen,
    wire::Protocol,
};

/// Two hosts on a switch, one of them with a server.
struct Bed {
    server: Option<Server>,
    client: Netns,
    host: Netns,
    _switch: Switch,
}

const AT: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(192, 168, 50, 2), 8080);

fn bed() -> Bed {
    let mut switch = Switch::new();
    let (client, host) = (Netns::new(), Netns::new());
    switch.plug(&client, "eth0", std::net::Ipv4Addr::new(192, 168, 50, 1), 24);
    switch.plug(&host, "eth0", *AT.ip(), 24);
    widen(&client);
    let server = Some(Server::start(&host, "host", AT.port()));
    Bed { server, client, host, _switch: switch }
}

#[test]
fn a_namespace_is_entered_by_threads_and_gone_when_dropped() {
    let netns = Netns::new();
    let path = netns.path().to_owned();
    let links = |text: String| text.lines().count();
    assert_eq!(links(netns.ip("-o link")), 1);
    let outer = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let inner = netns.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_ne!(outer, inner);
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), outer);
    drop(netns);
    assert!(!path.exists());
}

#[test]
fn a_panic_inside_is_a_panic_outside() {
    let netns = Netns::new();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| netns.run(|| panic!("inside"))));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"inside"));
}

#[test]
fn requests_name_server_source_and_peer() {
    let bed = bed();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let report = requests(&bed.client, AT, 500, protocol);
        report.assert_clean(500, AT);
        assert_eq!(report.by_server.get("host"), Some(&500));
        assert_eq!(
            report.peers_seen.keys().copied().collect::<Vec<_>>(),
            ["192.168.50.1".parse::<std::net::Ipv4Addr>().unwrap()]
        );
    }
}

#[test]
fn nobody_listening_is_a_failure_and_not_a_wait() {
    let bed = bed();
    let report = requests(&bed.client, SocketAddrV4::new(*AT.ip(), 9), 3, Protocol::Tcp);
    assert_eq!((report.ok, report.failed), (0, 3), "{report}");
}

#[test]
fn a_thousand_streams_stand_and_a_dead_server_loses_them_all() {
    let mut bed = bed();
    let streams = Streams::open(&bed.client, AT, 1000, Duration::from_millis(250));
    std::thread::sleep(Duration::from_secs(1));
    streams.report().assert_clean(1000);
    bed.server = None;
    std::thread::sleep(Duration::from_millis(300));
    let report = streams.close();
    assert_eq!(report.lost, 1000, "{report}");
}

#[test]
fn a_cut_cable_is_a_stall() {
    let bed = bed();
    let streams = Streams::open(&bed.client, AT, 5, Duration::from_millis(50));
    bed.host.ip("link set eth0 down");
    std::thread::sleep(Duration::from_millis(2500));
    let report = streams.close();
    assert_eq!((report.lost, report.stalls), (0, 5), "{report}");
}

#[test]
fn a_load_keeps_its_rate_and_shows_each_answer() {
    let bed = bed();
    let seen = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let witness = {
        let seen = seen.clone();
        Arc::new(move |_, _: &causeway_testkit::wire::Answer| {
            seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        })
    };
    let load = ConnectLoad::start_with(&bed.client, AT, Protocol::Tcp, 500, witness);
    std::thread::sleep(Duration::from_secs(2));
    let report = load.stop();
    assert_eq!(report.report.failed, 0, "{report}");
    assert!((500..=1200).contains(&report.report.ok), "{report}");
    assert_eq!(seen.load(std::sync::atomic::Ordering::Relaxed), report.report.ok);
}

#[test]
fn the_sentinel_sees_a_rule() {
    let netns = Netns::new();
    assert_no_netfilter(&netns);
    let (made, output) = netns.command("nft", "add table ip planted");
    assert!(made, "{output}");
    assert!(netfilter(&netns).iter().any(|line| line.contains("planted")));
}

#[test]
fn a_snapshot_shows_links_routes_and_sysctls_that_changed() {
    let netns = Netns::new();
    let other = Netns::new();
    let pins = std::path::Path::new("/nonexistent");
    // Namespaces begin as the host is, and one with Docker forwards.
    netns.set_sysctl("net/ipv4/ip_forward", "0");
    let before = Snapshot::take(&netns, pins);
    assert_eq!(before.difference(&Snapshot::take(&netns, pins)), "");
    link::pair(&netns, "planted0", &other, "eth0");
    link::address(&netns, "planted0", "192.0.2.1/24");
    netns.set_sysctl("net/ipv4/ip_forward", "1");
    let difference = before.difference(&Snapshot::take(&netns, pins));
    for part in ["+ link", "planted0", "+ route 192.0.2.0/24", "ip_forward = 1", "- sysctl"] {
        assert!(difference.contains(part), "{part} in\n{difference}");
    }
}
