//! Under which address do some containers reach the world, and which nodes may
//! hold it?

use std::{net::IpAddr, sync::Arc};

use super::policy::PodSelector;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressObject {
    /// The endpoints that leave under it.
    pub subject: PodSelector,
    /// One, or one of each family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The first that is alive holds it.
    pub nodes: Vec<Arc<str>>,
}
