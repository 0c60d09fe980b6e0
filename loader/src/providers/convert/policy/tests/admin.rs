//! The kinds that have an order.

use super::*;

const ALL: &str = "all pods of all namespaces";

fn spec(kind: &str, rest: &str) -> String {
    let head = match kind {
        "AdminNetworkPolicy" => "priority: 7, ",
        "BaselineAdminNetworkPolicy" => "",
        _ => "tier: Admin, priority: 7, ",
    };
    format!("{{{head}subject: {{namespaces: {{}}}}, {rest}}}")
}

/// Rules of every namespace's pods; `*` in what is expected are all pods.
#[track_caller]
fn check(kind: &str, rest: &str, expect: &str) {
    let said = words(object(kind, &spec(kind, rest)));
    let expect = format!("*; {expect}").replace('*', ALL);
    assert_eq!(said, expect.trim_end_matches("; "), "{kind} {rest}");
}

const KINDS: [&str; 4] =
    ["AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy", "Policy"];

#[test]
fn tiers_and_priorities() {
    let subject = "subject: {namespaces: {}}";
    for (kind, head, expect) in [
        ("AdminNetworkPolicy", "priority: 0", Ok(Tier::Admin { priority: 0 })),
        ("AdminNetworkPolicy", "priority: 1000", Ok(Tier::Admin { priority: 1000 })),
        ("AdminNetworkPolicy", "priority: 1001", Err("spec.priority")),
        ("AdminNetworkPolicy", "priority: -1", Err("spec.priority")),
        ("AdminNetworkPolicy", "x: 1", Err("spec.priority")),
        ("BaselineAdminNetworkPolicy", "ingress: []", Ok(Tier::Baseline { priority: 1000 })),
        ("ClusterNetworkPolicy", "tier: Admin, priority: 3", Ok(Tier::Admin { priority: 3 })),
        ("ClusterNetworkPolicy", "tier: Baseline, priority: 3", Ok(Tier::Baseline { priority: 3 })),
        ("ClusterNetworkPolicy", "tier: Middle, priority: 3", Err("spec.tier")),
        ("Policy", "priority: 3", Err("spec.tier")),
        ("Policy", "tier: Baseline", Err("spec.priority")),
    ] {
        let converted = object(kind, &format!("{{{head}, {subject}}}"));
        match expect {
            Ok(tier) => assert_eq!(policy(&converted).tier, tier, "{kind} {head}"),
            Err(field) => {
                assert!(converted.objects.is_empty(), "{kind} {head}");
                assert_eq!(converted.refusals[0].field, field, "{kind} {head}");
            }
        }
    }
    let other = noted("BaselineAdminNetworkPolicy", "{name: other}", "{subject: {namespaces: {}}}");
    assert_eq!(words(other), "!metadata.name");
    let metadata = "{name: p, namespace: ignored}";
    let own = noted("Policy", metadata, "{tier: Admin, priority: 1, subject: {namespaces: {}}}");
    assert_eq!(&*own.objects[0].0.namespace, "");
    // Fields of a neighbour.
    check("AdminNetworkPolicy", "tier: Admin", "!spec.tier");
    check("BaselineAdminNetworkPolicy", "priority: 1", "!spec.priority");
}

#[test]
fn subjects() {
    for (subject, expect) in [
        ("{namespaces: {matchLabels: {t: a}}}", "all pods of namespaces t=a"),
        ("{pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}", "pods a=b of all namespaces"),
        ("{pods: {podSelector: {}}}", "!spec.subject.pods.namespaceSelector"),
        ("{pods: {namespaceSelector: {}}}", "!spec.subject.pods.podSelector"),
        ("{pods: {namespaceSelector: {}, podSelector: {}}, namespaces: {}}", "!spec.subject"),
        ("{}", "!spec.subject"),
        ("null", "!spec.subject"),
    ] {
        let spec = format!("{{priority: 1, subject: {subject}}}");
        assert_eq!(words(object("AdminNetworkPolicy", &spec)), expect, "{subject}");
    }
    let spec = "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {a: b}}}}}";
    for kind in ["ClusterNetworkPolicy", "Policy"] {
        assert_eq!(words(object(kind, spec)), "pods a=b of all namespaces");
    }
}

#[test]
fn actions() {
    let peers = "from: [{namespaces: {}}]";
    for (action, expect) in [
        ("Allow", ["allow", "allow", "!", "allow"]),
        ("Accept", ["!", "!", "allow", "!"]),
        ("Deny", ["deny"; 4]),
        ("Pass", ["pass", "!", "pass", "pass"]),
        ("Reject", ["!", "!", "!", "reject"]),
        ("allow", ["!"; 4]),
        ("[Allow]", ["!"; 4]),
        ("null", ["!"; 4]),
    ] {
        for (kind, expect) in KINDS.into_iter().zip(expect) {
            // What nobody knows denies.
            let expect = match expect {
                "!" => "in: deny from *; !spec.ingress[0].action".to_owned(),
                known => format!("in: {known} from *"),
            };
            check(kind, &format!("ingress: [{{action: {action}, {peers}}}]"), &expect);
        }
    }
}

#[test]
fn peers() {
    let field = "spec.egress[0].to[0]";
    for (peer, expect) in [
        ("{namespaces: {}}", ["*"; 4]),
        (
            "{pods: {namespaceSelector: {matchLabels: {t: a}}, podSelector: {}}}",
            ["all pods of namespaces t=a"; 4],
        ),
        ("{networks: [10.0.0.0/8, 'fd00::/8']}", ["10.0.0.0/8 or fd00::/8"; 4]),
        ("{service: {namespace: shop, name: web}}", ["!service", "!service", "!service", "service shop/web"]),
        ("{service: {name: web}}", ["!service", "!service", "!service", "service default/web"]),
        ("{service: {name: W}}", ["!service", "!service", "!service", "!service.name"]),
        ("{nodes: {}}", ["!nodes"; 4]),
        ("{domainNames: [x.example]}", ["!domainNames"; 4]),
        ("{networks: []}", ["!networks"; 4]),
        ("{networks: [10.0.0.0/8, x]}", ["!networks[1]"; 4]),
        ("{}", ["!"; 4]),
        ("{namespaces: {}, networks: [10.0.0.0/8]}", ["!"; 4]),
        ("{sameLabels: [a]}", ["!sameLabels"; 4]),
    ] {
        for (kind, expect) in KINDS.into_iter().zip(expect) {
            let allow = if kind == "ClusterNetworkPolicy" { "Accept" } else { "Allow" };
            let (allowed, denied) = match expect.strip_prefix('!') {
                None => (format!("allow to {expect}"), format!("deny to {expect}")),
                // Allowed is nobody, denied and not passed is anybody.
                Some(below) => {
                    let field = format!("{field}.{below}").trim_end_matches('.').to_owned();
                    (format!("allow to nobody; !{field}"), format!("deny to anybody; !{field}"))
                }
            };
            let rule = |action: &str| format!("egress: [{{action: {action}, to: [{peer}]}}]");
            check(kind, &rule(allow), &format!("out: {allowed}"));
            check(kind, &rule("Deny"), &format!("out: {denied}"));
            if kind != "BaselineAdminNetworkPolicy" && expect.starts_with('!') {
                check(kind, &rule("Pass"), &format!("out: {denied}"));
            }
        }
    }
    for kind in &KINDS[..3] {
        let rule = "ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]";
        check(kind, rule, "in: deny from anybody; !spec.ingress[0].from[0].networks");
    }
    let rule = "ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}, {namespaces: {}}]}]";
    check("Policy", rule, "in: deny from 10.0.0.0/8 or *");
    let rule = "ingress: [{action: Allow, from: [{service: {name: a}}]}]";
    check("Policy", rule, "in: allow from nobody; !spec.ingress[0].from[0].service");
    for missing in ["", ", from: []", ", from: null"] {
        let rule = |action: &str| format!("ingress: [{{action: {action}{missing}}}]");
        check("Policy", &rule("Allow"), "in: allow from nobody; !spec.ingress[0].from");
        check("Policy", &rule("Deny"), "in: deny from anybody; !spec.ingress[0].from");
    }
}

#[test]
fn ports_of_admin_policies() {
    let all = "in: allow from *";
    for (ports, expect) in [
        ("[]", ""),
        ("null", ""),
        ("[{portNumber: {protocol: UDP, port: 53}}, {portNumber: {port: 80}}]", " at 53/UDP, 80/TCP"),
        ("[{portRange: {protocol: SCTP, start: 1, end: 9}}]", " at 1-9/SCTP"),
        ("[{namedPort: http}]", " at http/TCP, http/UDP, http/SCTP"),
        ("[{portNumber: {port: 0}}]", " at no port; !spec.ingress[0].ports[0].portNumber.port"),
        (
            "[{portNumber: {protocol: ICMP, port: 1}}]",
            " at no port; !spec.ingress[0].ports[0].portNumber.protocol",
        ),
        ("[{portRange: {start: 9, end: 1}}]", " at no port; !spec.ingress[0].ports[0].portRange.end"),
        ("[{portRange: {start: 9}}]", " at no port; !spec.ingress[0].ports[0].portRange.end"),
        ("[{namedPort: '80'}]", " at no port; !spec.ingress[0].ports[0].namedPort"),
        ("[{}]", " at no port; !spec.ingress[0].ports[0]"),
        (
            "[{namedPort: a, portNumber: {port: 1}}, {namedPort: b}]",
            " at b/TCP, b/UDP, b/SCTP; !spec.ingress[0].ports[0]",
        ),
        ("5", " at no port; !spec.ingress[0].ports"),
    ] {
        for kind in ["AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "Policy"] {
            let rule = format!("ingress: [{{action: Allow, from: [{{namespaces: {{}}}}], ports: {ports}}}]");
            check(kind, &rule, &format!("{all}{expect}"));
        }
    }
    let rule =
        |port: &str| format!("ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], ports: [{port}]}}]");
    check("Policy", &rule("{protocol: ICMP}, {protocol: TCP}"), "in: deny from * at ICMP, TCP");
    check("Policy", &rule("{protocol: GRE}"), "in: deny from *; !spec.ingress[0].ports[0].protocol");
    check("AdminNetworkPolicy", &rule("{protocol: TCP}"), "in: deny from *; !spec.ingress[0].ports[0]");
    check("AdminNetworkPolicy", &rule("{port: 80}"), "in: deny from *; !spec.ingress[0].ports[0].port");
    // Networks have no names for their ports.
    let rule = "egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], ports: [{namedPort: a}]}]";
    check("AdminNetworkPolicy", rule, "out: deny to 10.0.0.0/8; !spec.egress[0].ports[0]");
    let rule = rule.replace("Deny", "Allow");
    check("AdminNetworkPolicy", &rule, "out: allow to 10.0.0.0/8 at no port; !spec.egress[0].ports[0]");
}

#[test]
fn protocols_of_cluster_policies() {
    let field = "spec.ingress[0].protocols[0]";
    for (protocols, expect) in [
        ("{tcp: {destinationPort: {number: 80}}}", " at 80/TCP".to_owned()),
        ("{udp: {destinationPort: {range: {start: 1, end: 9}}}}", " at 1-9/UDP".to_owned()),
        ("{sctp: {}}", " at SCTP".to_owned()),
        ("{destinationNamedPort: http}", " at http/TCP, http/UDP, http/SCTP".to_owned()),
        ("{tcp: {destinationPort: {}}}", format!(" at no port; !{field}.tcp.destinationPort")),
        (
            "{tcp: {destinationPort: {number: 0}}}",
            format!(" at no port; !{field}.tcp.destinationPort.number"),
        ),
        ("{tcp: {}, udp: {}}", format!(" at no port; !{field}")),
        ("{icmp: {}}", format!(" at no port; !{field}.icmp")),
    ] {
        let rule =
            format!("ingress: [{{action: Accept, from: [{{namespaces: {{}}}}], protocols: [{protocols}]}}]");
        check("ClusterNetworkPolicy", &rule, &format!("in: allow from *{expect}"));
    }
    let rule = "ingress: [{action: Accept, from: [{namespaces: {}}], ports: [{namedPort: a}]}]";
    check("ClusterNetworkPolicy", rule, "in: allow from nobody; !spec.ingress[0].ports");
}

#[test]
fn a_rule_keeps_its_name_and_one_that_is_none_denies() {
    let peers = "from: [{namespaces: {}}]";
    check(
        "Policy",
        &format!("ingress: [{{name: web in, action: Allow, {peers}}}]"),
        "in: web in: allow from *",
    );
    let long = "n".repeat(101);
    for name in ["5", "[a]", &long] {
        let rule = format!("ingress: [{{name: {name}, action: Allow, {peers}}}]");
        check("Policy", &rule, "in: allow from *; !spec.ingress[0].name");
    }
    let odd = |action: &str| format!("ingress: [{{action: {action}, {peers}, log: true}}]");
    check("Policy", &odd("Allow"), "in: allow from nobody; !spec.ingress[0].log");
    check("Policy", &odd("Deny"), "in: deny from anybody; !spec.ingress[0].log");
    check("Policy", "ingress: [null]", "in: deny from anybody; !spec.ingress[0]");
    check("Policy", "egress: none", "out: deny to anybody; !spec.egress");
    check("Policy", "egress: []", "");
    check("Policy", "egres: []", "!spec.egres");
}
