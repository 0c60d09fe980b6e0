//! Requests, one after the other, and what became of them.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::{
    addresses::any,
    netns::Netns,
    wire::{Answer, Protocol, WHO},
};

/// How long a request may take before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Failures after which no more is asked.
const ENOUGH: u64 = 20;

/// What became of a number of requests.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub ok: u64,
    pub failed: u64,
    /// The first few errors.
    pub errors: Vec<String>,
    /// Answers by the name of the server that gave them.
    pub by_server: BTreeMap<String, u64>,
    /// Where answers came from, as the client's socket gives it.
    pub reply_sources: BTreeMap<SocketAddr, u64>,
    /// Whom the servers believe they talk to.
    pub peers_seen: BTreeMap<IpAddr, u64>,
}

impl Report {
    pub fn add(&mut self, outcome: io::Result<(Answer, SocketAddr)>) {
        match outcome {
            Ok((answer, source)) => {
                self.ok += 1;
                *self.by_server.entry(answer.server).or_default() += 1;
                *self.reply_sources.entry(source).or_default() += 1;
                *self.peers_seen.entry(answer.peer.ip()).or_default() += 1;
            }
            Err(error) => {
                self.failed += 1;
                if self.errors.len() < 5 {
                    self.errors.push(format!("request {}: {error}", self.ok + self.failed));
                }
            }
        }
    }

    /// All answered, all from `source` alone.
    pub fn assert_clean(&self, requests: u64, source: impl Into<SocketAddr>) {
        let source = source.into();
        assert!(self.failed == 0 && self.ok == requests, "{self}");
        assert!(self.reply_sources.keys().all(|&from| from == source), "replies from elsewhere: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ok, {} failed, by server {:?}", self.ok, self.failed, self.by_server)?;
        write!(f, ", replies from {:?}, errors {:?}", self.reply_sources, self.errors)
    }
}

/// `count` requests from `netns`, each on a socket of its own: as many flows.
pub fn requests(netns: &Netns, to: impl Into<SocketAddr>, count: u64, protocol: Protocol) -> Report {
    let to = to.into();
    netns.run(|| {
        let mut report = Report::default();
        for _ in 0..count {
            report.add(request(to, protocol));
            // Each waits for seconds; so many tell the same as all of them.
            if report.failed >= ENOUGH {
                break;
            }
        }
        report
    })
}

/// Asks by datagrams, each of a new flow, until `good` likes an answer; how
/// long that took.
pub fn first_answer(
    netns: &Netns,
    to: impl Into<SocketAddr>,
    patience: Duration,
    good: impl Fn(&Answer) -> bool + Sync,
) -> Option<Duration> {
    let to = to.into();
    netns.run(|| {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            let answer = request_udp(to, Duration::from_millis(20));
            if answer.is_ok_and(|(answer, _)| good(&answer)) {
                return Some(begun.elapsed());
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    })
}

/// One request from the calling thread's namespace.
pub fn request(to: SocketAddr, protocol: Protocol) -> io::Result<(Answer, SocketAddr)> {
    match protocol {
        Protocol::Tcp => request_tcp(to),
        Protocol::Udp => request_udp(to, PATIENCE),
    }
}

fn request_tcp(to: SocketAddr) -> io::Result<(Answer, SocketAddr)> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    // What the kernel holds for the peer is what the packets must say: a
    // segment from elsewhere would not have reached this socket.
    Ok((ask(&stream)?, stream.peer_addr()?))
}

/// One request by a connection that stands.
///
/// # Errors
/// When it does not go on, or nothing comes for [`PATIENCE`].
pub fn ask(mut stream: &TcpStream) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("{WHO}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    parse(&line)
}

fn request_udp(to: SocketAddr, patience: Duration) -> io::Result<(Answer, SocketAddr)> {
    // Not connected, so that an answer from a wrong source arrives and shows.
    let socket = UdpSocket::bind((any(to.is_ipv6()), 0))?;
    socket.set_read_timeout(Some(patience))?;
    socket.send_to(WHO.as_bytes(), to)?;
    let mut buffer = [0; 512];
    let (length, source) = socket.recv_from(&mut buffer).map_err(|error| {
        let from = socket.local_addr().map_or(0, |own| own.port());
        io::Error::new(error.kind(), format!("no answer to port {from}: {error}"))
    })?;
    Ok((parse(&String::from_utf8_lossy(&buffer[..length]))?, source))
}

fn parse(line: &str) -> io::Result<Answer> {
    Answer::parse(line).ok_or_else(|| io::Error::other(format!("an answer that is none: {line:?}")))
}
