//! What is wrong with this node? Facts are read first ([`collect`]), judged by
//! pure functions ([`judge`]), and printed by the command line. Nothing is
//! changed, and no agent is needed.

mod collect;
mod facts;
mod judge;

use std::path::PathBuf;

use serde::Serialize;

pub use collect::collect;
pub use judge::judge;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Place {
    /// `None`: the agent's, or that of the default route.
    pub uplink: Option<String>,
    /// The agent's socket.
    pub socket: PathBuf,
    /// The agent's directory in a BPF file system.
    pub bpffs: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Traffic is wrong, or will be.
    Fault,
    /// Some traffic may be wrong, or soon.
    Warning,
    /// Worth knowing.
    Note,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Fault => "fault",
            Level::Warning => "warning",
            Level::Note => "note",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// Which check has found it; docs/cli.md lists them, and names stay.
    pub check: &'static str,
    /// What it is about: an interface, a setting, a node, ...
    pub object: String,
    pub message: String,
    /// What to do; a command where one does it.
    pub remedy: String,
}

/// Something of the kernel that is made use of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    pub name: &'static str,
    /// `None`: cannot be told.
    pub present: Option<bool>,
    pub message: String,
}

/// What `causeway doctor -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// No fault.
    pub sound: bool,
    /// Release of the kernel.
    pub kernel: String,
    pub uplink: Option<String>,
    pub features: Vec<Feature>,
    /// The worst first.
    pub findings: Vec<Finding>,
}
