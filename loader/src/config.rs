//! How is the agent configured? By a file, then the environment, then flags,
//! the later winning.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::plan::Capacity;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/causeway/agent.sock";

/// Everything the agent needs to know, resolved.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// This node's name, as the sources have it.
    pub node: String,
    pub manifests: PathBuf,
    /// `None`: the interface of the default route.
    pub uplink: Option<String>,
    /// `None`: the namespace the agent was started in.
    pub netns: Option<PathBuf>,
    pub state_dir: PathBuf,
    /// A directory of a BPF file system, for the pins.
    pub bpffs: PathBuf,
    pub socket: PathBuf,
    /// Serves `/metrics`, `/healthz` and `/readyz` over TCP as well.
    pub metrics: Option<SocketAddr>,
    pub capacity: Capacity,
    /// How often everything is read back when nothing changes.
    pub resync: Duration,
    pub recreate_maps: bool,
    pub force_clsact: bool,
}

/// What a configuration file may say; every key is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    pub node: Option<String>,
    pub manifests: Option<PathBuf>,
    pub uplink: Option<String>,
    pub netns: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub bpffs: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub metrics: Option<SocketAddr>,
    pub capacity: Option<Capacity>,
    pub resync_ms: Option<u64>,
}

impl ConfigFile {
    /// # Errors
    /// Names the file, and the line and key that cannot be.
    pub fn read(path: &std::path::Path) -> anyhow::Result<Self> {
        use anyhow::Context;
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{}", path.display()))
    }
}

/// Sizes that the maps can have.
///
/// # Errors
/// Names the key and its range.
pub fn check_capacity(capacity: &Capacity) -> anyhow::Result<()> {
    let limits = [
        ("frontends", capacity.frontends, 1 << 24),
        ("services", capacity.services, 1 << 22),
        ("backends", capacity.backends, 1 << 24),
        ("arena", capacity.arena, causeway_schema::Target::MAX_BASE),
        ("endpoints", capacity.endpoints, 65_535),
        ("flows", capacity.flows, 1 << 26),
        ("embryonic", capacity.embryonic, 1 << 26),
    ];
    for (key, value, limit) in limits {
        anyhow::ensure!((1..=limit).contains(&value), "capacity.{key} = {value}: use 1 to {limit}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("causeway.toml");
        std::fs::write(&path, "node = \"n1\"\n[capacity]\nflws = 3\n").unwrap();
        let error = format!("{:#}", ConfigFile::read(&path).unwrap_err());
        assert!(error.contains("causeway.toml") && error.contains("flws"), "{error}");
    }

    #[test]
    fn capacities_that_cannot_be_are_refused() {
        check_capacity(&Capacity::default()).unwrap();
        let error = check_capacity(&Capacity { endpoints: 70_000, ..Capacity::default() }).unwrap_err();
        assert!(error.to_string().contains("capacity.endpoints"), "{error}");
    }
}
