//! What is another figure than in an earlier report, by more than two rows of one
//! thing differ?

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::stats::Report;

/// What two runs may differ by where no table says better.
const NOISE: f64 = 0.02;

/// An earlier report.
#[derive(Deserialize)]
pub struct Old {
    reports: Vec<Report>,
}

/// A figure then and now.
#[derive(Debug, PartialEq)]
struct Moved {
    what: String,
    then: f64,
    now: f64,
}

impl Old {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is no report.json of `bench --write`", path.display()))
    }

    /// A table of the figures that moved; those that only one of the two has are none
    /// of them.
    pub fn moved(&self, reports: &[Report]) -> Report {
        let conditions =
            "More than twice what a thing differs from itself in its table (A/A), or than 2%.".into();
        let mut table = Report::new("Moved", conditions, &["then", "now", "change"]);
        for report in reports {
            let Some(then) = self.reports.iter().find(|then| then.title == report.title) else { continue };
            for Moved { what, then, now } in moved(then, report) {
                let change = format!("{:+.1}%", (now / then - 1.0) * 100.0);
                table.row(&what, vec![then.to_string(), now.to_string(), change]);
            }
        }
        table
    }
}

fn moved(then: &Report, now: &Report) -> Vec<Moved> {
    let mut found = Vec::new();
    // Columns may share a name: those in the same place are the same.
    let columns = now.columns.iter().zip(&then.columns).enumerate();
    for (column, (name, _)) in columns.filter(|(_, (now, then))| now == then) {
        let noise = (noise(now, column).max(noise(then, column)) * 2.0).max(NOISE);
        for row in &now.rows {
            let earlier = then.rows.iter().find(|earlier| earlier.name == row.name);
            let (Some(then), Some(now)) = (earlier.and_then(|row| row.number(column)), row.number(column))
            else {
                continue;
            };
            if then != 0.0 && (now / then - 1.0).abs() > noise {
                found.push(Moved { what: format!("{}, {name}", row.name), then, now });
            }
        }
    }
    found
}

/// How far a row is from itself.
fn noise(report: &Report, column: usize) -> f64 {
    let again = report.rows.iter().find(|row| row.name.ends_with("again (A/A)"));
    let of = again.and_then(|again| {
        let name = again.name.strip_suffix(", again (A/A)")?;
        let once = report.rows.iter().find(|row| row.name == name)?;
        Some((again.number(column)? / once.number(column)? - 1.0).abs())
    });
    of.unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: [(&str, &str); 3]) -> Report {
        let mut report = Report::new("Paths", String::new(), &["p50 / p99 µs"]);
        rows.iter().for_each(|(name, cell)| report.row(name, vec![(*cell).to_owned()]));
        report
    }

    #[test]
    fn only_what_moved_by_more_than_the_noise_is_told() {
        let then = report([
            ("ours", "10.0 / 20.0"),
            ("ours, again (A/A)", "10.2 / 19.0"),
            ("theirs", "30.0 / 40.0"),
        ]);
        // 3% are less than twice 2%; 10% are more.
        let now = report([
            ("ours", "10.3 / 20.0"),
            ("ours, again (A/A)", "10.3 / 20.0"),
            ("theirs", "33.0 / 40.0"),
        ]);
        let expected = Moved { what: "theirs, p50 / p99 µs".into(), then: 30.0, now: 33.0 };
        assert_eq!(moved(&then, &now), [expected]);
        assert_eq!(moved(&then, &then), []);
    }
}
