//! Long-lived connections that talk all the time and notice every hiccup.

use std::{
    collections::BTreeMap,
    fmt,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{
    client::PATIENCE,
    netns::Netns,
    wire::{self, Answer, WHO},
    worker::Worker,
};

/// An echo that takes longer counts as a stall.
pub const STALL: Duration = Duration::from_secs(2);

/// `n` streams in one thread, until closed.
pub struct Streams {
    report: Arc<Mutex<StreamsReport>>,
    worker: Worker<()>,
}

#[derive(Clone, Debug, Default)]
pub struct StreamsReport {
    pub opened: usize,
    /// Lines that came back as they were sent.
    pub echoes: u64,
    /// Streams that ended: reset, closed by the other side, any error.
    pub lost: u64,
    /// Lines that came back changed.
    pub corrupt: u64,
    /// Waits for an echo beyond [`STALL`].
    pub stalls: u64,
    pub slowest: Duration,
    pub errors: Vec<String>,
    pub by_server: BTreeMap<String, usize>,
}

impl Streams {
    /// Opens `count` streams, each sending a line every `interval`; returns
    /// when all are open and know their server.
    pub fn open(netns: &Netns, to: impl Into<SocketAddr>, count: usize, interval: Duration) -> Self {
        let to = to.into();
        let report = Arc::<Mutex<StreamsReport>>::default();
        let (ready, opened) = mpsc::channel();
        let worker = Worker::start(netns, {
            let report = report.clone();
            move |stop| {
                let mut work = Work::open(to, count, interval, &report);
                let _ = ready.send(());
                while !stop.load(Ordering::Relaxed) {
                    work.turn(&report);
                }
            }
        });
        opened.recv().unwrap_or_else(|_| panic!("streams to {to} did not open"));
        Self { report, worker }
    }

    pub fn report(&self) -> StreamsReport {
        self.report.lock().unwrap().clone()
    }

    pub fn close(self) -> StreamsReport {
        self.worker.end();
        self.report.lock().unwrap().clone()
    }
}

impl StreamsReport {
    /// Every stream stood through, and talked.
    pub fn assert_clean(&self, count: usize) {
        let clean = self.lost == 0 && self.corrupt == 0 && self.stalls == 0;
        assert!(clean && self.opened == count && self.echoes >= count as u64, "{self}");
    }
}

impl fmt::Display for StreamsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} streams, {} echoes, {} lost", self.opened, self.echoes, self.lost)?;
        write!(f, ", {} corrupt, {} stalls, slowest {:?}", self.corrupt, self.stalls, self.slowest)?;
        if self.errors.is_empty() { Ok(()) } else { write!(f, ", errors {:?}", self.errors) }
    }
}

struct Stream {
    socket: TcpStream,
    unread: Vec<u8>,
    /// The line on its way, and since when.
    asked: Option<(Vec<u8>, Instant)>,
    stalled: bool,
    next: Instant,
    sequence: u64,
}

struct Work {
    epoll: Epoll,
    streams: Vec<Option<Stream>>,
    interval: Duration,
}

impl Work {
    fn open(to: SocketAddr, count: usize, interval: Duration, report: &Mutex<StreamsReport>) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut streams = Vec::with_capacity(count);
        for index in 0..count {
            let (socket, server) =
                connect(to).unwrap_or_else(|error| panic!("stream {index} to {to}: {error}"));
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64)).unwrap();
            *report.lock().unwrap().by_server.entry(server).or_default() += 1;
            // Spread over the interval, so that they do not talk in chorus.
            let next = Instant::now() + interval * index as u32 / count as u32;
            let unread = Vec::new();
            streams.push(Some(Stream { socket, unread, asked: None, stalled: false, next, sequence: 0 }));
        }
        report.lock().unwrap().opened = count;
        Self { epoll, streams, interval }
    }

    fn turn(&mut self, report: &Mutex<StreamsReport>) {
        let mut events = [EpollEvent::empty(); 256];
        let ready = self.epoll.wait(&mut events, EpollTimeout::from(2u8)).unwrap_or(0);
        let mut report = report.lock().unwrap();
        for event in &events[..ready] {
            let index = event.data() as usize;
            if let Some(stream) = &mut self.streams[index]
                && let Err(error) = stream.hear(&mut report)
            {
                lose(&mut report, index, &error);
                self.streams[index] = None;
            }
        }
        let now = Instant::now();
        for index in 0..self.streams.len() {
            if let Some(stream) = &mut self.streams[index]
                && let Err(error) = stream.talk(index, now, self.interval, &mut report)
            {
                lose(&mut report, index, &error);
                self.streams[index] = None;
            }
        }
    }
}

impl Stream {
    /// Reads what came and holds it against what was sent.
    fn hear(&mut self, report: &mut StreamsReport) -> Result<(), String> {
        let mut buffer = [0; 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => return Err("closed by the other side".into()),
            Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        for line in wire::lines(&mut self.unread) {
            match self.asked.take() {
                Some((asked, since)) if asked == line => {
                    report.echoes += 1;
                    report.slowest = report.slowest.max(since.elapsed());
                    self.stalled = false;
                }
                _ => report.corrupt += 1,
            }
        }
        Ok(())
    }

    /// Sends the next line when it is time and the last one is back.
    fn talk(
        &mut self,
        index: usize,
        now: Instant,
        interval: Duration,
        report: &mut StreamsReport,
    ) -> Result<(), String> {
        if let Some((_, since)) = &self.asked {
            if !self.stalled && now - *since > STALL {
                self.stalled = true;
                report.stalls += 1;
            }
            return Ok(());
        }
        if now < self.next {
            return Ok(());
        }
        self.sequence += 1;
        let line = format!("stream {index} line {}\n", self.sequence).into_bytes();
        self.socket.write_all(&line).map_err(|error| error.to_string())?;
        self.asked = Some((line, now));
        self.next = now + interval;
        Ok(())
    }
}

fn lose(report: &mut StreamsReport, index: usize, error: &str) {
    report.lost += 1;
    if report.errors.len() < 5 {
        report.errors.push(format!("stream {index}: {error}"));
    }
}

/// An open stream and its server's name.
fn connect(to: SocketAddr) -> std::io::Result<(TcpStream, String)> {
    let mut socket = TcpStream::connect_timeout(&to, PATIENCE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(format!("{WHO}\n").as_bytes())?;
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    while line.last() != Some(&b'\n') {
        let length = socket.read(&mut buffer)?;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&buffer[..length]);
    }
    socket.set_nonblocking(true)?;
    let answer = Answer::parse(&String::from_utf8_lossy(&line)).ok_or(ErrorKind::InvalidData)?;
    Ok((socket, answer.server))
}
