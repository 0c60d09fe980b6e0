//! A small real server: TCP and UDP on its ports, thousands of connections,
//! one thread inside a namespace. It speaks [`crate::wire`].

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::EventFd,
};

use crate::{netns::Netns, wire};

/// What has come to the server so far.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: AtomicU64,
    pub lines: AtomicU64,
    pub datagrams: AtomicU64,
}

/// Serves until dropped; then every connection is closed.
pub struct Server {
    seen: Arc<Seen>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `port`, TCP and UDP, on every address of `netns`. Returns
    /// when both sockets are bound.
    pub fn start(netns: &Netns, name: &str, port: u16) -> Self {
        Self::start_on(netns, name, &[port])
    }

    pub fn start_on(netns: &Netns, name: &str, ports: &[u16]) -> Self {
        let seen = Arc::<Seen>::default();
        // Readable when it is time to stop: hundreds of idle servers cost nothing.
        let stop = Arc::new(EventFd::new().unwrap());
        let (ready, bound) = mpsc::channel();
        let thread = netns.spawn_thread({
            let (seen, stop, name, ports) = (seen.clone(), stop.clone(), name.to_owned(), ports.to_vec());
            move || {
                let mut work = Work::bind(name, &ports, seen);
                work.epoll.add(&*stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP)).unwrap();
                ready.send(()).unwrap();
                while work.turn() {}
            }
        });
        // A panic inside drops the sender; its message is on stderr.
        bound.recv().unwrap_or_else(|_| panic!("server {name} did not start"));
        Self { seen, stop, thread: Some(thread) }
    }

    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    pub fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::Relaxed)
    }

    pub fn datagrams(&self) -> u64 {
        self.seen.datagrams.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The stop signal among the sockets.
const STOP: u64 = u64::MAX;

enum Socket {
    Listener(TcpListener),
    Stream(Stream),
    Datagrams(UdpSocket),
}

struct Stream {
    socket: TcpStream,
    peer: SocketAddr,
    unread: Vec<u8>,
}

struct Work {
    name: String,
    epoll: Epoll,
    sockets: HashMap<u64, Socket>,
    next: u64,
    seen: Arc<Seen>,
}

impl Work {
    fn bind(name: String, ports: &[u16], seen: Arc<Seen>) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut work = Self { name, epoll, sockets: HashMap::new(), next: 0, seen };
        for &port in ports {
            // Of both families: IPv4 peers come as mapped addresses.
            let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            let listener =
                TcpListener::bind(address).unwrap_or_else(|error| panic!("listen on {port}: {error}"));
            // std asks for a backlog of 128: too short for bursts of a thousand.
            nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096).unwrap()).unwrap();
            listener.set_nonblocking(true).unwrap();
            work.add(Socket::Listener(listener));
            let datagrams =
                UdpSocket::bind(address).unwrap_or_else(|error| panic!("bind UDP {port}: {error}"));
            datagrams.set_nonblocking(true).unwrap();
            work.add(Socket::Datagrams(datagrams));
        }
        work
    }

    fn add(&mut self, socket: Socket) {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.next);
        match &socket {
            Socket::Listener(socket) => self.epoll.add(socket, event),
            Socket::Stream(stream) => self.epoll.add(&stream.socket, event),
            Socket::Datagrams(socket) => self.epoll.add(socket, event),
        }
        .unwrap();
        self.sockets.insert(self.next, socket);
        self.next += 1;
    }

    /// Waits for something to do, and does it; false when it is time to stop.
    fn turn(&mut self) -> bool {
        let mut events = [EpollEvent::empty(); 256];
        let ready = self.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..ready] {
            let id = event.data();
            if id == STOP {
                return false;
            }
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            match socket {
                Socket::Listener(listener) => {
                    let mut fresh = Vec::new();
                    while let Ok((socket, peer)) = listener.accept() {
                        fresh.push((socket, canonical(peer)));
                    }
                    for (socket, peer) in fresh {
                        self.seen.connections.fetch_add(1, Ordering::Relaxed);
                        if socket.set_nonblocking(true).is_ok() && socket.set_nodelay(true).is_ok() {
                            self.add(Socket::Stream(Stream { socket, peer, unread: Vec::new() }));
                        }
                    }
                }
                Socket::Stream(stream) => {
                    if !serve(stream, &self.name, &self.seen) {
                        self.sockets.remove(&id);
                    }
                }
                Socket::Datagrams(socket) => answer(socket, &self.name, &self.seen),
            }
        }
        true
    }
}

/// Answers the lines that have come; false when the stream is over.
fn serve(stream: &mut Stream, name: &str, seen: &Seen) -> bool {
    let mut buffer = [0; 4096];
    match stream.socket.read(&mut buffer) {
        Ok(0) => return false,
        Ok(length) => stream.unread.extend_from_slice(&buffer[..length]),
        Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
    let mut replies = Vec::new();
    for line in wire::lines(&mut stream.unread) {
        seen.lines.fetch_add(1, Ordering::Relaxed);
        replies.extend(wire::reply(name, stream.peer, &line));
    }
    // A client that does not read what it asked for has its stream ended; the
    // socket's buffer holds more than any of the kit's clients ask for at once.
    stream.socket.write_all(&replies).is_ok()
}

fn answer(socket: &UdpSocket, name: &str, seen: &Seen) {
    let mut buffer = [0; 65_536];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        seen.datagrams.fetch_add(1, Ordering::Relaxed);
        let _ = socket.send_to(&wire::reply(name, canonical(peer), &buffer[..length]), peer);
    }
}

/// A mapped IPv4 address as what it is.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
