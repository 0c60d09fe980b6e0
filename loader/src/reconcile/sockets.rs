//! Which processes of the node go on talking to a backend that has gone? Those with
//! a connected datagram socket: it was given its backend when it was connected.

use std::{collections::HashSet, net::SocketAddr};

use causeway_schema::{FrontendKey, Port, protocol};
use ipnet::IpNet;

use super::{agent::Agent, plane::Plane};
use crate::{
    kernel::udp_talks::{self, Talk},
    plan::Family,
};

impl Agent {
    /// Ends what has nobody to talk to any more, if any backend or service has gone
    /// since it was last looked for: the socket's owner hears of it, and may connect
    /// again.
    pub fn end_stale_talks(&mut self) {
        if !self.v4.parted && !self.v6.parted {
            return;
        }
        let ended = self.stale_talks().and_then(|stale| {
            stale.iter().try_for_each(Talk::end).map_err(|error| error.to_string()).map(|()| stale)
        });
        let Some(stale) = self.note("end the node's talks with backends that have gone", ended) else {
            return;
        };
        (self.v4.parted, self.v6.parted) = (false, false);
        self.sockets_ended += stale.len() as u64;
        for Talk { frontend, backend, .. } in stale {
            tracing::info!(%frontend, %backend, "a socket of this node was closed: its backend has gone");
        }
    }

    fn stale_talks(&self) -> Result<Vec<Talk>, String> {
        let Some(dataplane) = &self.dataplane else { return Ok(Vec::new()) };
        let named = dataplane.named().map_err(|error| error.to_string())?;
        let mut talks = udp_talks::talks(&named).map_err(|error| error.to_string())?;
        let own = &self.uplink.addresses;
        let (v4, v6) = (Served::of(&self.v4, own, &talks), Served::of(&self.v6, own, &talks));
        talks.retain(|talk| !v4.holds(talk) && !v6.holds(talk));
        Ok(talks)
    }
}

/// What a family's maps say now.
struct Served<'a, A: Family> {
    plane: &'a Plane<A>,
    /// Of the uplink.
    own: &'a [IpNet],
    backends: HashSet<A>,
}

impl<'a, A: Family> Served<'a, A> {
    fn of(plane: &'a Plane<A>, own: &'a [IpNet], talks: &[Talk]) -> Self {
        let rows = plane.planner.image().backends.iter();
        // Mostly nobody asks.
        let backends =
            if talks.is_empty() { HashSet::new() } else { rows.map(|(_, row)| row.addr).collect() };
        Self { plane, own, backends }
    }

    /// Both ends are there.
    fn holds(&self, talk: &Talk) -> bool {
        let is_served = |address: A| self.backends.contains(&address);
        self.serves(talk.frontend) && A::from_ip(talk.backend.ip()).is_some_and(is_served)
    }

    fn serves(&self, frontend: SocketAddr) -> bool {
        let address = frontend.ip();
        let Some(named) = A::from_ip(address) else { return false };
        let port = Port::new(frontend.port());
        // Ports of the node stand under no address.
        let of_node = address.is_loopback() || self.own.iter().any(|own| own.addr() == address);
        let mut places = [named, A::UNSPECIFIED].into_iter().take(1 + usize::from(of_node));
        let image = self.plane.planner.image();
        let in_range = |at: &A| {
            image.port_ranges.get(at).is_some_and(|ranges| ranges.find(port, protocol::UDP).is_some())
        };
        places.any(|at| {
            image.frontends.contains_key(&FrontendKey::new(at, port, protocol::UDP)) || in_range(&at)
        })
    }
}
