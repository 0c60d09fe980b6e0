//! Which names does a run give to what it makes, and who clears up after a
//! run that was killed? Every name holds the maker's pid; a name whose pid is
//! gone is nobody's.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where named namespaces are mounted, as `ip netns` has it.
pub const NETNS_DIR: &str = "/run/netns";
/// Where the agents of a run pin.
pub const BPFFS: &str = "/sys/fs/bpf";

const PREFIX: &str = "cwt-";

/// A name that no other run and no other object of this run has.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    sweep_once();
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A directory of its own, gone with the value.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(unique());
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Default for Dir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A place for pins, gone with the value.
pub struct PinDir(PathBuf);

impl PinDir {
    pub fn new() -> Self {
        mount_bpffs();
        Self(Path::new(BPFFS).join(unique()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for PinDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what dead runs left behind; done by itself before the first name is
/// given out.
pub fn sweep() {
    clear(&|pid| !Path::new("/proc").join(pid.to_string()).exists());
}

/// Removes what this process made, values or not: for an exit in a hurry.
pub fn clear_own() {
    clear(&|pid| pid == std::process::id());
}

fn clear(of: &dyn Fn(u32) -> bool) {
    for name in made_by(Path::new(NETNS_DIR), of) {
        let path = Path::new(NETNS_DIR).join(name);
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&path);
    }
    for parent in [Path::new(BPFFS), &std::env::temp_dir()] {
        for name in made_by(parent, of) {
            let _ = fs::remove_dir_all(parent.join(name));
        }
    }
}

fn sweep_once() {
    static SWEEP: Once = Once::new();
    SWEEP.call_once(sweep);
}

/// Names in `parent` whose maker is one `of` those.
fn made_by(parent: &Path, of: &dyn Fn(u32) -> bool) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| maker(name).is_some_and(of)).collect()
}

/// The pid in a name of ours.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn mount_bpffs() {
    static MOUNT: Once = Once::new();
    MOUNT.call_once(|| {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
            let kind = Some("bpf");
            mount(kind, BPFFS, kind, MsFlags::empty(), None::<&str>)
                .unwrap_or_else(|error| panic!("mount bpffs at {BPFFS}: {error}"));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_a_maker() {
        assert_eq!(maker("cwt-17-3"), Some(17));
        assert_eq!(maker("cwt-x-3"), None);
        assert_eq!(maker("blue"), None);
    }

    #[test]
    fn a_sweep_takes_the_dead_and_leaves_the_living() {
        let living = Dir::new();
        // Above the kernel's largest pid, so nobody has it.
        let dead = std::env::temp_dir().join("cwt-4194305-0");
        fs::create_dir_all(&dead).unwrap();
        sweep();
        assert!(living.path().exists() && !dead.exists());
    }
}
