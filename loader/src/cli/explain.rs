//! `causeway explain`: may these two talk, and which rule says so?

use std::path::Path;

use hyper::Method;

use super::Output;
use crate::{
    api::client::ask,
    event::Protocol,
    snapshot::{ExplainReply, ExplainRequest, TraceReply},
};

#[derive(clap::Args, Debug)]
pub struct Arguments {
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
    let Arguments { from, to, port, protocol } = arguments;
    let protocol = match protocol {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    let request = ExplainRequest { from, to, port, protocol };
    let reply: ExplainReply = ask(socket, Method::POST, "/v1/explain", Some(&request)).await?;
    output.print(&reply, text)?;
    Ok(reply.allowed)
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
