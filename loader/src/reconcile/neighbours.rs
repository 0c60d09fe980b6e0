//! Who asks the neighbours? A task of its own: the loop may be busy with a
//! thousand services just when one of them moves.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    attach::Uplink,
    frame,
    kernel::solicit::Solicitor,
    mac,
    neighbours::{ROUND, Watch},
    netlink::{Neighbour, Netlink},
};

/// Answers on the link come within this time.
const NEAR: Duration = Duration::from_millis(20);
/// So long the uplink's own addresses are taken for what they were.
const REREAD: Duration = Duration::from_secs(1);

/// The neighbours at the uplink, and the means to ask them.
pub(super) struct Neighbours {
    uplink: Uplink,
    watch: Watch,
    netlink: Netlink,
    solicitor: Solicitor,
    read: Option<Instant>,
}

impl Neighbours {
    /// `unseen`: see [`Watch::new`].
    ///
    /// # Errors
    /// Without a netlink or packet socket.
    pub fn open(uplink: Uplink, unseen: bool) -> io::Result<Self> {
        let solicitor = Solicitor::open(uplink.ifindex)?;
        Ok(Self { uplink, watch: Watch::new(unseen), netlink: Netlink::open()?, solicitor, read: None })
    }

    /// Asks for as long as it is polled.
    pub async fn run(mut self) {
        let mut rounds = interval(ROUND);
        // After a pause the next round is as far away as ever.
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            rounds.tick().await;
            let done = self.round().await;
            if let Err(error) = &done
                && !failing
            {
                tracing::warn!(uplink = %self.uplink.name, %error, "cannot ask the neighbours");
            }
            failing = done.is_err();
        }
    }

    async fn round(&mut self) -> io::Result<()> {
        let ifindex = self.uplink.ifindex;
        let table = self.netlink.neighbours(ifindex).await?;
        let now = Instant::now();
        let round = self.watch.round(now, &table);
        for (neighbour, from, to) in &round.moved {
            tracing::info!(%neighbour, from = %mac::text(*from), to = %mac::text(*to), "another hardware address");
        }
        for neighbour in &round.rest {
            self.netlink.rest_neighbour(ifindex, neighbour).await?;
        }
        if round.ask.is_empty() {
            return Ok(());
        }
        self.reread(now).await?;
        let everybody = round.ask.iter().any(|(_, known)| known.is_none());
        if everybody {
            // What was said before is of no interest.
            self.solicitor.answers();
        }
        for &(neighbour, known) in &round.ask {
            let question = source(&self.uplink.addresses, neighbour)
                .and_then(|from| frame::solicitation((self.uplink.mac, from), neighbour, known));
            if let Some(question) = question {
                self.solicitor.send(&question)?;
            }
        }
        if everybody {
            sleep(NEAR).await;
            self.learn(&table).await?;
        }
        Ok(())
    }

    /// A question tells those who hear it where the asker is, so that must be right.
    async fn reread(&mut self, now: Instant) -> io::Result<()> {
        if self.read.is_some_and(|read| now.duration_since(read) < REREAD) {
            return Ok(());
        }
        let link = self.netlink.link(&self.uplink.name).await?;
        let mac = link.and_then(|link| link.mac.try_into().ok());
        self.uplink.mac = mac.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.uplink.addresses = self.netlink.addresses(self.uplink.ifindex).await?;
        self.read = Some(now);
        Ok(())
    }

    /// Takes the word of those who answer in place of one that is silent.
    async fn learn(&self, table: &[Neighbour]) -> io::Result<()> {
        for (address, mac) in self.solicitor.answers() {
            let known = table.iter().find(|neighbour| neighbour.address == address);
            if let Some(known) = known.filter(|_| self.watch.believes(address, mac)) {
                self.netlink.set_neighbour(self.uplink.ifindex, known, mac).await?;
            }
        }
        Ok(())
    }
}

/// The address that a neighbour is asked from: of its network, or any other of
/// its kind.
fn source(addresses: &[IpNet], neighbour: IpAddr) -> Option<IpAddr> {
    let link_local = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let alike = |net: &&IpNet| {
        net.addr().is_ipv4() == neighbour.is_ipv4() && link_local(net.addr()) == link_local(neighbour)
    };
    let near = addresses.iter().filter(alike).find(|net| net.contains(&neighbour));
    near.or_else(|| addresses.iter().find(alike)).map(IpNet::addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_asked_from_its_own_network() {
        let own = ["10.0.0.1/8", "192.168.77.10/24", "fe80::1/64", "fd00:77::10/64"];
        let own = own.map(|network| network.parse().unwrap());
        for (neighbour, expected) in [
            ("192.168.77.200", Some("192.168.77.10")),
            ("203.0.113.1", Some("10.0.0.1")),
            ("fe80::200", Some("fe80::1")),
            ("2001:db8::1", Some("fd00:77::10")),
        ] {
            let found = source(&own, neighbour.parse().unwrap()).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{neighbour}");
        }
        assert_eq!(source(&own[..2], "fe80::200".parse().unwrap()), None);
    }
}
