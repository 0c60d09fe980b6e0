//! Who is reached from here? All connections of a party at a time, so that
//! those that nobody answers cost their patience once.

use std::{
    collections::BTreeSet,
    fmt,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use super::Party;
use crate::wire::{Protocol, WHO};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub number: u16,
    pub protocol: Protocol,
}

/// What every party serves.
pub const PORTS: [Port; 4] = [
    Port { number: 80, protocol: Protocol::Tcp },
    Port { number: 81, protocol: Protocol::Tcp },
    Port { number: 80, protocol: Protocol::Udp },
    Port { number: 81, protocol: Protocol::Udp },
];

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, if self.protocol == Protocol::Tcp { "TCP" } else { "UDP" })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    pub from: Party,
    pub to: Party,
    pub port: Port,
    pub v6: bool,
}

/// What is open after this time is told from what is closed; before, whatever
/// answers is open. Twice, so that one lost packet says nothing.
const PATIENCE: Duration = Duration::from_millis(350);

/// Of ways with their destinations, those that are open from the calling
/// thread's namespace.
pub fn open(ways: &[(Way, IpAddr)]) -> BTreeSet<Way> {
    let mut open = BTreeSet::new();
    for _ in 0..2 {
        let left: Vec<&(Way, IpAddr)> = ways.iter().filter(|(way, _)| !open.contains(way)).collect();
        open.extend(once(&left));
    }
    open
}

fn once(ways: &[&(Way, IpAddr)]) -> Vec<Way> {
    let mut open = Vec::new();
    let mut asked: Vec<(&Way, OwnedFd)> =
        ways.iter().filter_map(|(way, to)| Some((way, ask(way, *to)?))).collect();
    let end = Instant::now() + PATIENCE;
    while !asked.is_empty() {
        let left = end.saturating_duration_since(Instant::now()).as_millis();
        let mut polls: Vec<PollFd> = asked
            .iter()
            .map(|(way, socket)| {
                let tcp = way.port.protocol == Protocol::Tcp;
                PollFd::new(socket.as_fd(), if tcp { PollFlags::POLLOUT } else { PollFlags::POLLIN })
            })
            .collect();
        if left == 0 || poll(&mut polls, PollTimeout::try_from(left as i32).unwrap()).unwrap() == 0 {
            break;
        }
        let ready: Vec<bool> = polls.iter().map(|poll| poll.any().unwrap_or(true)).collect();
        let mut index = 0;
        asked.retain(|(way, socket)| {
            let done = ready[index];
            index += 1;
            if done && answers(way, socket) {
                open.push((*way).clone());
            }
            !done
        });
    }
    open
}

/// `None`: refused on the spot.
fn ask(way: &Way, to: IpAddr) -> Option<OwnedFd> {
    let to = SocketAddr::new(to, way.port.number);
    let tcp = way.port.protocol == Protocol::Tcp;
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, if tcp { Type::STREAM } else { Type::DGRAM }, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let connected = socket.connect(&to.into());
    let begun =
        connected.is_ok() || connected.is_err_and(|error| error.raw_os_error() == Some(libc::EINPROGRESS));
    if begun && !tcp {
        socket.send(WHO.as_bytes()).ok()?;
    }
    begun.then(|| socket.into())
}

/// A whole exchange: an open way is one that answers come back by.
fn answers(way: &Way, socket: &OwnedFd) -> bool {
    let socket = socket.try_clone().unwrap();
    let mut answer = [0; 64];
    if way.port.protocol == Protocol::Udp {
        return UdpSocket::from(socket).recv(&mut answer).is_ok();
    }
    let mut stream = TcpStream::from(socket);
    if !matches!(stream.take_error(), Ok(None)) {
        return false;
    }
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{WHO}\n").as_bytes()).is_ok()
        && stream.read(&mut answer).is_ok_and(|length| length > 0)
}
