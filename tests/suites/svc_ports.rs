//! SVC-12: may one client port talk to one backend port in several ways at a
//! time? Through three services and directly: the answers keep apart.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use causeway_testkit::{
    manifest::{Port, Service},
    server::Server,
    topology::{Cluster, vip, vip6},
};
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(3);
const ROUNDS: u16 = 50;

/// A connection from a port that others have too.
fn connect(from: u16, to: SocketAddr) -> TcpStream {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let own: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], from).into() } else { ([0_u16; 8], from).into() };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&own.into()).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE).unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes back for a line.
fn exchange(stream: &TcpStream, line: &str) -> String {
    (&*stream).write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}

#[test]
fn one_client_port_to_one_backend_in_four_ways() {
    let cluster = Cluster::dual(1);
    let server = cluster.nodes[0].container("server", 2);
    let client = cluster.nodes[0].container("client", 3);
    let _server = Server::start(&server.netns, "server", 8080);
    let backends: [IpAddr; 2] = [server.address.into(), server.address6.unwrap().into()];
    for number in 1..=3 {
        let ports = [Port::tcp(80, 8080), Port::udp(53, 8080)];
        let service = Service::new(&format!("s{number}"), vip(number), &ports).dual(vip6(number));
        cluster.manifests().service(&service, &service.slice(&backends));
    }
    cluster.wait_converged();
    for direct in backends {
        let services: Vec<IpAddr> = (1..=3)
            .map(|number| if direct.is_ipv4() { vip(number).into() } else { vip6(number).into() })
            .collect();
        client.netns.run(|| {
            for round in 0..ROUNDS {
                let from = 30_000 + round;
                let mut ways: Vec<SocketAddr> =
                    services.iter().map(|&vip| SocketAddr::new(vip, 80)).collect();
                // The direct one comes after them: one that came before has left
                // no trace that a service's flow could heed.
                ways.push(SocketAddr::new(direct, 8080));
                let streams: Vec<TcpStream> = ways.iter().map(|&to| connect(from, to)).collect();
                for turn in 0..3 {
                    for (stream, to) in streams.iter().zip(&ways) {
                        let line = format!("{round} {turn} {to}");
                        assert_eq!(exchange(stream, &line), line, "from {from} to {to}");
                    }
                }
            }
            for round in 0..ROUNDS {
                let own: SocketAddr = if direct.is_ipv4() {
                    ([0, 0, 0, 0], 31_000 + round).into()
                } else {
                    ([0_u16; 8], 31_000 + round).into()
                };
                let socket = UdpSocket::bind(own).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                for &vip in services.iter().chain(&services) {
                    let (to, mut buffer) = (SocketAddr::new(vip, 53), [0; 64]);
                    let line = format!("{round} {to}\n");
                    socket.send_to(line.as_bytes(), to).unwrap();
                    let (length, from) = socket.recv_from(&mut buffer).unwrap();
                    assert_eq!((from, &buffer[..length]), (to, line.as_bytes()));
                }
            }
        });
    }
}
