//! Where is everything?

use std::path::{Path, PathBuf};

/// The top of the tree.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(named) => root().join(named),
        None => root().join("target"),
    }
}

/// A binary that was built for release.
pub fn built(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// Where `cargo install` puts binaries.
pub fn cargo_bin() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    home.unwrap_or_default().join("bin")
}

/// The cargo that runs us; the PATH of a fresh machine may not have it.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// PATH with cargo's own directory in it: bpf-linker lives there.
pub fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", cargo_bin().display())
}

/// Where a program of the system is; an operator's PATH may lack the system's own
/// directories.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = format!("{}:/usr/sbin:/sbin", search_path());
    path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.exists())
}

pub fn is_root() -> bool {
    // The owner of our own process; no crate is needed for that.
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let line = status.lines().find(|line| line.starts_with("Uid:"));
        line.and_then(|line| line.split_whitespace().nth(2)) == Some("0")
    })
}
