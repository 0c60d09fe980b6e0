//! SVC-20: do clients learn how long a packet may be that goes on in an outer
//! header, and do backends that answer past the node that chose them?

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use causeway_testkit::{
    direct::{DSR, bytes, counted, direct, frontends, of_both, own, sink},
    hop::Hop,
    link::{self, path_mtu, route},
    manifest::{Port, Service},
    server::Server,
    topology::{Cluster, PATIENCE, node_address, node_address6, vip, vip6},
    tunnel_end::TunnelEnd,
    udp_end::{Fragments, UdpEnd},
};

const LENGTH: usize = 10 << 20;

#[test]
fn clients_learn_how_long_their_packets_may_be() {
    for cluster in [Cluster::xdp(2), Cluster::dual(2)] {
        let server = cluster.nodes[1].container("server", 2);
        let service = direct("far");
        cluster.manifests().service(&service, &service.slice(&of_both(&[&server])));
        cluster.wait_converged();
        let arrived = sink(&server.netns, 8080);
        let bytes = bytes(LENGTH);
        for (to, mtu) in frontends().into_iter().zip([1480, 1460].into_iter().cycle()) {
            cluster.outside.run(|| {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(&bytes).unwrap_or_else(|error| panic!("to {to}: {error}"));
            });
            let (peer, length, right) = arrived.recv_timeout(PATIENCE).unwrap();
            assert_eq!((peer.ip().to_canonical(), length, right), (own(to), LENGTH, true), "to {to}");
            let learned = cluster.outside.run(|| path_mtu(&cluster.outside, to.ip()));
            assert_eq!(learned, Some(mtu), "to {to}");
        }
        assert!(counted(&cluster.nodes[0], "drop_too_big") > 0);
    }
}

#[test]
fn datagrams_of_any_length_arrive() {
    let cluster = Cluster::xdp(2);
    let server = cluster.nodes[1].container("server", 2);
    let _server = Server::start(&server.netns, "server", 8080);
    let service = direct("far");
    cluster.manifests().service(&service, &service.slice(&of_both(&[&server])));
    cluster.wait_converged();
    for to in frontends() {
        for fragments in [Fragments::Never, Fragments::Allowed] {
            let client = UdpEnd::bind(&cluster.outside, SocketAddr::new(own(to), 0), fragments);
            // What is too long is told once, and may be sent in pieces after.
            let lengths: &[usize] =
                if fragments == Fragments::Never { &[1, 1400] } else { &[1, 1400, 1450, 4000, 20_000] };
            for &length in lengths {
                let mut text = vec![b'x'; length];
                text.push(b'\n');
                let answered = (0..3).any(|_| {
                    client.send(to, &text).unwrap();
                    client.receive(Duration::from_millis(500)).is_ok_and(|(answer, from)| {
                        assert!(answer == text && from == to, "{} bytes from {from}", answer.len());
                        true
                    })
                });
                assert!(answered, "{length} bytes to {to}, {fragments:?}: no answer");
            }
        }
    }
    assert!(counted(&cluster.nodes[0], "encapsulated") > 100);
}

#[test]
fn errors_about_outer_headers_reach_the_client() {
    let mut cluster = Cluster::xdp(1);
    let hop = Hop::behind(&mut cluster.switch, 1400);
    hop.reach_from(&cluster.nodes[0].netns);
    let to: Vec<SocketAddr> = vec![SocketAddr::new(vip(1).into(), 80), SocketAddr::new(vip6(1).into(), 80)];
    for to in &to {
        link::address(&hop.far, "lo", &format!("{}/{}", to.ip(), if to.is_ipv4() { 32 } else { 128 }));
    }
    let tunnel = TunnelEnd::open(&hop.far);
    let arrived = sink(&hop.far, 80);
    let addresses: [IpAddr; 2] = [hop.far_address().into(), hop.far_address6().into()];
    let service = Service::new("far", vip(1), &[Port::tcp(80, 80)]).dual(vip6(1)).annotated(DSR.0, DSR.1);
    cluster.manifests().service(&service, &service.slice(&addresses));
    cluster.wait_converged();
    let bytes = bytes(LENGTH / 10);
    for (to, mtu) in to.into_iter().zip([1380, 1360]) {
        cluster.outside.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&bytes).unwrap_or_else(|error| panic!("to {to}: {error}"));
        });
        let (peer, length, right) = arrived.recv_timeout(PATIENCE).unwrap();
        assert_eq!((peer.ip().to_canonical(), length, right), (own(to), bytes.len(), true), "to {to}");
        let learned = cluster.outside.run(|| path_mtu(&cluster.outside, to.ip()));
        assert_eq!(learned, Some(mtu), "to {to}");
    }
    drop(tunnel);
}

#[test]
fn routers_errors_about_answers_find_the_backend() {
    let mut cluster = Cluster::dual(2);
    let server = cluster.nodes[1].container("server", 2);
    let service = direct("far");
    cluster.manifests().service(&service, &service.slice(&of_both(&[&server])));
    cluster.wait_converged();
    let hop = Hop::behind(&mut cluster.switch, 1280);
    cluster.nodes.iter().for_each(|node| hop.reach_from(&node.netns));
    route(&hop.near, "10.96.0.0/16", &format!("via {}", node_address(0)));
    route(&hop.near, "fd00:10:96::/112", &format!("via {}", node_address6(0)));
    let listener = server.netns.run(|| TcpListener::bind(("::", 8080)).unwrap());
    thread::spawn(move || {
        let bytes = bytes(LENGTH);
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(&bytes));
        }
    });
    let ways: [(IpAddr, IpAddr); 2] =
        [(vip(1).into(), hop.far_address().into()), (vip6(1).into(), hop.far_address6().into())];
    for (vip, far) in ways {
        let got = hop.far.run(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(vip, 80), PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::with_capacity(LENGTH);
            stream.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("after {}: {error}", bytes.len()));
            bytes
        });
        assert!(got == bytes(LENGTH), "{} bytes", got.len());
        assert_eq!(server.netns.run(|| path_mtu(&server.netns, far)), Some(1280), "to {far}");
    }
}
