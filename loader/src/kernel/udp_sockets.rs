//! Which datagram sockets of the node talk to a backend that a service gave them?
//! One that is connected names its peer but once, and no program hears of it again:
//! it is found by sock_diag(7), and closed when its peer has gone.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
};

use causeway_schema::{
    Port, V4, V6,
    socket::{Name, Peers},
};

use super::message::{Message, word};

/// `linux/sock_diag.h` and `linux/inet_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `TCP_ESTABLISHED`: a datagram socket that is connected.
const CONNECTED: u32 = 1 << 1;
/// Where the socket's identity stands in `inet_diag_msg`, and its number in that.
const IDENTITY: usize = 4;
const IDENTITY_LENGTH: usize = 48;
const COOKIE: usize = 40;

/// A socket that named a service and was connected to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub frontend: SocketAddr,
    pub backend: SocketAddr,
    family: u8,
    /// `inet_diag_sockid`: ports, addresses, and the socket's own number.
    identity: [u8; IDENTITY_LENGTH],
}

/// All of them, of the calling thread's network namespace. `named`: by the sockets'
/// numbers, what the programs for sockets keep of them.
///
/// # Errors
/// The kernel's.
pub fn connected(named: &HashMap<u64, Peers>) -> io::Result<Vec<Connection>> {
    let mut connected = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = request(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, family as u8, &[0; IDENTITY_LENGTH]);
        match request.send(libc::NETLINK_SOCK_DIAG) {
            Ok(bodies) => connected.extend(bodies.iter().filter_map(|body| connection(body, named))),
            // A kernel without the family has no such sockets.
            Err(error) if family == libc::AF_INET6 && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(connected)
}

impl Connection {
    /// The socket's owner gets `ECONNABORTED`, and may connect again. False when it has
    /// gone meanwhile.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end(&self) -> io::Result<bool> {
        match request(SOCK_DESTROY, 0, self.family, &self.identity).send(libc::NETLINK_SOCK_DIAG) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            answer => answer.map(|_| true),
        }
    }
}

fn request(kind: u16, flags: libc::c_int, family: u8, identity: &[u8]) -> Message {
    let head = [family, libc::IPPROTO_UDP as u8, 0, 0];
    Message::new(kind, flags, &[&head, &CONNECTED.to_ne_bytes()[..], identity].concat())
}

/// `None` for a socket that named no service.
fn connection(body: &[u8], named: &HashMap<u64, Peers>) -> Option<Connection> {
    let family = *body.first()?;
    let identity: [u8; IDENTITY_LENGTH] = body.get(IDENTITY..IDENTITY + IDENTITY_LENGTH)?.try_into().ok()?;
    let peers =
        named.get(&(u64::from(word(&identity, COOKIE)) | u64::from(word(&identity, COOKIE + 4)) << 32))?;
    let backend = peer(family, &identity)?;
    let frontend = address(&peers.frontend(&backend)?);
    Some(Connection { frontend, backend: address(&backend), family, identity })
}

/// Behind the two ports and the source.
fn peer(family: u8, identity: &[u8; IDENTITY_LENGTH]) -> Option<Name> {
    let port = Port(identity[2..4].try_into().ok()?);
    match libc::c_int::from(family) {
        libc::AF_INET => Some(Name::new(V4(identity[20..24].try_into().ok()?), port)),
        _ => Some(Name::new(V6(identity[20..36].try_into().ok()?), port)),
    }
}

fn address(name: &Name) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(name.addr.into()).to_canonical(), name.port.get())
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use causeway_schema::socket::Peer;

    use super::*;

    /// `inet_diag_msg` of a socket with this number, connected to an address.
    fn message(family: libc::c_int, to: &[u8], port: u16, cookie: u64) -> Vec<u8> {
        let mut body = vec![0; 72];
        body[0] = family as u8;
        body[IDENTITY + 2..][..2].copy_from_slice(&port.to_be_bytes());
        body[IDENTITY + 20..][..to.len()].copy_from_slice(to);
        body[IDENTITY + COOKIE..][..8].copy_from_slice(&cookie.to_ne_bytes());
        body
    }

    #[test]
    fn a_connection_is_known_by_its_sockets_number_and_its_peer() {
        let mut peers = Peers::zeroed();
        let (frontend, backend) =
            (Name::new(V4([10, 96, 0, 1]), Port::new(53)), Name::new(V4([10, 244, 0, 9]), Port::new(8080)));
        peers.remember(Peer { frontend, backend });
        let named = HashMap::from([(0x1_0000_0002, peers)]);
        let found = |body: &[u8]| connection(body, &named).map(|found| (found.frontend, found.backend));
        let wanted =
            Some(("10.96.0.1:53".parse().unwrap(), "10.244.0.9:8080".parse::<SocketAddr>().unwrap()));
        assert_eq!(found(&message(libc::AF_INET, &[10, 244, 0, 9], 8080, 0x1_0000_0002)), wanted);
        let mapped = std::net::Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0x0af4, 9]).octets();
        assert_eq!(found(&message(libc::AF_INET6, &mapped, 8080, 0x1_0000_0002)), wanted);
        assert_eq!(found(&message(libc::AF_INET, &[10, 244, 0, 9], 8080, 2)), None);
        assert_eq!(found(&message(libc::AF_INET, &[10, 244, 0, 9], 8081, 0x1_0000_0002)), None);
        assert_eq!(found(&message(libc::AF_INET, &[10, 244, 0, 9], 8080, 0x1_0000_0002)[..50]), None);
    }
}
