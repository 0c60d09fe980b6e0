//! `causeway policy rehearse`: which flows would a directory's policies treat
//! differently?

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use causeway_schema::protocol;
use serde::Serialize;

use super::{Output, flow_lines, ground, plan};
use crate::{
    api::{client::get, policy_inputs::PolicyInputs},
    policy::{self, Difference, Here, Judgement, Talk},
    snapshot::{ProblemView, RecordedFlows, Status},
};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Manifests with the policies that would take the place of those that stand.
    directory: PathBuf,
    /// Flows, one a line: FROM TO PROTOCOL PORT, or JSON. Those of the agent's flow tables unless
    /// given.
    #[arg(long, value_name = "FILE")]
    flows: Option<PathBuf>,
}

/// What `policy rehearse -o json` prints.
#[derive(Debug, Serialize)]
struct Rehearsal {
    /// Flows that were looked at, alike or not.
    flows: usize,
    /// How many of them would be treated differently.
    changed: usize,
    changes: Vec<ChangeView>,
    /// Of the directory.
    problems: Vec<ProblemView>,
}

#[derive(Debug, Serialize)]
struct ChangeView {
    from: String,
    /// Who serves.
    to: String,
    protocol: String,
    /// That are alike.
    flows: usize,
    before: JudgementView,
    after: JudgementView,
}

#[derive(Debug, Serialize)]
struct JudgementView {
    outcome: &'static str,
    egress: Option<SaidView>,
    ingress: Option<SaidView>,
}

#[derive(Debug, Serialize)]
struct SaidView {
    outcome: &'static str,
    rule: Option<String>,
}

/// Lines of a file that name no flow: usage, not an answer.
#[derive(Debug)]
pub struct BadLines(String);

impl fmt::Display for BadLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadLines {}

/// True when nothing would change.
pub async fn run(arguments: Arguments, socket: &Path, output: Output) -> anyhow::Result<bool> {
    let Arguments { directory, flows } = arguments;
    plan::readable(&directory)?;
    let status: Status = get(socket, "/v1/status").await?;
    let model = plan::read(&directory, &status.node)?;
    let inputs: PolicyInputs = get(socket, "/v1/policy-inputs").await?;
    let (stands, candidate) = (ground::stands(&inputs), ground::candidate(&inputs, &model));
    let here = ground::here(&inputs);
    let talks = match flows {
        Some(file) => given(&file, &stands, &inputs)?.into_iter().map(|talk| (talk, 1)).collect(),
        None => recorded(get(socket, "/v1/recorded-flows").await?),
    };
    let mut counts: BTreeMap<Talk, usize> = BTreeMap::new();
    for (talk, flows) in talks.into_iter().filter(|(talk, _)| here.concerns(talk)) {
        *counts.entry(talk).or_default() += flows;
    }
    let compiled = candidate.compile();
    let differences = policy::rehearse(&stands.compile(), &compiled, &here, counts.keys());
    let mut in_vain = compiled.problems(|name| ground::backend_ports(name, &inputs));
    model.place_policies(&mut in_vain);
    let problems = model.problems().chain(&in_vain).map(ProblemView::from).collect();
    let rehearsal = report(&differences, &counts, &here, problems);
    output.print(&rehearsal, text)?;
    Ok(rehearsal.changed == 0 && rehearsal.problems.is_empty())
}

fn given(file: &Path, told: &policy::Told, inputs: &PolicyInputs) -> anyhow::Result<Vec<Talk>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let (lines, mut bad) = flow_lines::parse(&text);
    let mut talks = Vec::new();
    for line in &lines {
        match ground::talks(line, told, inputs) {
            Ok(meant) => talks.extend(meant),
            Err(message) => bad.push(flow_lines::Bad { line: line.number, message }),
        }
    }
    bad.sort_by_key(|bad| bad.line);
    let said: Vec<String> = bad.iter().map(|bad| format!("{}: {bad}", file.display())).collect();
    if said.is_empty() { Ok(talks) } else { Err(BadLines(said.join("\n")).into()) }
}

fn recorded(flows: Vec<RecordedFlows>) -> Vec<(Talk, usize)> {
    flows.into_iter().map(|RecordedFlows { talk, flows }| (talk, flows)).collect()
}

fn report(
    differences: &[Difference],
    counts: &BTreeMap<Talk, usize>,
    here: &Here,
    problems: Vec<ProblemView>,
) -> Rehearsal {
    let name = |text: String, address| match here.endpoints.get(&address) {
        Some(endpoint) => format!("{text} ({endpoint})"),
        None => text,
    };
    let view = |difference: &Difference| {
        let Difference { talk, before, after } = difference;
        let to = match talk.port {
            0 => talk.to.to_string(),
            port => SocketAddr::new(talk.to, port).to_string(),
        };
        ChangeView {
            from: name(talk.from.to_string(), talk.from),
            to: name(to, talk.to),
            protocol: word(talk.protocol),
            flows: counts.get(talk).copied().unwrap_or(0),
            before: judgement(before),
            after: judgement(after),
        }
    };
    let changes: Vec<ChangeView> = differences.iter().map(view).collect();
    let changed = changes.iter().map(|change| change.flows).sum();
    Rehearsal { flows: counts.values().sum(), changed, changes, problems }
}

fn word(number: u8) -> String {
    let word = match number {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::SCTP => "SCTP",
        protocol::ICMP | protocol::ICMPV6 => "ICMP",
        other => return other.to_string(),
    };
    word.to_owned()
}

fn judgement(said: &Judgement) -> JudgementView {
    let view = |said: &policy::Said| SaidView {
        outcome: policy::word(said.outcome),
        rule: said.rule.as_ref().map(ToString::to_string),
    };
    JudgementView {
        outcome: policy::word(said.outcome),
        egress: said.egress.as_ref().map(view),
        ingress: said.ingress.as_ref().map(view),
    }
}

fn text(rehearsal: &Rehearsal) -> String {
    let Rehearsal { flows, changed, changes, problems } = rehearsal;
    let mut lines = Vec::new();
    for ChangeView { from, to, protocol, flows, before, after } in changes {
        let times = if *flows > 1 { format!(" ({flows} flows)") } else { String::new() };
        let (was, will) = (before.outcome, after.outcome);
        lines.push(format!("{from} -> {to} {protocol}{times}: {was} -> {will}"));
        lines.extend([("before", before), ("after", after)].map(|(when, said)| because(when, said)));
    }
    lines.push(match changed {
        0 => format!("{flows} flows looked at, none would change"),
        _ => format!("{flows} flows looked at, {changed} would change"),
    });
    lines.extend(problems.iter().map(|problem| format!("! {problem}")));
    lines.join("\n")
}

/// The rules that made it so.
fn because(when: &str, said: &JudgementView) -> String {
    let sides = [("egress", &said.egress), ("ingress", &said.ingress)];
    let deciding = sides.iter().filter_map(|(direction, side)| {
        let side = side.as_ref().filter(|side| side.outcome == said.outcome)?;
        Some(format!("{direction} {} by {}", side.outcome, side.rule.as_ref()?))
    });
    let deciding: Vec<String> = deciding.collect();
    let rules = match deciding.is_empty() {
        true => "no policy says anything about it".into(),
        false => deciding.join(", "),
    };
    format!("    {when}: {rules}")
}
