//! How does a container runtime call the plugin? As a program, with the question
//! in its environment and the configuration on standard input.

mod case;

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

pub use case::{Case, play};

use crate::{agent, topology::Node};

/// The plugin, as one node's runtime has it.
#[derive(Clone, Debug)]
pub struct Plugin {
    pub program: PathBuf,
    pub socket: PathBuf,
    pub state_dir: PathBuf,
}

/// What it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub code: i32,
    /// Null where it has printed nothing.
    pub json: Value,
}

impl Plugin {
    pub fn of(node: &Node) -> Self {
        let agent = node.agent();
        let program = agent::binary().with_file_name("causeway-cni");
        Self { program, socket: agent.socket(), state_dir: agent.state_dir() }
    }

    /// A configuration for it of the newest version.
    pub fn config(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "net", "type": "causeway-cni",
            "socket": self.socket, "stateDir": self.state_dir,
        })
    }

    /// Calls it; panics where it cannot be called, or prints what is no JSON.
    pub fn call(&self, environment: &BTreeMap<String, String>, config: &str) -> Said {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(environment).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        // One that does not read its configuration has its reasons.
        let _ = child.stdin.take().unwrap().write_all(config.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let json = if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
        };
        Said { code: output.status.code().unwrap_or(-1), json }
    }

    /// A verb about a container's `eth0`.
    pub fn ask(&self, verb: &str, container: &str, netns: &str, config: &Value) -> Said {
        let environment = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        self.call(&environment, &config.to_string())
    }
}
