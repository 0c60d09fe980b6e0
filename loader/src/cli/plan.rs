//! `causeway plan`: a directory's services beside those that stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Context;
use serde::Serialize;

use super::{Output, render};
use crate::{
    api::{
        client::get,
        view::{self, DesiredView, EgressView, NodeView, PolicyView, ServiceView},
    },
    model::Model,
    providers::manifests,
    snapshot::{ProblemView, Status},
};

/// What `plan -o json` prints.
#[derive(Debug, Serialize)]
struct Plan {
    changes: Vec<Change>,
    problems: Vec<ProblemView>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Change {
    /// `add`, `change` or `remove`.
    action: &'static str,
    /// `service default/web:http` or `node n2`.
    object: String,
    /// What differs, one clause each.
    details: Vec<String>,
    /// The document that wants it so; for a removal, the one that no longer does.
    because: String,
}

/// False when the directory has problems.
pub async fn run(directory: &Path, socket: &Path, output: Output) -> anyhow::Result<bool> {
    readable(directory)?;
    let status: Status = get(socket, "/v1/status").await?;
    let model = read(directory, &status.node)?;
    let mut stands: DesiredView = get(socket, "/v1/desired").await?;
    let wanted = view::desired(&model.desired());
    if status.sources.iter().any(|source| source.name != manifests::SOURCE) {
        leave_out_others(&mut stands, &wanted);
    }
    let mut changes = services(&stands.services, &wanted.services);
    changes.extend(compare_nodes(&stands.nodes, &wanted.nodes));
    changes.extend(compare_policies(&stands.policies, &wanted.policies));
    changes.extend(compare_egress(&stands.egress, &wanted.egress));
    let plan = Plan { changes, problems: model.problems().map(ProblemView::from).collect() };
    output.print(&plan, text)?;
    Ok(plan.problems.is_empty())
}

/// What a directory says, to a node.
///
/// # Errors
/// When it cannot be read.
pub fn read(directory: &Path, node: &str) -> anyhow::Result<Model> {
    readable(directory)?;
    let scanned = manifests::scan(directory);
    anyhow::ensure!(scanned.synced, "{} went away while it was read", directory.display());
    let mut model = Model::new(&[manifests::SOURCE.into()], node);
    model.apply(scanned);
    Ok(model)
}

/// The provider keeps what an unreadable directory last said; here there is no last
/// word, and a plan to remove everything would be a lie.
pub fn readable(directory: &Path) -> anyhow::Result<()> {
    std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display())).map(drop)
}

/// Takes away what other sources say: the directory says nothing of it.
fn leave_out_others(stands: &mut DesiredView, wanted: &DesiredView) {
    let ours = |origin: &str| origin.split(':').next() == Some(manifests::SOURCE);
    stands.services.retain(|service| ours(&service.origin));
    for service in &mut stands.services {
        service.backends.retain(|backend| ours(&backend.origin));
    }
    stands.policies.retain(|policy| ours(&policy.origin));
    stands.egress.retain(|egress| ours(&egress.origin));
    // Who said so of a node is not shown.
    stands.nodes.retain(|node| wanted.nodes.iter().any(|other| other.name == node.name));
}

fn text(plan: &Plan) -> String {
    let mut lines: Vec<String> = Vec::new();
    for change in &plan.changes {
        let sign = match change.action {
            "add" => '+',
            "remove" => '-',
            _ => '~',
        };
        let because =
            if change.because.is_empty() { String::new() } else { format!(" ({})", change.because) };
        lines.push(format!("{sign} {}{because}", change.object));
        lines.extend(change.details.iter().map(|detail| format!("    {detail}")));
    }
    if plan.changes.is_empty() {
        lines.push("nothing would change".into());
    }
    lines.extend(plan.problems.iter().map(|problem| format!("! {problem}")));
    lines.join("\n")
}

fn services(stands: &[ServiceView], wanted: &[ServiceView]) -> Vec<Change> {
    let object = |view: &ServiceView| format!("service {}", view.name);
    compare(
        stands,
        wanted,
        |view| view.name.clone(),
        object,
        |view| view.origin.clone(),
        |old, new| {
            let mut details = Vec::new();
            differences("frontend", &old.frontends, &new.frontends, &mut details);
            let name = |view: &ServiceView| -> Vec<String> {
                let backends = view.backends.iter();
                backends.map(|backend| format!("{} weight {}", backend.address, backend.weight)).collect()
            };
            differences("backend", &name(old), &name(new), &mut details);
            let allowed = |view: &ServiceView| -> Vec<String> {
                let Some(ranges) = &view.source_ranges else { return Vec::new() };
                let only = |address: &String| {
                    let nobody = ranges.clients.is_empty().then(|| format!("nobody to {address}"));
                    ranges
                        .clients
                        .iter()
                        .map(|net| format!("{net} to {address}"))
                        .chain(nobody)
                        .collect::<Vec<_>>()
                };
                ranges.addresses.iter().flat_map(only).collect()
            };
            differences("source range", &allowed(old), &allowed(new), &mut details);
            alters("choice", &render::choice(old), &render::choice(new), &mut details);
            alters("silent", &old.silent.to_string(), &new.silent.to_string(), &mut details);
            details
        },
    )
}

fn compare_nodes(stands: &[NodeView], wanted: &[NodeView]) -> Vec<Change> {
    let object = |view: &NodeView| format!("node {}", view.name);
    compare(
        stands,
        wanted,
        |view| view.name.clone(),
        object,
        |_| String::new(),
        |old, new| {
            let mut details = Vec::new();
            differences("address", &old.addresses, &new.addresses, &mut details);
            differences("pod network", &old.pod_cidrs, &new.pod_cidrs, &mut details);
            differences("pod outside", &old.stray_pods, &new.stray_pods, &mut details);
            alters("zone", render::zone(old), render::zone(new), &mut details);
            details
        },
    )
}

fn compare_policies(stands: &[PolicyView], wanted: &[PolicyView]) -> Vec<Change> {
    let object = |view: &PolicyView| format!("policy {}", render::policy_name(view));
    compare(
        stands,
        wanted,
        render::policy_name,
        object,
        |view| view.origin.clone(),
        |old, new| {
            let mut details = Vec::new();
            let facts = |view: &PolicyView| {
                let priority =
                    view.priority.map_or_else(String::new, |priority| format!(" priority {priority}"));
                [
                    ("subject", view.subject.clone()),
                    ("tier", format!("{}{priority}", view.tier)),
                    ("audit", view.audit.to_string()),
                    ("reject", view.reject.to_string()),
                ]
            };
            for ((what, before), (_, after)) in facts(old).into_iter().zip(facts(new)) {
                alters(what, &before, &after, &mut details);
            }
            for (what, before, after) in
                [("ingress", &old.ingress, &new.ingress), ("egress", &old.egress, &new.egress)]
            {
                match (before, after) {
                    (None, Some(_)) => details.push(format!("+ {what}")),
                    (Some(_), None) => details.push(format!("- {what}")),
                    _ => {}
                }
                let rules = |rules: &Option<Vec<String>>| rules.clone().unwrap_or_default();
                let (before, after) = (rules(before), rules(after));
                let known = details.len();
                differences(&format!("{what} rule"), &before, &after, &mut details);
                if details.len() == known && before != after {
                    details.push(format!("order of the {what} rules"));
                }
            }
            details
        },
    )
}

fn compare_egress(stands: &[EgressView], wanted: &[EgressView]) -> Vec<Change> {
    compare(
        stands,
        wanted,
        |view| view.name.clone(),
        |view| format!("egress {}", view.name),
        |view| view.origin.clone(),
        |old, new| {
            let mut details = Vec::new();
            differences("address", &old.addresses, &new.addresses, &mut details);
            alters("subject", &old.subject, &new.subject, &mut details);
            alters("nodes", &old.nodes.join(" "), &new.nodes.join(" "), &mut details);
            details
        },
    )
}

fn compare<T>(
    stands: &[T],
    wanted: &[T],
    key: impl Fn(&T) -> String,
    object: impl Fn(&T) -> String,
    origin: impl Fn(&T) -> String,
    details: impl Fn(&T, &T) -> Vec<String>,
) -> Vec<Change> {
    let old: BTreeMap<String, &T> = stands.iter().map(|item| (key(item), item)).collect();
    let new: BTreeMap<String, &T> = wanted.iter().map(|item| (key(item), item)).collect();
    let change =
        |action, item: &T, details| Change { action, object: object(item), details, because: origin(item) };
    let mut changes = Vec::new();
    for (name, item) in &new {
        match old.get(name) {
            None => changes.push(change("add", item, Vec::new())),
            Some(before) => {
                let details = details(before, item);
                if !details.is_empty() {
                    changes.push(change("change", item, details));
                }
            }
        }
    }
    let gone = old.iter().filter(|(name, _)| !new.contains_key(*name));
    changes.extend(gone.map(|(_, item)| change("remove", item, Vec::new())));
    changes
}

fn differences(what: &str, old: &[String], new: &[String], details: &mut Vec<String>) {
    let [before, after] = [old, new].map(|items| items.iter().collect::<BTreeSet<_>>());
    details.extend(after.difference(&before).map(|item| format!("+ {what} {item}")));
    details.extend(before.difference(&after).map(|item| format!("- {what} {item}")));
}

fn alters(what: &str, before: &str, after: &str, details: &mut Vec<String>) {
    if before != after {
        details.push(format!("{what}: {before} -> {after}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::{ServiceBackend, SourceRangesView};

    fn service(name: &str, backends: &[&str]) -> ServiceView {
        let backend = |address: &&str| ServiceBackend {
            address: (*address).into(),
            weight: 1,
            node: None,
            origin: String::new(),
        };
        ServiceView {
            name: name.into(),
            frontends: vec!["10.96.0.1:80/TCP".into()],
            algorithm: "rendezvous".into(),
            backends: backends.iter().map(backend).collect(),
            origin: "manifests:web.yaml#1".into(),
            ..ServiceView::default()
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_no_plan_to_remove_everything() {
        let error = run("/nowhere".as_ref(), "/nowhere.sock".as_ref(), Output::Table).await.unwrap_err();
        assert!(format!("{error:#}").starts_with("read /nowhere: "), "{error:#}");
    }

    #[test]
    fn nodes_are_compared_by_what_they_have() {
        let node = |name: &str, cidr: &str| NodeView {
            name: name.into(),
            addresses: vec!["192.168.0.1".into()],
            pod_cidrs: vec![cidr.into()],
            stray_pods: Vec::new(),
            zone: None,
        };
        let stands = [node("n1", "10.244.1.0/24"), node("n2", "10.244.2.0/24")];
        let wanted = [node("n1", "10.244.9.0/24"), node("n2", "10.244.2.0/24")];
        let problem = ProblemView {
            origin: "manifests:a.yaml".into(),
            message: "bad".into(),
            ..ProblemView::default()
        };
        let plan = Plan { changes: compare_nodes(&stands, &wanted), problems: vec![problem] };
        let expected = "~ node n1\n    + pod network 10.244.9.0/24\n    - pod network 10.244.1.0/24\n! manifests:a.yaml: bad";
        assert_eq!(text(&plan), expected);
        let moved = NodeView { zone: Some("east".into()), ..stands[0].clone() };
        assert_eq!(compare_nodes(&stands[..1], &[moved])[0].details, ["zone: - -> east"]);
        let nothing = Plan { changes: compare_nodes(&stands, &stands), problems: Vec::new() };
        assert_eq!(text(&nothing), "nothing would change");
    }

    #[test]
    fn what_a_service_asks_for_is_compared() {
        let ranges = |clients: &[&str]| {
            let clients = clients.iter().map(|&net| net.into()).collect();
            Some(SourceRangesView { addresses: vec!["203.0.113.7".into()], clients })
        };
        let stands = ServiceView { source_ranges: ranges(&[]), ..service("a", &[]) };
        let wanted = ServiceView {
            affinity_seconds: Some(60),
            silent: true,
            source_ranges: ranges(&["10.0.0.0/8"]),
            ..service("a", &[])
        };
        let changes = services(std::slice::from_ref(&stands), &[wanted]);
        let details = [
            "+ source range 10.0.0.0/8 to 203.0.113.7",
            "- source range nobody to 203.0.113.7",
            "choice: rendezvous -> rendezvous, affinity 60 s",
            "silent: false -> true",
        ];
        assert_eq!(changes[0].details, details);
        assert_eq!(services(std::slice::from_ref(&stands), std::slice::from_ref(&stands)), []);
    }

    #[test]
    fn egress_is_compared_by_what_it_asks_for() {
        let view = |addresses: &[&str], nodes: &[&str], holder: Option<&str>| EgressView {
            name: "out".into(),
            subject: "all pods".into(),
            addresses: addresses.iter().map(|&text| text.into()).collect(),
            nodes: nodes.iter().map(|&text| text.into()).collect(),
            holder: holder.map(Into::into),
            endpoints: Vec::new(),
            origin: "manifests:out.yaml#1".into(),
        };
        let stands = [view(&["192.0.2.1"], &["n0", "n1"], Some("n0"))];
        let changes = compare_egress(&stands, &[view(&["192.0.2.2"], &["n1", "n0"], None)]);
        let details = ["+ address 192.0.2.2", "- address 192.0.2.1", "nodes: n0 n1 -> n1 n0"];
        assert_eq!(changes[0].details, details);
        assert_eq!(compare_egress(&stands, &[view(&["192.0.2.1"], &["n0", "n1"], None)]), []);
    }

    #[test]
    fn a_plan_says_what_and_why() {
        let stands = [service("a", &["10.0.0.1:80"]), service("b", &[])];
        let wanted = [service("a", &["10.0.0.2:80"]), service("c", &[])];
        let plan = Plan { changes: services(&stands, &wanted), problems: Vec::new() };
        let expected = "~ service a (manifests:web.yaml#1)\n    + backend 10.0.0.2:80 weight 1\n    - backend 10.0.0.1:80 weight 1\n+ service c (manifests:web.yaml#1)\n- service b (manifests:web.yaml#1)";
        assert_eq!(text(&plan), expected);
    }
}
