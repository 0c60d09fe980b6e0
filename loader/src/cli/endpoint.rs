//! `causeway endpoint`: network namespaces are attached by hand.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use hyper::Method;

use super::{Output, render, show};
use crate::{
    api::{
        client::{ask, escape},
        view::{DetachView, EndpointView},
    },
    event::{label, policy::NETWORK},
    snapshot::AttachRequest,
};

#[derive(Subcommand, Debug)]
pub enum Action {
    /// Give a network namespace an interface, its addresses and the gateway.
    Attach {
        /// Unique on this node, e.g. default/web-1.
        name: String,
        /// Path of the namespace, e.g. /run/netns/x or /proc/PID/ns/net.
        #[arg(long)]
        netns: PathBuf,
        /// The endpoint's addresses.
        #[arg(long, required = true, value_delimiter = ',')]
        address: Vec<IpAddr>,
        /// The interface's name inside.
        #[arg(long, default_value = "eth0")]
        interface: String,
        /// The uplink's MTU unless given.
        #[arg(long)]
        mtu: Option<u32>,
        /// Its hardware address inside; made of the name unless given.
        #[arg(long)]
        mac: Option<String>,
        /// By which policies select it; may be given several times.
        #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
        /// A VirtualNetwork that has it among its members: the label causeway.io/network.
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
    /// Take the interface away; detaching what is not there succeeds.
    Detach { name: String },
    /// List the endpoints, as `show endpoints`.
    List,
}

pub async fn run(action: Action, socket: &Path, output: Output) -> anyhow::Result<()> {
    match action {
        Action::Attach { name, netns, address, interface, mtu, mac, label, network } => {
            // The agent's working directory is not ours.
            let netns = std::path::absolute(netns)?;
            let network = network.map(|network| (NETWORK.to_owned(), network));
            let (interface, labels) = (Some(interface), label.into_iter().chain(network).collect());
            let request = AttachRequest {
                name,
                netns,
                addresses: address,
                interface,
                mtu,
                labels,
                mac,
                attachment: None,
                ports: Vec::new(),
                handover: false,
            };
            let attached: EndpointView = ask(socket, Method::POST, "/v1/endpoints", Some(&request)).await?;
            output.print(&attached, |view| render::endpoints(std::slice::from_ref(view)))
        }
        Action::Detach { name } => {
            let path = format!("/v1/endpoints?name={}", escape(&name));
            let answer: DetachView = ask(socket, Method::DELETE, &path, None::<&()>).await?;
            output.print(&answer, |answer| {
                format!("{name}: {}", if answer.detached { "detached" } else { "was not attached" })
            })
        }
        Action::List => show::run(show::What::Endpoints, socket, output).await,
    }
}

/// `app=web`; the value may be empty.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    label::key(key).and_then(|()| label::value(value))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn several_addresses_are_one_list() {
        let line = "causeway endpoint attach default/web-1 --netns /n --address 10.0.0.1,10.0.0.2";
        let Command::Endpoint { action: Action::Attach { name, address, interface, mtu, .. } } =
            parse(line).unwrap().command
        else {
            panic!("not an attach");
        };
        assert_eq!(
            (name.as_str(), address.len(), interface.as_str(), mtu),
            ("default/web-1", 2, "eth0", None)
        );
    }

    #[test]
    fn labels_are_given_one_by_one() {
        let line = "causeway endpoint attach x --netns /n --address 10.0.0.1 --label app=web --label a/b=";
        let Command::Endpoint { action: Action::Attach { label, .. } } = parse(line).unwrap().command else {
            panic!("not an attach");
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(label, [pair("app", "web"), pair("a/b", "")]);
    }
}
