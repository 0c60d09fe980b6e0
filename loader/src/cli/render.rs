//! How does it look? One renderer for people and for tests.

use std::{fmt::Write as _, io};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::{
    api::view::{BackendView, EgressView, EndpointView, NodeView, PolicyView, ServiceView, WaitView},
    snapshot::{ClusterView, Counter, FlowView, Laggard, Status, TraceReply},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
    Yaml,
}

impl Output {
    /// Prints a value, as text by `table`.
    ///
    /// # Errors
    /// When it cannot be serialised or written.
    pub fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let text = self.text(value, table)?;
        Ok(write(&mut io::stdout().lock(), text.as_bytes())?)
    }

    /// A value as lines of text.
    fn text<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
        let text = match self {
            Output::Table => table(value),
            Output::Json => serde_json::to_string_pretty(value)?,
            Output::Yaml => serde_saphyr::to_string(value)?,
        };
        Ok(format!("{}\n", text.trim_end()))
    }
}

/// Writes everything. A reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// When it cannot be written.
pub fn write(to: &mut impl io::Write, text: &[u8]) -> io::Result<()> {
    match to.write_all(text).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Columns under their names; `none` without a row.
pub fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    let mut empty = true;
    for row in rows {
        empty = false;
        table.add_row(row);
    }
    if empty {
        return "none".into();
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

pub fn status(status: &Status) -> String {
    let mut text = String::new();
    let digest = status.digest.get(..12).unwrap_or(&status.digest);
    let _ = match status.converged {
        true => {
            writeln!(text, "node {} converged at revision {} (digest {digest})", status.node, status.revision)
        }
        false => writeln!(text, "node {} has NOT converged: {}", status.node, status.reasons.join("; ")),
    };
    let _ = writeln!(
        text,
        "{} services, {} endpoints, {} nodes, {} policies; uplink {}, programs at {}",
        status.services,
        status.endpoints,
        status.nodes,
        status.policies,
        status.uplink.as_deref().unwrap_or("none"),
        status.hook
    );
    for source in &status.sources {
        let synced = if source.synced { "synced" } else { "NOT synced" };
        let (name, objects, problems) = (&source.name, source.objects, source.problems);
        let held: usize = source.held.iter().map(|held| held.objects).sum();
        let held = if held > 0 { format!(", {held} HELD") } else { String::new() };
        let _ = writeln!(text, "source {name}: {synced}, {objects} objects, {problems} problems{held}");
    }
    let maps = status.maps.iter().map(|map| {
        let percent = map.used * 100 / map.capacity.max(1);
        vec![map.map.clone(), map.used.to_string(), map.capacity.to_string(), format!("{percent}%")]
    });
    let _ = writeln!(text, "\n{}", table(&["MAP", "USED", "ROWS", ""], maps));
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{title}");
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        }
    };
    section("ALARMS", status.alarms.clone());
    section("PROBLEMS", status.problems.iter().map(ToString::to_string).collect());
    if status.drift.repaired > 0 {
        section(
            &format!("DRIFT ({} repaired, the last ones)", status.drift.repaired),
            status.drift.last.clone(),
        );
    }
    text
}

pub fn wait(view: &WaitView) -> String {
    if view.converged {
        return format!("converged at revision {}", view.applied_revision);
    }
    format!("NOT converged: {}", view.reasons.join("; "))
}

pub fn cluster(view: &ClusterView) -> String {
    let ClusterView { nodes, laggards, .. } = view;
    if view.converged {
        return format!("converged: all {nodes} nodes have read back what the API server had");
    }
    let mut text = format!("NOT converged: {} of {nodes} nodes", laggards.len());
    for Laggard { node, reason } in laggards {
        let _ = write!(text, "\n  {node}: {reason}");
    }
    text
}

pub fn services(views: &[ServiceView]) -> String {
    let rows = views.iter().map(|view| {
        let backends: Vec<String> = view
            .backends
            .iter()
            .map(|backend| match backend.weight {
                1 => backend.address.clone(),
                weight => format!("{} (weight {weight})", backend.address),
            })
            .collect();
        // A long list is for JSON.
        let shown = backends.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        let more = backends.len().saturating_sub(4);
        let backends = if more > 0 { format!("{shown}, and {more} more") } else { shown };
        vec![view.name.clone(), frontends(view), choice(view), backends, view.origin.clone()]
    });
    table(&["SERVICE", "FRONTENDS", "CHOICE", "BACKENDS", "FROM"], rows)
}

fn frontends(view: &ServiceView) -> String {
    let all = view.frontends.join(", ");
    let Some(ranges) = &view.source_ranges else { return all };
    let clients = if ranges.clients.is_empty() { "nobody".into() } else { ranges.clients.join(", ") };
    format!("{all} ({} only from {clients})", ranges.addresses.join(", "))
}

/// How a backend is chosen, as `plan` has it too.
pub fn choice(view: &ServiceView) -> String {
    let affinity = view.affinity_seconds.map(|seconds| format!("affinity {seconds} s"));
    let idle = view.idle_timeout_seconds.map(|seconds| format!("idle {seconds} s"));
    let dsr = view.dsr.as_ref().map(|way| format!("dsr {way}"));
    let proxy = view.proxy_protocol.as_ref().map(|version| format!("proxy-protocol {version}"));
    let words = [Some(view.algorithm.clone()), affinity, idle, dsr, proxy];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub fn backends(views: &[BackendView]) -> String {
    let rows = views.iter().map(|view| {
        let services = view.services.iter().map(|(name, weight)| match weight {
            1 => name.clone(),
            weight => format!("{name} (weight {weight})"),
        });
        let node = view.node.clone().unwrap_or_default();
        vec![view.address.clone(), node, services.collect::<Vec<_>>().join(", ")]
    });
    table(&["BACKEND", "NODE", "SERVICES"], rows)
}

pub fn endpoints(views: &[EndpointView]) -> String {
    let rows = views.iter().map(|view| {
        let labels: Vec<String> = view.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let (addresses, labels) = (view.addresses.join(", "), labels.join(","));
        vec![view.name.clone(), addresses, view.interface.clone(), view.mac.clone(), labels]
    });
    table(&["ENDPOINT", "ADDRESSES", "INTERFACE", "MAC", "LABELS"], rows)
}

pub fn policies(views: &[PolicyView]) -> String {
    let rows = views.iter().map(|view| {
        let rules = |rules: &Option<Vec<String>>| match rules {
            None => "-".to_owned(),
            Some(rules) => rules.len().to_string(),
        };
        let priority = view.priority.map(|priority| priority.to_string()).unwrap_or_default();
        let marks = [(view.audit, "audit"), (view.reject, "reject"), (view.faulty, "FAULTY")];
        let marks: Vec<&str> = marks.into_iter().filter(|(set, _)| *set).map(|(_, mark)| mark).collect();
        vec![
            policy_name(view),
            view.tier.clone(),
            priority,
            view.subject.clone(),
            rules(&view.ingress),
            rules(&view.egress),
            marks.join(", "),
            view.origin.clone(),
        ]
    });
    table(&["POLICY", "TIER", "PRIORITY", "SUBJECT", "INGRESS", "EGRESS", "MARKS", "FROM"], rows)
}

/// `Kind namespace/name`.
pub fn policy_name(view: &PolicyView) -> String {
    let PolicyView { kind, namespace, name, .. } = view;
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

pub fn nodes(views: &[NodeView]) -> String {
    let rows = views.iter().map(|view| {
        vec![
            view.name.clone(),
            view.addresses.join(", "),
            view.pod_cidrs.join(", "),
            view.stray_pods.len().to_string(),
            zone(view).to_owned(),
        ]
    });
    table(&["NODE", "ADDRESSES", "POD NETWORKS", "PODS OUTSIDE", "ZONE"], rows)
}

pub fn zone(view: &NodeView) -> &str {
    view.zone.as_deref().unwrap_or("-")
}

pub fn flows(views: &[FlowView]) -> String {
    let rows = views.iter().map(|view| {
        vec![
            view.protocol.clone(),
            view.source.clone(),
            view.destination.clone(),
            view.rewrite.clone(),
            view.direction.clone(),
            view.state.clone(),
            view.service.clone().unwrap_or_default(),
            format!("{}s", view.idle_seconds),
        ]
    });
    table(&["PROTO", "FROM", "TO", "REWRITTEN", "DIRECTION", "STATE", "SERVICE", "IDLE"], rows)
}

pub fn egress(views: &[EgressView]) -> String {
    let row = |view: &EgressView| {
        let endpoints = if view.endpoints.is_empty() { "-".into() } else { view.endpoints.join(" ") };
        let holder = view.holder.clone().unwrap_or_else(|| "-".into());
        let (addresses, nodes) = (view.addresses.join(" "), view.nodes.join(" "));
        vec![
            view.name.clone(),
            addresses,
            holder,
            nodes,
            view.subject.clone(),
            endpoints,
            view.origin.clone(),
        ]
    };
    table(&["NAME", "ADDRESSES", "HOLDER", "NODES", "SUBJECT", "HERE", "FROM"], views.iter().map(row))
}

pub fn counters(views: &[Counter]) -> String {
    let rows = views
        .iter()
        .filter(|view| view.packets > 0)
        .map(|view| vec![view.name.clone(), view.packets.to_string()]);
    table(&["COUNTER", "PACKETS"], rows)
}

pub fn trace(reply: &TraceReply) -> String {
    let mut text = format!("{} ({})\n", reply.verdict, reply.reason);
    let parts =
        [("service", &reply.service), ("backend", &reply.backend), ("leaves through", &reply.interface)];
    for (name, value) in parts {
        if let Some(value) = value {
            let _ = writeln!(text, "{name}: {value}");
        }
    }
    let _ = writeln!(text, "packet: {}", reply.packet_out);
    text
}

/// The frames of a capture, numbered as captures number them.
pub fn traces(replies: &[TraceReply]) -> String {
    let rows = replies.iter().enumerate().map(|(index, reply)| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let TraceReply { verdict, reason, service, backend, interface, .. } = reply;
        let mut row = vec![(index + 1).to_string(), verdict.clone(), reason.clone()];
        row.extend([text(service), text(backend), text(interface)]);
        row
    });
    table(&["PACKET", "VERDICT", "REASON", "SERVICE", "BACKEND", "LEAVES THROUGH"], rows)
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
