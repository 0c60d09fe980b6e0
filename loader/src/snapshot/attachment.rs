//! What does a container runtime ask of the node, and what is it told?

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::event::Protocol;

/// An interface of a container, in a runtime's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container: String,
    /// Its name inside: CNI_IFNAME.
    pub interface: String,
    /// Of the network configuration.
    #[serde(default)]
    pub network: String,
}

/// A port of the node at which a container is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    pub protocol: Protocol,
    /// 1 to 65535.
    pub host: u16,
    /// 1 to 65535.
    pub container: u16,
    /// One address of the node; all of them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

impl HostPort {
    /// Whether both cannot be had.
    pub fn clashes(&self, other: &Self) -> bool {
        let meet = match (self.address, other.address) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        };
        meet && (self.protocol, self.host) == (other.protocol, other.host)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JoinRequest {
    #[serde(flatten)]
    pub attachment: Attachment,
    /// The endpoint's name, `namespace/pod` of a pod; the container's unless given.
    pub name: Option<String>,
    pub netns: PathBuf,
    /// The first of the node's unless given.
    pub pool: Option<String>,
    /// Wanted; at most one of a family.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    pub mac: Option<String>,
    pub mtu: Option<u32>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub ports: Vec<HostPort>,
}

/// What a container has got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinView {
    /// Of the endpoint.
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// Where to it sends everything, one of each family of its addresses.
    pub gateways: Vec<IpAddr>,
    /// The host side.
    pub interface: String,
    /// The container's side.
    pub mac: String,
    pub mtu: u32,
}

/// Why it has got nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefused {
    pub message: String,
    /// It may be otherwise later.
    pub passes: bool,
}

/// Of a network, those that are still there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeepRequest {
    pub network: String,
    /// Container and interface.
    pub attachments: Vec<(String, String)>,
}
