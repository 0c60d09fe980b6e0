//! Server and client over a real socket, with a loop that the test plays.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use hyper::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    client::{ask, get},
    server,
    view::{DesiredView, DetachView, EndpointView, WaitView},
};
use crate::{
    event::{Origin, Protocol},
    model::desired::{Backend, DesiredState, Endpoint, Frontend, Service, ServiceId},
    programming::Latency,
    snapshot::{
        AttachRequest, Attached, Command, Counter, Handle, Snapshot, Status, TraceReply, TraceRequest,
    },
};

/// An agent whose loop is this test.
struct Played {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
    server: JoinHandle<()>,
}

impl Played {
    fn new(mut obey: impl FnMut(Command) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let ((commands, mut asked), (changed, seen)) = (mpsc::channel(8), watch::channel(0));
        let snapshot = Arc::<ArcSwap<Snapshot>>::default();
        let latency = Latency::default();
        let handle = Handle { snapshot: snapshot.clone(), changed: seen, commands, latency };
        let server = tokio::spawn(server::serve(server::bind(&socket).unwrap(), handle));
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                obey(command);
            }
        });
        Self { _dir: dir, socket, snapshot, changed, server }
    }

    fn publish(&self, revision: u64, applied_revision: u64, reasons: &[&str]) {
        let status = Status {
            revision,
            applied_revision,
            converged: reasons.is_empty(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
            ..Status::default()
        };
        self.snapshot.store(Arc::new(Snapshot { status, ..Snapshot::default() }));
        self.changed.send_modify(|version| *version += 1);
    }

    async fn get(&self, path: &str) -> WaitView {
        get(&self.socket, path).await.unwrap()
    }

    /// Status line, headers and body of an answer, as `curl` would see them.
    async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let (line, body) = request.split_once('\n').unwrap_or((request, ""));
        let length = body.len();
        let text = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Every source has spoken: this is the revision.
fn fence_at(revision: u64) -> impl FnMut(Command) + Send {
    move |command| {
        if let Command::Fence(reply) = command {
            let _ = reply.send(Ok(revision));
        }
    }
}

#[tokio::test]
async fn wait_returns_when_what_the_sources_hold_stands() {
    let agent = Played::new(fence_at(2));
    agent.publish(1, 1, &[]);
    let (waited, ()) = tokio::join!(agent.get("/v1/wait"), async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        agent.publish(2, 1, &["revision 1 is applied, 2 is wanted"]);
        tokio::time::sleep(Duration::from_millis(30)).await;
        agent.publish(2, 2, &[]);
    });
    assert_eq!(waited, WaitView { converged: true, revision: 2, applied_revision: 2, reasons: Vec::new() });
}

#[tokio::test]
async fn wait_gives_up_with_the_reasons() {
    let agent = Played::new(fence_at(2));
    agent.publish(2, 1, &["cannot write to the maps: full"]);
    let waited = agent.get("/v1/wait?timeout_ms=30").await;
    let reasons = vec!["cannot write to the maps: full".to_owned()];
    assert_eq!(waited, WaitView { converged: false, revision: 2, applied_revision: 1, reasons });
}

#[tokio::test]
async fn a_revision_that_nobody_has_is_waited_for_in_vain() {
    let agent = Played::new(fence_at(2));
    agent.publish(2, 2, &[]);
    assert!(agent.get("/v1/wait?revision=2&timeout_ms=30").await.converged);
    assert!(agent.get("/v1/wait?revision=1&timeout_ms=30").await.converged);
    let waited = agent.get("/v1/wait?revision=9&timeout_ms=30").await;
    assert!(!waited.converged);
    assert_eq!(waited.reasons, ["revision 2 stands, 9 is waited for"]);
}

#[tokio::test]
async fn an_applied_revision_does_not_count_while_something_fails() {
    let agent = Played::new(fence_at(2));
    agent.publish(2, 2, &["the maps have not been read back as wanted"]);
    assert!(!agent.get("/v1/wait?revision=1&timeout_ms=30").await.converged);
}

#[tokio::test]
async fn a_source_that_does_not_answer_is_a_reason() {
    let mut kept = Vec::new();
    let agent = Played::new(move |command| kept.push(command));
    agent.publish(2, 2, &[]);
    let waited = agent.get("/v1/wait?timeout_ms=30").await;
    assert!(!waited.converged);
    assert_eq!(waited.reasons, ["a source did not answer in time"]);
}

#[tokio::test]
async fn converged_asks_the_sources_first() {
    let agent = Played::new(fence_at(3));
    agent.publish(2, 2, &[]);
    let answer = agent.get("/v1/converged").await;
    assert!(!answer.converged, "revision 3 was written and does not stand yet");
    agent.publish(3, 3, &[]);
    assert!(agent.get("/v1/converged").await.converged);
}

#[tokio::test]
async fn probes_and_scrapes_need_no_json() {
    let agent = Played::new(|command| {
        if let Command::Counters(reply) = command {
            let _ = reply.send(Ok(vec![Counter { name: "delivered".into(), drop: false, packets: 4 }]));
        }
    });
    agent.publish(2, 1, &["revision 1 is applied, 2 is wanted"]);
    let (status, text) = agent.raw("GET /readyz").await;
    assert!(status == 503 && text.ends_with("revision 1 is applied, 2 is wanted\n"), "{text}");
    agent.publish(2, 2, &[]);
    assert_eq!(agent.raw("GET /readyz").await.0, 200);
    assert_eq!(agent.raw("GET /healthz").await.0, 200);
    let (status, text) = agent.raw("GET /metrics").await;
    assert!(status == 200 && text.contains("content-type: application/openmetrics-text"), "{text}");
    assert!(text.contains("causeway_packets_total{verdict=\"delivered\",drop=\"false\"} 4"), "{text}");
}

#[tokio::test]
async fn endpoints_come_and_go_by_names_with_slashes() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let agent = Played::new(move |command| match command {
        Command::Attach(AttachRequest { addresses, labels, .. }, reply) => {
            let (interface, mac) = ("cw1".into(), [2, 0, 0, 0, 0, 0xab]);
            let endpoint = Endpoint { addresses, interface, ifindex: 7, mac, policy: None };
            let labels = Arc::new(labels.iter().map(|(k, v)| (k[..].into(), v[..].into())).collect());
            let _ = reply.send(Ok(Attached { endpoint, labels, netns: "/run/netns/web-1".into() }));
        }
        Command::Detach(name, reply) => {
            told.send(name).unwrap();
            let _ = reply.send(Ok(true));
        }
        _ => {}
    });
    let request = AttachRequest {
        name: "default/web-1".into(),
        netns: "/run/netns/x".into(),
        addresses: vec!["10.244.0.5".parse().unwrap()],
        labels: [("app".into(), "web".into())].into(),
        ..AttachRequest::default()
    };
    let attached: EndpointView =
        ask(&agent.socket, Method::POST, "/v1/endpoints", Some(&request)).await.unwrap();
    let expected = json!({"name": "default/web-1", "addresses": ["10.244.0.5"], "interface": "cw1", "ifindex": 7, "mac": "02:00:00:00:00:ab", "labels": {"app": "web"}, "netns": "/run/netns/web-1"});
    assert_eq!(serde_json::to_value(attached).unwrap(), expected);
    for path in ["?name=default%2Fweb-1", "/default/web-1", "/default%2Fweb-1"] {
        let path = format!("/v1/endpoints{path}");
        let answer: DetachView = ask(&agent.socket, Method::DELETE, &path, None::<&()>).await.unwrap();
        assert!(answer.detached);
        assert_eq!(heard.recv().await.unwrap(), "default/web-1");
    }
}

#[tokio::test]
async fn a_trace_goes_to_the_loop_and_back() {
    let agent = Played::new(|command| {
        if let Command::Trace(request, reply) = command {
            let packet_out = format!("{}:{:?}", request.interface, request.packet);
            let _ =
                reply.send(Ok(TraceReply { verdict: "pass".into(), packet_out, ..TraceReply::default() }));
        }
    });
    let request = TraceRequest { interface: "eth0".into(), packet: vec![1, 2] };
    let reply: TraceReply = ask(&agent.socket, Method::POST, "/v1/trace", Some(&request)).await.unwrap();
    assert_eq!(reply.packet_out, "eth0:[1, 2]");
}

#[tokio::test]
async fn the_desired_state_is_told_at_one_revision() {
    let agent = Played::new(|command| {
        if let Command::Desired(reply) = command {
            let origin = Arc::new(Origin { source: "manifests".into(), place: "web.yaml#1".into() });
            let backend = Backend {
                address: [10, 244, 0, 5].into(),
                port: 8080,
                weight: 3,
                node: Some("n1".into()),
                origin: origin.clone(),
            };
            let frontend = Frontend::at([10, 96, 0, 1].into(), 80, Protocol::Tcp);
            let service = Service {
                frontends: vec![frontend],
                backends: vec![backend],
                options: Default::default(),
                silent: false,
                terminating: [0; 2],
                origin,
            };
            let id = ServiceId::new(
                "default".into(),
                "web".into(),
                "http".into(),
                crate::model::desired::Scope::Cluster,
            );
            let services = BTreeMap::from([(id, service)]);
            let desired = DesiredState { revision: 5, services, ..DesiredState::default() };
            let _ = reply.send(Ok(Arc::new(desired)));
        }
    });
    let whole: DesiredView = get(&agent.socket, "/v1/desired").await.unwrap();
    let expected = json!({"revision": 5, "nodes": [], "policies": [], "egress": [], "services": [{
        "name": "default/web:http",
        "frontends": ["10.96.0.1:80/TCP"],
        "algorithm": "rendezvous",
        "backends": [{"address": "10.244.0.5:8080", "weight": 3, "node": "n1", "origin": "manifests:web.yaml#1"}],
        "affinity_seconds": null,
        "idle_timeout_seconds": null,
        "dsr": null,
        "proxy_protocol": null,
        "source_ranges": null,
        "silent": false,
        "origin": "manifests:web.yaml#1",
    }]});
    assert_eq!(serde_json::to_value(&whole).unwrap(), expected);
    let backends: Value = get(&agent.socket, "/v1/backends").await.unwrap();
    let expected = json!([{"address": "10.244.0.5:8080", "node": "n1", "services": {"default/web:http": 3}}]);
    assert_eq!(backends, expected);
}

#[tokio::test]
async fn what_is_refused_is_refused_in_json() {
    let agent = Played::new(|command| {
        if let Command::Flows { reply, .. } = command {
            let _ = reply.send(Err("read the flow tables: EPERM".into()));
        }
    });
    let error = get::<Value>(&agent.socket, "/v1/flows").await.unwrap_err();
    assert_eq!(error.to_string(), "read the flow tables: EPERM");
    // Thrown away by the loop: it is ending.
    let error = get::<Value>(&agent.socket, "/v1/counters").await.unwrap_err();
    assert_eq!(error.to_string(), "the agent is ending: start it again");
    for (request, status) in [
        ("GET /v1/flows", 422),
        ("GET /v1/nonsense", 404),
        ("DELETE /v1/status", 405),
        ("GET /v1/flows?limit=many", 400),
        ("POST /v1/trace\n{\"interface\"", 400),
        ("POST /v1/trace\n{\"interface\": 1}", 422),
    ] {
        let (answered, text) = agent.raw(request).await;
        let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(answered, status, "{request}: {text}");
        assert!(body["error"].is_string(), "{request}: {body}");
    }
}
