//! What the suites about direct return have in common: a service that a
//! cluster's first node serves, and who is seen where.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::mpsc,
    thread,
};

use crate::{
    capture::Capture,
    frame::Body,
    manifest::{Port, Service},
    netns::Netns,
    topology::{
        Cluster, Container, Node, UPLINK, node_address, node_address6, outside_address, outside_address6,
        vip, vip6,
    },
};

pub const NODE_PORT: u16 = 30_080;

/// The annotations that ask for it, in an outer header and without.
pub const DSR: (&str, &str) = ("causeway.io/dsr", "ipip");
pub const L2: (&str, &str) = ("causeway.io/dsr", "l2");

/// Their addresses of both families.
pub fn of_both(containers: &[&Container]) -> Vec<IpAddr> {
    containers.iter().flat_map(|at| at.addresses()).collect()
}

/// Makes these the backends of a service, and waits until they are.
pub fn serve(cluster: &Cluster, service: &Service, backends: &[&Container]) {
    cluster.manifests().service(service, &service.slice(&of_both(backends)));
    cluster.wait_converged();
}

/// Everything that comes to a node by its uplink and has nobody but clients
/// as its destination: an answer on its way back.
pub fn answers(node: &Node) -> Capture {
    Capture::start_where(&node.netns, UPLINK, |seen| {
        let outside: [IpAddr; 2] = [outside_address().into(), outside_address6().into()];
        let Ok(frame) = seen.frame() else { return false };
        // Neighbour discovery is a host's own affair.
        outside.contains(&frame.packet.dst) && !matches!(frame.packet.body, Body::Icmp(_))
    })
}

/// A service at its own addresses, external ones and node ports.
pub fn service(name: &str) -> Service {
    service_at(name, 8080)
}

/// The same with backends' TCP elsewhere.
pub fn service_at(name: &str, tcp: u16) -> Service {
    let ports = [Port::tcp(80, tcp).at_node(NODE_PORT), Port::udp(80, 8080).at_node(NODE_PORT)];
    Service::new(name, vip(1), &ports)
        .dual(vip6(1))
        .with("type: NodePort")
        .with("externalIPs: [10.96.0.101, \"fd00:10:96::101\"]")
}

/// The same with direct return.
pub fn direct(name: &str) -> Service {
    service(name).annotated(DSR.0, DSR.1)
}

/// Where that is served, from outside by the first node.
pub fn frontends() -> [SocketAddr; 6] {
    [
        SocketAddr::new(vip(1).into(), 80),
        SocketAddr::new(vip6(1).into(), 80),
        SocketAddr::new([10, 96, 0, 101].into(), 80),
        SocketAddr::new("fd00:10:96::101".parse().unwrap(), 80),
        SocketAddr::new(node_address(0).into(), NODE_PORT),
        SocketAddr::new(node_address6(0).into(), NODE_PORT),
    ]
}

/// The outside client's address of that family.
pub fn own(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { outside_address().into() } else { outside_address6().into() }
}

/// What a node has counted under a name.
pub fn counted(node: &Node, name: &str) -> u64 {
    node.agent().counters()[name]
}

/// What streams carry: bytes that repeat at no segment's length.
pub fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Reads all of every stream, and says how much it was and whether it was right.
pub fn sink(netns: &Netns, port: u16) -> mpsc::Receiver<(SocketAddr, usize, bool)> {
    let listener = netns.run(|| TcpListener::bind(("::", port)).unwrap());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = Vec::new();
            let peer = stream.peer_addr().unwrap();
            let _ = stream.read_to_end(&mut bytes);
            let right = bytes == self::bytes(bytes.len());
            if sender.send((peer, bytes.len(), right)).is_err() {
                return;
            }
        }
    });
    receiver
}
