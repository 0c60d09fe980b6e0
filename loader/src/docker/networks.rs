//! Which networks has Docker made with us, and with what options? It says so once,
//! and not again when it starts: they are kept in a file.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::words::{DOCKERS, GENERIC, INTERNAL, MTU, Options};
use crate::{event::policy::NETWORK, whole_file};

/// What a network's endpoints have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Network {
    /// # Errors
    /// Names the option.
    pub fn read(options: &Options) -> Result<Self, String> {
        if options.get(INTERNAL) == Some(&Value::Bool(true)) {
            return Err("--internal is not known here: say who may go where by policies".into());
        }
        let mut network = Self::default();
        let generic = match options.get(GENERIC) {
            Some(Value::Object(generic)) => generic.clone(),
            _ => serde_json::Map::new(),
        };
        for (key, value) in &generic {
            let text = value.as_str().unwrap_or_default();
            match key.as_str() {
                "mtu" | MTU => {
                    let mtu = text.parse().map_err(|_| format!("option {key}: {text:?} is no number"))?;
                    network.mtu = Some(mtu);
                }
                "network" => drop(network.labels.insert(NETWORK.to_owned(), text.to_owned())),
                key if key.starts_with(DOCKERS) => {}
                key => match key.strip_prefix(LABEL) {
                    Some(label) => drop(network.labels.insert(label.to_owned(), text.to_owned())),
                    None => {
                        return Err(format!(
                            "option {key} is not known: use mtu, network (a VirtualNetwork) or {LABEL}KEY"
                        ));
                    }
                },
            }
        }
        Ok(network)
    }

    /// What a container's own options say beside.
    ///
    /// # Errors
    /// Names the option.
    pub fn labels_of(&self, options: &Options) -> Result<BTreeMap<String, String>, String> {
        let mut labels = self.labels.clone();
        for (key, value) in options.iter().filter(|(key, _)| !key.starts_with(DOCKERS)) {
            let Some((label, value)) = key.strip_prefix(LABEL).zip(value.as_str()) else {
                return Err(format!("driver-opt {key} is not known: use {LABEL}KEY=VALUE"));
            };
            // The network's own are for all who are in it.
            labels.entry(label.to_owned()).or_insert_with(|| value.to_owned());
        }
        Ok(labels)
    }
}

/// Before a label's name.
const LABEL: &str = "label.";

pub struct Networks {
    path: PathBuf,
    all: BTreeMap<String, Network>,
}

impl Networks {
    /// # Errors
    /// When the file is there and cannot be read, or understood.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("docker-networks.json");
        let all = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, all })
    }

    pub fn get(&self, id: &str) -> Option<&Network> {
        self.all.get(id)
    }

    /// # Errors
    /// When the file cannot be written; then it is not there.
    pub fn add(&mut self, id: String, network: Network) -> io::Result<()> {
        self.all.insert(id.clone(), network);
        let saved = self.save();
        if saved.is_err() {
            self.all.remove(&id);
        }
        saved
    }

    /// # Errors
    /// When the file cannot be written: it is gone all the same, until the next start.
    pub fn remove(&mut self, id: &str) -> io::Result<()> {
        if self.all.remove(id).is_none() {
            return Ok(());
        }
        self.save()
    }

    fn save(&self) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        whole_file::write(&self.path, &serde_json::to_vec(&self.all)?, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(value: Value) -> Options {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn options_are_read_or_refused_by_name() {
        let read = |generic: Value| Network::read(&options(json!({GENERIC: generic})));
        let network = read(json!({"mtu": "1400", "network": "blue", "label.team": "a"})).unwrap();
        let labels = [(NETWORK, "blue"), ("team", "a")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(network, Network { mtu: Some(1400), labels: labels.into() });
        assert_eq!(read(json!({"mtu": "big"})).unwrap_err(), "option mtu: \"big\" is no number");
        assert!(read(json!({"color": "blue"})).unwrap_err().starts_with("option color is not known"));
        assert!(Network::read(&options(json!({INTERNAL: true}))).unwrap_err().contains("--internal"));
        assert_eq!(Network::read(&options(json!({INTERNAL: false}))), Ok(Network::default()));
        let own = options(json!({"label.team": "b", "label.app": "web", "com.docker.network.x": 1}));
        let labels = network.labels_of(&own).unwrap();
        assert_eq!((labels["team"].as_str(), labels["app"].as_str()), ("a", "web"), "the network's hold");
        assert!(network.labels_of(&options(json!({"ip": "1"}))).unwrap_err().contains("driver-opt ip"));
    }

    #[test]
    fn networks_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let network = Network { mtu: Some(1400), ..Network::default() };
        Networks::open(&state).unwrap().add("a".into(), network.clone()).unwrap();
        let mut again = Networks::open(&state).unwrap();
        assert_eq!((again.get("a"), again.get("b")), (Some(&network), None));
        again.remove("a").unwrap();
        again.remove("a").unwrap();
        assert_eq!(Networks::open(&state).unwrap().get("a"), None);
        fs::write(state.join("docker-networks.json"), "{").unwrap();
        assert!(Networks::open(&state).is_err());
    }
}
