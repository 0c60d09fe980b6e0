//! SVC-13: does path MTU discovery work through a service? A client behind a
//! link of 1280 bytes fetches 10 MB; the router's error about the service's
//! packets reaches the backend, and tells it of packets that it has sent. A
//! client that sends 10 MB to a backend behind such a link hears of it likewise.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use causeway_testkit::{
    capture::Capture,
    direct::{bytes, sink},
    frame::{Body, Frame, Message},
    hop::Hop,
    link::{path_mtu, route},
    manifest::{Port, Service},
    topology::{Cluster, node_address, node_address6, vip, vip6},
};

const LENGTH: usize = 10 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
const NARROW: u32 = 1280;

/// Bytes that repeat at no segment's length.
fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

#[test]
fn a_service_learns_the_path_of_its_clients() {
    let mut cluster = Cluster::dual(1);
    let server = cluster.nodes[0].container("server", 2);
    let backends: [IpAddr; 2] = [server.address.into(), server.address6.unwrap().into()];
    let service = Service::new("web", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1));
    cluster.manifests().service(&service, &service.slice(&backends));
    cluster.wait_converged();

    let hop = Hop::behind(&mut cluster.switch, NARROW);
    hop.reach_from(&cluster.nodes[0].netns);
    route(&hop.near, "10.96.0.0/16", &format!("via {}", node_address(0)));
    route(&hop.near, "fd00:10:96::/112", &format!("via {}", node_address6(0)));

    let listener = server.netns.run(|| TcpListener::bind(("::", 8080)).unwrap());
    std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..LENGTH).map(byte).collect();
        for stream in listener.incoming() {
            // A client that goes away has seen enough.
            let _ = stream.and_then(|mut stream| stream.write_all(&bytes));
        }
    });
    let ways: [(IpAddr, IpAddr, IpAddr); 2] = [
        (vip(1).into(), hop.far_address().into(), backends[0]),
        (vip6(1).into(), hop.far_address6().into(), backends[1]),
    ];
    for (vip, far, backend) in ways {
        let capture = Capture::start_where(
            &server.netns,
            "eth0",
            |frame| matches!(Frame::read(&frame.bytes), Ok(frame) if matches!(frame.packet.body, Body::Icmp(_))),
        );
        let got = hop.far.run(|| {
            let to = SocketAddr::new(vip, 80);
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::with_capacity(LENGTH);
            stream.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("after {}: {error}", bytes.len()));
            bytes
        });
        assert_eq!(got.len(), LENGTH);
        assert!(got.iter().enumerate().all(|(at, &got)| got == byte(at)), "altered on its way from {vip}");
        assert_eq!(server.netns.run(|| path_mtu(&server.netns, far)), Some(NARROW), "to {far}");

        // The error itself: right in all its checksums, about the backend's own packet.
        let errors: Vec<Frame> =
            capture.stop().iter().map(|frame| Frame::read_right(&frame.bytes).unwrap()).collect();
        let about = errors.iter().find_map(|frame| match &frame.packet.body {
            Body::Icmp(icmp) if matches!(icmp.message, Message::TooBig { .. }) => {
                Some((frame, icmp.message.quote().unwrap().unwrap()))
            }
            _ => None,
        });
        let (error, quote) = about.unwrap_or_else(|| panic!("no error came to the server: {errors:?}"));
        assert_eq!(error.packet.dst, backend);
        assert_eq!((quote.packet.src, quote.packet.dst), (backend, far));
        assert_eq!(quote.packet.ports().map(|(from, _)| from), Some(8080));
    }
}

/// From a container under its own address, and from outside under the node's.
#[test]
fn clients_learn_the_path_to_backends() {
    for mut cluster in [Cluster::xdp(1), Cluster::dual(1)] {
        let hop = Hop::behind(&mut cluster.switch, NARROW);
        let node = &cluster.nodes[0];
        hop.reach_from(&node.netns);
        route(&hop.near, &node.pod_cidr(), &format!("via {}", node_address(0)));
        route(&hop.near, &node.pod_cidr6(), &format!("via {}", node_address6(0)));
        let client = node.container("client", 3);
        let service = Service::new("far", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1));
        let backends: [IpAddr; 2] = [hop.far_address().into(), hop.far_address6().into()];
        cluster.manifests().service(&service, &service.slice(&backends));
        cluster.wait_converged();
        let arrived = sink(&hop.far, 8080);
        let bytes = bytes(LENGTH);
        let nodes = [node_address(0).into(), node_address6(0).into()];
        for (netns, seen) in [(&client.netns, client.addresses()), (&cluster.outside, nodes)] {
            for (vip, seen) in [IpAddr::from(vip(1)), vip6(1).into()].into_iter().zip(seen) {
                let to = SocketAddr::new(vip, 80);
                netns.run(|| {
                    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    stream.write_all(&bytes).unwrap_or_else(|error| panic!("to {to}: {error}"));
                });
                let (peer, length, right) = arrived.recv_timeout(PATIENCE).unwrap();
                assert_eq!((peer.ip().to_canonical(), length, right), (seen, LENGTH, true), "to {to}");
                assert_eq!(netns.run(|| path_mtu(netns, vip)), Some(NARROW), "to {to}");
            }
        }
    }
}
