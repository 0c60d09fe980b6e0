//! Does the agent run, and does it do what it should?

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use crate::doctor::facts::{Answer, Facts, Said};

/// Who repairs the same so often has an opponent; twice may be twice an accident.
const OFTEN: usize = 3;

pub fn judge(facts: &Facts, report: &mut Report) {
    let agent = &facts.agent;
    let socket = agent.socket.display();
    match &agent.answer {
        Answer::Said(said) => {
            stands(said, report);
            knows_itself(said, facts, report);
        }
        Answer::Silent(error) => {
            let remedy = "look at its log: `journalctl -u causeway`, and start it again";
            report.fault("agent-silent", socket, error.clone(), remedy);
        }
        Answer::Absent if !agent.pins.is_empty() => {
            let count = agent.pins.len();
            let message =
                format!("{count} programs of an earlier agent run on, and nobody tells them what changes");
            let root = facts.kernel.bpffs.0.display();
            let remedy = "start `causeway agent`; then `causeway uninstall`, if it is to go";
            report.warning("pins-without-agent", root, message, remedy);
        }
        Answer::Absent => {
            let message = "no agent runs here: services, pods and containers are not looked at".to_owned();
            report.note("agent-absent", socket, message, "start `causeway agent`, or give --socket");
        }
    }
}

fn stands(said: &Said, report: &mut Report) {
    let status = &said.status;
    let node = format!("agent of {}", status.node);
    for reason in &status.reasons {
        let remedy = "`causeway status`, and the agent's log";
        report.fault("agent-not-converged", &node, reason.clone(), remedy);
    }
    for alarm in status.alarms.iter().filter(|alarm| !status.reasons.contains(alarm)) {
        report.warning("agent-alarm", &node, alarm.clone(), "as it says; `causeway status` has them all");
    }
    if !status.problems.is_empty() {
        let first = &status.problems[0];
        let message =
            format!("{} objects cannot be served as they are; the first: {first}", status.problems.len());
        report.warning("agent-problems", &node, message, "mend them; `causeway status` has them all");
    }
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    status.drift.last.iter().for_each(|repair| *times.entry(repair).or_default() += 1);
    let again = times.into_iter().max_by_key(|(_, times)| *times).filter(|(_, times)| *times >= OFTEN);
    if let Some((repair, times)) = again {
        let message = format!("somebody undoes it again and again: {repair} ({times} times of late)");
        report.warning("drift", &node, message, "find who it is: another agent, a network manager, a script");
    } else if status.drift.repaired > 0 {
        let last = status.drift.last.last().cloned().unwrap_or_default();
        let message = format!("{} repairs since its start; the last: {last}", status.drift.repaired);
        report.note("drift-once", &node, message, "none needed");
    }
    if status.version != env!("CARGO_PKG_VERSION") {
        let message =
            format!("is of version {}, this command of {}", status.version, env!("CARGO_PKG_VERSION"));
        report.note("agent-version", &node, message, "start the agent again, if it is to be the new one");
    }
}

/// Of no node it may be that nobody speaks of nodes at all.
fn knows_itself(said: &Said, facts: &Facts, report: &mut Report) {
    if said.nodes.is_empty() || facts.network.links.is_empty() {
        return;
    }
    let name = &said.status.node;
    let Some(own) = said.nodes.iter().find(|node| node.name == *name) else {
        let names: Vec<&str> = said.nodes.iter().take(5).map(|node| node.name.as_str()).collect();
        let message = format!("no Node is called that; there are {}", names.join(", "));
        report.fault("node-unknown", name, message, "give the agent the Node's name: --node NAME");
        return;
    };
    let ours: BTreeSet<String> = facts
        .network
        .links
        .iter()
        .flat_map(|seen| &seen.addresses)
        .map(|net| net.addr().to_string())
        .collect();
    if !own.addresses.is_empty() && !own.addresses.iter().any(|address| ours.contains(address)) {
        let message =
            format!("{} is at no interface here: other nodes send elsewhere", own.addresses.join(", "));
        report.fault(
            "node-address",
            name,
            message,
            "mend the Node's status.addresses, or the agent's --node",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, with};
    use super::*;
    use crate::{
        doctor::Level::{Fault, Note, Warning},
        snapshot::ProblemView,
    };

    fn said(change: impl FnOnce(&mut Said)) -> impl FnOnce(&mut Facts) {
        move |facts| with(facts, change)
    }

    #[test]
    fn nobody_is_told_from_somebody_mute() {
        check(|facts| facts.agent.answer = Answer::Silent("refused".into()), &[(Fault, "agent-silent")]);
        check(|facts| facts.agent.answer = Answer::Absent, &[(Warning, "pins-without-agent")]);
        let clean = |facts: &mut Facts| {
            facts.agent.answer = Answer::Absent;
            facts.agent.pins.clear();
        };
        check(clean, &[(Note, "agent-absent")]);
    }

    #[test]
    fn what_the_agent_says_is_passed_on_once() {
        let failing = said(|said| {
            said.status.reasons = vec!["cannot write".into()];
            said.status.alarms = vec!["cannot write".into(), "map flows is full".into()];
        });
        check(failing, &[(Fault, "agent-not-converged"), (Warning, "agent-alarm")]);
        check(
            said(|said| said.status.problems = vec![ProblemView::default(); 3]),
            &[(Warning, "agent-problems")],
        );
        check(said(|said| said.status.version = "0.0.1".into()), &[(Note, "agent-version")]);
    }

    #[test]
    fn a_repair_may_happen_but_not_again() {
        let repairs = |last: &'static [&'static str]| {
            said(move |said| {
                said.status.drift.repaired = last.len() as u64;
                said.status.drift.last = last.iter().map(|&text| text.to_owned()).collect();
            })
        };
        check(repairs(&["a", "b"]), &[(Note, "drift-once")]);
        check(repairs(&["a", "b", "a"]), &[(Note, "drift-once")]);
        check(repairs(&["a", "b", "a", "a"]), &[(Warning, "drift")]);
    }

    #[test]
    fn a_node_is_the_one_it_is_called() {
        check(said(|said| said.status.node = "n9".into()), &[(Fault, "node-unknown")]);
        check(said(|said| said.nodes[0].addresses = vec!["192.0.2.1".into()]), &[(Fault, "node-address")]);
        let nobody = said(|said| {
            said.status.node = "n9".into();
            said.nodes.clear();
        });
        check(nobody, &[]);
    }
}
