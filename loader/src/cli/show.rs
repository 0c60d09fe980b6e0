//! `causeway show`: lists.

use std::path::Path;

use super::{Output, render};
use crate::{
    api::{
        client::get,
        view::{BackendView, EgressView, EndpointView, NodeView, PolicyView, ServiceView},
    },
    snapshot::{Counter, FlowView},
};

#[derive(clap::Subcommand, Clone, Copy, Debug)]
pub enum What {
    /// Services with frontends, backends, the way they choose, and their origin.
    Services,
    /// Backends and the services they serve.
    Backends,
    /// Network namespaces attached to this node.
    Endpoints,
    /// Entries of the flow tables.
    Flows {
        /// At most so many.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// The nodes of the cluster.
    Nodes,
    /// Who may talk to whom: policies with their subject, rules and origin.
    Policies,
    /// Addresses that containers leave under, and which node holds them.
    Egress,
    /// Packets by verdict, drops by reason.
    Counters,
}

pub async fn run(what: What, socket: &Path, output: Output) -> anyhow::Result<()> {
    match what {
        What::Services => {
            let views: Vec<ServiceView> = get(socket, "/v1/services").await?;
            output.print(&views, |views| render::services(views))
        }
        What::Backends => {
            let views: Vec<BackendView> = get(socket, "/v1/backends").await?;
            output.print(&views, |views| render::backends(views))
        }
        What::Endpoints => {
            let views: Vec<EndpointView> = get(socket, "/v1/endpoints").await?;
            output.print(&views, |views| render::endpoints(views))
        }
        What::Flows { limit } => {
            let views: Vec<FlowView> = get(socket, &format!("/v1/flows?limit={limit}")).await?;
            output.print(&views, |views| render::flows(views))
        }
        What::Nodes => {
            let views: Vec<NodeView> = get(socket, "/v1/nodes").await?;
            output.print(&views, |views| render::nodes(views))
        }
        What::Policies => {
            let views: Vec<PolicyView> = get(socket, "/v1/policies").await?;
            output.print(&views, |views| render::policies(views))
        }
        What::Egress => {
            let views: Vec<EgressView> = get(socket, "/v1/egress").await?;
            output.print(&views, |views| render::egress(views))
        }
        What::Counters => {
            let views: Vec<Counter> = get(socket, "/v1/counters").await?;
            output.print(&views, |views| render::counters(views))
        }
    }
}
