//! SVC-20: do backends on other nodes answer clients from outside themselves,
//! with no answer through the node that chose them? Requests go there in an
//! outer header.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use causeway_testkit::{
    client::{first_answer, request, requests},
    direct::{DSR, answers, counted, direct, frontends, of_both, own, serve, service},
    manifest::{Port, Service},
    server::Server,
    streams::Streams,
    topology::{Cluster, Container, PATIENCE, node_address, node_address6, vip, vip6, widen},
    udp_end::{Fragments, UdpEnd},
    wire::Protocol,
};

const REQUESTS: u64 = 300;

#[test]
fn the_backend_answers_its_client_itself() {
    // Frames as a wire brings them, with XDP; and super-packets.
    for cluster in [Cluster::xdp(3), Cluster::dual(3)] {
        let servers = cluster.servers(2, 8080);
        widen(&cluster.outside);
        let far: Vec<&Container> = servers[2..].iter().map(|(container, _)| container).collect();
        let service = direct("far");
        serve(&cluster, &service, &far);
        let shown = cluster.nodes[0].agent().text(&["show", "services"]);
        assert!(shown.contains("dsr ipip"), "{shown}");

        let chooser = &cluster.nodes[0];
        let capture = answers(chooser);
        let before = ["forwarded", "encapsulated"].map(|name| counted(chooser, name));
        for to in frontends() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let report = requests(&cluster.outside, to, REQUESTS, protocol);
                println!("{protocol:?} to {to}: {report}");
                report.assert_clean(REQUESTS, to);
                assert_eq!(report.by_server.len(), 4, "{to}: {report}");
                assert!(report.peers_seen.keys().eq([&own(to)]), "{to}: servers saw {:?}", report.peers_seen);
            }
            let streams = Streams::open(&cluster.outside, to, 20, Duration::from_millis(5));
            thread::sleep(Duration::from_millis(300));
            streams.close().assert_clean(20);
        }
        let flows = chooser.agent().ask(&["show", "flows"]);
        let flows = flows.as_array().unwrap();
        assert!(flows.len() > 12 && flows.iter().all(|flow| flow["state"] == "tunnelled"), "{flows:?}");
        let after = ["forwarded", "encapsulated"].map(|name| counted(chooser, name));
        let [forwarded, encapsulated] = [after[0] - before[0], after[1] - before[1]];
        println!("{forwarded} forwarded, {encapsulated} of them in an outer header");
        assert!(forwarded == encapsulated && encapsulated > 12 * REQUESTS);
        let back: Vec<_> = capture.stop().iter().map(|seen| seen.frame().unwrap().packet).collect();
        assert!(back.is_empty(), "answers through the first node: {} {back:?}", back.len());
        let unwrapped: u64 = cluster.nodes[1..].iter().map(|node| counted(node, "decapsulated")).sum();
        assert_eq!(unwrapped, encapsulated);
    }
}

#[test]
fn a_backend_of_this_node_and_other_services_are_as_ever() {
    let cluster = Cluster::dual(2);
    let servers = cluster.servers(1, 8080);
    for (service, at) in [(direct("near"), 0), (service("plain"), 1)] {
        serve(&cluster, &service, &[&servers[at].0]);
        for to in frontends() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let report = requests(&cluster.outside, to, 20, protocol);
                report.assert_clean(20, to);
                let node: IpAddr =
                    if to.is_ipv4() { node_address(0).into() } else { node_address6(0).into() };
                let seen = if at == 0 { own(to) } else { node };
                assert!(report.peers_seen.keys().eq([&seen]), "{to}: {:?}", report.peers_seen);
            }
        }
        assert!(cluster.nodes.iter().all(|node| counted(node, "encapsulated") == 0));
        cluster.manifests().remove(&format!("{}.service.yaml", service.name));
        cluster.wait_converged();
    }
}

#[test]
fn connections_stay_with_a_backend_that_was_replaced() {
    let cluster = Cluster::dual(3);
    let servers = cluster.servers(1, 8080);
    widen(&cluster.outside);
    let service = direct("far");
    serve(&cluster, &service, &[&servers[1].0]);
    for to in frontends() {
        let streams = Streams::open(&cluster.outside, to, 50, Duration::from_millis(5));
        cluster.manifests().slice(&service.slice(&of_both(&[&servers[2].0])));
        cluster.wait_converged();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let report = requests(&cluster.outside, to, 50, protocol);
            report.assert_clean(50, to);
            assert!(report.by_server.keys().eq(["web-n2-0"]), "{to}: {report}");
        }
        thread::sleep(Duration::from_millis(300));
        let report = streams.close();
        report.assert_clean(50);
        assert!(report.by_server.keys().eq(["web-n1-0"]), "{to}: {report}");
        cluster.manifests().slice(&service.slice(&of_both(&[&servers[1].0])));
        cluster.wait_converged();
    }
    // A client with one source port moves with the service.
    let to = frontends()[0];
    let client = UdpEnd::bind(&cluster.outside, SocketAddr::new(own(to), 5000), Fragments::Never);
    let who = |client: &UdpEnd| {
        client.send(to, causeway_testkit::wire::WHO.as_bytes()).unwrap();
        String::from_utf8_lossy(&client.receive(PATIENCE).unwrap().0).into_owned()
    };
    assert!(who(&client).contains("web-n1-0"));
    cluster.manifests().slice(&service.slice(&of_both(&[&servers[2].0])));
    cluster.wait_converged();
    assert!(who(&client).contains("web-n2-0"));
    // Nobody left: refused by the node that was asked.
    cluster.manifests().slice(&service.slice::<IpAddr>(&[]));
    cluster.wait_converged();
    let refused = cluster.outside.run(|| request(to, Protocol::Tcp)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(first_answer(&cluster.outside, to, Duration::from_millis(100), |_| true).is_none());
}

#[test]
fn clients_that_are_remembered_return_to_their_backend() {
    let cluster = Cluster::dual(2);
    let servers = cluster.servers(4, 8080);
    let far: Vec<&Container> = servers[4..].iter().map(|(container, _)| container).collect();
    let service = direct("sticky").with("sessionAffinity: ClientIP");
    serve(&cluster, &service, &far);
    for to in frontends() {
        // Of four backends; the second node would choose others.
        let mut seen = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let report = requests(&cluster.outside, to, 40, protocol);
            report.assert_clean(40, to);
            assert!(report.peers_seen.keys().eq([&own(to)]), "{to}: {report}");
            seen.extend(report.by_server.into_keys());
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "{to}: {seen:?}");
    }
}

#[test]
fn ranges_of_ports_are_served() {
    let cluster = Cluster::dual(2);
    let server = cluster.nodes[1].container("server", 2);
    let _servers: Vec<Server> =
        (0..3).map(|at| Server::start(&server.netns, &format!("of-{}", 7000 + at), 8000 + at)).collect();
    let service = Service::new("media", vip(1), &[Port::tcp(7000, 8000).through(7002)]).dual(vip6(1));
    let service = service.annotated(DSR.0, DSR.1);
    serve(&cluster, &service, &[&server]);
    for vip in [IpAddr::from(vip(1)), vip6(1).into()] {
        for port in 7000..7003 {
            let to = SocketAddr::new(vip, port);
            let report = requests(&cluster.outside, to, 20, Protocol::Tcp);
            report.assert_clean(20, to);
            assert!(report.peers_seen.keys().eq([&own(to)]), "{to}: {report}");
            assert!(report.by_server.keys().eq([&format!("of-{port}")]), "{to}: {report}");
        }
    }
    assert!(counted(&cluster.nodes[1], "decapsulated") > 6 * 20);
}
