//! OPS-01: does traffic notice when the agent is killed and comes back?

use std::{
    net::SocketAddrV4,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::programs::ProgramInfo;
use causeway_schema::NodeConfig;
use causeway_testkit::{
    client::{first_answer, requests},
    load::ConnectLoad,
    manifest::{Port, Service},
    pinned::Pinned,
    server::Server,
    streams::Streams,
    topology::{Cluster, Container, PATIENCE, vip},
    wire::Protocol,
};

const KILLS: u8 = 20;
const STREAMS: usize = 1000;
const RATE: u32 = 1000;

fn web() -> Service {
    Service::new("web", vip(1), &[Port::tcp(80, 8080)])
}

#[test]
fn twenty_kills_under_load_lose_nothing() {
    let mut cluster = Cluster::running(2);
    let servers = cluster.serve(&web(), 3);
    let client = cluster.nodes[0].container("client", 100);
    let other = cluster.nodes[1].container("other", 100);
    cluster.wait_converged();

    let to = SocketAddrV4::new(vip(1), 80);
    let streams = Streams::open(&client.netns, to, STREAMS, Duration::from_millis(500));
    let load = ConnectLoad::start(&other.netns, to, RATE);
    let mut slowest = Duration::ZERO;
    let mut overdue = 0;
    for kill in 0..KILLS {
        for node in &mut cluster.nodes {
            node.agent_mut().kill9();
        }
        // A change while nobody is there to hear of it.
        let late = Service::new(&format!("late-{kill}"), vip(100 + kill), &[Port::udp(53, 8080)]);
        cluster.manifests().service(&late, &late.slice(&[servers[0].0.address]));
        thread::sleep(Duration::from_millis(200));
        for node in &mut cluster.nodes {
            node.agent_mut().restart();
        }
        let late = SocketAddrV4::new(vip(100 + kill), 53);
        let took = first_answer(&client.netns, late, Duration::from_secs(5), |_| true);
        let took = took.unwrap_or_else(|| panic!("kill {kill}: {late} never came to serve"));
        assert!(took < Duration::from_secs(3), "kill {kill}: {late} served after {took:?}");
        overdue += u32::from(took >= Duration::from_secs(1));
        slowest = slowest.max(took);
        thread::sleep(Duration::from_millis(200));
    }
    // What else a machine does may cost a few starts their second.
    assert!(
        overdue <= 2,
        "{overdue} of {KILLS} changes came after more than a second, the slowest after {slowest:?}"
    );
    cluster.wait_converged();
    let (streams, load) = (streams.close(), load.stop());
    println!("{KILLS} kills; slowest change {slowest:?}\n{streams}\n{load}");
    streams.assert_clean(STREAMS);
    assert_eq!(load.report.failed, 0, "{load}");
    assert!(load.report.ok > 1000, "hardly any load: {load}");
}

/// A node with two servers of [`web`], and a client.
fn serving() -> (Cluster, Vec<(Container, Server)>, Container) {
    let cluster = Cluster::running(1);
    let servers = cluster.serve(&web(), 2);
    let client = cluster.nodes[0].container("client", 100);
    cluster.wait_converged();
    (cluster, servers, client)
}

/// An agent goes on with the programs of the one before if they are of its
/// build; another build's are replaced, under the traffic.
#[test]
fn programs_are_taken_over_from_the_same_build_alone() {
    let (mut cluster, _servers, client) = serving();
    let streams = Streams::open(&client.netns, SocketAddrV4::new(vip(1), 80), 50, Duration::from_millis(10));
    let pinned = Pinned::new(cluster.nodes[0].agent().pins());
    let id = |name: &str| ProgramInfo::from_pin(pinned.file(name)).unwrap().id();
    let ids = || ["from_container", "begin_v4", "sock_connect4"].map(id);
    let first = ids();
    let restart = |cluster: &mut Cluster| {
        cluster.nodes[0].agent_mut().restart();
        cluster.wait_converged();
    };
    cluster.nodes[0].agent_mut().kill9();
    restart(&mut cluster);
    assert_eq!(ids(), first);
    cluster.nodes[0].agent_mut().kill9();
    let build = pinned.file("from_container").parent().unwrap().to_owned();
    let other = build.with_file_name("another");
    std::fs::rename(&build, &other).unwrap();
    restart(&mut cluster);
    assert!(build.exists() && !other.exists());
    let second = ids();
    assert!(first.iter().zip(second).all(|(first, second)| *first != second), "{first:?}, {second:?}");
    // One of them is gone, or a stranger's.
    for spoil in [
        |from: &Path| std::fs::remove_file(from.join("begin_v4")).unwrap(),
        |from: &Path| std::fs::rename(from.join("carry_uplink_v4"), from.join("begin_v4")).unwrap(),
    ] {
        let before = ids();
        cluster.nodes[0].agent_mut().kill9();
        spoil(&build);
        restart(&mut cluster);
        assert!(ids().iter().zip(before).all(|(now, before)| *now != before), "{before:?}");
    }
    // Half of them are of an earlier load, as an agent leaves them that is killed
    // while it puts its own in place.
    let aside = build.parent().unwrap().with_file_name("aside");
    let shift = |from: &Path, to: &Path, every: usize| {
        let names = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.iter().step_by(every).for_each(|name| std::fs::rename(from.join(name), to.join(name)).unwrap());
    };
    cluster.nodes[0].agent_mut().kill9();
    std::fs::create_dir(&aside).unwrap();
    shift(&build, &aside, 2);
    restart(&mut cluster);
    cluster.nodes[0].agent_mut().kill9();
    shift(&aside, &build, 1);
    let mixed = ids();
    restart(&mut cluster);
    assert!(ids().iter().zip(mixed).all(|(now, mixed)| *now != mixed), "{mixed:?}");
    streams.close().assert_clean(50);
}

/// As after an upgrade: what stands goes on until the operator says so.
#[test]
fn maps_of_another_version_are_left_alone() {
    let (mut cluster, _servers, client) = serving();
    let to = SocketAddrV4::new(vip(1), 80);
    let serves = || requests(&client.netns, to, 50, Protocol::Tcp).assert_clean(50, to);
    let agent = cluster.nodes[0].agent_mut();
    agent.kill9();
    let mut config = Pinned::new(agent.pins()).array::<{ size_of::<NodeConfig>() }>("CONFIG");
    let row: NodeConfig = bytemuck::pod_read_unaligned(&config.get(&0, 0).unwrap());
    let later = NodeConfig { version: row.version + 1, ..row };
    let later: [u8; size_of::<NodeConfig>()] = bytemuck::bytes_of(&later).try_into().unwrap();
    config.set(0, later, 0).unwrap();
    agent.restart();
    let begun = Instant::now();
    while agent.is_alive() && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(!agent.is_alive(), "it takes over what it does not understand");
    assert!(agent.log_tail().contains("--recreate-maps"), "{}", agent.log_tail());
    serves();
    agent.kill9();
    agent.restart_with(&["--recreate-maps"]);
    cluster.wait_converged();
    serves();
}

#[test]
fn traffic_goes_on_while_the_agent_is_dead() {
    let (mut cluster, _servers, client) = serving();
    let before = cluster.nodes[0].agent().status();
    cluster.nodes[0].agent_mut().kill9();
    let to = SocketAddrV4::new(vip(1), 80);
    requests(&client.netns, to, 500, Protocol::Tcp).assert_clean(500, to);
    cluster.nodes[0].agent_mut().restart();
    cluster.wait_converged();
    let after = cluster.nodes[0].agent().status();
    assert_eq!((before.digest, before.endpoints), (after.digest, after.endpoints));
    assert_eq!(after.drift.repaired, 0, "a restart found something to mend: {:?}", after.drift);
}
