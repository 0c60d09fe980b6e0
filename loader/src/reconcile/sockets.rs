//! Which processes of the node go on talking to a backend that has gone? Those with
//! a connected datagram socket: it was given its backend when it was connected.

use std::{collections::HashSet, net::SocketAddr};

use causeway_schema::{FrontendKey, Port, protocol};
use ipnet::IpNet;

use super::{agent::Agent, plane::Plane};
use crate::{
    kernel::udp_sockets::{self, Connection},
    plan::Family,
};

impl Agent {
    /// Ends what has nobody to talk to any more, if any backend or service has gone
    /// since it was last looked for: the socket's owner hears of it, and may connect
    /// again. Where the kernel cannot, all else goes on.
    pub fn end_stale_connections(&mut self) {
        if !self.settled || !self.v4.parted && !self.v6.parted {
            return;
        }
        (self.v4.parted, self.v6.parted) = (false, false);
        let mut failed = None;
        let stale = self.stale_connections().unwrap_or_else(|error| {
            failed = Some(error);
            Vec::new()
        });
        for connection in stale {
            let Connection { frontend, backend, .. } = connection;
            match connection.end() {
                Ok(true) => {
                    self.sockets_ended += 1;
                    tracing::info!(%frontend, %backend, "a socket of this node was closed: its backend has gone");
                }
                Ok(false) => {}
                Err(error) => failed = Some(error.to_string()),
            }
        }
        if let Some(error) = failed {
            let warning = format!("connected datagram sockets of the node keep a backend that goes: {error}");
            tracing::warn!("{warning}");
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    fn stale_connections(&self) -> Result<Vec<Connection>, String> {
        let Some(dataplane) = &self.dataplane else { return Ok(Vec::new()) };
        let named = dataplane.named().map_err(|error| error.to_string())?;
        if named.is_empty() {
            return Ok(Vec::new());
        }
        let mut connected = udp_sockets::connected(&named).map_err(|error| error.to_string())?;
        let own = &self.uplink.addresses;
        let (v4, v6) = (Served::of(&self.v4, own, &connected), Served::of(&self.v6, own, &connected));
        connected.retain(|connection| !v4.holds(connection) && !v6.holds(connection));
        Ok(connected)
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
    fn of(plane: &'a Plane<A>, own: &'a [IpNet], connected: &[Connection]) -> Self {
        let rows = plane.planner.image().backends.iter();
        // Mostly nobody asks.
        let backends =
            if connected.is_empty() { HashSet::new() } else { rows.map(|(_, row)| row.addr).collect() };
        Self { plane, own, backends }
    }

    /// Both ends are there.
    fn holds(&self, connection: &Connection) -> bool {
        let is_served = |address: A| self.backends.contains(&address);
        self.serves(connection.frontend) && A::from_ip(connection.backend.ip()).is_some_and(is_served)
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
