//! Is it as it should be? Functions of the facts alone, one file a topic.

mod agent;
mod kernel;
mod network;
mod overlap;
mod strangers;
#[cfg(test)]
mod tests;

use super::{Diagnosis, Feature, Finding, Level, facts::Facts};

/// Findings in the making.
#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn fault(&mut self, check: &'static str, object: impl ToString, message: String, remedy: impl ToString) {
        self.add(Level::Fault, check, object, message, remedy);
    }

    fn warning(
        &mut self,
        check: &'static str,
        object: impl ToString,
        message: String,
        remedy: impl ToString,
    ) {
        self.add(Level::Warning, check, object, message, remedy);
    }

    fn note(&mut self, check: &'static str, object: impl ToString, message: String, remedy: impl ToString) {
        self.add(Level::Note, check, object, message, remedy);
    }

    fn add(
        &mut self,
        level: Level,
        check: &'static str,
        object: impl ToString,
        message: String,
        remedy: impl ToString,
    ) {
        let (object, remedy) = (object.to_string(), remedy.to_string());
        self.0.push(Finding { level, check, object, message, remedy });
    }
}

/// Every check, over facts that were read.
pub fn judge(facts: &Facts) -> Diagnosis {
    let mut report = Report::default();
    kernel::judge(&facts.kernel, &mut report);
    network::judge(facts, &mut report);
    overlap::judge(facts, &mut report);
    strangers::judge(facts, &mut report);
    agent::judge(facts, &mut report);
    let mut findings = report.0;
    let is_root = findings.iter().all(|finding| finding.check != "capabilities");
    let remedy = if is_root { "look again, and at what it says" } else { "run `causeway doctor` as root" };
    findings.extend(facts.unread.iter().map(|what| Finding {
        level: Level::Warning,
        check: "unread",
        object: "this look".into(),
        message: format!("cannot read {what}: nothing is known of that"),
        remedy: remedy.into(),
    }));
    // Stable: within a level they stand as they were found.
    findings.sort_by_key(|finding| finding.level);
    Diagnosis {
        sound: findings.iter().all(|finding| finding.level != Level::Fault),
        kernel: facts.kernel.release.clone(),
        uplink: facts.network.uplink().map(|uplink| uplink.link.name.clone()),
        features: features(facts),
        findings,
    }
}

fn features(facts: &Facts) -> Vec<Feature> {
    let has = |name: &str| facts.kernel.features.iter().any(|(known, present)| *known == name && *present);
    let feature =
        |name, present, message: &str| Feature { name, present: Some(present), message: message.to_owned() };
    let either = |present, yes: &'static str, no: &'static str| if present { yes } else { no };
    let uplink = facts.network.uplink().map_or("the uplink", |uplink| uplink.link.name.as_str());
    let tcx = has("tcx");
    let mut list = vec![
        feature(
            "tcx",
            tcx,
            either(tcx, "programs are attached by links", "filters of a clsact qdisc instead"),
        ),
        feature(
            "sockets",
            facts.kernel.cgroups,
            either(facts.kernel.cgroups, "processes of the node call services", "no cgroup2 is mounted"),
        ),
        Feature {
            name: "xdp",
            present: facts.network.native_xdp,
            message: match facts.network.native_xdp {
                Some(true) => format!("the driver of {uplink} runs XDP programs"),
                Some(false) => format!("the driver of {uplink} runs none"),
                None => format!("nobody says of {uplink} (Linux 6.3 does)"),
            },
        },
        Feature {
            name: "jit",
            present: facts.kernel.jit,
            message: match facts.kernel.jit {
                Some(true) => "programs run as machine code".into(),
                Some(false) => "programs are interpreted".into(),
                None => "only the first network namespace says".into(),
            },
        },
    ];
    let rest = facts.kernel.features.iter().filter(|(name, _)| !["tcx", "jit"].contains(name));
    list.extend(rest.map(|(name, present)| feature(name, *present, "")));
    list
}
