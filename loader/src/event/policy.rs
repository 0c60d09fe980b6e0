//! Who may talk to whom, as a source says it: the kinds of policy of
//! Kubernetes and our own, one type for all.

use std::{collections::BTreeMap, fmt, sync::Arc};

use causeway_schema::protocol;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Of a namespace or a pod.
pub type Labels = Arc<BTreeMap<Arc<str>, Arc<str>>>;

/// The label that puts a pod, or an endpoint, into a virtual network.
pub const NETWORK: &str = "causeway.io/network";
/// How peers call those that are in none.
pub const DEFAULT_NETWORK: &str = "default";

/// The label that every namespace has: its name.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Those of a pod, and before them those given to its endpoint.
pub fn with_given(labels: Labels, given: &BTreeMap<String, String>) -> Labels {
    if given.is_empty() {
        return labels;
    }
    let mut labels = Labels::unwrap_or_clone(labels);
    labels.extend(given.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())));
    labels.into()
}

/// Rules for some endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyObject {
    pub tier: Tier,
    /// The endpoints that it is about.
    pub subject: PodSelector,
    /// What may come to them. `None`: it says nothing about that; of a
    /// namespaced policy, `Some` isolates: what no rule allows is denied.
    pub ingress: Option<Vec<Rule>>,
    /// Where they may go.
    pub egress: Option<Vec<Rule>>,
    /// Denials are counted and named, but nothing is denied.
    pub audit: bool,
    /// What a namespaced policy denies is told so, by RST or ICMP error.
    pub reject: bool,
    /// Parts of it were refused. It stands all the same, as closed as they may
    /// have meant it, until it is mended; a sound predecessor is kept instead.
    pub faulty: bool,
}

/// Which policies are asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// What keeps virtual networks apart; in order of name.
    Network,
    /// The administrator's: in order of priority (0 to 1000, the lowest first),
    /// then of name; the first rule that matches decides.
    Admin { priority: u16 },
    /// NetworkPolicy: the rules of all are a union, and an endpoint that any of
    /// them selects is isolated.
    Namespaced,
    /// What holds for endpoints that no namespaced policy isolates: in order of
    /// priority, then of name, as the administrator's.
    Baseline { priority: u16 },
}

/// In the order of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// May be empty.
    pub name: Arc<str>,
    pub action: Action,
    /// `None`: anybody, in the cluster or not; empty: nobody.
    pub peers: Option<Vec<Peer>>,
    /// `None`: every protocol and port; empty: none.
    pub ports: Option<Vec<PortMatch>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Allow,
    /// Dropped without a word.
    Deny,
    /// Dropped, and told by RST or ICMP error.
    Reject,
    /// The administrator leaves it to the namespaced policies.
    Pass,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    Pods(PodSelector),
    /// A network, without some parts of it, which lie within it. None of them
    /// has bits beyond its prefix.
    Block {
        network: IpNet,
        except: Vec<IpNet>,
    },
    /// Whoever serves this service now: its backends' addresses. Only for egress.
    Service {
        namespace: Arc<str>,
        name: Arc<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodSelector {
    pub namespaces: Namespaces,
    pub pods: Selector,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespaces {
    Named(Arc<str>),
    Matching(Selector),
}

/// All of the requirements; none of them: everybody. Sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Selector(pub Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    pub key: Arc<str>,
    pub operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operator {
    /// One of these; sorted, each once, as in `NotIn`.
    In(Vec<Arc<str>>),
    /// Also without the label.
    NotIn(Vec<Arc<str>>),
    Exists,
    DoesNotExist,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMatch {
    pub protocol: Transport,
    pub ports: Ports,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
    /// Of either family.
    Icmp,
}

impl Transport {
    /// Those that have ports.
    pub const WITH_PORTS: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// IANA number, IPv6's own where there is one.
    pub fn number(self, v6: bool) -> u8 {
        match self {
            Transport::Tcp => protocol::TCP,
            Transport::Udp => protocol::UDP,
            Transport::Sctp => protocol::SCTP,
            Transport::Icmp if v6 => protocol::ICMPV6,
            Transport::Icmp => protocol::ICMP,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
            Transport::Sctp => "SCTP",
            Transport::Icmp => "ICMP",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ports {
    All,
    /// Both belong to it.
    Range(u16, u16),
    /// Of the pod that is the packet's destination.
    Named(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceObject {
    /// With [`NAMESPACE_NAME`].
    pub labels: Labels,
}

/// A port that a pod's containers have given a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPort {
    pub name: Arc<str>,
    pub protocol: Transport,
    pub port: u16,
}
