//! Which containers have gone while no agent was there to be told? A file each,
//! in the agent's state directory, until an agent has read it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{snapshot::Attachment, whole_file};

pub struct Pending(PathBuf);

impl Pending {
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("cni-pending"))
    }

    /// # Errors
    /// When the directory cannot be written.
    pub fn note(&self, attachment: &Attachment) -> io::Result<()> {
        fs::create_dir_all(&self.0)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.0.display())))?;
        whole_file::write(&self.0.join(name_of(attachment)), &serde_json::to_vec(attachment)?, 0o600)
    }

    /// What was noted of this container holds no more: it has come again.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn withdraw(&self, attachment: &Attachment) -> io::Result<()> {
        whole_file::remove(&self.0.join(name_of(attachment)))
    }

    /// What was noted, and where. Files that cannot be understood are named alone.
    ///
    /// # Errors
    /// When the directory cannot be read; one that is not there has nothing.
    pub fn read(&self) -> io::Result<Vec<(PathBuf, Option<Attachment>)>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let paths = paths.filter(|path| !whole_file::is_draft(path));
        let read = |path: PathBuf| {
            let attachment = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            (path, attachment)
        };
        Ok(paths.map(read).collect())
    }
}

fn name_of(attachment: &Attachment) -> String {
    format!("{}@{}", attachment.container, attachment.interface)
}
