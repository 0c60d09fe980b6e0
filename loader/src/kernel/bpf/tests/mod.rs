//! Against the real kernel and the embedded object; needs root. Every test has
//! its own pins and network namespace.

mod flows;
mod links;
mod maps;
mod policies;
mod programs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Attachment, Dataplane, Options};
use crate::plan::Capacity;

static NEXT: AtomicU32 = AtomicU32::new(0);

fn capacity() -> Capacity {
    Capacity {
        frontends: 8,
        services: 16,
        backends: 32,
        arena: 64,
        endpoints: 7,
        flows: 64,
        embryonic: 64,
        affinity: 64,
        members: 16,
        source_ranges: 8,
        port_ranges: 8,
        policy_sets: 16,
        policy_steps: 64,
        peers: 16,
        rules: 16,
    }
}

/// Pins under a directory of their own; gone when it is dropped.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/sys/fs/bpf/causeway-test-{}-{number}", std::process::id())))
    }

    fn open(&self) -> Dataplane {
        Dataplane::open(&self.0, capacity(), Options::default()).unwrap()
    }

    fn open_clsact(&self) -> Dataplane {
        Dataplane::open(&self.0, capacity(), Options { force_clsact: true, ..Options::default() }).unwrap()
    }

    /// Where a program of this build is pinned.
    fn program(&self, name: &str) -> PathBuf {
        self.0.join("progs").join(env!("CAUSEWAY_BPF_BUILD")).join(name)
    }

    /// Makes the programs look like those of another build.
    fn upgrade(&self) {
        let all = self.0.join("progs");
        fs::rename(all.join(env!("CAUSEWAY_BPF_BUILD")), all.join("another")).unwrap();
    }

    fn link(&self, attachment: &Attachment) -> PathBuf {
        self.0.join("links").join(format!("{}-{}", attachment.program, attachment.ifindex))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() { remove(&entry.path()) } else { drop(fs::remove_file(entry.path())) }
    }
    let _ = fs::remove_dir(path);
}

/// Runs a test in a network namespace of its own, with a pair of interfaces
/// `v0` and `v1` that are up.
fn in_netns(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn at(interface: &str) -> Attachment {
    let ifindex = nix::net::if_::if_nametoindex(interface).unwrap();
    Attachment { program: super::FROM_UPLINK, ifindex, interface: interface.into() }
}
