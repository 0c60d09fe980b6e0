//! What does the load look like? One connection at a time, one CPU for client,
//! server and softirq, so that a round trip measures the path and not the
//! scheduler's wake-ups between CPUs.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use causeway_testkit::netns::Netns;
use hdrhistogram::Histogram;
use serde::Serialize;

/// What one connection does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
pub enum Workload {
    /// One byte there, one byte back, on one connection.
    #[value(name = "rr")]
    RequestResponse,
    /// Connect, one byte there, one back, close.
    #[value(name = "crr")]
    ConnectRequestClose,
    /// One stream, 64 KiB writes.
    Bulk,
}

impl Workload {
    pub const ALL: [Workload; 3] = [Workload::RequestResponse, Workload::ConnectRequestClose, Workload::Bulk];

    /// The server's port for it.
    pub const fn port(self) -> u16 {
        match self {
            Workload::RequestResponse => 7001,
            Workload::ConnectRequestClose => 7002,
            Workload::Bulk => 7003,
        }
    }

    pub const fn unit(self) -> &'static str {
        match self {
            Workload::RequestResponse => "round trips/s",
            Workload::ConnectRequestClose => "connections/s",
            Workload::Bulk => "Gbit/s",
        }
    }
}

/// Starts the three servers in a namespace; they end with the process.
pub fn serve(netns: &Netns) -> io::Result<()> {
    for workload in Workload::ALL {
        let listener =
            netns.run(|| TcpListener::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, workload.port())))?;
        netns.spawn_thread(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away ends its connection, not the server.
                let _ = answer(workload, stream);
            }
        });
    }
    Ok(())
}

fn answer(workload: Workload, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; if workload == Workload::Bulk { 256 * 1024 } else { 1 }];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        if workload != Workload::Bulk {
            stream.write_all(&buffer[..read])?;
        }
    }
}

/// Has a client's namespace keep nothing of closed connections: its search for a
/// port that none of them still waits on would be measured otherwise.
pub fn forget(netns: &Netns) {
    netns.set_sysctl("net/ipv4/tcp_max_tw_buckets", "0");
}

/// One sample: how much per second, and how long each took (nanoseconds).
pub struct Sample {
    pub per_second: f64,
    pub latency: Histogram<u64>,
}

/// Runs a workload from a namespace against an address.
pub fn sample(netns: &Netns, workload: Workload, to: SocketAddrV4, length: Duration) -> io::Result<Sample> {
    netns.run(|| match workload {
        Workload::RequestResponse => {
            let mut stream = connect(to)?;
            repeat(length, |_| exchange(&mut stream))
        }
        Workload::ConnectRequestClose => repeat(length, |_| exchange(&mut connect(to)?)),
        Workload::Bulk => {
            let mut stream = connect(to)?;
            let chunk = vec![7; 64 * 1024];
            let mut sample = repeat(length, |_| stream.write_all(&chunk))?;
            sample.per_second *= chunk.len() as f64 * 8.0 / 1e9;
            Ok(sample)
        }
    })
}

fn connect(to: SocketAddrV4) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(to), Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])
}

fn repeat(length: Duration, mut once: impl FnMut(u64) -> io::Result<()>) -> io::Result<Sample> {
    let mut latency = Histogram::new(3).map_err(io::Error::other)?;
    let start = Instant::now();
    let mut before = start;
    let mut count = 0;
    loop {
        once(count)?;
        count += 1;
        let now = Instant::now();
        latency.record((now - before).as_nanos() as u64).map_err(io::Error::other)?;
        before = now;
        let elapsed = now - start;
        if elapsed >= length {
            return Ok(Sample { per_second: count as f64 / elapsed.as_secs_f64(), latency });
        }
    }
}
