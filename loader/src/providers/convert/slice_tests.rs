//! Rows: a slice in, backends and refused fields out.

use super::*;

/// `weight ports endpoints`, unready ones in brackets, draining ones in angles, then the refused
/// fields; `-` when nothing is served. Subsets are parted by `|`.
fn words(converted: Converted) -> String {
    let mut slices = Vec::new();
    for (_, object) in converted.objects {
        let Object::Slice(object) = object else { panic!("{object:?}") };
        let mut words = vec![format!("w{}", object.weight)];
        words
            .extend(object.ports.iter().map(|port| format!("{}:{}/{}", port.name, port.port, port.protocol)));
        words.extend(object.endpoints.iter().map(|endpoint| match endpoint.state {
            EndpointState::Ready => endpoint.address.to_string(),
            EndpointState::Draining => format!("<{}>", endpoint.address),
            EndpointState::NotReady => format!("({})", endpoint.address),
        }));
        slices.push(words.join(" "));
    }
    let mut words = vec![if slices.is_empty() { "-".to_owned() } else { slices.join(" | ") }];
    words.extend(converted.refusals.into_iter().map(|refusal| format!("!{}", refusal.field)));
    words.join(" ")
}

fn check_slice(text: &str, expect: &str) {
    let yaml = format!("{{metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}, {text}}}");
    let wire: EndpointSlice = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(words(slice(wire, &mut Names::default())), expect, "{text}");
}

#[test]
fn addresses_and_ports_of_a_slice() {
    let v4 = "addressType: IPv4, ports: [{port: 8080}]";
    for (text, expect) in [
        (format!("{v4}, endpoints: [{{addresses: [10.1.0.1]}}]"), "w1 :8080/TCP 10.1.0.1"),
        (
            format!("{v4}, endpoints: [{{addresses: [10.1.0.1, 10.1.0.2], conditions: {{ready: false}}}}]"),
            "w1 :8080/TCP (10.1.0.1)",
        ),
        (
            format!(
                "{v4}, endpoints: [{{addresses: [10.1.0.1], conditions: {{ready: false, terminating: true}}}}]"
            ),
            "w1 :8080/TCP <10.1.0.1>",
        ),
        (
            format!(
                "{v4}, endpoints: [{{addresses: [10.1.0.1], conditions: {{ready: false, serving: false, terminating: true}}}}]"
            ),
            "w1 :8080/TCP (10.1.0.1)",
        ),
        (
            format!(
                "{v4}, endpoints: [{{addresses: [10.1.0.1], conditions: {{ready: true, terminating: true}}}}]"
            ),
            "w1 :8080/TCP 10.1.0.1",
        ),
        (
            format!("{v4}, endpoints: [{{addresses: []}}, {{addresses: [10.1.0.2]}}]"),
            "w1 :8080/TCP 10.1.0.2 !endpoints[0].addresses",
        ),
        (format!("{v4}, endpoints: [{{addresses: ['fd00::1']}}]"), "w1 :8080/TCP !endpoints[0].addresses[0]"),
        (format!("{v4}, endpoints: [{{addresses: [127.0.0.1]}}]"), "w1 :8080/TCP !endpoints[0].addresses[0]"),
        (format!("{v4}, endpoints: [{{addresses: [224.1.1.1]}}]"), "w1 :8080/TCP !endpoints[0].addresses[0]"),
        (format!("{v4}, endpoints: [{{addresses: [0.0.0.0]}}]"), "w1 :8080/TCP !endpoints[0].addresses[0]"),
        (
            format!("{v4}, endpoints: [{{addresses: [10.1.0.1], nodeName: No_de}}]"),
            "w1 :8080/TCP !endpoints[0].nodeName",
        ),
        ("addressType: IPv6, endpoints: [{addresses: ['fd00::1']}]".into(), "w1 fd00::1"),
        ("addressType: FQDN, endpoints: [{addresses: [example.org]}]".into(), "- !addressType"),
        ("addressType: ipv4".into(), "- !addressType"),
        ("endpoints: []".into(), "- !addressType"),
        ("addressType: IPv4, ports: [{name: a}]".into(), "w1 !ports[0].port"),
        ("addressType: IPv4, ports: [{port: 0}]".into(), "w1 !ports[0].port"),
        ("addressType: IPv4, ports: [{port: 1, protocol: SCTP}]".into(), "w1 !ports[0].protocol"),
        ("addressType: IPv4, ports: [{port: 1}, {port: 2}]".into(), "w1 :1/TCP !ports[1].name"),
        ("addressType: IPv4, ports: [{port: 1, name: a}, {port: 1, name: b}]".into(), "w1 a:1/TCP b:1/TCP"),
    ] {
        check_slice(&text, expect);
    }
}

#[test]
fn a_slice_names_its_service_and_weighs_its_backends() {
    for (metadata, expect) in [
        ("labels: {kubernetes.io/service-name: web}", "w1"),
        ("labels: {kubernetes.io/service-name: web}, annotations: {causeway.io/weight: '0'}", "w0"),
        ("labels: {kubernetes.io/service-name: web}, annotations: {causeway.io/weight: '1000'}", "w1000"),
        (
            "labels: {kubernetes.io/service-name: web}, annotations: {causeway.io/weight: '1001'}",
            "- !metadata.annotations[causeway.io/weight]",
        ),
        (
            "labels: {kubernetes.io/service-name: web}, annotations: {causeway.io/weight: '-1'}",
            "- !metadata.annotations[causeway.io/weight]",
        ),
        (
            "labels: {kubernetes.io/service-name: web}, annotations: {causeway.io/weight: heavy}",
            "- !metadata.annotations[causeway.io/weight]",
        ),
        ("labels: {}", "- !metadata.labels[kubernetes.io/service-name]"),
        ("labels: {kubernetes.io/service-name: ''}", "- !metadata.labels[kubernetes.io/service-name]"),
        ("labels: {kubernetes.io/service-name: We_b}", "- !metadata.labels[kubernetes.io/service-name]"),
    ] {
        let yaml = format!("{{metadata: {{name: a, {metadata}}}, addressType: IPv4}}");
        let wire: EndpointSlice = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(words(slice(wire, &mut Names::default())), expect, "{metadata}");
    }
}

#[test]
fn more_endpoints_than_a_service_can_have_are_refused() {
    let endpoint = |n: usize| Endpoint {
        addresses: vec![format!("10.1.{}.{}", n / 250, n % 250 + 1)],
        ..Endpoint::default()
    };
    let wire = |count| EndpointSlice {
        address_type: "IPv4".into(),
        endpoints: Some((0..count).map(endpoint).collect()),
        metadata: ObjectMeta {
            name: Some("a".into()),
            labels: Some([(SERVICE_LABEL.to_owned(), "web".to_owned())].into()),
            ..ObjectMeta::default()
        },
        ..EndpointSlice::default()
    };
    assert_eq!(slice(wire(MAX_BACKENDS), &mut Names::default()).objects.len(), 1);
    let refused = slice(wire(MAX_BACKENDS + 1), &mut Names::default());
    assert!(refused.objects.is_empty());
    assert_eq!(refused.refusals[0].field, "endpoints");
}

#[test]
fn subsets_are_slices_of_the_service_of_their_name() {
    for (subsets, expect) in [
        (
            "[{addresses: [{ip: 10.1.0.1}], notReadyAddresses: [{ip: 10.1.0.2}], ports: [{port: 80}]}]",
            "w1 :80/TCP 10.1.0.1 (10.1.0.2)",
        ),
        (
            "[{addresses: [{ip: 10.1.0.1}], ports: [{port: 80}]}, {addresses: [{ip: 10.1.0.2}], ports: [{port: 81}]}]",
            "w1 :80/TCP 10.1.0.1 | w1 :81/TCP 10.1.0.2",
        ),
        (
            "[{addresses: [{ip: localhost}], ports: [{port: 0}]}]",
            "w1 !subsets[0].addresses[0].ip !subsets[0].ports[0].port",
        ),
        ("[]", "-"),
    ] {
        let wire: Endpoints =
            serde_saphyr::from_str(&format!("{{metadata: {{name: web}}, subsets: {subsets}}}")).unwrap();
        let converted = endpoints(wire, &mut Names::default());
        let service = |object: &Object| matches!(object, Object::Slice(slice) if &*slice.service == "web");
        assert!(converted.objects.iter().all(|(_, object)| service(object)));
        assert_eq!(words(converted), expect, "{subsets}");
    }
}
