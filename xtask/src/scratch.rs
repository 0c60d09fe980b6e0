//! Where is laid out what is packed and tried? In a directory of its own, gone
//! with the value; what a killed run has left goes with the next one's first.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result};

const PREFIX: &str = "causeway-xtask-";

/// The directory. Its name has the maker's pid in it: one whose maker is gone is
/// nobody's.
pub struct Scratch(PathBuf);

impl Scratch {
    /// # Errors
    /// When nothing can be written where the system has such directories.
    pub fn new() -> Result<Self> {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = std::env::temp_dir();
        SWEEP.call_once(|| {
            for path in left_behind(&parent) {
                let _ = fs::remove_dir_all(path);
            }
        });
        let path = parent.join(format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is named as a [`Scratch`] of a process that is gone.
pub fn left_behind(parent: &Path) -> Vec<PathBuf> {
    let is_gone = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| maker(name).is_some_and(is_gone)).map(|name| parent.join(name)).collect()
}

/// The pid in a name of ours.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_have_made_is_left_behind() {
        let parent = Scratch::new().unwrap();
        let living = format!("{PREFIX}{}-7", process::id());
        // Above the kernel's largest pid, so nobody has it.
        let dead = format!("{PREFIX}4194305-0");
        for name in [living.as_str(), dead.as_str(), "causeway-xtask-x", "another"] {
            fs::create_dir(parent.join(name)).unwrap();
        }
        assert_eq!(left_behind(parent.path()), [parent.join(dead)]);
    }

    #[test]
    fn it_goes_with_the_value() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        fs::write(scratch.join("file"), "").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
