//! How is the agent asked? HTTP over its socket, one question a connection.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use super::error::{CniError, Code};
use crate::{
    api::{client::escape, refusal::ErrorView},
    snapshot::{Attachment, COMMAND_TIMEOUT, JoinRequest, JoinView, KeepRequest},
};

/// Who can be told later is not waited for longer.
const BRIEFLY: Duration = Duration::from_secs(2);

pub struct Agent {
    socket: PathBuf,
}

/// Why there is no answer.
pub enum Trouble {
    /// Nobody is there, or says anything in time.
    Away(String),
    Said(CniError),
}

impl From<Trouble> for CniError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Said(error) => error,
            Trouble::Away(message) => {
                Self::new(Code::Later, message).details("start it, or see its log; the runtime may try again")
            }
        }
    }
}

impl Agent {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub fn join(&self, request: &JoinRequest) -> Result<JoinView, CniError> {
        Ok(self.ask("POST", "/v1/attachments", Some(request), COMMAND_TIMEOUT)?)
    }

    pub fn leave(&self, attachment: &Attachment) -> Result<(), Trouble> {
        let path = format!("/v1/attachments?{}", query(attachment));
        self.ask::<serde_json::Value>("DELETE", &path, None::<&()>, BRIEFLY).map(drop)
    }

    pub fn look(&self, attachment: &Attachment) -> Result<JoinView, CniError> {
        let path = format!("/v1/attachments?{}", query(attachment));
        let found = self.ask("GET", &path, None::<&()>, COMMAND_TIMEOUT).map_err(CniError::from);
        found.map_err(|error| match error.code {
            Code::Refused => CniError { code: Code::Changed, ..error },
            _ => error,
        })
    }

    pub fn keep(&self, request: &KeepRequest) -> Result<(), CniError> {
        self.ask::<serde_json::Value>("POST", "/v1/attachments/keep", Some(request), COMMAND_TIMEOUT)?;
        Ok(())
    }

    /// Whether containers can be attached.
    pub fn ready(&self) -> Result<(), CniError> {
        let asked = self.ask::<serde_json::Value>("GET", "/v1/attachments/ready", None::<&()>, BRIEFLY);
        let unavailable = |trouble| CniError { code: Code::Unavailable, ..CniError::from(trouble) };
        asked.map(drop).map_err(unavailable)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
        patience: Duration,
    ) -> Result<T, Trouble> {
        let socket = self.socket.display();
        let away = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Trouble::Away(format!("the agent at {socket} does not answer within {patience:?}"))
            }
            _ => Trouble::Away(format!("no agent answers at {socket}: {error}")),
        };
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
        let code = match status {
            404 => Code::UnknownContainer,
            503 => Code::Later,
            _ => Code::Refused,
        };
        Err(Trouble::Said(CniError::new(code, said.error).details(said.remedy.unwrap_or_default())))
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8], patience: Duration) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
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
