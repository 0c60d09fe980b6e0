//! A server that wants to hear first who its client is: the PROXY protocol,
//! version 2 (HAProxy's proxy-protocol.txt, section 2.2), read strictly.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{client::PATIENCE, direct, manifest::Service, netns::Netns};

/// The annotation that asks for it.
pub const PROXY: (&str, &str) = ("causeway.io/proxy-protocol", "v2");
/// Where such a server listens; servers that want to hear nothing have 8080.
pub const PORT: u16 = 9090;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// A service of both families and kinds of ports, whose TCP backends are told.
pub fn service(name: &str) -> Service {
    direct::service_at(name, PORT).annotated(PROXY.0, PROXY.1)
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl Header {
    /// As it stands before a stream.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend(if self.source.is_ipv4() { [0x21, 0x11, 0, 12] } else { [0x21, 0x21, 0, 36] });
        for end in [self.source, self.destination] {
            match end.ip() {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        bytes.extend([self.source, self.destination].iter().flat_map(|end| end.port().to_be_bytes()));
        bytes
    }

    /// Reads one and no byte more.
    pub fn read(from: &mut impl Read) -> Result<Self> {
        let mut fixed = [0; 16];
        from.read_exact(&mut fixed).context("the first 16 bytes")?;
        ensure!(fixed[..12] == SIGNATURE, "no signature: {fixed:02x?}");
        ensure!(fixed[12] == 0x21, "neither version 2 nor PROXY: {:#04x}", fixed[12]);
        let length = u16::from_be_bytes([fixed[14], fixed[15]]);
        let mut rest = vec![0; length.into()];
        from.read_exact(&mut rest).with_context(|| format!("{length} bytes of addresses"))?;
        let address = |at: usize| -> Result<IpAddr> {
            Ok(match fixed[13] {
                0x11 => Ipv4Addr::from(<[u8; 4]>::try_from(&rest[at * 4..at * 4 + 4])?).into(),
                _ => Ipv6Addr::from(<[u8; 16]>::try_from(&rest[at * 16..at * 16 + 16])?).into(),
            })
        };
        let ports = match (fixed[13], length) {
            (0x11, 12) => 8,
            (0x21, 36) => 32,
            (kind, length) => anyhow::bail!("family and protocol {kind:#04x}, {length} bytes"),
        };
        let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        Ok(Self {
            source: SocketAddr::new(address(0)?, port(ports)),
            destination: SocketAddr::new(address(1)?, port(ports + 2)),
        })
    }
}

/// What a server has heard, and whom it saw.
#[derive(Debug)]
pub struct Told {
    pub header: Header,
    pub peer: SocketAddr,
}

/// A server: says `told` once it has the header, and then sends back all it gets.
pub fn serve(netns: &Netns) -> mpsc::Receiver<Result<Told>> {
    let listener = netns.run(|| TcpListener::bind(("::", PORT)).unwrap());
    let (sender, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                let heard = hear(&stream);
                let good = heard.is_ok();
                let _ = sender.send(heard);
                if good {
                    let _ = (&stream).write_all(b"told\n");
                    let _ = io::copy(&mut &stream, &mut &stream);
                }
            });
        }
    });
    told
}

fn hear(mut stream: &TcpStream) -> Result<Told> {
    let peer = stream.peer_addr()?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let header = Header::read(&mut stream).with_context(|| format!("from {peer}"))?;
    stream.set_read_timeout(None)?;
    Ok(Told { header, peer })
}

/// A client that has connected and said nothing.
pub fn connect(netns: &Netns, to: SocketAddr) -> TcpStream {
    let stream = netns.run(|| TcpStream::connect_timeout(&to, PATIENCE));
    let stream = stream.unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Waits for the server's first word.
pub fn greeted(mut stream: &TcpStream) -> io::Result<()> {
    let mut word = [0; 5];
    stream.read_exact(&mut word)?;
    assert_eq!(&word, b"told\n");
    Ok(())
}

/// Says a word.
pub fn say(mut stream: &TcpStream, word: &str) -> io::Result<()> {
    stream.write_all(word.as_bytes())
}

/// Waits for a word that was said to come back.
pub fn hear_back(mut stream: &TcpStream, word: &str) -> io::Result<()> {
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back)?;
    assert_eq!(back, word.as_bytes());
    Ok(())
}

/// Sends this much while all of it comes back, behind the server's first word if
/// nobody has waited for that, and says whether it came whole.
pub fn carried(stream: &TcpStream, length: usize) -> bool {
    let bytes = direct::bytes(length);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(&bytes).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        let mut reader = stream;
        reader.read_to_end(&mut back).unwrap();
        sender.join().unwrap();
        back.strip_prefix(b"told\n").unwrap_or(&back) == bytes
    })
}
