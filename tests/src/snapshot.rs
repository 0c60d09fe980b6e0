//! What does a namespace look like, as lines of text? Taken before and after,
//! the difference is what somebody left behind.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::netns::Netns;

/// Sysctls that change by themselves.
const RESTLESS: [&str; 2] = ["nf_conntrack_count", "tcp_fastopen_key"];

/// Links, addresses, routes, rules, qdiscs, attached programs, sysctls, pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// `pins` is the directory an agent pins in; it may be absent.
    pub fn take(netns: &Netns, pins: &Path) -> Self {
        let mut lines = BTreeSet::new();
        for (what, program, arguments) in [
            ("link", "ip", "-o -d link"),
            ("address", "ip", "-o address"),
            ("route", "ip", "route show table all"),
            ("route6", "ip", "-6 route show table all"),
            ("rule", "ip", "rule"),
            ("qdisc", "tc", "qdisc"),
            ("program", "bpftool", "net"),
        ] {
            let (success, output) = netns.command(program, arguments);
            if !success && program == "bpftool" {
                continue;
            }
            assert!(success, "{program} {arguments}: {output}");
            lines.extend(
                output
                    .lines()
                    .filter(|line| !line.is_empty() && !is_settling(line))
                    .map(|line| format!("{what} {}", still(line))),
            );
        }
        lines.extend(netns.run(|| sysctls(Path::new("/proc/sys/net"))));
        let mut found = Vec::new();
        tree(pins, &mut found);
        lines.extend(found.into_iter().map(|path| format!("pin {}", path.display())));
        Self(lines)
    }

    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Lines that went (`-`) and lines that came (`+`).
    pub fn difference(&self, after: &Snapshot) -> String {
        let gone = self.0.difference(&after.0).map(|line| format!("- {line}\n"));
        let come = after.0.difference(&self.0).map(|line| format!("+ {line}\n"));
        gone.chain(come).collect()
    }
}

/// Link-local IPv6 addresses come up by themselves, a second after their link;
/// `ip` complains of namespaces that other tests are just taking down.
fn is_settling(line: &str) -> bool {
    line.contains(" fe80::") || line.starts_with("Error: Peer netns")
}

/// A line without what changes by itself.
fn still(line: &str) -> String {
    // Lifetimes of addresses and routes count down.
    let words = line.split_whitespace().filter(|word| !word.ends_with("sec"));
    words.collect::<Vec<_>>().join(" ")
}

fn sysctls(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    tree(root, &mut files);
    let restless = |path: &Path| RESTLESS.iter().any(|name| path.ends_with(name));
    files
        .into_iter()
        .filter(|path| !restless(path))
        .filter_map(|path| {
            // Some are write-only, some have no value yet.
            let value = fs::read_to_string(&path).ok()?;
            Some(format!("sysctl {} = {}", path.display(), value.trim()))
        })
        .collect()
}

/// Every file and directory below `root`, and `root` itself if it is there.
fn tree(root: &Path, found: &mut Vec<PathBuf>) {
    if !root.exists() {
        return;
    }
    found.push(root.to_owned());
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        tree(&entry.path(), found);
    }
}
