//! SVC-11: is a client told at once that nobody serves it? A reset or an ICMP
//! error for a service without backends, a port nobody serves, a closed port
//! of a backend; and a service's address answers a ping. Both families, from a
//! container and from outside, with XDP at the uplink and without.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use causeway_testkit::{
    manifest::{Port, Service},
    netns::Netns,
    ping,
    topology::{Cluster, vip, vip6},
};

/// What a refusal may take; the client gives up waiting after [`PATIENCE`].
const AT_ONCE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(2);
const CLOSED: u16 = 99;

fn tcp(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&to, PATIENCE).map(drop)
}

fn udp(to: SocketAddr) -> io::Result<()> {
    let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(own)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"anybody?")?;
    socket.recv(&mut [0; 16]).map(drop)
}

/// The fastest of a few: the first asks for neighbours, and the machine has
/// other work.
fn refused(netns: &Netns, what: &str, ask: fn(SocketAddr) -> io::Result<()>, to: SocketAddr) {
    let fastest = netns.run(|| {
        let attempts = (0..5).map(|_| {
            let begun = Instant::now();
            let error = ask(to).expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{what} at {to}: {error}");
            begun.elapsed()
        });
        attempts.min().unwrap()
    });
    println!("{what} at {to}: refused in {fastest:?}");
    assert!(fastest < AT_ONCE, "{what} at {to}: refused in {fastest:?}");
}

#[test]
fn who_cannot_be_served_hears_it_at_once() {
    for cluster in [Cluster::xdp(1), Cluster::dual(1)] {
        refuses(&cluster);
    }
}

fn refuses(cluster: &Cluster) {
    let server = cluster.nodes[0].container("server", 2);
    let client = cluster.nodes[0].container("client", 3);
    let ports = [Port::tcp(80, 8080), Port { name: "closed".into(), ..Port::udp(CLOSED, CLOSED) }];
    let web = Service::new("web", vip(1), &ports).dual(vip6(1));
    let backends: [IpAddr; 2] = [server.address.into(), server.address6.unwrap().into()];
    cluster.manifests().service(&web, &web.slice(&backends));
    let empty = Service::new("empty", vip(2), &[Port::tcp(80, 8080), Port::udp(53, 53)]).dual(vip6(2));
    cluster.manifests().service(&empty, &empty.slice::<IpAddr>(&[]));
    cluster.wait_converged();

    for netns in [&client.netns, &cluster.outside] {
        for (web, empty) in
            [(IpAddr::from(vip(1)), IpAddr::from(vip(2))), (IpAddr::from(vip6(1)), IpAddr::from(vip6(2)))]
        {
            refused(netns, "TCP to no backend", tcp, SocketAddr::new(empty, 80));
            refused(netns, "UDP to no backend", udp, SocketAddr::new(empty, 53));
            refused(netns, "TCP to a port nobody serves", tcp, SocketAddr::new(web, 81));
            refused(netns, "UDP to a port nobody serves", udp, SocketAddr::new(web, 81));
            // The backend's own error, translated on its way.
            refused(netns, "UDP to a closed port", udp, SocketAddr::new(web, CLOSED));
            refused(netns, "TCP to a closed port", tcp, SocketAddr::new(web, 80));
            for address in [web, empty] {
                let answers = netns.run(|| ping::ping(address, 3, PATIENCE).unwrap());
                assert_eq!(answers, 3, "ping of {address}");
            }
        }
    }
}
