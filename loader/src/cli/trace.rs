//! `causeway trace`: which packet, and what the program makes of it.

use std::{net::SocketAddrV4, path::PathBuf};

use anyhow::{Context, bail};
use hyper::Method;
use pcap_file::pcap::PcapReader;

use super::{Output, render};
use crate::{
    api::client::ask,
    event::Protocol,
    frame,
    snapshot::{TraceReply, TraceRequest},
};

#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["packet", "pcap", "tcp", "udp"]))]
pub struct Arguments {
    /// Where the packet arrives: the uplink, or an endpoint (its name or its host-side interface).
    #[arg(long)]
    interface: String,
    /// A frame in hex, from the Ethernet header on.
    #[arg(long, value_name = "HEX")]
    packet: Option<String>,
    /// Every frame of a capture file.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// A TCP packet: SRC:PORT-DST:PORT.
    #[arg(long, value_name = "SRC:PORT-DST:PORT", value_parser = sockets)]
    tcp: Option<(SocketAddrV4, SocketAddrV4)>,
    /// A UDP packet: SRC:PORT-DST:PORT.
    #[arg(long, value_name = "SRC:PORT-DST:PORT", value_parser = sockets)]
    udp: Option<(SocketAddrV4, SocketAddrV4)>,
    /// With --tcp: a packet within a connection instead of its SYN.
    #[arg(long, requires = "tcp")]
    established: bool,
}

pub async fn run(arguments: Arguments, socket: &std::path::Path, output: Output) -> anyhow::Result<()> {
    for packet in packets(&arguments)? {
        let request = TraceRequest { interface: arguments.interface.clone(), packet };
        let reply: TraceReply = ask(socket, Method::POST, "/v1/trace", Some(&request)).await?;
        output.print(&reply, render::trace)?;
    }
    Ok(())
}

fn packets(arguments: &Arguments) -> anyhow::Result<Vec<Vec<u8>>> {
    if let Some(hex) = &arguments.packet {
        return Ok(vec![from_hex(hex)?]);
    }
    if let Some(path) = &arguments.pcap {
        let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut reader =
            PcapReader::new(file).with_context(|| format!("{} is no capture", path.display()))?;
        let mut packets = Vec::new();
        while let Some(packet) = reader.next_packet() {
            packets.push(packet.with_context(|| format!("read {}", path.display()))?.data.into_owned());
        }
        return Ok(packets);
    }
    let flags = if arguments.established { frame::ACK } else { frame::SYN };
    let tcp = arguments.tcp.map(|(source, to)| frame::between(source, to, Protocol::Tcp, flags));
    let udp = arguments.udp.map(|(source, to)| frame::between(source, to, Protocol::Udp, 0));
    Ok(tcp.into_iter().chain(udp).collect())
}

fn from_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).with_context(|| format!("{c:?} is no hex digit")))
        .collect::<anyhow::Result<_>>()?;
    if !digits.len().is_multiple_of(2) {
        bail!("an odd number of hex digits: bytes have two");
    }
    Ok(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

fn sockets(text: &str) -> Result<(SocketAddrV4, SocketAddrV4), String> {
    let wrong = || format!("{text:?}: write SRC:PORT-DST:PORT, e.g. 10.244.0.2:40000-10.96.0.1:80");
    let (source, destination) = text.split_once('-').ok_or_else(wrong)?;
    Ok((source.parse().map_err(|_| wrong())?, destination.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_may_be_spaced() {
        assert_eq!(from_hex("0a:0B 0c").unwrap(), [10, 11, 12]);
        assert!(from_hex("0").is_err() && from_hex("zz").is_err());
    }

    #[test]
    fn sockets_are_a_pair() {
        assert!(sockets("10.0.0.1:1-10.0.0.2:2").is_ok());
        assert!(sockets("10.0.0.1:1").unwrap_err().contains("SRC:PORT-DST:PORT"));
    }
}
