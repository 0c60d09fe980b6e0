//! Are a packet's checksums right, and those of the packet it quotes?

use anyhow::{Context, Result, bail, ensure};

use super::{
    body::Body,
    checksum::Checksum,
    datagram::{Datagram, Header},
};

impl Datagram {
    /// Checksums over bytes that are not here go unjudged.
    pub fn verify(&self) -> Result<()> {
        self.check().with_context(|| self.to_string())
    }

    fn check(&self) -> Result<()> {
        if let Header::V4(header) = &self.header {
            right("IPv4 header", header.checksum)?;
        }
        let whole = self.piece().is_none_or(|piece| piece.is_whole());
        match &self.body {
            Body::Tcp(tcp) => right("TCP", tcp.checksum),
            Body::Udp(udp) => {
                // RFC 8200, 8.1.
                ensure!(
                    !self.is_v6() || udp.checksum != Checksum::Absent,
                    "UDP over IPv6 without a checksum"
                );
                let judged = whole && !matches!(udp.checksum, Checksum::Given(_));
                ensure!(
                    !judged || udp.length.is_none(),
                    "UDP of length {:?} in a packet of {}",
                    udp.length,
                    8 + udp.payload.len()
                );
                if udp.checksum == Checksum::Absent { Ok(()) } else { right("UDP", udp.checksum) }
            }
            Body::Icmp(icmp) => {
                right("ICMP", icmp.checksum)?;
                match icmp.message.quote() {
                    Some(quote) => {
                        quote.and_then(|quote| quote.packet.verify()).context("in the quoted packet")
                    }
                    None => Ok(()),
                }
            }
            Body::Raw { .. } => Ok(()),
        }
    }
}

fn right(what: &str, checksum: Checksum) -> Result<()> {
    match checksum {
        Checksum::Right | Checksum::Given(_) => Ok(()),
        Checksum::Off(distance) => bail!("{what} checksum is off by {distance:#06x}"),
        Checksum::Absent => bail!("{what} without a checksum"),
    }
}
