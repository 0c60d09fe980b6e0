//! What does a container runtime ask of the node, and what is it told?

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

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
    pub ifindex: u32,
    /// The container's side.
    pub mac: String,
    pub mtu: u32,
    /// Path of its network namespace.
    pub netns: PathBuf,
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
