//! Are the rules of the house kept? Read off the source, so that nobody has to
//! remember them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Longest source file.
const LINES: usize = 400;

/// Modules of the loader, and those each must not import (STYLE: imports run
/// one way; edges never write maps).
const FORBIDDEN: [(&str, &[&str]); 20] = [
    (
        "ipam",
        &[
            "event",
            "model",
            "plan",
            "policy",
            "kernel",
            "providers",
            "reconcile",
            "api",
            "cli",
            "attach",
            "snapshot",
            "config",
        ],
    ),
    ("runtime", &["model", "plan", "policy", "kernel", "providers", "reconcile", "cli", "attach", "config"]),
    ("docker", &["model", "plan", "policy", "kernel", "providers", "reconcile", "cli"]),
    ("cni", &["model", "plan", "policy", "kernel", "providers", "reconcile", "cli"]),
    ("event", &["model", "plan", "policy", "kernel", "providers", "reconcile", "api", "cli", "attach"]),
    ("providers", &["plan", "policy", "kernel", "reconcile", "api", "cli", "attach"]),
    (
        "guard",
        &[
            "model",
            "plan",
            "policy",
            "kernel",
            "providers",
            "reconcile",
            "api",
            "cli",
            "attach",
            "snapshot",
            "metrics",
        ],
    ),
    ("model", &["plan", "policy", "kernel", "providers", "reconcile", "api", "cli", "attach"]),
    (
        "policy",
        &["model", "plan", "kernel", "providers", "reconcile", "api", "cli", "attach", "snapshot", "metrics"],
    ),
    ("egress", &["plan", "kernel", "providers", "reconcile", "api", "cli", "attach", "snapshot", "metrics"]),
    ("cluster", &["model", "plan", "policy", "kernel", "providers", "reconcile", "api", "cli", "attach"]),
    ("plan", &["kernel", "providers", "reconcile", "api", "cli", "attach"]),
    ("kernel", &["providers", "reconcile", "api", "cli", "attach", "snapshot"]),
    ("attach", &["plan", "kernel", "providers", "reconcile", "api", "cli"]),
    ("api", &["kernel", "plan", "providers", "reconcile", "cli", "attach"]),
    ("cli", &["kernel"]),
    (
        "programming",
        &["plan", "policy", "kernel", "providers", "reconcile", "api", "cli", "attach", "snapshot"],
    ),
    ("connectivity", &["model", "plan", "policy", "providers", "reconcile", "cli"]),
    ("doctor", &["model", "plan", "policy", "providers", "reconcile", "cli", "attach"]),
    ("metrics", &["kernel", "plan", "model", "providers", "reconcile", "cli", "attach"]),
];

#[test]
fn imports_run_one_way() {
    let mut faults = Vec::new();
    for (file, text) in sources("loader/src") {
        let within = file.strip_prefix(top().join("loader/src")).unwrap();
        let module =
            within.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        faults.extend(imports(module, production(&file, &text)).map(|fault| at(&file, fault)));
        if !within.starts_with("kernel") {
            faults.extend(
                find(production(&file, &text), "aya::").map(|line| at(&file, (line, "names aya".into()))),
            );
        }
    }
    assert_none(&faults);
}

#[test]
fn only_one_file_knows_the_actions_of_tc() {
    let mut faults = Vec::new();
    for (file, text) in sources("dataplane-ebpf/src") {
        if !file.ends_with("act.rs") {
            faults.extend(find(&text, "TC_ACT_").map(|line| at(&file, (line, "names a TC action".into()))));
        }
    }
    assert_none(&faults);
}

#[test]
fn files_hold_one_concept() {
    let mut faults = Vec::new();
    for (file, text) in everything() {
        let lines = text.lines().count();
        if lines > LINES {
            faults.push(at(&file, (lines, format!("longer than {LINES} lines"))));
        }
    }
    assert_none(&faults);
}

#[test]
fn nothing_is_unfinished_or_skipped() {
    // Put together here, or this file would be its own fault.
    let words = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!("));
    let words = words.into_iter().chain([format!("FIX{}", "ME"), format!("#[ig{}", "nore")]);
    let words: Vec<String> = words.collect();
    let mut faults = Vec::new();
    for (file, text) in everything() {
        for word in &words {
            faults.extend(find(&text, word).map(|line| at(&file, (line, format!("has {word}")))));
        }
    }
    assert_none(&faults);
}

#[test]
fn libraries_return_errors() {
    let mut faults = Vec::new();
    for dir in ["loader/src", "maps-schema/src"] {
        for (file, text) in sources(dir) {
            for word in [".unwrap()", ".expect(", "panic!("] {
                let found = find(production(&file, &text), word);
                faults.extend(found.map(|line| at(&file, (line, format!("has {word}")))));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn dependencies_are_chosen_in_one_place() {
    for crate_ in ["maps-schema", "loader", "xtask", "perf", "tests"] {
        let text = fs::read_to_string(top().join(crate_).join("Cargo.toml")).unwrap();
        let sections = text.split("\n[").filter(|section| section.contains("dependencies]"));
        for line in sections.flat_map(|section| section.lines().skip(1)).filter(|line| line.contains('=')) {
            assert!(
                line.contains("workspace = true"),
                "{crate_}/Cargo.toml: {line}: choose it in the workspace"
            );
        }
    }
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    let mut faults = Vec::new();
    for (file, text) in everything() {
        for word in ["work", "root", "home"].map(|dir| format!("\"/{dir}/")) {
            faults.extend(find(&text, &word).map(|line| at(&file, (line, format!("has {word}")))));
        }
    }
    assert_none(&faults);
}

#[test]
fn a_planted_fault_is_found() {
    let planted = "use crate::event::{\n    kernel::Not,\n};\nuse crate::{\n    event::Event,\n    kernel::bpf,\n};\nfn f() { x.unwrap() }\n#[cfg(test)]\nmod tests { y.unwrap() }\n";
    let file = Path::new("loader/src/providers/x.rs");
    assert_eq!(imports("providers", planted).count(), 1);
    assert_eq!(imports("kernel", planted).count(), 0);
    assert_eq!(find(production(file, planted), ".unwrap()").collect::<Vec<_>>(), [8]);
}

/// Lines of `use` statements that import what the module must not.
fn imports<'a>(module: &'a str, text: &'a str) -> impl Iterator<Item = (usize, String)> + 'a {
    let forbidden = FORBIDDEN.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, list)| *list);
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let trimmed = line.trim_start().trim_start_matches("pub ");
        let starts = trimmed.starts_with("use crate::");
        inside |= trimmed.starts_with("use crate::{");
        let names =
            (starts || inside).then(|| trimmed.trim_start_matches("use crate::").trim_start_matches('{'));
        if line.contains(';') {
            inside = false;
        }
        // Only the first segment of each path, at the first level of braces.
        let indent = line.len() - line.trim_start().len();
        let name = names.filter(|_| starts || indent == 4)?;
        let name = name.split([':', ',', ';', ' ', '}']).next()?;
        forbidden.contains(&name).then(|| (index + 1, format!("{module} imports {name}")))
    })
}

/// The part of a file that is not test code.
fn production<'a>(file: &Path, text: &'a str) -> &'a str {
    let name = file.to_string_lossy();
    if name.ends_with("tests.rs") || name.contains("/tests/") {
        return "";
    }
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn find<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let code = |line: &str| !line.trim_start().starts_with("//");
    text.lines()
        .enumerate()
        .filter(move |(_, line)| code(line) && line.contains(word))
        .map(|(index, _)| index + 1)
}

fn at(file: &Path, (line, what): (usize, String)) -> String {
    format!("{}:{line}: {what}", file.strip_prefix(top()).unwrap_or(file).display())
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn everything() -> impl Iterator<Item = (PathBuf, String)> {
    ["maps-schema", "dataplane-ebpf", "loader", "xtask", "perf", "tests"].into_iter().flat_map(sources)
}

fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    collect(&top().join(dir), &mut found);
    assert!(!found.is_empty(), "no source in {dir}");
    found
}

fn collect(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push((path.clone(), fs::read_to_string(path).unwrap()));
        }
    }
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What `causeway doctor` may find is in the table of docs/cli.md, and nothing else.
#[test]
fn findings_are_listed() {
    let mut found = BTreeSet::new();
    for (file, text) in sources("loader/src/doctor/judge") {
        // A module of tests may be named at the top.
        let text =
            text.split("mod tests {").next().filter(|_| !file.ends_with("tests.rs")).unwrap_or_default();
        let mut calls = text.split("report.").skip(1).map(|call| call.split_once('(').unwrap_or_default());
        let levels = ["fault", "warning", "note", "add"];
        let calls = calls.by_ref().filter(|(name, _)| levels.contains(name)).map(|(_, arguments)| arguments);
        let given = text.split("check: ").skip(1).filter(|words| words.starts_with('"'));
        found.extend(calls.chain(given).filter_map(|words| words.split('"').nth(1)).map(str::to_owned));
    }
    let text = fs::read_to_string(top().join("docs/cli.md")).unwrap();
    let table = text.lines().skip_while(|line| !line.starts_with("| check | level |")).skip(2);
    let rows = table.take_while(|line| line.starts_with('|')).filter_map(|row| row.split('|').nth(1));
    let names = rows.flat_map(|cell| cell.split(", ")).map(|name| name.trim().trim_matches('`').to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), found);
}
