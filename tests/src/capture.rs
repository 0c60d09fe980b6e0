//! What passes an interface, both ways, as long as one looks.

use std::{
    mem::{size_of, size_of_val, zeroed},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    ptr,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::EventFd,
        socket::{SockProtocol, setsockopt, sockopt},
    },
};

use crate::{frame::Frame, netns::Netns, raw::packet_socket};

/// More frames than this, and a test had better filter.
pub const ROOM: usize = 16_384;

// linux/if_packet.h
const PACKET_AUXDATA: i32 = 8;
const STATUS_CHECKSUM_NOT_READY: u32 = 1 << 3;
const STATUS_VLAN: u32 = 1 << 4;

#[derive(Clone, Debug)]
pub struct Captured {
    /// By the kernel.
    pub at: SystemTime,
    /// Sent by the interface's own side.
    pub outgoing: bool,
    /// The transport checksum is left to the device: see [`crate::offload`].
    pub unfinished: bool,
    /// As on the wire, with the VLAN tag where it was.
    pub bytes: Vec<u8>,
}

impl Captured {
    pub fn frame(&self) -> Result<Frame> {
        Frame::read(&self.bytes)
    }
}

/// Captures until dropped.
pub struct Capture {
    link: String,
    frames: Arc<Mutex<Vec<Captured>>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Everything, from now on.
    pub fn start(netns: &Netns, link: &str) -> Self {
        Self::start_where(netns, link, |_| true)
    }

    /// What `wanted` likes.
    pub fn start_where(
        netns: &Netns,
        link: &str,
        wanted: impl Fn(&Captured) -> bool + Send + 'static,
    ) -> Self {
        let socket = packet_socket(netns, link, Some(SockProtocol::EthAll));
        prepare(&socket);
        let (frames, stop) = (Arc::<Mutex<Vec<Captured>>>::default(), Arc::new(EventFd::new().unwrap()));
        let thread = thread::spawn({
            let (frames, stop) = (frames.clone(), stop.clone());
            move || {
                let mut over = false;
                while !over {
                    let mut events =
                        [&socket.as_fd(), &stop.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
                    let _ = poll(&mut events, PollTimeout::NONE);
                    // What came before the end is still read.
                    over = events[1].any() == Some(true);
                    while let Some(frame) = receive(&socket) {
                        let mut frames = frames.lock().unwrap();
                        if frames.len() <= ROOM && wanted(&frame) {
                            frames.push(frame);
                        }
                    }
                }
            }
        });
        Self { link: link.into(), frames, stop, thread: Some(thread) }
    }

    /// What has been seen so far.
    pub fn frames(&self) -> Vec<Captured> {
        let frames = self.frames.lock().unwrap();
        assert!(frames.len() <= ROOM, "more than {ROOM} frames on {}: filter them", self.link);
        frames.clone()
    }

    /// The first frame that `good` likes, from the beginning on.
    pub fn wait(&self, patience: Duration, good: impl Fn(&Captured) -> bool) -> Option<Captured> {
        let begun = Instant::now();
        loop {
            if let Some(found) = self.frames.lock().unwrap().iter().find(|frame| good(frame)) {
                return Some(found.clone());
            }
            if begun.elapsed() > patience {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The first IP packet that `good` likes.
    pub fn wait_packet(&self, patience: Duration, good: impl Fn(&Frame) -> bool) -> Option<Frame> {
        self.wait(patience, |seen| seen.frame().is_ok_and(|frame| good(&frame)))?.frame().ok()
    }

    pub fn stop(mut self) -> Vec<Captured> {
        self.end();
        self.frames()
    }

    fn end(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asks for timestamps and for what the kernel keeps beside a frame.
fn prepare(socket: &OwnedFd) {
    setsockopt(socket, sockopt::ReceiveTimestampns, &true).unwrap();
    // A burst waits here while the thread has no CPU.
    setsockopt(socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    let on = 1_i32;
    let length = size_of_val(&on) as u32;
    // SAFETY: the option's value is an int of `length` bytes.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, PACKET_AUXDATA, (&raw const on).cast(), length)
    };
    assert_eq!(set, 0, "PACKET_AUXDATA: {}", std::io::Error::last_os_error());
}

/// The next frame in the queue.
fn receive(socket: &OwnedFd) -> Option<Captured> {
    // Longer than any frame, those that are cut up only by the device included.
    let mut bytes = vec![0; 70_000];
    let mut control = [0_u64; 32];
    // SAFETY: all zero is a value of these plain C structures.
    let (mut from, mut header): (libc::sockaddr_ll, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = size_of_val(&from) as u32;
    (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: every pointer in `header` is to a live buffer of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    bytes.truncate(usize::try_from(length).ok()?);
    let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
    let mut captured = Captured { at: SystemTime::now(), outgoing, unfinished: false, bytes };
    // SAFETY: recvmsg filled `header`; the macros stay within its control buffer,
    // and each message is at least as long as what its kind says is read of it.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time: libc::timespec = ptr::read_unaligned(data.cast());
                    captured.at = UNIX_EPOCH + Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
                }
                (libc::SOL_PACKET, PACKET_AUXDATA) => {
                    apply(&mut captured, ptr::read_unaligned(data.cast::<[u8; size_of::<[u32; 5]>()]>()));
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    Some(captured)
}

/// `tpacket_auxdata`: status first, and the tag that the kernel took out of
/// the frame (its number, then its ethertype) at the end.
fn apply(captured: &mut Captured, aux: [u8; 20]) {
    let status = u32::from_ne_bytes([aux[0], aux[1], aux[2], aux[3]]);
    captured.unfinished = status & STATUS_CHECKSUM_NOT_READY != 0;
    if status & STATUS_VLAN != 0 {
        let [tag, ethertype] = [16, 18].map(|at| u16::from_ne_bytes([aux[at], aux[at + 1]]).to_be_bytes());
        captured.bytes.splice(12..12, [ethertype, tag].concat());
    }
}
