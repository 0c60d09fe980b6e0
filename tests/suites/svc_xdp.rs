//! SVC-22: does the uplink's driver turn around what leaves by it again, and
//! does all the rest still arrive that it leaves to tc?

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::requests,
    direct::{NODE_PORT, counted, serve, service},
    frame::{Datagram, Frame},
    link,
    raw::Raw,
    server::Server,
    streams::Streams,
    topology::{
        Cluster, Container, Node, PATIENCE, UPLINK, node_address, node_address6, outside_address,
        outside_address6, vip6, widen,
    },
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
    xdp::Pass,
};

const REQUESTS: u64 = 300;
const JUMBO: usize = 9000;
const LENGTH: usize = 20 << 20;
const COPIES: u64 = 100;

/// A service whose backends are all on the second node.
fn far_service(cluster: &Cluster, backends: &[&Container]) {
    serve(cluster, &service("far"), backends);
}

/// How many packets the node's uplink turned around meanwhile, and how many
/// it forwarded in all.
fn turned(node: &Node, work: impl FnOnce()) -> (u64, u64) {
    let before = ["xdp_forwarded", "forwarded"].map(|name| counted(node, name));
    work();
    (counted(node, "xdp_forwarded") - before[0], counted(node, "forwarded") - before[1])
}

#[test]
fn what_leaves_again_is_turned_around_in_the_driver() {
    let cluster = Cluster::xdp(2);
    let node = &cluster.nodes[0];
    assert_eq!(node.agent().status().hook, "tcx+xdp+sockets");
    let servers = cluster.servers(2, 8080);
    far_service(&cluster, &[&servers[2].0, &servers[3].0]);
    widen(&cluster.outside);
    let addresses: [(IpAddr, IpAddr); 2] = [
        (node_address(0).into(), outside_address().into()),
        (node_address6(0).into(), outside_address6().into()),
    ];
    for (at, own) in addresses {
        let to = SocketAddr::new(at, NODE_PORT);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            requests(&cluster.outside, to, REQUESTS, protocol).assert_clean(REQUESTS, to);
        }
        let (by_xdp, in_all) = turned(node, || {
            let streams = Streams::open(&cluster.outside, to, 20, Duration::from_millis(5));
            std::thread::sleep(Duration::from_secs(1));
            let report = streams.close();
            println!("{to}: {report}");
            report.assert_clean(20);
        });
        println!("{to}: {by_xdp} of {in_all} packets turned around by XDP");
        assert!(in_all > 1000 && by_xdp * 10 > in_all * 8, "TCP {to}: {by_xdp} of {in_all}");

        let (by_xdp, in_all) = turned(node, || {
            let client = UdpEnd::bind(&cluster.outside, SocketAddr::new(own, 0), Fragments::Never);
            for number in 0..200 {
                let text = format!("datagram {number}\n");
                client.send(to, text.as_bytes()).unwrap();
                let (answer, from) = client.receive(PATIENCE).unwrap();
                assert_eq!((answer.as_slice(), from), (text.as_bytes(), to));
            }
        });
        // All but the first exchange, which begins the flow.
        assert!(by_xdp >= 396 && in_all == 400, "UDP {to}: {by_xdp} of {in_all}");
    }
    // Containers of this node are reached as ever, and reach as ever.
    let client = node.container("client", 100);
    let to = SocketAddr::new(vip6(1).into(), 80);
    requests(&client.netns, to, REQUESTS, Protocol::Tcp).assert_clean(REQUESTS, to);
    let to = SocketAddr::new(servers[0].0.address.into(), 8080);
    requests(&cluster.outside, to, REQUESTS, Protocol::Tcp).assert_clean(REQUESTS, to);
}

#[test]
fn jumbo_frames_are_turned_around() {
    let mut cluster = Cluster::xdp(2);
    for (netns, name) in
        [(&cluster.outside, "eth0")].into_iter().chain(cluster.nodes.iter().map(|node| (&node.netns, UPLINK)))
    {
        link::mtu(netns, name, JUMBO as u32);
    }
    cluster.switch.mtu(JUMBO as u32);
    // The agent looks at its uplink when it starts.
    let agent = cluster.nodes[1].agent_mut();
    agent.kill9();
    agent.restart();
    agent.wait_up(PATIENCE);
    let server = cluster.nodes[1].container("server", 2);
    far_service(&cluster, &[&server]);
    let listener = server.netns.run(|| TcpListener::bind(("::", 8080)).unwrap());
    std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(&bytes));
        }
    });
    for at in [node_address(0).into(), node_address6(0).into()] {
        let to = SocketAddr::new(at, NODE_PORT);
        let (by_xdp, in_all) = turned(&cluster.nodes[0], || {
            let got = cluster.outside.run(|| {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut bytes = Vec::with_capacity(LENGTH);
                stream.read_to_end(&mut bytes).map(|_| bytes)
            });
            let got = got.unwrap();
            assert!(
                got.len() == LENGTH && got.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8)
            );
        });
        println!("{to}: {by_xdp} of {in_all} packets turned around by XDP");
        let frames = (LENGTH / JUMBO) as u64;
        // Answers in jumbo frames, and acknowledgements for some of them.
        assert!(by_xdp >= frames && by_xdp < 3 * frames, "{to}: {by_xdp} of {in_all}");
    }
}

#[test]
fn frames_of_a_vlan_and_for_others_are_left_alone() {
    let cluster = Cluster::xdp(2);
    let server = cluster.nodes[1].container("server", 2);
    let _server = Server::start(&server.netns, "server", 8080);
    far_service(&cluster, &[&server]);
    let node = &cluster.nodes[0];
    let to = SocketAddr::new(node_address(0).into(), NODE_PORT);
    let own = SocketAddr::new(outside_address().into(), 5000);
    let client = UdpEnd::bind(&cluster.outside, own, Fragments::Never);
    for _ in 0..3 {
        client.send(to, b"hello\n").unwrap();
        client.receive(PATIENCE).unwrap();
    }
    // The same datagram once more, as itself and otherwise.
    let mac = link::mac(&node.netns, UPLINK);
    let frame = Frame::new(Datagram::udp(&own.to_string(), &to.to_string(), b"hello\n")).macs([2; 6], mac);
    let raw = Raw::open(&cluster.outside, "eth0");
    for (frame, counter, copies, by_xdp) in [
        // And its answers.
        (frame.clone(), "forwarded", 2 * COPIES, 2 * COPIES),
        (frame.clone().vlan(7), "stack_vlan", COPIES, 0),
        (frame.macs([2; 6], [2, 1, 1, 1, 1, 1]), "stack_foreign", COPIES, 0),
    ] {
        let names = ["xdp_forwarded", counter];
        let before = names.map(|name| counted(node, name));
        (0..COPIES).for_each(|_| raw.send(&frame.bytes()));
        let end = Instant::now() + PATIENCE;
        while counted(node, counter) < before[1] + copies {
            assert!(Instant::now() < end, "{counter}: not counted");
        }
        assert_eq!(counted(node, "xdp_forwarded") - before[0], by_xdp, "{counter}");
    }
}

#[test]
fn an_agent_takes_its_program_out_of_the_driver() {
    let mut cluster = Cluster::xdp(1);
    let node = &mut cluster.nodes[0];
    let has_xdp = |node: &Node| node.netns.ip(&format!("link show {UPLINK}")).contains("prog/xdp");
    assert!(has_xdp(node));
    // Killed, the program stays; the next agent takes it over.
    node.agent_mut().kill9();
    assert!(has_xdp(node));
    node.agent_mut().restart();
    node.agent().wait_converged(PATIENCE);
    assert_eq!(node.agent().status().hook, "tcx+xdp+sockets");
    assert!(has_xdp(node));
    // Another that does not want it removes it.
    node.agent_mut().kill9();
    node.agent_mut().reconfigure("xdp = false\n");
    node.agent_mut().restart();
    node.agent().wait_converged(PATIENCE);
    assert_eq!(node.agent().status().hook, "tcx+sockets");
    assert!(!has_xdp(node));
}

#[test]
fn a_driver_without_room_is_named_and_tc_serves() {
    let mut cluster = Cluster::dual(1);
    let node = &mut cluster.nodes[0];
    node.agent_mut().kill9();
    let foreign = Pass::at(&node.netns, UPLINK);
    node.agent_mut().reconfigure("xdp = true\n");
    node.agent_mut().restart();
    node.agent().wait_converged(PATIENCE);
    let status = node.agent().status();
    assert_eq!(status.hook, "tcx+sockets");
    assert!(
        status.alarms.iter().any(|alarm| alarm.contains("no XDP") && alarm.contains(UPLINK)),
        "{status:?}"
    );
    drop(foreign);
}
