//! `causeway trace`: which packet, and what the program makes of it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context;
use hyper::Method;
use pcap_file::{DataLink, pcap::PcapReader};

use super::{Output, render};
use crate::{
    api::client::ask,
    event::Protocol,
    frame,
    snapshot::{TraceReply, TraceRequest},
};

/// Length of an Ethernet header: the kernel runs no program over less.
const SHORTEST: usize = 14;

#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["packet", "pcap", "tcp", "udp", "arp"]))]
pub struct Arguments {
    /// Where the packet arrives: the uplink, or an endpoint (its name or its host-side interface).
    #[arg(long)]
    interface: String,
    /// A frame in hex, from the Ethernet header on.
    #[arg(long, value_name = "HEX")]
    packet: Option<Frame>,
    /// Every frame of a capture file (pcap, Ethernet).
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// A TCP packet: SRC:PORT-DST:PORT.
    #[arg(long, value_name = "SRC:PORT-DST:PORT")]
    tcp: Option<Sockets>,
    /// A UDP packet: SRC:PORT-DST:PORT.
    #[arg(long, value_name = "SRC:PORT-DST:PORT")]
    udp: Option<Sockets>,
    /// An ARP request for an address, the gateway's unless given.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = frame::GATEWAY)]
    arp: Option<Ipv4Addr>,
    /// With --tcp: the packet's flags, e.g. syn,ack.
    // Not `requires`: clap asks for nothing that conflicts with what is given.
    #[arg(long, conflicts_with_all = ["packet", "pcap", "udp", "arp"], value_enum, value_delimiter = ',', default_values = ["syn"])]
    flags: Vec<Flag>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Flag {
    Fin = 1,
    Syn = 2,
    Rst = 4,
    Psh = 8,
    Ack = 16,
    Urg = 32,
}

pub async fn run(arguments: Arguments, socket: &Path, output: Output) -> anyhow::Result<()> {
    let mut replies = Vec::new();
    for packet in packets(&arguments)? {
        let request = TraceRequest { interface: arguments.interface.clone(), packet };
        let reply: TraceReply = ask(socket, Method::POST, "/v1/trace", Some(&request)).await?;
        if arguments.pcap.is_none() {
            return output.print(&reply, render::trace);
        }
        replies.push(reply);
    }
    output.print(&replies, |replies| render::traces(replies))
}

fn packets(arguments: &Arguments) -> anyhow::Result<Vec<Vec<u8>>> {
    if let Some(path) = &arguments.pcap {
        return capture(path);
    }
    let flags = arguments.flags.iter().fold(0, |bits, &flag| bits | flag as u8);
    let given = arguments.packet.iter().map(|Frame(bytes)| bytes.clone());
    let tcp = arguments.tcp.iter().filter_map(|&Sockets(a, b)| frame::between(a, b, Protocol::Tcp, flags));
    let udp = arguments.udp.iter().filter_map(|&Sockets(a, b)| frame::between(a, b, Protocol::Udp, 0));
    let arp = arguments.arp.iter().map(|&address| frame::who_has(address));
    Ok(given.chain(tcp).chain(udp).chain(arp).collect())
}

fn capture(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let name = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("open {name}"))?;
    let mut reader = PcapReader::new(file)
        .with_context(|| format!("{name} is no pcap file (convert pcapng with `editcap -F pcap`)"))?;
    let link = reader.header().datalink;
    anyhow::ensure!(link == DataLink::ETHERNET, "{name} holds {link:?}: capture on an Ethernet interface");
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let number = packets.len() + 1;
        let bytes = packet.with_context(|| format!("{name}: packet {number}"))?.data.into_owned();
        anyhow::ensure!(bytes.len() >= SHORTEST, "{name}: packet {number} has {} bytes", bytes.len());
        packets.push(bytes);
    }
    anyhow::ensure!(!packets.is_empty(), "{name} holds no packet");
    Ok(packets)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame(Vec<u8>);

impl FromStr for Frame {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Vec<u32> = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != ':')
            .map(|c| c.to_digit(16).ok_or_else(|| format!("{c:?} is no hex digit")))
            .collect::<Result<_, String>>()?;
        if !digits.len().is_multiple_of(2) {
            return Err("an odd number of hex digits: bytes have two".into());
        }
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
        if bytes.len() < SHORTEST {
            return Err(format!("{} bytes: a frame has {SHORTEST} or more", bytes.len()));
        }
        Ok(Self(bytes))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sockets(SocketAddr, SocketAddr);

impl FromStr for Sockets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "use SRC:PORT-DST:PORT, e.g. 10.244.0.2:40000-10.96.0.1:80 or [fd00::2]:40000-[fd00:96::1]:80"
                .to_owned()
        };
        let (source, destination) = text.split_once('-').ok_or_else(wrong)?;
        let source: SocketAddr = source.parse().map_err(|_| wrong())?;
        let destination: SocketAddr = destination.parse().map_err(|_| wrong())?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(format!("{source} and {destination} are of different families"));
        }
        Ok(Self(source, destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};
    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        let command = Arguments::augment_args(clap::Command::new("trace"));
        let matches = command.try_get_matches_from(format!("trace --interface e {line}").split(' '))?;
        Arguments::from_arg_matches(&matches)
    }

    fn one(line: &str) -> Vec<u8> {
        let mut packets = packets(&parse(line).unwrap()).unwrap();
        assert_eq!(packets.len(), 1, "{line}");
        packets.remove(0)
    }

    #[test]
    fn hex_may_be_spaced() {
        let text = "02:00:00:00:00:01 020000000002 08 06 0a0B";
        let Frame(bytes) = text.parse().unwrap();
        assert_eq!(bytes, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6, 0x0a, 0x0b]);
    }

    #[test]
    fn a_packet_is_named_in_one_way() {
        let tcp = one("--tcp 10.0.0.1:1-10.0.0.2:2");
        assert_eq!((tcp.len(), tcp[23], tcp[47]), (54, 6, 2), "a SYN unless said otherwise");
        assert_eq!(one("--tcp 10.0.0.1:1-10.0.0.2:2 --flags syn,ack")[47], 18);
        assert_eq!(one("--udp 10.0.0.1:1-10.0.0.2:2")[23], 17);
        assert_eq!(one("--udp [fd00::1]:1-[fd00::2]:2")[20], 17);
        assert_eq!(one("--arp")[38..], [169, 254, 1, 1]);
        assert_eq!(one("--arp 10.0.0.9")[38..], [10, 0, 0, 9]);
    }

    #[test]
    fn what_cannot_be_is_a_usage_error() {
        let wrong = [
            ("", "--packet"),
            ("--packet 0", "odd number"),
            ("--packet zz", "no hex digit"),
            ("--packet 0102", "14 or more"),
            ("--tcp 10.0.0.1:1", "SRC:PORT-DST:PORT"),
            ("--tcp 10.0.0.1:1-10.0.0.2:99999", "SRC:PORT-DST:PORT"),
            ("--tcp 10.0.0.1:1-[fd00::1]:2", "different families"),
            ("--tcp 10.0.0.1:1-10.0.0.2:2 --arp", "cannot be used with"),
            ("--udp 10.0.0.1:1-10.0.0.2:2 --flags ack", "cannot be used with"),
        ];
        for (line, word) in wrong {
            let error = parse(line.trim_end()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }

    fn captured(link: DataLink, packets: &[&[u8]]) -> anyhow::Result<Vec<Vec<u8>>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let header = PcapHeader { datalink: link, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(std::fs::File::create(&path).unwrap(), header).unwrap();
        for packet in packets {
            let packet = PcapPacket::new(std::time::Duration::ZERO, packet.len() as u32, packet);
            writer.write_packet(&packet).unwrap();
        }
        drop(writer);
        capture(&path)
    }

    #[test]
    fn a_capture_gives_its_frames() {
        let (first, second) = ([1; 60], [2; 14]);
        assert_eq!(
            captured(DataLink::ETHERNET, &[&first, &second]).unwrap(),
            [first.to_vec(), second.to_vec()]
        );
        let refused = |link, packets: &[&[u8]]| captured(link, packets).unwrap_err().to_string();
        assert!(refused(DataLink::ETHERNET, &[]).contains("no packet"));
        assert!(refused(DataLink::ETHERNET, &[&first, &[1; 9]]).contains("packet 2 has 9 bytes"));
        assert!(refused(DataLink::RAW, &[&first]).contains("RAW"));
    }
}
