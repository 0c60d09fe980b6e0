//! Do flows that become established ones beside others that begin keep apart?
//! An entry that leaves the table of embryonic flows leaves its memory to the
//! next of the CPU that had made it, while another CPU may be reading it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::mpsc,
    thread,
};

use causeway_testkit::{
    client::PATIENCE,
    cpu::stay_on,
    manifest::{Port, Service},
    topology::{Cluster, Container, vip, vip6},
    wire::{Answer, WHO},
};

/// Of a family; each from a port of its own.
const FLOWS: u16 = 20_000;
const FIRST_PORT: u16 = 20_000;
/// Flows that have begun and wait for their second packet.
const WAITING: usize = 64;

struct Flow {
    socket: UdpSocket,
    own: SocketAddr,
    to: SocketAddr,
}

impl Flow {
    fn begin(own: SocketAddr, to: SocketAddr) -> io::Result<(Self, String)> {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, own.port()))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let flow = Self { socket, own, to };
        let server = flow.ask()?;
        Ok((flow, server))
    }

    /// Who has answered, in the service's name, to whom it should.
    fn ask(&self) -> io::Result<String> {
        let wrong = |what: String| io::Error::other(format!("{} to {}: {what}", self.own, self.to));
        self.socket.send_to(WHO.as_bytes(), self.to)?;
        let mut buffer = [0; 512];
        let (length, from) =
            self.socket.recv_from(&mut buffer).map_err(|error| wrong(format!("no answer: {error}")))?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let answer = Answer::parse(&text).ok_or_else(|| wrong(text))?;
        if from != self.to || answer.peer != self.own {
            return Err(wrong(format!("{answer:?} from {from}")));
        }
        Ok(answer.server)
    }
}

/// One CPU begins the flows, another sends their second packets, which make
/// them established ones.
fn begin_and_settle(client: &Container, own: IpAddr, to: SocketAddr) -> io::Result<()> {
    thread::scope(|scope| {
        let (begun, waiting) = mpsc::sync_channel(WAITING);
        let begins = scope.spawn(move || {
            client.netns.run(|| {
                stay_on(0);
                for port in (FIRST_PORT..).take(FLOWS.into()) {
                    if begun.send(Flow::begin(SocketAddr::new(own, port), to)?).is_err() {
                        break;
                    }
                }
                io::Result::Ok(())
            })
        });
        let settles = scope.spawn(move || {
            stay_on(1);
            for (flow, first) in waiting {
                for _ in 0..2 {
                    let server = flow.ask()?;
                    if server != first {
                        return Err(io::Error::other(format!("{}: {server} after {first}", flow.own)));
                    }
                }
            }
            io::Result::Ok(())
        });
        settles.join().unwrap().and(begins.join().unwrap())
    })
}

#[test]
fn flows_that_settle_keep_apart_from_those_that_begin() {
    let cluster = Cluster::dual(1);
    let servers = cluster.servers(3, 8080);
    let everywhere: Vec<IpAddr> =
        servers.iter().flat_map(|(at, _)| [at.address.into(), at.address6.unwrap().into()]).collect();
    let dns = Service::new("dns", vip(1), &[Port::udp(53, 8080)]).dual(vip6(1));
    cluster.manifests().service(&dns, &dns.slice(&everywhere));
    let client = cluster.nodes[0].container("client", 100);
    cluster.wait_converged();
    for (own, to) in [
        (IpAddr::from(client.address), IpAddr::from(vip(1))),
        (client.address6.unwrap().into(), vip6(1).into()),
    ] {
        begin_and_settle(&client, own, SocketAddr::new(to, 53)).unwrap();
    }
    let counters = cluster.nodes[0].agent().counters();
    assert_eq!(counters["flow_promoted"], 2 * u64::from(FLOWS), "{counters:?}");
}
