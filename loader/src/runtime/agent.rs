//! How is the agent asked? HTTP over its socket, one question a connection.

use std::{
    io::{self, Read, Write},
    net::IpAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    api::{client::escape, refusal::ErrorView},
    ipam::{AddressRequest, Pool},
    snapshot::{Attachment, JoinRequest, JoinView, KeepRequest},
};

pub struct Agent {
    socket: PathBuf,
    /// What may be long in the making is waited for so long,
    patience: Duration,
    /// and so long what can be said later as well.
    briefly: Duration,
}

/// Why there is no answer, or none that helps.
#[derive(Debug)]
pub enum Trouble {
    /// Nobody is there, or says anything in time.
    Away(String),
    /// With an HTTP status.
    Said { status: u16, message: String, remedy: String },
}

impl Trouble {
    /// It may be otherwise later.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Said { status: 503, .. })
    }
}

impl Agent {
    pub fn new(socket: PathBuf, patience: Duration, briefly: Duration) -> Self {
        Self { socket, patience, briefly }
    }

    /// Whether it answers at all.
    pub fn is_there(&self) -> Result<(), Trouble> {
        self.exchange("GET", "/healthz", &[], self.briefly)
            .map(drop)
            .map_err(|error| self.away(&error, self.briefly))
    }

    pub fn join(&self, request: &JoinRequest) -> Result<JoinView, Trouble> {
        self.ask("POST", "/v1/attachments", Some(request), self.patience)
    }

    pub fn leave(&self, attachment: &Attachment) -> Result<(), Trouble> {
        let path = format!("/v1/attachments?{}", query(attachment));
        self.ask::<serde_json::Value>("DELETE", &path, None::<&()>, self.briefly).map(drop)
    }

    pub fn look(&self, attachment: &Attachment) -> Result<JoinView, Trouble> {
        let path = format!("/v1/attachments?{}", query(attachment));
        self.ask("GET", &path, None::<&()>, self.patience)
    }

    pub fn keep(&self, request: &KeepRequest) -> Result<(), Trouble> {
        self.ask::<serde_json::Value>("POST", "/v1/attachments/keep", Some(request), self.patience).map(drop)
    }

    /// Whether containers can be attached.
    pub fn ready(&self) -> Result<(), Trouble> {
        self.ask::<serde_json::Value>("GET", "/v1/attachments/ready", None::<&()>, self.briefly).map(drop)
    }

    pub fn pools(&self) -> Result<Vec<Pool>, Trouble> {
        self.ask("GET", "/v1/pools", None::<&()>, self.briefly)
    }

    /// An address for somebody who is about to join with it.
    pub fn reserve(&self, request: &AddressRequest) -> Result<IpAddr, Trouble> {
        self.ask("POST", "/v1/addresses", Some(request), self.patience)
    }

    /// It is not needed after all; one that an endpoint has stays with it.
    pub fn release(&self, address: IpAddr) -> Result<(), Trouble> {
        let path = format!("/v1/addresses?address={}", escape(&address.to_string()));
        self.ask::<serde_json::Value>("DELETE", &path, None::<&()>, self.briefly).map(drop)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
        patience: Duration,
    ) -> Result<T, Trouble> {
        let away = |error: io::Error| self.away(&error, patience);
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| away(error.into()))?;
        let text = self.exchange(method, path, &body.unwrap_or_default(), patience).map_err(away)?;
        let not_http = || away(io::Error::other("it does not speak HTTP"));
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(not_http)?;
        let status: u16 =
            head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(not_http)?;
        if status == 200 {
            return serde_json::from_str(body).map_err(|error| away(error.into()));
        }
        let said = serde_json::from_str(body)
            .unwrap_or_else(|_| ErrorView { error: format!("the agent says {status}"), remedy: None });
        Err(Trouble::Said { status, message: said.error, remedy: said.remedy.unwrap_or_default() })
    }

    fn away(&self, error: &io::Error, patience: Duration) -> Trouble {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Trouble::Away(format!("the agent at {socket} does not answer within {patience:?}"))
            }
            _ => Trouble::Away(format!("no agent answers at {socket}: {error}")),
        }
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8], patience: Duration) -> io::Result<String> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_read_timeout(Some(patience))?;
        // Connecting as well: of one that is stopped, the queue may be full.
        socket.set_write_timeout(Some(patience))?;
        socket.connect(&SockAddr::unix(&self.socket)?)?;
        let mut stream = UnixStream::from(OwnedFd::from(socket));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: causeway\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

fn query(attachment: &Attachment) -> String {
    let Attachment { container, interface, network } = attachment;
    format!("container={}&interface={}&network={}", escape(container), escape(interface), escape(network))
}
