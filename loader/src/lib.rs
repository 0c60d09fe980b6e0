//! The Causeway agent: providers speak, the model remembers, the plan
//! computes, the kernel obeys. ARCHITECTURE.md has the map of the code.

pub mod api;
pub mod attach;
pub mod cli;
pub mod cluster;
pub mod cni;
pub mod config;
pub mod connectivity;
pub mod docker;
pub mod doctor;
pub mod egress;
pub mod event;
pub mod frame;
pub mod guard;
pub mod heap;
pub mod ipam;
pub mod kernel;
pub mod mac;
pub mod metrics;
pub mod model;
pub mod moment;
pub mod neighbours;
pub mod netlink;
pub mod plan;
pub mod policy;
pub mod programming;
pub mod providers;
pub mod reconcile;
pub mod runtime;
pub mod snapshot;
pub mod sysctl;
pub mod whole_file;
