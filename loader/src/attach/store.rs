//! Which endpoints were attached? A file in the state directory, replaced
//! whole, so that an agent that was killed finds them again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{model::desired::Endpoint, snapshot::AttachRequest};

/// What was asked, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    pub request: AttachRequest,
    pub endpoint: Endpoint,
}

pub struct EndpointStore {
    path: PathBuf,
    endpoints: BTreeMap<String, Stored>,
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
        let (endpoints, warning) = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (BTreeMap::new(), None),
            Err(error) => return Err(error),
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(endpoints) => (endpoints, None),
                Err(error) => {
                    let aside = path.with_extension("json.corrupt");
                    fs::rename(&path, &aside)?;
                    let warning =
                        format!("{} was damaged ({error}): set aside as {}", path.display(), aside.display());
                    (BTreeMap::new(), Some(warning))
                }
            },
        };
        Ok((Self { path, endpoints }, warning))
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

    /// # Errors
    /// As [`EndpointStore::insert`].
    pub fn remove(&mut self, name: &str) -> io::Result<Option<Stored>> {
        let removed = self.endpoints.remove(name);
        if removed.is_some() {
            self.save()?;
        }
        Ok(removed)
    }

    /// Written beside, synced, renamed: a crash leaves the old file or the new.
    fn save(&self) -> io::Result<()> {
        let draft = self.path.with_extension("json.new");
        let mut file = File::create(&draft)?;
        serde_json::to_writer(&file, &self.endpoints)?;
        file.flush()?;
        file.sync_data()?;
        fs::rename(&draft, &self.path)
    }
}
