//! A report that one can keep: all tables, the plots beside them, and what it was
//! measured on.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{machine::Machine, stats::Report};

pub const TEXT: &str = "REPORT.md";
const DATA: &str = "report.json";

#[derive(Serialize)]
struct Data<'a> {
    machine: &'a Machine,
    /// Share of CPU time that other guests of the host had meanwhile.
    stolen: f64,
    command: &'a str,
    reports: &'a [Report],
}

/// Writes all of it to a directory, which has the plots already.
pub fn write(directory: &Path, command: &str, stolen: f64, reports: &[Report]) -> Result<()> {
    let machine = Machine::read()?;
    let mut text = format!(
        "# What Causeway costs, and what others do\n\nMade by `{command}`. {}, {} CPUs, {} GiB, Linux {}, BPF JIT {}; \
         mitigated: {}. {:.2}% of the CPUs' time was other guests'.\n\nThese are figures of one machine, and of network \
         namespaces and veth pairs: look at the ratios. What kube-proxy's rules cost was measured with rules of its \
         shape, not with kube-proxy.\n",
        machine.cpu,
        machine.cpus,
        machine.memory_gib,
        machine.kernel,
        if machine.jit == "0" { "off" } else { "on" },
        if machine.mitigated.is_empty() { "nothing".to_owned() } else { machine.mitigated.join(", ") },
        stolen * 100.0,
    );
    for report in reports {
        let _ = write!(text, "\n{report}");
        for plot in &report.plots {
            let _ = write!(text, "\n![{}]({plot})\n", report.title);
        }
    }
    fs::write(directory.join(TEXT), text).with_context(|| format!("write {}", directory.display()))?;
    let data = Data { machine: &machine, stolen, command, reports };
    fs::write(directory.join(DATA), serde_json::to_string_pretty(&data)? + "\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use causeway_testkit::scratch::Dir;

    use super::*;

    #[test]
    fn a_report_has_its_tables_its_plots_and_the_machine() {
        let place = Dir::new();
        let mut table = Report::new("Title", "Conditions.".into(), &["figure"]);
        table.row("ours", vec!["1.5".into()]);
        table.plots.push("plot.svg".into());
        write(place.path(), "cargo xtask bench", 0.001, &[table]).unwrap();
        let text = fs::read_to_string(place.join(TEXT)).unwrap();
        for words in ["## Title", "Conditions.", "| ours | 1.5 |", "![Title](plot.svg)", "Linux ", "0.10%"] {
            assert!(text.contains(words), "no {words} in {text}");
        }
        let data: serde_json::Value = serde_json::from_slice(&fs::read(place.join(DATA)).unwrap()).unwrap();
        assert_eq!(data["reports"][0]["rows"][0]["cells"][0], "1.5");
        assert!(data["machine"]["cpus"].as_u64().unwrap() > 0);
    }
}
