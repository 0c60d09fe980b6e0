//! The table of bad manifests: each is named by document and field, with a
//! remedy, and takes nothing else with it.

use std::{collections::BTreeSet, fs, path::Path};

use super::*;
use crate::event::Problem;

const TABLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/bad-manifests.txt"));
const HEALTHY: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: healthy, namespace: healthy}\nspec: {clusterIP: 10.97.0.1, ports: [{port: 80}]}\n";

#[derive(Default)]
struct Case {
    name: &'static str,
    document: usize,
    field: &'static str,
    message: &'static str,
    serves: usize,
    file: &'static str,
    text: String,
}

fn cases() -> Vec<Case> {
    TABLE.split("\n=== ").skip(1).map(case).collect()
}

fn case(text: &'static str) -> Case {
    let (head, text) = text.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    let mut case = Case { name: lines.next().unwrap(), file: "bad.yaml", ..Case::default() };
    for line in lines {
        let (key, value) = line.split_once(':').unwrap();
        let value = value.trim();
        match key {
            "document" => case.document = value.parse().unwrap(),
            "field" => case.field = value,
            "message" => case.message = value,
            "serves" => case.serves = value.parse().unwrap(),
            "file" => case.file = value,
            other => panic!("{}: {other}?", case.name),
        }
    }
    for line in text.lines() {
        match line.strip_prefix("@repeat ").and_then(|rest| rest.split_once(' ')) {
            None => case.text.push_str(&format!("{line}\n")),
            Some((count, line)) => (0..count.parse::<u32>().unwrap()).for_each(|n| {
                let address = std::net::Ipv4Addr::from(0x0a80_0001 + n).to_string();
                case.text.push_str(&format!("{}\n", line.replace("{address}", &address)));
            }),
        }
    }
    case
}

/// What of the case a batch gets wrong.
fn misses(case: &Case, file: &str, batch: &Batch) -> Option<String> {
    let place = match case.document {
        0 => file.to_owned(),
        number => format!("{file}#{number}"),
    };
    let of = |origin: &crate::event::Origin| origin.place.split(['#']).next() == Some(file);
    let here = |origin: &crate::event::Origin| origin.place.split('[').next() == Some(&place);
    let problems: Vec<&Problem> =
        batch.problems.iter().filter(|problem| problem.origin.as_ref().is_some_and(of)).collect();
    let named = problems.iter().any(|problem| {
        problem.origin.as_ref().is_some_and(here)
            && problem.field == case.field
            && problem.message.contains(case.message)
    });
    let served = batch.events.iter().filter_map(|event| event.object.as_ref());
    let served = served.filter(|(_, origin)| of(origin)).count();
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    (!named || served != case.serves).then(|| {
        format!("{}: serves {served}, wants {place} {} {}: {said:#?}", case.name, case.field, case.message)
    })
}

fn assert_none(misses: Vec<String>) {
    assert!(misses.is_empty(), "{} cases\n{}", misses.len(), misses.join("\n"));
}

#[test]
fn each_bad_manifest_is_named_by_document_and_field() {
    let cases = cases();
    let names: BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    assert!(names.len() >= 200 && names.len() == cases.len());
    let run = |case: &Case| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(case.file), &case.text).unwrap();
        misses(case, case.file, &scan(dir.path()))
    };
    assert_none(cases.iter().filter_map(run).collect());
}

#[test]
fn all_of_them_in_one_directory_leave_the_healthy_served() {
    let dir = tempfile::tempdir().unwrap();
    let cases = cases();
    let path = |file: &str| dir.path().join(file);
    fs::write(path("healthy.yaml"), HEALTHY).unwrap();
    for (index, case) in cases.iter().enumerate() {
        let extension = Path::new(case.file).extension().unwrap().to_str().unwrap();
        fs::write(path(&format!("{index:03}.{extension}")), &case.text).unwrap();
    }
    let batch = scan(dir.path());
    assert!(batch.synced);
    let served = batch.events.iter().filter(|event| event.object.is_some());
    assert!(served.clone().any(|event| &*event.key.name == "healthy"));
    for (index, case) in cases.iter().enumerate() {
        let file = format!("{index:03}.");
        let named = batch.problems.iter().any(|problem| {
            problem.origin.as_ref().is_some_and(|origin| origin.place.starts_with(&file))
                && problem.message.contains(case.message)
        });
        assert!(named, "{}", case.name);
    }
    for index in 0..cases.len() {
        for extension in ["yaml", "json"] {
            let _ = fs::remove_file(path(&format!("{index:03}.{extension}")));
        }
    }
    let batch = scan(dir.path());
    assert!(batch.problems.is_empty() && batch.events.len() == 1);
}
