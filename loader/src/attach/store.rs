//! Which endpoints were attached? A file in the state directory, replaced
//! whole, so that an agent that was killed finds them again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{model::desired::Endpoint, snapshot::AttachRequest, whole_file};

/// What was asked, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    pub request: AttachRequest,
    pub endpoint: Endpoint,
}

pub struct EndpointStore {
    path: PathBuf,
    endpoints: BTreeMap<String, Stored>,
    /// The file was there and could be understood: who is not in it is nobody's.
    is_whole: bool,
}

impl EndpointStore {
    /// Reads the file. One that cannot be understood is set aside, and the
    /// second value says so.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(state_dir: &Path) -> io::Result<(Self, Option<String>)> {
        fs::create_dir_all(state_dir)?;
        let path = state_dir.join("endpoints.json");
        let (found, warning) = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, None),
            Err(error) => return Err(error),
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(endpoints) => (Some(endpoints), None),
                Err(error) => {
                    let aside = path.with_extension("json.corrupt");
                    fs::rename(&path, &aside)?;
                    let warning =
                        format!("{} was damaged ({error}): set aside as {}", path.display(), aside.display());
                    (None, Some(warning))
                }
            },
        };
        let is_whole = found.is_some();
        Ok((Self { path, endpoints: found.unwrap_or_default(), is_whole }, warning))
    }

    /// Whether all endpoints of the earlier agent are known.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub fn get_key_value(&self, name: &str) -> Option<(&str, &Stored)> {
        self.endpoints.get_key_value(name).map(|(name, stored)| (name.as_str(), stored))
    }

    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.endpoints.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Stored)> {
        self.endpoints.iter()
    }

    /// # Errors
    /// When the file cannot be written; memory then still holds the endpoint.
    pub fn insert(&mut self, stored: Stored) -> io::Result<()> {
        self.endpoints.insert(stored.request.name.clone(), stored);
        self.save()
    }

    /// What it was, and whether the file could be written. Where it could not, the
    /// next agent finds an endpoint whose interface has gone, and forgets it.
    pub fn remove(&mut self, name: &str) -> (Option<Stored>, io::Result<()>) {
        let removed = self.endpoints.remove(name);
        let saved = if removed.is_some() { self.save() } else { Ok(()) };
        (removed, saved)
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self) -> io::Result<()> {
        whole_file::write(&self.path, &serde_json::to_vec(&self.endpoints)?, 0o600)
    }
}
