//! What does an HTTP server say?

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// How long a connection, and each part of an answer, may take.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// # Errors
/// When nobody answers, or with something else.
pub fn get(at: impl Into<SocketAddr>, path: &str) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&at.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    get_by(stream, path)
}

/// By a connection of whatever kind, which is used up.
///
/// # Errors
/// As [`get`].
pub fn get_by(mut stream: impl Read + Write, path: &str) -> io::Result<Answer> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    read(stream)
}

/// Posts a document by a connection of whatever kind.
///
/// # Errors
/// As [`get`].
pub fn post_by(mut stream: impl Read + Write, path: &str, document: &Value) -> io::Result<Answer> {
    let body = document.to_string();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    read(stream)
}

fn read(mut stream: impl Read) -> io::Result<Answer> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let parts = || {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, body: body.to_owned() })
    };
    parts().ok_or_else(|| io::Error::other(format!("no answer: {text:?}")))
}
