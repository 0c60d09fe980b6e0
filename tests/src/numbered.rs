//! UDP packets that carry their number, each of a flow of its own: at a steady
//! rate from one namespace to several, and which of them came.

use std::{
    io,
    mem::{size_of, size_of_val, zeroed},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use crate::{cpu::stay_on, netns::Netns, worker::Worker};

/// Packets are sent so many at a time to the targets of a family.
const BATCH: usize = 32;
/// Source ports from here on, so many.
const PORTS: std::ops::Range<u64> = 1024..65_024;

/// Sends until stopped, from one CPU, so that what was sent first comes first.
pub struct Numbered {
    worker: Worker<u64>,
    started: Instant,
}

impl Numbered {
    /// Each target in its turn; a source port comes again when it has had all
    /// of them.
    pub fn start(netns: &Netns, targets: &[SocketAddr], per_second: u32) -> Self {
        let families = [false, true].map(|six| {
            let of_family = targets.iter().filter(|target| target.is_ipv6() == six);
            of_family.copied().collect::<Vec<SocketAddr>>()
        });
        let worker = Worker::start(netns, move |stop| {
            stay_on(0);
            let mut ways: Vec<Way> =
                families.into_iter().filter(|list| !list.is_empty()).map(Way::open).collect();
            let pause = Duration::from_secs(1) * (BATCH * ways.len()) as u32 / per_second;
            let (mut number, mut due) = (0, Instant::now());
            while !stop.load(Ordering::Relaxed) {
                for way in &mut ways {
                    number = way.send(number);
                }
                due += pause;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            number
        });
        Self { worker, started: Instant::now() }
    }

    /// How many were sent, and how many a second.
    pub fn stop(self) -> (u64, f64) {
        let sent = self.worker.end();
        (sent, sent as f64 / self.started.elapsed().as_secs_f64())
    }
}

/// The targets of one family.
struct Way {
    socket: OwnedFd,
    targets: Vec<SocketAddr>,
    sent: u64,
}

impl Way {
    fn open(targets: Vec<SocketAddr>) -> Self {
        let six = targets[0].is_ipv6();
        let family = if six { libc::AF_INET6 } else { libc::AF_INET };
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe {
            let descriptor = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_UDP);
            assert!(descriptor >= 0, "open a raw socket: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(descriptor)
        };
        if six {
            // Where the checksum stands, for the kernel to fill in; UDP over
            // IPv4 does without.
            let at: libc::c_int = 6;
            // SAFETY: `at` is an int and outlives the call.
            let set = unsafe {
                let size = size_of_val(&at) as u32;
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_IPV6,
                    libc::IPV6_CHECKSUM,
                    (&raw const at).cast(),
                    size,
                )
            };
            assert_eq!(set, 0, "IPV6_CHECKSUM: {}", io::Error::last_os_error());
        }
        Self { socket, targets, sent: 0 }
    }

    /// A batch; returns the next number.
    fn send(&mut self, mut number: u64) -> u64 {
        let mut packets = [[0_u8; 16]; BATCH];
        // SAFETY: all zero is a value of these plain C structures.
        let (mut names, mut parts, mut messages): (
            [libc::sockaddr_storage; BATCH],
            [libc::iovec; BATCH],
            [libc::mmsghdr; BATCH],
        ) = unsafe { zeroed() };
        for index in 0..BATCH {
            let target = self.targets[(self.sent % self.targets.len() as u64) as usize];
            let port = PORTS.start + self.sent / self.targets.len() as u64 % (PORTS.end - PORTS.start);
            let packet = &mut packets[index];
            packet[..2].copy_from_slice(&(port as u16).to_be_bytes());
            packet[2..4].copy_from_slice(&target.port().to_be_bytes());
            packet[4..6].copy_from_slice(&16_u16.to_be_bytes());
            packet[8..].copy_from_slice(&number.to_be_bytes());
            let length = name(target, &mut names[index]);
            parts[index] = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
            let header = &mut messages[index].msg_hdr;
            (header.msg_name, header.msg_namelen) = ((&raw mut names[index]).cast(), length);
            (header.msg_iov, header.msg_iovlen) = (&raw mut parts[index], 1);
            (self.sent, number) = (self.sent + 1, number + 1);
        }
        let mut gone = 0;
        while gone < BATCH {
            let rest = &mut messages[gone..];
            // SAFETY: every header names buffers above, which outlive the call.
            let sent =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            // One that is dropped on its way out is as good as lost.
            gone += usize::try_from(sent).unwrap_or(1).max(1);
        }
        number
    }
}

/// As the kernel has it; a raw socket's has no port.
fn name(target: SocketAddr, name: &mut libc::sockaddr_storage) -> u32 {
    match target {
        SocketAddr::V4(target) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(target.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` has room and alignment for every address.
            unsafe { (&raw mut *name).cast::<libc::sockaddr_in>().write(address) };
            size_of::<libc::sockaddr_in>() as u32
        }
        SocketAddr::V6(target) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: target.ip().octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { (&raw mut *name).cast::<libc::sockaddr_in6>().write(address) };
            size_of::<libc::sockaddr_in6>() as u32
        }
    }
}

/// Takes what comes to an address until closed.
pub struct Heard(Worker<Vec<u64>>);

impl Heard {
    pub fn start(netns: &Netns, at: SocketAddr) -> Self {
        let bound = netns.run(|| UdpSocket::bind(at));
        let socket = bound.unwrap_or_else(|error| panic!("bind UDP {at}: {error}"));
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
        Self(Worker::start(netns, move |stop| {
            let mut numbers = Vec::new();
            let mut payload = [0; 8];
            loop {
                match socket.recv(&mut payload) {
                    Ok(8) => numbers.push(u64::from_be_bytes(payload)),
                    Ok(_) => {}
                    Err(_) if stop.load(Ordering::Relaxed) => return numbers,
                    Err(_) => {}
                }
            }
        }))
    }

    /// The numbers, in the order in which they came.
    pub fn close(self) -> Vec<u64> {
        self.0.end()
    }
}
