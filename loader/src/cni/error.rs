//! What does a runtime hear that asked in vain? A code of the specification, and
//! words for people.

use serde_json::{Value, json};

use crate::runtime::Trouble;

/// Section "Error" of the specification, and from 100 on our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Version = 1,
    Unsupported = 2,
    UnknownContainer = 3,
    Environment = 4,
    Io = 5,
    Decode = 6,
    Config = 7,
    /// Try again later.
    Later = 11,
    /// Nobody can be attached now.
    Unavailable = 50,
    /// The agent has refused.
    Refused = 100,
    /// A container is not as it was made.
    Changed = 101,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    pub code: Code,
    pub message: String,
    /// What to do about it; empty where the message says it.
    pub details: String,
}

impl CniError {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    pub fn json(&self, version: &str) -> Value {
        let Self { code, message, details } = self;
        json!({"cniVersion": version, "code": *code as u32, "msg": message, "details": details})
    }
}

impl From<Trouble> for CniError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Away(message) => {
                Self::new(Code::Later, message).details("start it, or see its log; the runtime may try again")
            }
            Trouble::Said { status, message, remedy } => {
                let code = match status {
                    404 => Code::UnknownContainer,
                    503 => Code::Later,
                    _ => Code::Refused,
                };
                Self::new(code, message).details(remedy)
            }
        }
    }
}
