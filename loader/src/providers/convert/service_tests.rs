//! Rows: a spec in, frontends and refused fields out.

use super::*;

/// `addresses ports`, then the refused fields; `-` when nothing is served.
fn check(spec: &str, expect: &str) {
    let yaml = format!("{{metadata: {{name: web}}, spec: {spec}}}");
    let converted = service(serde_saphyr::from_str(&yaml).unwrap(), &mut Names::default());
    let mut words = Vec::new();
    match converted.objects.first() {
        None => words.push("-".to_owned()),
        Some((_, Object::Service(object))) => {
            words.extend(object.addresses.iter().map(ToString::to_string));
            let named = |port: &ServicePort| format!("{}:{}/{}", port.name, port.port, port.protocol);
            words.extend(object.ports.iter().map(named));
        }
        Some(other) => panic!("{other:?}"),
    }
    words.extend(converted.refusals.into_iter().map(|refusal| format!("!{}", refusal.field)));
    assert_eq!(words.join(" "), expect, "{spec}");
}

#[test]
fn addresses() {
    let ports = "ports: [{port: 80}]";
    for (addresses, expect) in [
        ("clusterIP: 10.96.0.1", "10.96.0.1 :80/TCP"),
        ("clusterIPs: [10.96.0.1, 'fd00::1']", "10.96.0.1 fd00::1 :80/TCP"),
        ("clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1]", "10.96.0.1 :80/TCP"),
        ("clusterIP: 10.96.0.1, type: LoadBalancer", "10.96.0.1 :80/TCP"),
        ("clusterIP: 10.96.0.1, type: NodePort", "10.96.0.1 :80/TCP"),
        ("clusterIP: None", ":80/TCP"),
        ("clusterIP: None, clusterIPs: [None]", ":80/TCP"),
        ("type: ExternalName, externalName: example.org", ""),
        ("type: Tunnel, clusterIP: 10.96.0.1", "- !spec.type"),
        ("selector: {}", "- !spec.clusterIP"),
        ("clusterIP: ''", "- !spec.clusterIP"),
        ("clusterIP: 10.96.0.300", "- !spec.clusterIP"),
        ("clusterIP: 10.96.0.1/32", "- !spec.clusterIP"),
        ("clusterIP: 127.0.0.1", "- !spec.clusterIP"),
        ("clusterIP: 224.0.0.1", "- !spec.clusterIP"),
        ("clusterIP: 0.0.0.0", "- !spec.clusterIP"),
        ("clusterIP: 169.254.1.1", "- !spec.clusterIP"),
        ("clusterIP: 255.255.255.255", "- !spec.clusterIP"),
        ("clusterIP: '::1'", "- !spec.clusterIP"),
        ("clusterIP: 'fe80::1'", "- !spec.clusterIP"),
        ("clusterIP: '::ffff:10.0.0.1'", "- !spec.clusterIP"),
        ("clusterIP: 10.96.0.1, clusterIPs: [10.96.0.2]", "- !spec.clusterIPs[0]"),
        ("clusterIPs: [10.96.0.1, None]", "- !spec.clusterIPs[1]"),
        ("clusterIPs: [10.96.0.1, 10.96.0.2]", "10.96.0.1 :80/TCP !spec.clusterIPs[1]"),
        ("clusterIPs: [10.96.0.1, '::1']", "10.96.0.1 :80/TCP !spec.clusterIPs[1]"),
        ("clusterIP: 10.96.0.1, ipFamilies: [IPv6]", "- !spec.ipFamilies[0]"),
        ("clusterIP: 10.96.0.1, ipFamilies: [IPv4, IPv6]", "10.96.0.1 :80/TCP"),
    ] {
        check(&format!("{{{addresses}, {ports}}}"), expect);
    }
}

#[test]
fn ports() {
    for (ports, expect) in [
        ("[{port: 1}]", ":1/TCP"),
        ("[{port: 65535, protocol: UDP}]", ":65535/UDP"),
        ("[{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]", "a:53/TCP b:53/UDP"),
        ("[]", "- !spec.ports"),
        ("[{port: 0}]", "- !spec.ports[0].port"),
        ("[{port: -1}]", "- !spec.ports[0].port"),
        ("[{port: 65536}]", "- !spec.ports[0].port"),
        ("[{name: a, port: 80}, {name: b, port: 0}]", "a:80/TCP !spec.ports[1].port"),
        ("[{name: a, port: 80}, {name: a, port: 81}]", "a:80/TCP !spec.ports[1].name"),
        ("[{port: 80}, {port: 81}]", ":80/TCP !spec.ports[1].name"),
        ("[{name: a, port: 80}, {name: b, port: 80}]", "a:80/TCP !spec.ports[1].port"),
        ("[{port: 80, protocol: SCTP}]", "- !spec.ports[0].protocol"),
        ("[{port: 80, protocol: tcp}]", "- !spec.ports[0].protocol"),
        ("[{port: 80, name: Web}]", "- !spec.ports[0].name"),
        ("[{port: 80, targetPort: 0}]", "- !spec.ports[0].targetPort"),
        ("[{port: 80, targetPort: http}]", ":80/TCP"),
        ("[{port: 80, nodePort: 70000}]", "- !spec.ports[0].nodePort"),
    ] {
        let expect = if expect.starts_with('-') { expect.to_owned() } else { format!("10.96.0.1 {expect}") };
        check(&format!("{{clusterIP: 10.96.0.1, ports: {ports}}}"), &expect);
    }
}

#[test]
fn names() {
    for (metadata, field) in [
        ("{}", "metadata.name"),
        ("{name: ''}", "metadata.name"),
        ("{name: Web}", "metadata.name"),
        ("{name: a_b}", "metadata.name"),
        ("{name: a.b}", "metadata.name"),
        ("{name: -a}", "metadata.name"),
        ("{name: a, namespace: A}", "metadata.namespace"),
    ] {
        let yaml = format!("{{metadata: {metadata}, spec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]}}}}");
        let converted = service(serde_saphyr::from_str(&yaml).unwrap(), &mut Names::default());
        assert!(converted.objects.is_empty(), "{metadata}");
        assert_eq!(converted.refusals[0].field, field, "{metadata}");
    }
}
