//! Rows: a spec in, frontends and refused fields out.

use super::*;

/// `addresses ports`, then the refused fields; `-` when nothing is served.
fn check(spec: &str, expect: &str) {
    check_noted("", spec, expect);
}

#[track_caller]
fn check_noted(notes: &str, spec: &str, expect: &str) {
    let yaml = format!("{{metadata: {{name: web, annotations: {{{notes}}}}}, spec: {spec}}}");
    let converted = service(serde_saphyr::from_str(&yaml).unwrap(), &mut Names::default());
    let mut words = Vec::new();
    match converted.objects.first() {
        None => words.push("-".to_owned()),
        Some((_, Object::Service(object))) => {
            words.extend(object.addresses.iter().map(ToString::to_string));
            let named = |port: &ServicePort| format!("{}:{}", port.name, Range::of(port));
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
fn ranges() {
    for (ports, expect) in [
        ("{port: 10000, endPort: 60000, protocol: UDP}", ":10000-60000/UDP"),
        ("{port: 80, endPort: 80}", ":80/TCP"),
        ("{port: 7000, endPort: 7010, targetPort: 65525}", ":7000-7010/TCP"),
        ("{port: 7000, endPort: 7010, targetPort: 65526}", "- !spec.ports[0].targetPort"),
        ("{port: 80, endPort: 79}", "- !spec.ports[0].endPort"),
        ("{port: 80, endPort: 0}", "- !spec.ports[0].endPort"),
        ("{port: 80, endPort: 65536}", "- !spec.ports[0].endPort"),
        ("{name: a, port: 70, endPort: 80}, {name: b, port: 80}", "a:70-80/TCP b:80/TCP"),
        (
            "{name: a, port: 70, endPort: 80}, {name: b, port: 80, endPort: 90}",
            "a:70-80/TCP !spec.ports[1].endPort",
        ),
        (
            "{name: a, port: 70, endPort: 80}, {name: b, port: 80, endPort: 90, protocol: UDP}",
            "a:70-80/TCP b:80-90/UDP",
        ),
        ("{name: a, port: 70, endPort: 80}, {name: b, port: 1, endPort: 65535}", "a:70-80/TCP b:1-65535/TCP"),
    ] {
        let expect = if expect.starts_with('-') { expect.to_owned() } else { format!("10.96.0.1 {expect}") };
        check(&format!("{{clusterIP: 10.96.0.1, ports: [{ports}]}}"), &expect);
    }
}

#[test]
fn annotated_ranges() {
    let field = "!metadata.annotations[causeway.io/port-ranges]";
    for (ranges, expect) in [
        (
            "10000-60000/UDP, 7000-7010/TCP",
            ":80/TCP 10000-60000/UDP:10000-60000/UDP 7000-7010/TCP:7000-7010/TCP".into(),
        ),
        ("90-99", ":80/TCP 90-99/TCP:90-99/TCP".into()),
        ("7000/UDP", ":80/TCP 7000/UDP:7000/UDP".into()),
        ("80-90/TCP", ":80-90/TCP".into()),
        ("80-90/UDP", ":80/TCP 80-90/UDP:80-90/UDP".into()),
        ("70-90/TCP", ":80/TCP 70-90/TCP:70-90/TCP".into()),
        ("70-90/TCP,90-99/TCP", format!(":80/TCP 70-90/TCP:70-90/TCP {field}")),
        ("90-70/TCP,100-110/TCP", format!(":80/TCP 100-110/TCP:100-110/TCP {field}")),
        ("", format!(":80/TCP {field}")),
        ("1-2-3/TCP", format!(":80/TCP {field}")),
        ("0-9/TCP", format!(":80/TCP {field}")),
        ("1-65536/TCP", format!(":80/TCP {field}")),
        ("1-9/ICMP", format!(":80/TCP {field}")),
    ] {
        let notes = format!("causeway.io/port-ranges: '{ranges}'");
        check_noted(&notes, "{clusterIP: 10.96.0.1, ports: [{port: 80}]}", &format!("10.96.0.1 {expect}"));
    }
    let listed = "{clusterIP: 10.96.0.1, ports: [{port: 80, endPort: 85, targetPort: 65530}]}";
    check_noted("causeway.io/port-ranges: 85-90/TCP", listed, &format!("10.96.0.1 :80-85/TCP {field}"));
    let continued = "{clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 65530}]}";
    check_noted("causeway.io/port-ranges: 80-90/TCP", continued, "- !spec.ports[0].targetPort");
}

#[test]
fn whole_addresses() {
    let all = "1-65535/TCP:1-65535/TCP 1-65535/UDP:1-65535/UDP";
    let spec = "{clusterIP: 10.96.0.1, ports: [{port: 1}]}";
    check_noted("causeway.io/whole-address: 'true'", spec, &format!("10.96.0.1 :1/TCP {all}"));
    check_noted("causeway.io/whole-address: 'true'", "{clusterIP: 10.96.0.1}", &format!("10.96.0.1 {all}"));
    check_noted("causeway.io/whole-address: 'false'", spec, "10.96.0.1 :1/TCP");
    let field = "!metadata.annotations[causeway.io/whole-address]";
    check_noted("causeway.io/whole-address: 'yes'", spec, &format!("10.96.0.1 :1/TCP {field}"));
    let both = "causeway.io/whole-address: 'true', causeway.io/port-ranges: '1-65535/UDP, 9-19/UDP'";
    let expect = "1-65535/UDP:1-65535/UDP 9-19/UDP:9-19/UDP 1-65535/TCP:1-65535/TCP";
    check_noted(both, spec, &format!("10.96.0.1 :1/TCP {expect}"));
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

/// Whom others serve: by a label of the Service, or by what the load balancer says.
#[test]
fn of_other_proxies() {
    let spec = "spec: {clusterIP: 10.96.0.1, type: LoadBalancer, ports: [{port: 80}]}";
    let read = |metadata: &str, ingress: &str| {
        let yaml = format!(
            "{{metadata: {{name: web, {metadata}}}, {spec}, status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}"
        );
        let converted = service(serde_saphyr::from_str(&yaml).unwrap(), &mut Names::default());
        assert_eq!(converted.refusals, []);
        converted.objects.into_iter().next().map(|(_, object)| match object {
            Object::Service(object) => object.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        })
    };
    let addresses = |list: &[&str]| Some(list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    assert_eq!(read("labels: {service.kubernetes.io/service-proxy-name: other}", ""), None);
    assert_eq!(read("labels: {service.kubernetes.io/service-proxy-name: ''}", ""), None);
    for (ingress, expect) in [
        ("{ip: 192.0.2.1}", &["10.96.0.1", "192.0.2.1"][..]),
        ("{ip: 192.0.2.1, ipMode: VIP}", &["10.96.0.1", "192.0.2.1"]),
        ("{ip: 192.0.2.1, ipMode: Proxy}, {ip: 192.0.2.2}", &["10.96.0.1", "192.0.2.2"]),
        ("{hostname: lb.example.org}", &["10.96.0.1"]),
    ] {
        assert_eq!(read("labels: {app: web}", ingress), addresses(expect), "{ingress}");
    }
}
