//! What does a socket of the host talk to in place of the services it named?
//! Kept with the socket itself: it goes when the socket goes.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, Port, V4, V6};

/// Services that an unconnected socket may talk to at a time and see each
/// answer under the name it used; beyond, the oldest is forgotten.
pub const PEERS: usize = 4;

/// An address and a port, IPv4 in IPv6's clothes (RFC 4291, section 2.5.5.2).
#[derive(Clone, Copy, Debug, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Name {
    pub addr: V6,
    pub port: Port,
    pub pad: u16,
}

impl PartialEq for Name {
    /// Without a branch for each field: the verifier would walk them all.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.addr.difference(&other.addr) | u32::from(self.port.raw() ^ other.port.raw()) == 0
    }
}

impl Name {
    #[inline(always)]
    pub fn new<A: Addr>(addr: A, port: Port) -> Self {
        Self { addr: addr.mapped(), port, pad: 0 }
    }
}

/// What the socket named, and whom it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Peer {
    pub frontend: Name,
    pub backend: Name,
}

/// All zero: nobody yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Peers {
    peers: [Peer; PEERS],
    /// Whose place the next one takes.
    next: u32,
}

impl Peers {
    /// What the socket calls this backend.
    #[inline(always)]
    pub fn frontend(&self, backend: &Name) -> Option<Name> {
        self.peers.iter().find(|peer| peer.backend == *backend).map(|peer| peer.frontend)
    }

    /// Two sockets' worth of talk on one at a time may lose an entry, which the
    /// next packet puts back.
    #[inline(always)]
    pub fn remember(&mut self, peer: Peer) {
        // A backend has one name: the last that was used.
        for known in &mut self.peers {
            if known.backend == peer.backend {
                known.frontend = peer.frontend;
                return;
            }
        }
        let place = self.next as usize % PEERS;
        self.next = self.next.wrapping_add(1);
        self.peers[place] = peer;
    }
}

/// `::ffff:0:0/96` (RFC 4291), as three words of memory.
const MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

impl V4 {
    /// The address behind a mapped one.
    #[inline(always)]
    pub fn of_mapped(addr: V6) -> Option<Self> {
        let [a, b, c, d] = addr.words();
        ([a, b, c] == MAPPED).then_some(V4(d.to_ne_bytes()))
    }

    #[inline(always)]
    pub(crate) fn to_mapped(self) -> V6 {
        let [a, b, c] = MAPPED;
        V6(bytemuck::cast([a, b, c, self.word()]))
    }
}

const _: () = {
    assert!(size_of::<Name>() == 20);
    assert!(size_of::<Peers>() == PEERS * 40 + 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn name(last: u8, port: u16) -> Name {
        Name::new(V4([10, 0, 0, last]), Port::new(port))
    }

    #[test]
    fn the_last_few_names_are_known() {
        let mut peers = Peers::zeroed();
        assert_eq!(peers.frontend(&name(1, 80)), None);
        for last in 0..6 {
            peers.remember(Peer { frontend: name(100 + last, 80), backend: name(last, 8080) });
        }
        for last in 0..6 {
            let known = peers.frontend(&name(last, 8080));
            assert_eq!(known, (last >= 2).then(|| name(100 + last, 80)), "{last}");
        }
        peers.remember(Peer { frontend: name(200, 80), backend: name(3, 8080) });
        assert_eq!(peers.frontend(&name(3, 8080)), Some(name(200, 80)));
        assert_eq!(peers.frontend(&name(2, 8080)), Some(name(102, 80)), "nobody had to go");
        assert_eq!(peers.frontend(&name(3, 8081)), None);
    }

    #[test]
    fn ipv4_in_ipv6s_clothes() {
        let mapped = V4([192, 0, 2, 1]).mapped();
        assert_eq!(
            core::net::Ipv6Addr::from(mapped),
            "::ffff:192.0.2.1".parse::<core::net::Ipv6Addr>().unwrap()
        );
        assert_eq!(V4::of_mapped(mapped), Some(V4([192, 0, 2, 1])));
        assert_eq!(V4::of_mapped(V6([0; 16])), None);
    }
}
