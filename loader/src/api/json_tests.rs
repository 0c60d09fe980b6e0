//! docs/json.md names every field that the API has.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Value, json};

use super::{
    policy_inputs::{PolicyInputs, ServiceInput},
    refusal::ErrorView,
    selection_view::{SelectionEndpoint, SelectionPort, SelectionReply},
    view::{
        BackendView, DesiredView, DetachView, EgressView, EndpointView, KeptView, NodeView, PolicyView,
        ServiceBackend, ServiceView, SourceRangesView, UninstallView, WaitView,
    },
};
use crate::event::Protocol;
use crate::model::desired::{Clients, Frontend};
use crate::snapshot::{
    AttachRequest, Attachment, Counter, FlowView, HostPort, JoinRequest, JoinView, KeepRequest, MapUse,
    ProblemView, SourceStatus, Status, TraceReply, TraceRequest,
};

/// Every name in a value, however deep.
fn names(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                found.push(name.clone());
                names(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| names(item, found)),
        _ => {}
    }
}

#[test]
fn every_field_is_documented() {
    let docs = include_str!("../../../docs/json.md");
    let status = Status {
        sources: vec![SourceStatus::default()],
        problems: vec![ProblemView::default()],
        maps: vec![MapUse::default()],
        ..Status::default()
    };
    let text = String::new;
    let backend = ServiceBackend { address: text(), weight: 1, node: None, origin: text() };
    let chosen = SelectionEndpoint { backend: backend.clone(), zone: None, serves: true, why: text() };
    let port = SelectionPort {
        name: text(),
        scope: text(),
        frontends: vec![],
        endpoints: vec![chosen],
        lost: vec![],
    };
    let selection =
        SelectionReply { service: text(), node: text(), zone: None, origin: text(), ports: vec![port] };
    let frontend = Frontend {
        clients: Clients::Inside,
        ..Frontend::at(std::net::Ipv4Addr::UNSPECIFIED.into(), 1, Protocol::Tcp)
    };
    let service =
        ServiceInput { namespace: "".into(), name: "".into(), frontends: vec![frontend], backends: vec![] };
    let inputs = PolicyInputs { services: vec![service], ..PolicyInputs::default() };
    let service = ServiceView {
        name: text(),
        frontends: Vec::new(),
        algorithm: text(),
        backends: vec![backend],
        affinity_seconds: None,
        idle_timeout_seconds: None,
        dsr: None,
        proxy_protocol: None,
        source_ranges: Some(SourceRangesView { addresses: vec![], clients: vec![] }),
        silent: false,
        origin: text(),
    };
    let node =
        NodeView { name: text(), addresses: vec![], pod_cidrs: vec![], stray_pods: vec![], zone: None };
    let endpoint = EndpointView {
        name: text(),
        addresses: vec![],
        interface: text(),
        ifindex: 1,
        mac: text(),
        labels: BTreeMap::new(),
        netns: text(),
    };
    let policy = PolicyView {
        kind: text(),
        namespace: text(),
        name: text(),
        tier: text(),
        priority: None,
        subject: text(),
        ingress: None,
        egress: None,
        audit: false,
        reject: false,
        faulty: false,
        origin: text(),
    };
    let egress = EgressView {
        name: text(),
        subject: text(),
        addresses: vec![],
        nodes: vec![],
        holder: None,
        endpoints: vec![],
        origin: text(),
    };
    let flow = FlowView {
        protocol: text(),
        source: text(),
        destination: text(),
        rewrite: text(),
        direction: text(),
        state: text(),
        service: None,
        idle_seconds: 0,
    };
    let attach = AttachRequest {
        name: text(),
        netns: PathBuf::new(),
        addresses: vec![],
        interface: None,
        mtu: None,
        labels: BTreeMap::new(),
        mac: Some(text()),
        attachment: Some(Attachment::default()),
        ports: vec![HostPort {
            protocol: Protocol::Tcp,
            host: 1,
            end: Some(1),
            container: 1,
            address: Some([1, 1, 1, 1].into()),
        }],
        handover: true,
    };
    let values = json!([
        status,
        DesiredView {
            revision: 1,
            services: vec![service],
            nodes: vec![node],
            policies: vec![policy],
            egress: vec![egress]
        },
        BackendView { address: text(), node: None, services: BTreeMap::from([("x".into(), 1)]) },
        endpoint,
        flow,
        attach,
        JoinRequest { attachment: Attachment::default(), ..JoinRequest::default() },
        JoinView::default(),
        KeepRequest::default(),
        KeptView { detached: vec![] },
        Counter { name: text(), drop: false, packets: 0 },
        WaitView::default(),
        selection,
        inputs,
        TraceReply::default(),
        TraceRequest { interface: text(), packet: Vec::new() },
        DetachView { detached: true },
        UninstallView { uninstalled: true },
        ErrorView { error: text(), remedy: Some(text()) },
    ]);
    // `services` of a backend has names of services for keys, of which `x` is one.
    let mut found = Vec::new();
    names(&values, &mut found);
    for name in found.iter().filter(|name| *name != "x") {
        let there = docs.contains(&format!("`{name}`")) || docs.contains(&format!("\"{name}\""));
        assert!(there, "docs/json.md does not name the field {name}");
    }
}
