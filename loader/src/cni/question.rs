//! What is asked, about which container? From the environment.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::error::{CniError, Code};
use crate::snapshot::Attachment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub fn read(environment: &impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let wrong = |message: String| Err(CniError::new(Code::Environment, message));
        match environment("CNI_COMMAND").as_deref() {
            Some("ADD") => Ok(Self::Add),
            Some("DEL") => Ok(Self::Del),
            Some("CHECK") => Ok(Self::Check),
            Some("GC") => Ok(Self::Gc),
            Some("STATUS") => Ok(Self::Status),
            Some("VERSION") => Ok(Self::Version),
            None | Some("") => wrong("CNI_COMMAND is missing: a container runtime calls this".into()),
            Some(other) => wrong(format!("CNI_COMMAND: there is no {other}")),
        }
    }

    /// The oldest version of the specification that has it.
    pub fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Del | Self::Version => "0.3.0",
            Self::Check => "0.4.0",
            Self::Gc | Self::Status => "1.1.0",
        }
    }

    fn is_about_a_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

#[derive(Clone, Debug)]
pub struct Question {
    pub verb: Verb,
    /// Without the network's name.
    pub attachment: Attachment,
    /// As it was said; empty: it has gone.
    pub netns: PathBuf,
    /// The same without links on the way: the agent may have other files around it.
    pub place: PathBuf,
    /// CNI_ARGS.
    pub arguments: Vec<(String, String)>,
}

impl Question {
    pub fn read(verb: Verb, environment: &impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let wrong = |message: String| CniError::new(Code::Environment, message);
        let text = |name: &str| environment(name).unwrap_or_default();
        let (container, interface) = (text("CNI_CONTAINERID"), text("CNI_IFNAME"));
        let netns = PathBuf::from(text("CNI_NETNS"));
        if verb.is_about_a_container() {
            check_container(&container).map_err(wrong)?;
            check_interface(&interface).map_err(wrong)?;
        }
        if matches!(verb, Verb::Add | Verb::Check) {
            if netns.as_os_str().is_empty() {
                return Err(wrong("CNI_NETNS is missing".into()));
            }
            let metadata = fs::metadata(&netns);
            let metadata =
                metadata.map_err(|error| wrong(format!("CNI_NETNS: {}: {error}", netns.display())))?;
            let own = fs::metadata(Path::new("/proc/self/ns/net")).ok();
            let is_own = own.is_some_and(|own| (own.dev(), own.ino()) == (metadata.dev(), metadata.ino()));
            if is_own && environment("CNI_NETNS_OVERRIDE").is_none() {
                return Err(wrong(format!("CNI_NETNS: {} is the node's own namespace", netns.display())));
            }
        }
        // What leads to a process's namespace is no link to a path.
        let place = fs::canonicalize(&netns).unwrap_or_else(|_| netns.clone());
        let arguments = arguments(&text("CNI_ARGS")).map_err(wrong)?;
        let attachment = Attachment { container, interface, network: String::new() };
        Ok(Self { verb, attachment, netns, place, arguments })
    }

    pub fn argument(&self, name: &str) -> Option<&str> {
        let found = self.arguments.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }
}

/// The specification: a letter or digit, then those and `_.-`.
fn check_container(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("CNI_CONTAINERID is missing".into());
    }
    let follows = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.chars().all(follows) {
        return Err(format!("CNI_CONTAINERID: {id:?}: use letters, digits and _.-, a letter or digit first"));
    }
    Ok(())
}

/// What Linux takes for an interface's name.
fn check_interface(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("CNI_IFNAME is missing".into());
    }
    if name.len() > 15 {
        return Err(format!("CNI_IFNAME: {name:?} has more than 15 characters"));
    }
    if name == "." || name == ".." || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
        return Err(format!("CNI_IFNAME: {name:?} is no name of an interface"));
    }
    Ok(())
}

/// `K=V;K=V`
fn arguments(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some((key.to_owned(), value.to_owned()))
    };
    pairs.map(|text| pair(text).ok_or_else(|| format!("CNI_ARGS: {text:?} is no KEY=VALUE"))).collect()
}
