//! A packet on one line, for a person.

use std::{
    fmt::{self, Display, Formatter},
    net::SocketAddr,
};

use super::{
    Frame,
    body::Body,
    checksum::Checksum,
    datagram::{Datagram, Header, Quote},
    icmp::Message,
    transport::Tcp,
};

impl Display for Frame {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        write!(f, "{} -> {} ", text(self.eth_src), text(self.eth_dst))?;
        if let Some(tag) = self.vlan {
            write!(f, "VLAN {tag} ")?;
        }
        self.packet.fmt(f)
    }
}

impl Display for Datagram {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.ports() {
            Some((src, dst)) => {
                write!(f, "{} -> {} ", SocketAddr::new(self.src, src), SocketAddr::new(self.dst, dst))?;
            }
            None => write!(f, "{} -> {} ", self.src, self.dst)?,
        }
        match &self.body {
            Body::Tcp(tcp) => tcp.fmt(f)?,
            Body::Udp(udp) => write!(f, "UDP, {} bytes", udp.payload.len())?,
            Body::Icmp(icmp) => icmp.message.fmt(f)?,
            Body::Raw { protocol, bytes } => write!(f, "protocol {protocol}, {} bytes", bytes.len())?,
        }
        write!(f, ", ttl {}", self.ttl)?;
        match &self.header {
            Header::V4(header) if header.checksum != Checksum::Right => {
                write!(f, ", header checksum {:?}", header.checksum)?;
            }
            Header::V6(header) if !header.extensions.is_empty() => {
                write!(f, ", behind {:?}", header.extensions)?
            }
            _ => {}
        }
        if let Some(piece) = self.piece() {
            write!(
                f,
                ", fragment at {} of {:#x}{}",
                piece.offset,
                piece.id,
                if piece.more { ", more" } else { "" }
            )?;
        }
        match self.body.checksum() {
            None | Some(Checksum::Right | Checksum::Given(_)) => Ok(()),
            Some(checksum) => write!(f, ", checksum {checksum:?}"),
        }
    }
}

impl Display for Tcp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        f.write_str("TCP")?;
        for (_, name) in NAMES.iter().enumerate().filter(|(bit, _)| self.flags >> bit & 1 != 0) {
            write!(f, " {name}")?;
        }
        write!(f, " seq {} ack {}, {} bytes", self.seq, self.ack, self.payload.len())
    }
}

impl Display for Message {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Message::EchoRequest { id, seq, data } => {
                write!(f, "echo request {id}/{seq}, {} bytes", data.len())
            }
            Message::EchoReply { id, seq, data } => write!(f, "echo reply {id}/{seq}, {} bytes", data.len()),
            Message::Unreachable { code, .. } => write!(f, "unreachable, code {code}"),
            Message::TooBig { mtu, .. } => write!(f, "too big for {mtu}"),
            Message::TimeExceeded { code, .. } => write!(f, "time exceeded, code {code}"),
            Message::Other { kind, code, .. } => write!(f, "ICMP type {kind} code {code}"),
            discovery => write!(f, "{discovery:?}"),
        }?;
        match self.quote() {
            Some(Ok(quote)) => write!(f, ", about [{quote}]"),
            Some(Err(error)) => write!(f, ", about what is unreadable: {error:#}"),
            None => Ok(()),
        }
    }
}

impl Display for Quote {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.packet.fmt(f)?;
        if self.missing == 0 { Ok(()) } else { write!(f, ", {} bytes cut off", self.missing) }
    }
}
