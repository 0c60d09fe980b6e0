//! `causeway connectivity-test`: is reached what the agent knows of?

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use causeway_schema::Verdict;
use hyper::Method;

use super::{Output, render::table};
use crate::{
    api::{
        client::{ask, get},
        view::{EndpointView, NodeView, ServiceView},
    },
    attach::{self, Netns},
    connectivity::{Attempt, Goal, Ground, HOST, Outcome, Report, Tried, plan},
    event::Protocol,
    netlink::Netlink,
    snapshot::{ExplainReply, ExplainRequest, Status},
};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Who tries: `host`, an endpoint's name, or `all`; may be given several times. The host and the
    /// first endpoint unless given.
    #[arg(long, value_name = "NAME")]
    from: Vec<String>,
    /// Only this service (namespace/name); may be given several times.
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// How long each attempt may take.
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = patience)]
    timeout: Duration,
    /// The node's network namespace, as the agent's --netns.
    #[arg(long, env = "CAUSEWAY_NETNS", value_name = "PATH")]
    netns: Option<PathBuf>,
}

fn patience(text: &str) -> Result<Duration, String> {
    super::duration(text)
        .and_then(|time| if time.is_zero() { Err("no time at all".into()) } else { Ok(time) })
}

/// True when nothing has failed.
pub async fn run(arguments: Arguments, socket: &Path, output: Output) -> anyhow::Result<bool> {
    let Arguments { from, service, timeout, netns } = arguments;
    let status: Status = get(socket, "/v1/status").await?;
    let mut services: Vec<ServiceView> = get(socket, "/v1/services").await?;
    let nodes: Vec<NodeView> = get(socket, "/v1/nodes").await?;
    let endpoints: Vec<EndpointView> = get(socket, "/v1/endpoints").await?;
    only(&service, &mut services)?;
    let from = who(from, &endpoints)?;
    if let Some(path) = netns {
        // The only thread there is: see `runtime`.
        let opened = Netns::open(&path).with_context(|| format!("netns {}", path.display()))?;
        opened.enter().with_context(|| format!("enter netns {}", path.display()))?;
    }
    let netlink = Netlink::open().context("open a netlink socket")?;
    let mtu = attach::uplink(&netlink, status.uplink.as_deref()).await?.mtu;
    let host_services = status.hook.contains("sockets");
    let (nodes_of, services_of) = (nodes.as_slice(), services.as_slice());
    let ground = Ground {
        node: &status.node,
        mtu: mtu as usize,
        nodes: nodes_of,
        services: services_of,
        host_services,
    };
    let attempts = plan(&ground, &from);
    let namespaces: BTreeMap<String, PathBuf> =
        endpoints.into_iter().map(|endpoint| (endpoint.name, endpoint.netns.into())).collect();
    let shown = std::io::stderr().is_terminal();
    let mut tried = crate::connectivity::run(&attempts, &namespaces, timeout, |done| {
        if shown {
            let _ = write!(std::io::stderr(), "\r{done} of {} tried", attempts.len());
        }
    });
    if shown {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    let own = nodes.iter().find(|node| node.name == status.node);
    let own = own.map(|node| node.addresses.as_slice()).unwrap_or_default();
    for (attempt, tried) in attempts.iter().zip(&mut tried) {
        if let (Goal::Connect(to), Outcome::Failed) = (attempt.goal, tried.outcome) {
            (tried.outcome, tried.detail) = why(attempt, to, tried, own, &status, socket).await;
        }
    }
    nodes_out_of_reach(&attempts, &mut tried);
    let report = Report::new(tried);
    output.print(&report, text)?;
    Ok(report.good)
}

/// Leaves out all but the services that are named, if any are.
fn only(wanted: &[String], services: &mut Vec<ServiceView>) -> anyhow::Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let named = |service: &ServiceView| service.name.split(':').next().unwrap_or_default().to_owned();
    let there: BTreeSet<String> = services.iter().map(named).collect();
    if let Some(missing) = wanted.iter().find(|name| !there.contains(*name)) {
        anyhow::bail!("--service {missing}: there is none: see `causeway show services`");
    }
    services.retain(|service| wanted.contains(&named(service)));
    Ok(())
}

fn who(wanted: Vec<String>, endpoints: &[EndpointView]) -> anyhow::Result<Vec<String>> {
    let names = || endpoints.iter().map(|endpoint| endpoint.name.clone());
    if wanted.is_empty() {
        return Ok([HOST.to_owned()].into_iter().chain(names().next()).collect());
    }
    if wanted.iter().any(|name| name == "all") {
        return Ok([HOST.to_owned()].into_iter().chain(names()).collect());
    }
    if let Some(missing) = wanted.iter().find(|name| *name != HOST && names().all(|there| there != **name)) {
        anyhow::bail!("--from {missing}: this node has no such endpoint: see `causeway show endpoints`");
    }
    Ok(wanted)
}

/// What stands behind a failure, if the agent knows.
async fn why(
    attempt: &Attempt,
    to: SocketAddr,
    tried: &Tried,
    own: &[String],
    status: &Status,
    socket: &Path,
) -> (Outcome, String) {
    let alike = |address: &&String| address.contains(':') == to.is_ipv6();
    let from =
        if attempt.from == HOST { own.iter().find(alike).cloned() } else { Some(attempt.from.clone()) };
    let request = from.map(|from| ExplainRequest {
        from,
        to: to.ip().to_string(),
        protocol: Protocol::Tcp,
        port: to.port(),
    });
    if let Some(request) = request
        && let Ok(reply) = ask::<ExplainReply>(socket, Method::POST, "/v1/explain", Some(&request)).await
        && !reply.allowed
    {
        let said = reply
            .egress
            .iter()
            .chain(&reply.ingress)
            .find(|said| matches!(said.outcome.as_str(), "deny" | "reject"));
        if let Some(said) = said {
            return (Outcome::Denied, said.text.clone());
        }
        let reason = reply.program.map(|program| program.reason).unwrap_or_default();
        if reason == Verdict::DropSourceRange.name() {
            return (Outcome::Denied, "its source ranges leave this client out".into());
        }
        return (Outcome::Failed, format!("{}: the program drops it: {reason}", tried.detail));
    }
    if attempt.elsewhere.is_some() && status.policies > 0 {
        let detail =
            format!("{}: a policy may deny it: ask `causeway explain` on the backend's node", tried.detail);
        return (Outcome::Unclear, detail);
    }
    (Outcome::Failed, tried.detail.clone())
}

/// That policies deny all of a node's backends is less likely than that nothing gets
/// there.
fn nodes_out_of_reach(attempts: &[Attempt], tried: &mut [Tried]) {
    let reached: BTreeSet<String> = attempts
        .iter()
        .zip(tried.iter())
        .filter(|(attempt, tried)| attempt.direct && tried.outcome == Outcome::Ok)
        .filter_map(|(attempt, _)| attempt.elsewhere.clone())
        .collect();
    for (attempt, tried) in attempts.iter().zip(tried) {
        if tried.outcome == Outcome::Unclear
            && attempt.direct
            && let Some(node) = attempt.elsewhere.as_ref().filter(|node| !reached.contains(*node))
        {
            tried.outcome = Outcome::Failed;
            let _ = write!(tried.detail, "; no backend on node {node} was reached at all");
        }
    }
}

fn text(report: &Report) -> String {
    let told = report.tried.iter().filter(|tried| tried.outcome != Outcome::Ok);
    let mut told: Vec<&Tried> = told.collect();
    told.sort_by_key(|tried| tried.outcome);
    let mut text = String::new();
    if !told.is_empty() {
        let row = |tried: &&Tried| {
            let outcome = match tried.outcome {
                Outcome::Failed => "FAILED",
                Outcome::Unclear => "unclear",
                Outcome::Denied => "denied",
                Outcome::Skipped => "skipped",
                Outcome::Ok => "ok",
            };
            let Tried { from, to, what, detail, .. } = tried;
            vec![outcome.to_owned(), from.clone(), to.clone(), what.clone(), detail.clone()]
        };
        let rows = told.iter().map(row);
        let _ = writeln!(text, "{}\n", table(&["OUTCOME", "FROM", "TO", "WHAT", "WHY"], rows));
    }
    let Report { ok, denied, skipped, unclear, failed, tried, .. } = report;
    let _ = write!(
        text,
        "{ok} of {} reached, {denied} denied by policies, {skipped} skipped, {unclear} unclear, {failed} failed",
        tried.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> EndpointView {
        serde_json::from_value(serde_json::json!({
            "name": name, "addresses": [], "interface": "", "ifindex": 1, "mac": "",
        }))
        .unwrap()
    }

    #[test]
    fn the_host_and_one_container_try_unless_others_are_named() {
        let endpoints = [endpoint("a"), endpoint("b")];
        let names = |wanted: &[&str]| {
            who(wanted.iter().map(ToString::to_string).collect(), &endpoints)
                .map_err(|error| error.to_string())
        };
        assert_eq!(names(&[]).unwrap(), ["host", "a"]);
        assert_eq!(names(&["all"]).unwrap(), ["host", "a", "b"]);
        assert_eq!(names(&["b"]).unwrap(), ["b"]);
        assert!(names(&["c"]).unwrap_err().contains("--from c"));
        assert_eq!(who(Vec::new(), &[]).unwrap(), ["host"]);
    }

    #[test]
    fn a_node_of_which_nothing_is_reached_is_a_failure() {
        let attempt = |node: &str| Attempt {
            from: HOST.into(),
            goal: Goal::Skip(""),
            what: "backend of web".into(),
            elsewhere: Some(node.into()),
            direct: true,
        };
        let outcome = |outcome| Tried {
            from: HOST.into(),
            to: String::new(),
            what: String::new(),
            outcome,
            micros: None,
            detail: "no answer".into(),
        };
        let attempts = ["n1", "n1", "n2"].map(attempt);
        let mut tried = [Outcome::Unclear, Outcome::Ok, Outcome::Unclear].map(outcome);
        nodes_out_of_reach(&attempts, &mut tried);
        assert_eq!(
            tried.each_ref().map(|tried| tried.outcome),
            [Outcome::Unclear, Outcome::Ok, Outcome::Failed]
        );
        assert_eq!(tried[2].detail, "no answer; no backend on node n2 was reached at all");
    }

    #[test]
    fn what_was_reached_is_counted_and_the_rest_told_the_worst_first() {
        let tried = |outcome, to: &str, detail: &str| Tried {
            from: "host".into(),
            to: to.into(),
            what: "service web".into(),
            outcome,
            micros: None,
            detail: detail.into(),
        };
        let shown = text(&Report::new(vec![
            tried(Outcome::Ok, "10.0.0.1:80/TCP", ""),
            tried(Outcome::Denied, "10.0.0.2:80/TCP", "by default"),
            tried(Outcome::Failed, "10.0.0.3:80/TCP", "refused"),
        ]));
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        let expected = [
            " OUTCOME  FROM  TO               WHAT         WHY",
            " FAILED   host  10.0.0.3:80/TCP  service web  refused",
            " denied   host  10.0.0.2:80/TCP  service web  by default",
            "",
            "1 of 3 reached, 1 denied by policies, 0 skipped, 0 unclear, 1 failed",
        ];
        assert_eq!(lines, expected);
        assert_eq!(text(&Report::new(Vec::new())).lines().count(), 1);
    }
}
