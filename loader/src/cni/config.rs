//! How is the network configured, and what does this one container want? From
//! standard input.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    NEWEST, VERSIONS,
    error::{CniError, Code},
    question::{Question, Verb},
};
use crate::{
    config::{DEFAULT_SOCKET, DEFAULT_STATE_DIR},
    event::Protocol,
    snapshot::{Attachment, HostPort, JoinRequest, KeepRequest},
};

/// A network configuration; what it has beside these is for others.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetConf {
    cni_version: Option<String>,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    /// The agent's.
    socket: Option<PathBuf>,
    /// The agent's.
    state_dir: Option<PathBuf>,
    pool: Option<String>,
    mtu: Option<u32>,
    labels: BTreeMap<String, String>,
    ipam: Value,
    runtime_config: RuntimeConfig,
    args: Args,
    #[serde(rename = "prevResult")]
    pub previous: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", deserialize_with = "said")]
    valid: Option<Vec<ValidAttachment>>,
    /// As drafts of the specification had it.
    #[serde(rename = "cni.dev/attachments", deserialize_with = "said")]
    valid_draft: Option<Vec<ValidAttachment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    ips: Vec<String>,
    mac: Option<String>,
    port_mappings: Vec<PortMapping>,
    bandwidth: Value,
}

/// As kubelets and podman say it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PortMapping {
    host_port: i64,
    container_port: i64,
    /// TCP unless said.
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

impl PortMapping {
    /// `None`: it is published nowhere.
    fn read(&self) -> Option<Result<HostPort, String>> {
        (self.host_port != 0).then(|| {
            let protocol = match self.protocol.to_ascii_lowercase().as_str() {
                "" | "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                other => return Err(format!("protocol {other}: use tcp or udp")),
            };
            let port = |number: i64| match u16::try_from(number) {
                Ok(port) if port > 0 => Ok(port),
                _ => Err(format!("port {number} is out of range: use 1 to 65535")),
            };
            let address = match self.host_ip.as_str() {
                "" => None,
                text => Some(text.parse::<IpAddr>().map_err(|_| format!("hostIP {text:?} is no address"))?),
            };
            let address = address.filter(|address| !address.is_unspecified());
            if address.is_some_and(|address| address.is_loopback()) {
                return Err("hostIP of the loopback: name an address of the node, or none".into());
            }
            Ok(HostPort {
                protocol,
                host: port(self.host_port)?,
                end: None,
                container: port(self.container_port)?,
                address,
            })
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: CniArgs,
}

/// The conventions that runtimes share (CONVENTIONS.md of the specification).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CniArgs {
    ips: Vec<String>,
    mac: Option<String>,
    labels: Vec<Label>,
}

#[derive(Debug, Deserialize)]
struct Label {
    key: String,
    #[serde(default)]
    value: String,
}

/// Null is a list of none, as runtimes written in Go have it.
fn said<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Vec<ValidAttachment>>, D::Error> {
    Ok(Some(Option::deserialize(value)?.unwrap_or_default()))
}

#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

impl NetConf {
    pub fn read(bytes: &[u8]) -> Result<Self, CniError> {
        let mut document = serde_json::Deserializer::from_slice(bytes);
        serde_path_to_error::deserialize(&mut document).map_err(|error| {
            let path = error.path().to_string();
            let at = if path == "." { String::new() } else { format!("{path}: ") };
            CniError::new(Code::Decode, format!("network configuration: {at}{}", error.inner()))
        })
    }

    /// The one that is spoken: what is not said is the oldest (section "Version").
    pub fn version(&self) -> Result<String, CniError> {
        let version = self.cni_version.as_deref().filter(|version| !version.is_empty()).unwrap_or("0.1.0");
        if self.cni_version.is_some() && !VERSIONS.contains(&version) {
            let message = format!("cniVersion {version} is not spoken: use one of {}", VERSIONS.join(", "));
            return Err(CniError::new(Code::Version, message));
        }
        Ok(if self.cni_version.is_some() { version } else { NEWEST }.to_owned())
    }

    /// Whether a verb can be obeyed with it.
    pub fn check(&self, verb: Verb) -> Result<(), CniError> {
        let Some(version) = &self.cni_version else {
            let message = format!("cniVersion is missing: use one of {}", VERSIONS.join(", "));
            return Err(CniError::new(Code::Version, message));
        };
        let rank = |version: &str| VERSIONS.iter().position(|known| *known == version);
        if rank(version) < rank(verb.since()) {
            let message = format!("cniVersion {version} has no {verb:?}: it came with {}", verb.since());
            return Err(CniError::new(Code::Version, message));
        }
        let wrong = |message: String| Err(CniError::new(Code::Config, message));
        let name = self.name.as_deref().unwrap_or_default();
        let follows = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() {
            return wrong("name: the network has none".into());
        }
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(follows) {
            return wrong(format!("name: {name:?}: use letters, digits and _.-, a letter or digit first"));
        }
        if self.kind.as_deref().unwrap_or_default().is_empty() {
            return wrong("type: the plugin has none".into());
        }
        if verb == Verb::Check && self.previous.is_none() {
            return wrong("prevResult is missing: CHECK compares with it".into());
        }
        if verb == Verb::Gc && self.valid.is_none() && self.valid_draft.is_none() {
            return wrong("cni.dev/valid-attachments is missing: all would be gone".into());
        }
        if verb == Verb::Add { self.check_supported() } else { Ok(()) }
    }

    /// What would be left out in silence is refused.
    fn check_supported(&self) -> Result<(), CniError> {
        let unsupported = |key: &str, value: &Value, instead: &str| {
            let message = format!("{key}: {value} is not supported");
            Err(CniError::new(Code::Unsupported, message).details(instead))
        };
        if let Some(kind) = self.ipam.get("type").filter(|kind| kind.as_str() != Some("")) {
            let instead =
                "addresses are the agent's: its --pool, or the Node's spec.podCIDRs; leave ipam out";
            return unsupported("ipam.type", kind, instead);
        }
        if !self.runtime_config.bandwidth.is_null() {
            let instead = "leave the capability out, or give it to the plugin bandwidth behind this one";
            return unsupported("runtimeConfig.bandwidth", &self.runtime_config.bandwidth, instead);
        }
        Ok(())
    }

    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| Path::new(DEFAULT_SOCKET).into())
    }

    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| Path::new(DEFAULT_STATE_DIR).into())
    }

    /// The container's interface, with the network's name.
    pub fn named(&self, question: &Question) -> Attachment {
        let network = self.name.clone().unwrap_or_default();
        Attachment { network, ..question.attachment.clone() }
    }

    pub fn join(&self, question: &Question) -> Result<JoinRequest, CniError> {
        let name = match (question.argument("K8S_POD_NAMESPACE"), question.argument("K8S_POD_NAME")) {
            (Some(namespace), Some(pod)) => Some(format!("{namespace}/{pod}")),
            _ => None,
        };
        let given = self.args.cni.labels.iter().map(|label| (label.key.clone(), label.value.clone()));
        Ok(JoinRequest {
            attachment: self.named(question),
            name,
            netns: question.place.clone(),
            pool: self.pool.clone(),
            addresses: self.addresses(question)?,
            mac: self.mac(question),
            mtu: self.mtu,
            labels: self.labels.clone().into_iter().chain(given).collect(),
            ports: self.ports()?,
            handover: false,
        })
    }

    /// Those asked for, by the newest way that says any.
    fn addresses(&self, question: &Question) -> Result<Vec<IpAddr>, CniError> {
        let (way, texts): (&str, Vec<&str>) = if !self.runtime_config.ips.is_empty() {
            ("runtimeConfig.ips", self.runtime_config.ips.iter().map(String::as_str).collect())
        } else if !self.args.cni.ips.is_empty() {
            ("args.cni.ips", self.args.cni.ips.iter().map(String::as_str).collect())
        } else {
            ("CNI_ARGS: IP", question.argument("IP").into_iter().flat_map(|ips| ips.split(',')).collect())
        };
        // A length behind the address is another's wish: here it is a host's.
        let parse = |text: &str| text.split('/').next().unwrap_or(text).parse::<IpAddr>();
        let wrong = |text: &str| CniError::new(Code::Config, format!("{way}: {text:?} is no address"));
        texts.into_iter().map(|text| parse(text).map_err(|_| wrong(text))).collect()
    }

    fn ports(&self) -> Result<Vec<HostPort>, CniError> {
        let mappings = self.runtime_config.port_mappings.iter().filter_map(PortMapping::read);
        let wrong = |error| CniError::new(Code::Config, format!("runtimeConfig.portMappings: {error}"));
        mappings.map(|mapping| mapping.map_err(wrong)).collect()
    }

    fn mac(&self, question: &Question) -> Option<String> {
        let given = self.runtime_config.mac.as_deref().or(self.args.cni.mac.as_deref());
        given.or_else(|| question.argument("MAC")).filter(|mac| !mac.is_empty()).map(str::to_owned)
    }

    pub fn keep(&self) -> KeepRequest {
        let valid = self.valid.iter().chain(&self.valid_draft).flatten();
        KeepRequest {
            network: self.name.clone().unwrap_or_default(),
            attachments: valid.map(|one| (one.container.clone(), one.ifname.clone())).collect(),
        }
    }
}
