//! How are nodes asked whether they are alive, and how do they answer? By ICMP
//! echo messages (RFC 792, RFC 4443): the kernel answers by itself, and the agent
//! of the node that is asked sends an answer of its own beside.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom, sendto, socket,
};

use crate::{egress::Heard, frame};

/// Types of request and reply.
const V4: (u8, u8) = (8, 0);
const V6: (u8, u8) = (128, 129);
/// In the place of a program's own identifier: one that translated pings do not get.
const ID: [u8; 2] = 0xca05_u16.to_be_bytes();
/// Behind the header: whose message it is, and what it says.
const MAGIC: [u8; 4] = *b"cswy";
const ASKS: [u8; 4] = *b"ask?";
const ANSWERS: [u8; 4] = *b"here";
const LEAVES: [u8; 4] = *b"bye.";
const LENGTH: usize = 16;
/// Messages read at a time, more than a cluster has nodes; what is sent beyond that
/// by a flood waits or is lost.
const AT_ONCE: usize = 8192;

/// In the sequence field of a question, and echoed in each answer: nobody who has
/// not seen the one can send the other.
pub type Token = [u8; 2];

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub from: IpAddr,
    pub heard: Heard,
    /// Of a question, to be answered with.
    pub token: Token,
}

/// Sockets of both families, until dropped.
pub struct Echo {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    /// Of our questions.
    token: Token,
}

impl Echo {
    /// `token`: one that nobody can guess.
    ///
    /// # Errors
    /// Without CAP_NET_RAW; a kernel without one of the families is none.
    pub fn open(token: Token) -> io::Result<Self> {
        let v4 = raw(AddressFamily::Inet, SockProtocol::Icmp, &filter(true));
        let v6 = raw(AddressFamily::Inet6, SockProtocol::IcmpV6, &filter(false));
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(Self { v4: v4.ok(), v6: v6.ok(), token }),
        }
    }

    /// # Errors
    /// When there is no way to the node.
    pub fn ask(&self, node: IpAddr) -> io::Result<()> {
        self.send(node, if node.is_ipv4() { V4.0 } else { V6.0 }, self.token, ASKS)
    }

    /// # Errors
    /// As [`Echo::ask`].
    pub fn answer(&self, node: IpAddr, token: Token) -> io::Result<()> {
        self.send(node, if node.is_ipv4() { V4.1 } else { V6.1 }, token, ANSWERS)
    }

    /// # Errors
    /// As [`Echo::ask`].
    pub fn leave(&self, node: IpAddr, token: Token) -> io::Result<()> {
        self.send(node, if node.is_ipv4() { V4.1 } else { V6.1 }, token, LEAVES)
    }

    fn send(&self, to: IpAddr, kind: u8, token: Token, word: [u8; 4]) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(socket.as_raw_fd(), &message(kind, token, word), &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// What has come since the last time: questions, and answers to ours.
    pub fn heard(&self) -> Vec<Message> {
        let mut heard = Vec::new();
        for (socket, is_v4) in [(&self.v4, true), (&self.v6, false)] {
            let Some(socket) = socket else { continue };
            let mut buffer = [0; 128];
            for _ in 0..AT_ONCE {
                let received = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer);
                let Ok((length, Some(from))) = received else { break };
                let message = address(&from).zip(buffer.get(..length).and_then(|bytes| said(bytes, is_v4)));
                heard.extend(message.map(|(from, (heard, token))| Message { from, heard, token }));
            }
        }
        heard.retain(|message| message.heard == Heard::Question || message.token == self.token);
        heard
    }
}

fn address(socket: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = socket.as_sockaddr_in().map(|from| from.ip().into());
    v4.or_else(|| socket.as_sockaddr_in6().map(|from| from.ip().into()))
}

fn message(kind: u8, token: Token, word: [u8; 4]) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[0] = kind;
    message[4..6].copy_from_slice(&ID);
    message[6..8].copy_from_slice(&token);
    message[8..12].copy_from_slice(&MAGIC);
    message[12..].copy_from_slice(&word);
    // The kernel makes the checksum of ICMPv6 itself.
    let check = frame::checksum(&message);
    message[2..4].copy_from_slice(&check);
    message
}

/// An IPv4 raw socket shows the IP header, an IPv6 one does not.
fn said(bytes: &[u8], is_v4: bool) -> Option<(Heard, Token)> {
    let header = if is_v4 { usize::from(bytes.first()? & 15) * 4 } else { 0 };
    let message = bytes.get(header..header + LENGTH)?;
    let (request, reply) = if is_v4 { V4 } else { V6 };
    if message[8..12] != MAGIC || message[4..6] != ID {
        return None;
    }
    let heard = match (message[0], <[u8; 4]>::try_from(&message[12..]).ok()?) {
        (kind, ASKS) if kind == request => Heard::Question,
        (kind, ASKS) if kind == reply => Heard::Kernel,
        (kind, ANSWERS) if kind == reply => Heard::Agent,
        (kind, LEAVES) if kind == reply => Heard::Farewell,
        _ => return None,
    };
    Some((heard, [message[6], message[7]]))
}

/// What the kernel queues: messages of ours, so that a flood of others crowds
/// nothing out. In classic BPF; the packet begins as in [`said`].
fn filter(is_v4: bool) -> Vec<libc::sock_filter> {
    let code = |code: u32, k: u32, jf: u8| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let begin = match is_v4 {
        true => code(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0),
        false => code(libc::BPF_LDX | libc::BPF_IMM, 0, 0),
    };
    vec![
        begin,
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 8, 0),
        code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, u32::from_be_bytes(MAGIC), 1),
        code(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
        code(libc::BPF_RET | libc::BPF_K, 0, 0),
    ]
}

fn raw(family: AddressFamily, protocol: SockProtocol, filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Raw, flags, protocol)?;
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let length = size_of_val(&program) as u32;
    // SAFETY: the kernel copies `length` bytes, and the instructions that they
    // point at, before the call returns.
    let attached = unsafe {
        let program = (&raw const program).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program, length)
    };
    match attached {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_meant() {
        for is_v4 in [true, false] {
            let header = if is_v4 { vec![0x45; 20] } else { Vec::new() };
            let (request, reply) = if is_v4 { V4 } else { V6 };
            for (kind, word, expected) in [
                (request, ASKS, Some(Heard::Question)),
                (reply, ASKS, Some(Heard::Kernel)),
                (reply, ANSWERS, Some(Heard::Agent)),
                (reply, LEAVES, Some(Heard::Farewell)),
                (request, ANSWERS, None),
                (reply, *b"what", None),
            ] {
                let bytes = [&header[..], &message(kind, [1, 2], word)].concat();
                assert_eq!(said(&bytes, is_v4), expected.map(|heard| (heard, [1, 2])));
                assert_eq!(said(&bytes[..bytes.len() - 1], is_v4), None, "cut short");
            }
        }
    }

    #[test]
    fn a_node_answers_itself() {
        let echo = Echo::open([7, 9]).unwrap();
        for node in ["127.0.0.1", "::1"].map(|node| node.parse::<IpAddr>().unwrap()) {
            // By somebody who has not seen the question.
            echo.leave(node, [9, 7]).unwrap();
            echo.ask(node).unwrap();
            echo.answer(node, [7, 9]).unwrap();
            let mut heard = Vec::new();
            for _ in 0..100 {
                std::thread::sleep(std::time::Duration::from_millis(5));
                // Others who ask themselves here have tokens of their own.
                heard.extend(echo.heard().into_iter().filter(|message| message.token == [7, 9]));
                if heard.len() >= 3 {
                    break;
                }
            }
            for said in [Heard::Question, Heard::Kernel, Heard::Agent] {
                let message = Message { from: node, heard: said, token: [7, 9] };
                assert!(heard.contains(&message), "{node}: {heard:?}");
            }
            assert!(heard.iter().all(|message| message.heard != Heard::Farewell), "{node}: {heard:?}");
        }
    }
}
