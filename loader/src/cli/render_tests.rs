use serde_json::json;

use super::*;
use crate::api::view::{ServiceBackend, SourceRangesView};
use crate::snapshot::{Drift, HeldView, MapUse, ProblemView, SourceStatus};

/// `expected` without the indentation of the source, line by line.
#[track_caller]
fn check(shown: &str, expected: &[&str]) {
    assert_eq!(shown.trim_end().lines().collect::<Vec<_>>(), expected, "\n{shown}");
}

fn healthy() -> Status {
    Status {
        node: "n1".into(),
        revision: 12,
        applied_revision: 12,
        digest: "3fa9aaaabbbbcccc".into(),
        converged: true,
        uplink: Some("eth0".into()),
        hook: "tcx".into(),
        services: 2,
        endpoints: 1,
        nodes: 3,
        policies: 4,
        sources: vec![SourceStatus {
            name: "manifests".into(),
            synced: true,
            objects: 5,
            ..Default::default()
        }],
        maps: vec![MapUse { map: "frontends".into(), used: 3, capacity: 200 }],
        ..Status::default()
    }
}

#[test]
fn a_status_says_first_what_matters_most() {
    check(
        &status(&healthy()),
        &[
            "node n1 converged at revision 12 (digest 3fa9aaaabbbb)",
            "2 services, 1 endpoints, 3 nodes, 4 policies; uplink eth0, programs at tcx",
            "source manifests: synced, 5 objects, 0 problems",
            "",
            " MAP        USED  ROWS",
            " frontends  3     200   1%",
        ],
    );
}

#[test]
fn a_status_with_trouble_names_all_of_it() {
    let problem = ProblemView {
        origin: "manifests:web.yaml#2".into(),
        object: "Service default/web".into(),
        field: "spec.ports[0].port".into(),
        message: "0 is no port".into(),
    };
    let held = HeldView {
        kind: "Service".into(),
        objects: 95,
        of: 100,
        since: "2026-11-21T12:30:05Z".into(),
        again: Some("2026-11-21T12:30:35Z".into()),
        earlier: false,
    };
    let shown = Status {
        converged: false,
        reasons: vec!["cannot write to the maps: full".into(), "revision 11 is applied".into()],
        maps: Vec::new(),
        alarms: vec!["map frontends is full".into(), held.alarm("manifests")],
        sources: vec![SourceStatus { held: vec![held], ..healthy().sources.remove(0) }],
        problems: vec![problem, ProblemView { message: "alone".into(), ..ProblemView::default() }],
        drift: Drift { repaired: 2, last: vec!["frontends: a row was missing".into()] },
        ..healthy()
    };
    check(
        &status(&shown),
        &[
            "node n1 has NOT converged: cannot write to the maps: full; revision 11 is applied",
            "2 services, 1 endpoints, 3 nodes, 4 policies; uplink eth0, programs at tcx",
            "source manifests: synced, 5 objects, 0 problems, 95 HELD",
            "",
            "none",
            "",
            "ALARMS",
            "  map frontends is full",
            "  source manifests has lost 95 of 100 Service at once (2026-11-21T12:30:05Z): they are served on; it is asked again at 2026-11-21T12:30:35Z; to let them go now: causeway source release manifests",
            "",
            "PROBLEMS",
            "  manifests:web.yaml#2: Service default/web: spec.ports[0].port: 0 is no port",
            "  alone",
            "",
            "DRIFT (2 repaired, the last ones)",
            "  frontends: a row was missing",
        ],
    );
}

fn service(name: &str, backends: usize, weight: u32) -> ServiceView {
    let backend = |host| ServiceBackend {
        address: format!("10.244.0.{host}:8080"),
        weight,
        node: Some("n1".into()),
        origin: "manifests:web.yaml#2".into(),
    };
    ServiceView {
        name: name.into(),
        frontends: vec!["10.96.0.1:80/TCP".into()],
        algorithm: "rendezvous".into(),
        backends: (1..=backends).map(backend).collect(),
        origin: "manifests:web.yaml#1".into(),
        ..ServiceView::default()
    }
}

#[test]
fn services_are_a_line_each() {
    check(
        &services(&[service("default/web:http", 1, 5), service("default/x", 6, 1)]),
        &[
            " SERVICE           FRONTENDS         CHOICE      BACKENDS                                                                        FROM",
            " default/web:http  10.96.0.1:80/TCP  rendezvous  10.244.0.1:8080 (weight 5)                                                      manifests:web.yaml#1",
            " default/x         10.96.0.1:80/TCP  rendezvous  10.244.0.1:8080, 10.244.0.2:8080, 10.244.0.3:8080, 10.244.0.4:8080, and 2 more  manifests:web.yaml#1",
        ],
    );
}

#[test]
fn affinity_and_source_ranges_stand_beside_what_they_bear_on() {
    let with = |clients: &[&str]| ServiceView {
        affinity_seconds: Some(10_800),
        source_ranges: Some(SourceRangesView {
            addresses: vec!["203.0.113.7".into()],
            clients: clients.iter().map(|&net| net.into()).collect(),
        }),
        ..service("default/x", 1, 1)
    };
    assert_eq!(choice(&with(&[])), "rendezvous, affinity 10800 s");
    assert_eq!(frontends(&with(&[])), "10.96.0.1:80/TCP (203.0.113.7 only from nobody)");
    let two = with(&["10.0.0.0/8", "192.0.2.0/24"]);
    assert_eq!(frontends(&two), "10.96.0.1:80/TCP (203.0.113.7 only from 10.0.0.0/8, 192.0.2.0/24)");
}

#[test]
fn backends_name_their_services() {
    let services = [("default/a".to_owned(), 1), ("default/b".to_owned(), 7)].into();
    let view = BackendView { address: "10.244.0.1:8080".into(), node: Some("n1".into()), services };
    check(
        &backends(&[view]),
        &[" BACKEND          NODE  SERVICES", " 10.244.0.1:8080  n1    default/a, default/b (weight 7)"],
    );
}

#[test]
fn endpoints_nodes_flows_and_counters_are_lists() {
    let endpoint = EndpointView {
        name: "default/web-1".into(),
        addresses: vec!["10.244.0.5".into()],
        interface: "cw1".into(),
        ifindex: 7,
        mac: "02:00:00:00:00:01".into(),
        labels: [("app".into(), "web".into()), ("tier".into(), "front".into())].into(),
        netns: String::new(),
    };
    check(
        &endpoints(&[endpoint]),
        &[
            " ENDPOINT       ADDRESSES   INTERFACE  MAC                LABELS",
            " default/web-1  10.244.0.5  cw1        02:00:00:00:00:01  app=web,tier=front",
        ],
    );
    let node = NodeView {
        name: "n2".into(),
        addresses: vec!["192.168.0.2".into()],
        pod_cidrs: vec!["10.244.1.0/24".into()],
        stray_pods: vec!["10.9.9.9".into()],
        zone: Some("east".into()),
    };
    check(
        &nodes(&[node]),
        &[
            " NODE  ADDRESSES    POD NETWORKS   PODS OUTSIDE  ZONE",
            " n2    192.168.0.2  10.244.1.0/24  1             east",
        ],
    );
    let flow = FlowView {
        protocol: "TCP".into(),
        source: "10.244.0.5:40000".into(),
        destination: "10.96.0.1:80".into(),
        rewrite: "10.244.0.1:8080".into(),
        direction: "request".into(),
        state: "established".into(),
        service: None,
        idle_seconds: 3,
    };
    check(
        &flows(&[flow]),
        &[
            " PROTO  FROM              TO            REWRITTEN        DIRECTION  STATE        SERVICE  IDLE",
            " TCP    10.244.0.5:40000  10.96.0.1:80  10.244.0.1:8080  request    established           3s",
        ],
    );
    let counter = |name: &str, packets| Counter { name: name.into(), drop: false, packets };
    check(
        &counters(&[counter("delivered", 5), counter("forwarded", 0)]),
        &[" COUNTER    PACKETS", " delivered  5"],
    );
}

#[test]
fn a_policy_says_whom_it_is_about_and_how_many_rules_it_has() {
    let isolating = PolicyView {
        kind: "NetworkPolicy".into(),
        namespace: "shop".into(),
        name: "web".into(),
        tier: "namespaced".into(),
        priority: None,
        subject: "pods app=web of namespace shop".into(),
        ingress: Some(vec!["allow from anybody at 80/TCP".into()]),
        egress: None,
        audit: true,
        reject: true,
        faulty: true,
        origin: "manifests:p.yaml#1".into(),
    };
    let admin = PolicyView {
        kind: "AdminNetworkPolicy".into(),
        namespace: String::new(),
        tier: "admin".into(),
        priority: Some(7),
        ingress: Some(Vec::new()),
        audit: false,
        reject: false,
        faulty: false,
        ..isolating.clone()
    };
    check(
        &policies(&[isolating, admin]),
        &[
            " POLICY                  TIER        PRIORITY  SUBJECT                         INGRESS  EGRESS  MARKS                  FROM",
            " NetworkPolicy shop/web  namespaced            pods app=web of namespace shop  1        -       audit, reject, FAULTY  manifests:p.yaml#1",
            " AdminNetworkPolicy web  admin       7         pods app=web of namespace shop  0        -                              manifests:p.yaml#1",
        ],
    );
}

#[test]
fn an_empty_list_says_so() {
    for shown in [
        services(&[]),
        backends(&[]),
        endpoints(&[]),
        nodes(&[]),
        flows(&[]),
        counters(&[]),
        traces(&[]),
        policies(&[]),
    ] {
        assert_eq!(shown, "none");
    }
}

#[test]
fn wait_gives_the_reasons() {
    let view = |converged| WaitView {
        converged,
        revision: 3,
        applied_revision: 2,
        reasons: vec!["one".into(), "two".into()],
    };
    assert_eq!(wait(&view(true)), "converged at revision 2");
    assert_eq!(wait(&view(false)), "NOT converged: one; two");
}

fn reply() -> TraceReply {
    TraceReply {
        verdict: "redirect".into(),
        reason: "delivered".into(),
        service: Some("default/web:http".into()),
        backend: Some("10.244.0.1:8080".into()),
        rule: None,
        interface: Some("cw1".into()),
        packet_out: "0a0b".into(),
    }
}

#[test]
fn egress_addresses_are_listed_with_who_holds_them() {
    let view = EgressView {
        name: "out".into(),
        subject: "pods app=web of all namespaces".into(),
        addresses: vec!["192.0.2.50".into(), "2001:db8::50".into()],
        nodes: vec!["n0".into(), "n1".into()],
        holder: Some("n1".into()),
        endpoints: vec!["web".into()],
        origin: "manifests:out.yaml#1".into(),
    };
    let nobody = EgressView { name: "spare".into(), holder: None, endpoints: Vec::new(), ..view.clone() };
    check(
        &egress(&[view, nobody]),
        &[
            " NAME   ADDRESSES                HOLDER  NODES  SUBJECT                         HERE  FROM",
            " out    192.0.2.50 2001:db8::50  n1      n0 n1  pods app=web of all namespaces  web   manifests:out.yaml#1",
            " spare  192.0.2.50 2001:db8::50  -       n0 n1  pods app=web of all namespaces  -     manifests:out.yaml#1",
        ],
    );
}

#[test]
fn a_trace_tells_the_packets_way() {
    check(
        &trace(&reply()),
        &[
            "redirect (delivered)",
            "service: default/web:http",
            "backend: 10.244.0.1:8080",
            "leaves through: cw1",
            "packet: 0a0b",
        ],
    );
    let dropped = TraceReply { verdict: "drop".into(), reason: "drop_ttl".into(), ..TraceReply::default() };
    check(
        &traces(&[reply(), dropped]),
        &[
            " PACKET  VERDICT   REASON     SERVICE           BACKEND          LEAVES THROUGH",
            " 1       redirect  delivered  default/web:http  10.244.0.1:8080  cw1",
            " 2       drop      drop_ttl",
        ],
    );
}

#[test]
fn json_and_yaml_have_the_same_fields() {
    let json: serde_json::Value =
        serde_json::from_str(&Output::Json.text(&reply(), |_| String::new()).unwrap()).unwrap();
    let expected = json!({
        "verdict": "redirect", "reason": "delivered", "service": "default/web:http",
        "backend": "10.244.0.1:8080", "rule": null, "interface": "cw1", "packet_out": "0a0b",
    });
    assert_eq!(json, expected);
    let yaml = Output::Yaml.text(&reply(), |_| String::new()).unwrap();
    let read: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(read, expected, "{yaml}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    struct Gone(io::ErrorKind);
    impl io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(write(&mut Gone(io::ErrorKind::BrokenPipe), b"x").is_ok());
    assert!(write(&mut Gone(io::ErrorKind::StorageFull), b"x").is_err());
}
