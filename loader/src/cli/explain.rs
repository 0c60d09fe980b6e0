//! `causeway explain`: may these two talk, and which rule says so? Who serves a
//! service at a node, and why not the others?

use std::path::Path;

use hyper::Method;

use super::Output;
use crate::{
    api::{
        client::{ask, escape, get},
        selection_view::{SelectionEndpoint, SelectionReply},
        view::ServiceBackend,
    },
    event::Protocol,
    snapshot::{ExplainReply, ExplainRequest, TraceReply},
};

#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    pair: Option<Pair>,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Which endpoints serve a service at a node, and why not the others. Exit 1 if none does.
    Service {
        /// `namespace/name`; without a namespace, `default`.
        name: String,
        /// As another node chooses.
        #[arg(long)]
        node: Option<String>,
    },
}

#[derive(clap::Args, Debug)]
pub struct Pair {
    /// Who begins: an endpoint or a pod (namespace/name), or an address.
    #[arg(long)]
    from: String,
    /// Who is called: likewise; a service by its address.
    #[arg(long)]
    to: String,
    /// The port that is called.
    #[arg(long)]
    port: u16,
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    protocol: Transport,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Transport {
    Tcp,
    Udp,
}

/// True when they may.
pub async fn run(arguments: Arguments, socket: &Path, output: Output) -> anyhow::Result<bool> {
    let Pair { from, to, port, protocol } = match arguments {
        Arguments { what: Some(What::Service { name, node }), .. } => {
            return service(name, node, socket, output).await;
        }
        Arguments { pair: Some(pair), .. } => pair,
        Arguments { pair: None, .. } => anyhow::bail!("name --from, --to and --port, or `service NAME`"),
    };
    let protocol = match protocol {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    let request = ExplainRequest { from, to, port, protocol };
    let reply: ExplainReply = ask(socket, Method::POST, "/v1/explain", Some(&request)).await?;
    output.print(&reply, text)?;
    Ok(reply.allowed)
}

/// True when somebody serves.
async fn service(
    service: String,
    node: Option<String>,
    socket: &Path,
    output: Output,
) -> anyhow::Result<bool> {
    let node = node.map(|node| format!("&node={}", escape(&node))).unwrap_or_default();
    let path = format!("/v1/selection?service={}{node}", escape(&service));
    let reply: SelectionReply = get(socket, &path).await?;
    output.print(&reply, selection)?;
    Ok(reply.ports.iter().flat_map(|port| &port.endpoints).any(|endpoint| endpoint.serves))
}

fn selection(reply: &SelectionReply) -> String {
    let zone = reply.zone.as_ref().map(|zone| format!(", zone {zone}")).unwrap_or_default();
    let mut lines = vec![format!("{} ({}) at node {}{zone}", reply.service, reply.origin, reply.node)];
    for port in &reply.ports {
        lines.push(format!("{}: {}", port.name, port.frontends.join(", ")));
        for endpoint in &port.endpoints {
            let sign = if endpoint.serves { '+' } else { '-' };
            let of = |what: &str, name: &Option<String>| {
                name.as_ref().map(|name| format!(", {what} {name}")).unwrap_or_default()
            };
            let SelectionEndpoint { backend, zone, why, .. } = endpoint;
            let ServiceBackend { address, weight, node, origin } = backend;
            let place = of("node", node) + &of("zone", zone);
            let weight = if *weight == 1 { String::new() } else { format!(", weight {weight}") };
            lines.push(format!("  {sign} {address}{place}{weight}: {why} ({origin})"));
        }
        lines.extend(port.lost.iter().map(|lost| format!("  ! {lost}")));
        if port.endpoints.is_empty() {
            lines.push("  no slice names an endpoint for this port".to_owned());
        }
    }
    lines.join("\n")
}

fn text(reply: &ExplainReply) -> String {
    let ExplainReply { from, to, allowed, egress, ingress, program, agrees } = reply;
    let mut lines = vec![format!("{from} -> {to}: {}", if *allowed { "allowed" } else { "denied" })];
    for (direction, said) in [("egress", egress), ("ingress", ingress)] {
        lines.extend(said.iter().map(|said| format!("  {direction} {}", said.text)));
    }
    if egress.is_none() && ingress.is_none() {
        lines.push(
            "  no policy is asked: a container may talk to itself and to its node, and the node to it".into(),
        );
    }
    if let Some(TraceReply { verdict, reason, rule, .. }) = program {
        let by = rule.as_ref().map(|rule| format!(" by {rule}"));
        lines.push(format!("  the loaded program: {verdict} ({reason}){}", by.unwrap_or_default()));
    }
    if !agrees {
        lines.push("  which is NOT what the rules say: see `causeway status`".to_owned());
    }
    lines.join("\n")
}
