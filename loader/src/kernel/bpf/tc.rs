//! How is a program attached where tcx is missing (kernels before 6.6)? As a
//! filter in one half of a clsact qdisc, by rtnetlink.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use super::sys::Direction::{self, Egress, Ingress};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const FLAG_ACT_DIRECT: u32 = 1;
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

impl Direction {
    /// That half of the qdisc.
    fn parent(self) -> u32 {
        match self {
            Direction::Ingress => 0xffff_fff2,
            Direction::Egress => 0xffff_fff3,
        }
    }
}

/// Before any other filter, as our tcx link is before any other link.
const PRIORITY: u32 = 1;
/// Ours at that priority.
const HANDLE: u32 = 0xca5e;
/// Of `nlmsghdr` and of `tcmsg`.
const HEADER: usize = 16;
const TCMSG: usize = 20;

/// True when it was not there before.
pub fn add_clsact(ifindex: u32) -> io::Result<bool> {
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut request = Request::new(RTM_NEWQDISC, create, ifindex, CLSACT_HANDLE, CLSACT, 0);
    request.attribute(TCA_KIND, b"clsact\0");
    match request.send() {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the qdisc unless somebody's filters are in it; absent is fine.
pub fn remove_clsact_if_empty(ifindex: u32) -> io::Result<()> {
    if !filters(ifindex, Ingress)?.is_empty() || !filters(ifindex, Egress)?.is_empty() {
        return Ok(());
    }
    absent_is_fine(Request::new(RTM_DELQDISC, 0, ifindex, CLSACT_HANDLE, CLSACT, 0).send().map(drop))
}

/// Sets our filter at the interface: makes it, or exchanges its program in one
/// step.
pub fn set_filter(ifindex: u32, at: Direction, program: &impl AsFd, name: &str) -> io::Result<()> {
    let (create, parent) = (libc::NLM_F_CREATE, at.parent());
    let mut request = Request::new(RTM_NEWTFILTER, create, ifindex, HANDLE, parent, match_all(PRIORITY));
    request.attribute(TCA_KIND, b"bpf\0");
    let options = request.begin(TCA_OPTIONS);
    request.attribute(TCA_BPF_FD, &program.as_fd().as_raw_fd().to_ne_bytes());
    request.attribute(TCA_BPF_NAME, &[name.as_bytes(), b"\0"].concat());
    request.attribute(TCA_BPF_FLAGS, &FLAG_ACT_DIRECT.to_ne_bytes());
    request.end(options);
    request.send().map(drop)
}

/// Absent is fine.
pub fn remove_filter(ifindex: u32, at: Direction) -> io::Result<()> {
    let request = Request::new(RTM_DELTFILTER, 0, ifindex, HANDLE, at.parent(), match_all(PRIORITY));
    absent_is_fine(request.send().map(drop))
}

/// Id of the program in our filter, if it is there.
pub fn program_in_filter(ifindex: u32, at: Direction) -> io::Result<Option<u32>> {
    let filters = filters(ifindex, at)?;
    Ok(filters
        .into_iter()
        .find(|filter| filter.priority == PRIORITY && filter.handle == HANDLE)
        .map(|f| f.program))
}

struct Filter {
    priority: u32,
    handle: u32,
    program: u32,
}

fn filters(ifindex: u32, at: Direction) -> io::Result<Vec<Filter>> {
    let answers = match Request::new(RTM_GETTFILTER, libc::NLM_F_DUMP, ifindex, 0, at.parent(), 0).send() {
        // Without the qdisc there is no such parent.
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for answer in answers.iter().filter(|answer| answer.len() >= TCMSG) {
        let handle = word(answer, 8);
        // A dump also names each priority, as a filter without a handle.
        if handle == 0 {
            continue;
        }
        let options = attribute_of(&answer[TCMSG..], TCA_OPTIONS).unwrap_or_default();
        let program =
            attribute_of(options, TCA_BPF_ID).filter(|id| id.len() >= 4).map_or(0, |id| word(id, 0));
        found.push(Filter { priority: word(answer, 16) >> 16, handle, program });
    }
    Ok(found)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

/// `tcm_info` of a filter for every protocol.
fn match_all(priority: u32) -> u32 {
    priority << 16 | u32::from((libc::ETH_P_ALL as u16).to_be())
}

/// A netlink message under construction.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: libc::c_int, ifindex: u32, handle: u32, parent: u32, info: u32) -> Self {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        // Sequence 1, port 0; then family AF_UNSPEC and padding.
        for part in [1, 0, 0, ifindex, handle, parent, info] {
            bytes.extend_from_slice(&part.to_ne_bytes());
        }
        Self(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.0.extend_from_slice(value);
        self.end(start);
    }

    /// Starts an attribute of unknown length; [`Request::end`] closes it.
    fn begin(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Sends it in the calling thread's network namespace; the bodies of the
    /// answers.
    fn send(mut self) -> io::Result<Vec<Vec<u8>>> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let is_dump = half(&self.0, 6) & libc::NLM_F_DUMP as u16 == libc::NLM_F_DUMP as u16;
        let socket = open()?;
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(socket.as_raw_fd(), self.0.as_ptr().cast(), self.0.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answers = Vec::new();
        let mut buffer = vec![0_u8; 32 * 1024];
        loop {
            // SAFETY: as above.
            let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(got) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
            let mut rest = &buffer[..got];
            while rest.len() >= HEADER {
                let length = (word(rest, 0) as usize).clamp(HEADER, rest.len());
                let body = &rest[HEADER..length];
                match libc::c_int::from(half(rest, 4)) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => match word(body, 0) as i32 {
                        0 if is_dump => {}
                        0 => return Ok(answers),
                        negative => return Err(io::Error::from_raw_os_error(-negative)),
                    },
                    _ => answers.push(body.to_vec()),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: no memory is handed over.
    let fd =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The value of the first attribute of a kind.
fn attribute_of(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let length = usize::from(half(attributes, 0)).clamp(4, attributes.len());
        // The top bits say "nested" and "network order".
        if half(attributes, 2) & 0x3fff == kind {
            return Some(&attributes[4..length]);
        }
        attributes = &attributes[length.next_multiple_of(4).min(attributes.len())..];
    }
    None
}

/// Four bytes at an offset; zero beyond the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|half| half.try_into().ok()).map_or(0, u16::from_ne_bytes)
}
