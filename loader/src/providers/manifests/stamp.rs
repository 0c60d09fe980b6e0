//! Has a file changed? What `stat` says of it, without reading it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

/// The time of change is the kernel's own: restoring the time of modification
/// does not hide an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub inode: u64,
    pub size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` unless there is a regular file, or a link to one: a mounted
    /// ConfigMap is a directory of links.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// How long the contents have stood; for ever, by a clock that was set back.
    pub fn age(&self, now: SystemTime) -> Duration {
        let (seconds, nanoseconds) = self.changed.max(self.modified);
        let since =
            Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
        now.duration_since(SystemTime::UNIX_EPOCH + since).unwrap_or(Duration::MAX)
    }
}
