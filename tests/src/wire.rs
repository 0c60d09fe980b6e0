//! What do the kit's servers and clients say to each other? Lines: `who` is
//! answered with the server's name and the peer address it sees, everything
//! else comes back as it was.

use std::net::SocketAddr;

/// The question.
pub const WHO: &str = "who";

/// The answer to [`WHO`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub server: String,
    /// The client's address as the server's socket gives it.
    pub peer: SocketAddr,
}

impl Answer {
    pub fn parse(line: &str) -> Option<Self> {
        let (server, peer) = line.trim_end().split_once(' ')?;
        Some(Self { server: server.to_owned(), peer: peer.parse().ok()? })
    }
}

/// What a server called `server` says to `line` from `peer`.
pub fn reply(server: &str, peer: SocketAddr, line: &[u8]) -> Vec<u8> {
    if line.trim_ascii_end() == WHO.as_bytes() {
        format!("{server} {peer}\n").into_bytes()
    } else {
        line.to_vec()
    }
}

/// Takes the whole lines off the front of `buffer`, each with its end.
pub fn lines(buffer: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let Some(end) = buffer.iter().rposition(|&byte| byte == b'\n') else { return Vec::new() };
    let rest = buffer.split_off(end + 1);
    let whole = std::mem::replace(buffer, rest);
    whole.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_leave_the_unfinished_one() {
        let mut buffer = b"a\nbb\nc".to_vec();
        assert_eq!(lines(&mut buffer), [b"a\n".to_vec(), b"bb\n".to_vec()]);
        assert_eq!(buffer, b"c");
    }

    #[test]
    fn an_answer_reads_as_it_was_written() {
        let peer = SocketAddr::new([10, 0, 0, 1].into(), 4000);
        let line = String::from_utf8(reply("web-1", peer, b"who\n")).unwrap();
        assert_eq!(Answer::parse(&line), Some(Answer { server: "web-1".into(), peer }));
        assert_eq!(reply("web-1", peer, b"what\n"), b"what\n");
    }
}
