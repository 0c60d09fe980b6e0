//! FWD-07: do containers, old and new, follow the uplink's MTU within a second,
//! while their connections go on?

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use causeway_testkit::{
    link,
    netns::Netns,
    server::Server,
    streams::Streams,
    topology::{Cluster, Container, PATIENCE, UPLINK, outside_address, outside_address6},
    udp_end::{Fragments, UdpEnd},
};

const SOON: Duration = Duration::from_secs(1);
const OWN: u32 = 1450;

fn mtu(netns: &Netns, link: &str) -> u32 {
    let shown = netns.ip(&format!("link show {link}"));
    let mut words = shown.split_whitespace().skip_while(|&word| word != "mtu").skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no MTU: {shown}"))
}

/// Until the container's interface has this MTU.
fn wait_for(container: &Container, wanted: u32) {
    let end = Instant::now() + SOON;
    while mtu(&container.netns, "eth0") != wanted {
        assert!(
            Instant::now() < end,
            "{}: {}, wanted {wanted}",
            container.name,
            mtu(&container.netns, "eth0")
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The longest datagram goes through whole, and a longer one is refused at once.
fn full_size(cluster: &Cluster, container: &Container, mtu: u32) {
    let ways: [(IpAddr, IpAddr, usize); 2] = [
        (container.address.into(), outside_address().into(), 28),
        (container.address6.unwrap().into(), outside_address6().into(), 48),
    ];
    for (own, to, headers) in ways {
        let server = UdpEnd::bind(&cluster.outside, SocketAddr::new(to, 9000), Fragments::Never);
        let client = UdpEnd::bind(&container.netns, SocketAddr::new(own, 0), Fragments::Never);
        let longest = mtu as usize - headers;
        client.send(SocketAddr::new(to, 9000), &vec![7; longest]).unwrap();
        let (got, from) = server.receive(PATIENCE).unwrap();
        assert_eq!(got.len(), longest);
        assert!(client.send(SocketAddr::new(to, 9000), &vec![7; longest + 1]).is_err(), "longer than {mtu}");
        server.send(from, &got).unwrap();
        assert_eq!(client.receive(PATIENCE).unwrap().0.len(), longest);
    }
}

#[test]
fn containers_follow_the_uplink() {
    let cluster = Cluster::dual(1);
    let node = &cluster.nodes[0];
    let _world = Server::start(&cluster.outside, "world", 8000);
    let old = node.container("old", 2);
    let own = Netns::new();
    node.agent().ask(&[
        "endpoint",
        "attach",
        "own",
        "--netns",
        own.path().to_str().unwrap(),
        "--address",
        &node.pod_address(3).to_string(),
        "--mtu",
        &OWN.to_string(),
    ]);
    let streams = [outside_address().into(), outside_address6().into()]
        .map(|to: IpAddr| Streams::open(&old.netns, SocketAddr::new(to, 8000), 5, Duration::from_millis(5)));
    full_size(&cluster, &old, 1500);
    let everything = |mtu| {
        cluster.switch.mtu(mtu);
        link::mtu(&cluster.outside, "eth0", mtu);
        link::mtu(&node.netns, UPLINK, mtu);
    };
    for (host, wanted) in [(10, 1400), (11, 1500), (12, 9000), (13, 1300), (14, 1500)] {
        everything(wanted);
        wait_for(&old, wanted);
        full_size(&cluster, &old, wanted);
        let new = node.container(&format!("new-{host}"), host);
        assert_eq!(mtu(&new.netns, "eth0"), wanted);
        full_size(&cluster, &new, wanted);
        assert_eq!(mtu(&own, "eth0"), OWN, "its own MTU was given on purpose");
    }
    for streams in streams {
        let report = streams.close();
        println!("{report}");
        report.assert_clean(5);
    }
    // Too small for IPv6, which comes back with a larger one.
    link::mtu(&node.netns, UPLINK, 1000);
    wait_for(&old, 1000);
    link::mtu(&node.netns, UPLINK, 1500);
    wait_for(&old, 1500);
    let addresses = old.netns.ip("-6 address show eth0");
    assert!(addresses.contains(&old.address6.unwrap().to_string()), "{addresses}");
}
