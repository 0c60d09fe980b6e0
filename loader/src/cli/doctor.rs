//! `causeway doctor`: what is wrong with this node, and what mends it?

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{Output, render::table};
use crate::{
    attach::Netns,
    doctor::{Diagnosis, Level, Place, collect, judge},
};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The interface that leads to other nodes; the agent's, or that of the default route, unless
    /// given.
    #[arg(long, env = "CAUSEWAY_UPLINK", value_name = "NAME")]
    uplink: Option<String>,
    /// The network namespace to look at, as the agent's --netns.
    #[arg(long, env = "CAUSEWAY_NETNS", value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Where the agent pins.
    #[arg(long, env = "CAUSEWAY_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf/causeway")]
    bpffs: PathBuf,
}

/// True when there is no fault.
pub async fn run(arguments: Arguments, socket: &Path, output: Output) -> anyhow::Result<bool> {
    let Arguments { uplink, netns, bpffs } = arguments;
    if let Some(path) = netns {
        // The only thread there is: see `runtime`.
        let opened = Netns::open(&path).with_context(|| format!("netns {}", path.display()))?;
        opened.enter().with_context(|| format!("enter netns {}", path.display()))?;
    }
    let place = Place { uplink, socket: socket.to_owned(), bpffs: std::path::absolute(bpffs)? };
    let facts = collect(&place).await.context("open a netlink socket")?;
    let diagnosis = judge(&facts);
    output.print(&diagnosis, text)?;
    Ok(diagnosis.sound)
}

fn text(diagnosis: &Diagnosis) -> String {
    let uplink = diagnosis.uplink.as_deref().unwrap_or("none");
    let mut text = format!("Linux {}, uplink {uplink}\n\n", diagnosis.kernel);
    let features = diagnosis.features.iter().map(|feature| {
        let present = match feature.present {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        vec![feature.name.to_owned(), present.to_owned(), feature.message.clone()]
    });
    let _ = writeln!(text, "{}\n", table(&["FEATURE", "HERE", ""], features));
    for finding in &diagnosis.findings {
        let (level, check, object) = (finding.level.name(), finding.check, &finding.object);
        let _ = writeln!(text, "{level} {check}: {object}: {} -> {}", finding.message, finding.remedy);
    }
    let count = |level| diagnosis.findings.iter().filter(|finding| finding.level == level).count();
    let _ = match (count(Level::Fault), count(Level::Warning)) {
        (0, 0) => writeln!(text, "nothing is wrong with this node"),
        (faults, warnings) => writeln!(text, "{faults} faults, {warnings} warnings"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Feature, Finding};

    fn diagnosis(findings: Vec<Finding>) -> Diagnosis {
        let feature = |name, present| Feature { name, present, message: "so".into() };
        Diagnosis {
            sound: findings.is_empty(),
            kernel: "6.18.44".into(),
            uplink: Some("eth0".into()),
            features: vec![feature("tcx", Some(true)), feature("jit", None)],
            findings,
        }
    }

    #[test]
    fn features_come_first_and_a_verdict_last() {
        let shown = text(&diagnosis(Vec::new()));
        let lines: Vec<&str> = shown.lines().collect();
        let expected = [
            "Linux 6.18.44, uplink eth0",
            "",
            " FEATURE  HERE",
            " tcx      yes      so",
            " jit      unknown  so",
            "",
            "nothing is wrong with this node",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_finding_is_one_line() {
        let finding = Finding {
            level: Level::Fault,
            check: "uplink-down",
            object: "eth0".into(),
            message: "is down".into(),
            remedy: "ip link set eth0 up".into(),
        };
        let shown = text(&diagnosis(vec![finding]));
        let last: Vec<&str> = shown.lines().skip(6).collect();
        assert_eq!(last, ["fault uplink-down: eth0: is down -> ip link set eth0 up", "1 faults, 0 warnings"]);
    }
}
