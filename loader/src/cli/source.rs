//! `causeway source`: what an operator has to say about a source.

use std::path::Path;

use hyper::Method;

use super::Output;
use crate::api::{
    client::{ask, escape},
    view::ReleaseView,
};

#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Let go what a source has lost at once and is held (`causeway status` names it): it is meant.
    Release {
        /// As `causeway status` has it: manifests or kubernetes.
        name: String,
    },
}

pub async fn run(action: Action, socket: &Path, output: Output) -> anyhow::Result<()> {
    let Action::Release { name } = action;
    let path = format!("/v1/sources/release?name={}", escape(&name));
    let released: ReleaseView = ask(socket, Method::POST, &path, None::<&()>).await?;
    output.print(&released, text)
}

fn text(view: &ReleaseView) -> String {
    match view.released {
        0 => format!("{}: nothing was held", view.source),
        count => format!("{}: {count} objects let go", view.source),
    }
}
