//! How do we speak netlink where no crate has the words? A message under
//! construction, sent and answered in the calling thread's network namespace.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Of `nlmsghdr`.
const HEADER: usize = 16;
/// So often is a list asked for that changes while it is told.
const LOOKS: u32 = 4;

/// A request; its answers come as bodies without the header.
pub struct Message(Vec<u8>);

impl Message {
    /// A request of a kind, with the family's own header behind netlink's.
    pub fn new(kind: u16, flags: libc::c_int, header: &[u8]) -> Self {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        // Sequence 1, port 0.
        for part in [1_u32, 0] {
            bytes.extend_from_slice(&part.to_ne_bytes());
        }
        bytes.extend_from_slice(header);
        Self(bytes)
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.0.extend_from_slice(value);
        self.end(start);
    }

    /// Starts an attribute of unknown length; [`Message::end`] closes it.
    pub fn begin(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    pub fn end(&mut self, start: usize) {
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Sends it to a netlink family (`NETLINK_*`); the bodies of the answers.
    ///
    /// # Errors
    /// The kernel's, that there is no such family, and that what was to be listed
    /// has changed meanwhile, again and again.
    pub fn send(mut self, family: libc::c_int) -> io::Result<Vec<Vec<u8>>> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let mut looks = (0..LOOKS).map(|_| self.ask(family));
        let torn = |answers: &io::Result<_>| {
            answers.as_ref().is_err_and(|error: &io::Error| error.kind() == io::ErrorKind::Interrupted)
        };
        looks.find(|answers| !torn(answers)).unwrap_or_else(|| Err(io::ErrorKind::Interrupted.into()))
    }

    fn ask(&self, family: libc::c_int) -> io::Result<Vec<Vec<u8>>> {
        let socket = open(family)?;
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(socket.as_raw_fd(), self.0.as_ptr().cast(), self.0.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let is_dump = half(&self.0, 6) & libc::NLM_F_DUMP as u16 == libc::NLM_F_DUMP as u16;
        let mut answers = Answers { is_dump, ..Answers::default() };
        let mut buffer = vec![0_u8; 32 * 1024];
        loop {
            let (room, whole) = (buffer.len(), libc::MSG_TRUNC);
            // SAFETY: as above.
            let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), room, whole) };
            let Ok(got) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
            let Some(datagram) = buffer.get(..got) else {
                return Err(io::Error::other(format!("an answer of {got} bytes")));
            };
            if answers.take(datagram)? {
                return Ok(answers.bodies);
            }
        }
    }
}

/// What has come of an answer so far.
#[derive(Default)]
struct Answers {
    is_dump: bool,
    bodies: Vec<Vec<u8>>,
    /// The list has changed while it was told: it is of no one state.
    torn: bool,
}

impl Answers {
    /// True when the answer is whole.
    fn take(&mut self, mut datagram: &[u8]) -> io::Result<bool> {
        while datagram.len() >= HEADER {
            let length = (word(datagram, 0) as usize).clamp(HEADER, datagram.len());
            let body = &datagram[HEADER..length];
            self.torn |= half(datagram, 6) & libc::NLM_F_DUMP_INTR as u16 != 0;
            match libc::c_int::from(half(datagram, 4)) {
                // Both with the error, if there is one; a list may end in one.
                kind @ (libc::NLMSG_DONE | libc::NLMSG_ERROR) => match word(body, 0) as i32 {
                    0 if kind == libc::NLMSG_ERROR && self.is_dump => {}
                    0 if self.torn => return Err(io::ErrorKind::Interrupted.into()),
                    0 => return Ok(true),
                    negative => return Err(io::Error::from_raw_os_error(-negative)),
                },
                _ => self.bodies.push(body.to_vec()),
            }
            datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
        }
        Ok(false)
    }
}

fn open(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is handed over.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, family) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The value of the first attribute of a kind.
pub fn attribute_of(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
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
pub fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

pub fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|half| half.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: libc::c_int = 16;

    /// A message with a body of one word, and its padding.
    fn message(kind: libc::c_int, flags: libc::c_int, word: i32) -> Vec<u8> {
        let [length, sequence, port] = [20_u32, 1, 0].map(u32::to_ne_bytes);
        let [kind, flags] = [kind as u16, flags as u16].map(u16::to_ne_bytes);
        [&length[..], &kind, &flags, &sequence, &port, &word.to_ne_bytes()].concat()
    }

    fn answer(is_dump: bool, datagrams: &[Vec<u8>]) -> io::Result<Option<usize>> {
        let mut answers = Answers { is_dump, ..Answers::default() };
        for datagram in datagrams {
            if answers.take(datagram)? {
                return Ok(Some(answers.bodies.len()));
            }
        }
        Ok(None)
    }

    fn list(flags: libc::c_int, end: i32) -> Vec<Vec<u8>> {
        let object = |flags| message(OBJECT, flags | libc::NLM_F_MULTI, 7);
        vec![
            [object(0), object(flags)].concat(),
            object(0),
            message(libc::NLMSG_DONE, libc::NLM_F_MULTI, end),
        ]
    }

    #[test]
    fn a_list_ends_where_it_says_and_not_before() {
        assert_eq!(answer(true, &list(0, 0)).unwrap(), Some(3));
        assert_eq!(answer(true, &list(0, 0)[..2]).unwrap(), None);
        // That it was asked for is no end of it.
        let acknowledged = [vec![message(libc::NLMSG_ERROR, 0, 0)], list(0, 0)].concat();
        assert_eq!(answer(true, &acknowledged).unwrap(), Some(3));
        assert_eq!(answer(false, &[message(libc::NLMSG_ERROR, 0, 0)]).unwrap(), Some(0));
    }

    #[test]
    fn a_list_that_broke_off_or_changed_meanwhile_is_none() {
        let error = answer(true, &list(0, -libc::ENOBUFS)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
        let torn = answer(true, &list(libc::NLM_F_DUMP_INTR, 0)).unwrap_err();
        assert_eq!(torn.kind(), io::ErrorKind::Interrupted);
        let refused = answer(false, &[message(libc::NLMSG_ERROR, 0, -libc::EPERM)]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }
}
