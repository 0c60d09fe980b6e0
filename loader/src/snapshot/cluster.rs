//! What is somebody told who asks for all nodes?

use serde::{Deserialize, Serialize};

/// Whether every Node has read back what the API server had when it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    pub converged: bool,
    /// How many Nodes there are.
    pub nodes: usize,
    /// Who has not, by name.
    pub laggards: Vec<Laggard>,
}

/// A node that is not known to have it, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Laggard {
    pub node: String,
    pub reason: String,
}
