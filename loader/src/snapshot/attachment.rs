//! What does a container runtime ask of the node, and what is it told?

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Reply;
use crate::{
    event::Protocol,
    ipam::{AddressRequest, Pool},
};

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

/// A port of the node, or several that follow one another, at which a container is
/// reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    pub protocol: Protocol,
    /// 1 to 65535.
    pub host: u16,
    /// The last of a range that begins with it; each of the container's ports is as
    /// far from its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u16>,
    /// 1 to 65535.
    pub container: u16,
    /// One address of the node; all of them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// `80/TCP`, `8000-8010/UDP`.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, end, protocol, .. } = self;
        match end {
            Some(end) => write!(f, "{host}-{end}/{protocol}"),
            None => write!(f, "{host}/{protocol}"),
        }
    }
}

impl HostPort {
    /// Whether both cannot be had.
    pub fn clashes(&self, other: &Self) -> bool {
        let meet = match (self.address, other.address) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        };
        meet && self.protocol == other.protocol && self.host <= other.last() && other.host <= self.last()
    }

    pub fn last(&self) -> u16 {
        self.end.unwrap_or(self.host)
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
    /// The runtime takes the interface where it is to be, and gives it its addresses:
    /// it is left in the node's namespace under the attachment's name, with exactly
    /// these addresses.
    #[serde(default)]
    pub handover: bool,
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

/// To the agent's loop.
pub enum RuntimeCommand {
    /// A container is to get an address and be attached with it.
    Join(JoinRequest, oneshot::Sender<Result<JoinView, JoinRefused>>),
    /// It is to go, and its address with it; `false` when there was none.
    Leave(Attachment, Reply<bool>),
    /// Whether a container is attached as it was; `None`: it is not known.
    Look(Attachment, Reply<Option<JoinView>>),
    /// Whether containers can join.
    Ready(Reply<()>),
    /// All others of a network are gone; their names.
    Keep(KeepRequest, Reply<Vec<String>>),
    /// What addresses are taken of.
    Pools(Reply<Vec<Pool>>),
    /// An address for who is about to join with it.
    Reserve(AddressRequest, oneshot::Sender<Result<IpAddr, JoinRefused>>),
    /// It is not needed after all; one that an endpoint has stays with it.
    Release(IpAddr, Reply<()>),
}
