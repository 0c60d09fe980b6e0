//! What does `causeway doctor` find?

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{netns::Netns, topology::PATIENCE};

/// What a look found: level and check of each finding.
pub type Findings = Vec<(String, String)>;

/// Of what `causeway doctor -o json` says.
pub fn findings(report: &Value) -> Findings {
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    let list = report["findings"].as_array().unwrap_or_else(|| panic!("no findings: {report}"));
    list.iter().map(|finding| (text(finding, "level"), text(finding, "check"))).collect()
}

/// Looks until all but the notes are those, and perhaps what is `also` there, and the
/// exit code is theirs.
#[track_caller]
pub fn expect(expected: &[(&str, &str)], also: &[&str], look: impl Fn() -> (i32, Value)) {
    let end = Instant::now() + PATIENCE;
    loop {
        let (code, report) = look();
        let found = findings(&report);
        let has = |level: &str, check: &str| found.iter().any(|(l, c)| l == level && c == check);
        let others = found.iter().filter(|(level, check)| {
            level != "note"
                && !expected.contains(&(level.as_str(), check.as_str()))
                && !also.contains(&check.as_str())
        });
        let good = expected.iter().all(|(level, check)| has(level, check)) && others.count() == 0;
        let faults = found.iter().any(|(level, _)| level == "fault");
        if good {
            assert_eq!((code, report["sound"].as_bool()), (i32::from(faults), Some(!faults)), "{report:#}");
            return;
        }
        assert!(Instant::now() < end, "expected {expected:?}, and perhaps {also:?}: {report:#}");
        sleep(Duration::from_millis(50));
    }
}

/// A command that succeeds.
#[track_caller]
pub fn run(netns: &Netns, line: &str) {
    let (program, arguments) = line.split_once(' ').unwrap();
    let (success, said) = netns.command(program, arguments);
    assert!(success, "{line}: {said}");
}
