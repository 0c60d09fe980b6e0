//! A policy in, its rules in words out, then the refused fields.

use super::*;
use crate::{
    event::{
        Object,
        policy::{Namespaces, PolicyObject, Rule, Tier},
    },
    providers::convert::{self, Converted},
};

/// `subject; in: rule; rule; out: rule; !field !field`. A direction that it
/// says nothing about is left out.
fn words(converted: Converted) -> String {
    let mut words = Vec::new();
    for (key, object) in &converted.objects {
        let Object::Policy(policy) = object else { panic!("{object:?}") };
        assert_eq!(policy.faulty, !converted.refusals.is_empty(), "{key}");
        words.push(policy.subject.to_string());
        words.extend(rules(policy));
    }
    words.extend(converted.refusals.iter().map(|refusal| format!("!{}", refusal.field)));
    words.join("; ")
}

fn rules(policy: &PolicyObject) -> impl Iterator<Item = String> {
    let direction = |name: &str, rules: &Option<Vec<Rule>>, ingress| {
        let rules = rules.as_ref()?.iter().map(|rule| rule.words(ingress)).collect::<Vec<_>>();
        Some(format!("{name}: {}", rules.join("; ")).trim_end().to_owned())
    };
    [direction("in", &policy.ingress, true), direction("out", &policy.egress, false)].into_iter().flatten()
}

fn object(kind: &str, spec: &str) -> Converted {
    let name = if kind == "BaselineAdminNetworkPolicy" { "default" } else { "p" };
    noted(kind, &format!("{{name: {name}}}"), spec)
}

fn noted(kind: &str, metadata: &str, spec: &str) -> Converted {
    let text = format!("{{metadata: {metadata}, spec: {spec}}}");
    let names = &mut Names::default();
    match kind {
        "NetworkPolicy" => convert::network_policy(serde_saphyr::from_str(&text).unwrap(), names),
        "AdminNetworkPolicy" => convert::admin_network_policy(serde_saphyr::from_str(&text).unwrap(), names),
        "BaselineAdminNetworkPolicy" => {
            convert::baseline_admin_network_policy(serde_saphyr::from_str(&text).unwrap(), names)
        }
        "ClusterNetworkPolicy" => {
            convert::cluster_network_policy(serde_saphyr::from_str(&text).unwrap(), names)
        }
        "VirtualNetwork" => convert::virtual_network(serde_saphyr::from_str(&text).unwrap(), names),
        _ => convert::own_policy(serde_saphyr::from_str(&text).unwrap(), names),
    }
}

fn policy(converted: &Converted) -> &PolicyObject {
    match &converted.objects[0].1 {
        Object::Policy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn network(spec: &str, expect: &str) {
    let expect = format!("all pods of namespace default; {expect}");
    assert_eq!(words(object("NetworkPolicy", spec)), expect.trim_end_matches("; "), "{spec}");
}

#[test]
fn types_say_which_directions_are_isolated() {
    for (spec, expect) in [
        ("{}", "in:"),
        ("{podSelector: {}}", "in:"),
        ("{policyTypes: []}", "in:"),
        ("{ingress: []}", "in:"),
        ("{ingress: [{}]}", "in: allow from anybody"),
        ("{egress: []}", "in:"),
        ("{egress: [{}]}", "in:; out: allow to anybody"),
        ("{policyTypes: [Ingress]}", "in:"),
        ("{policyTypes: [Egress]}", "out:"),
        ("{policyTypes: [Ingress, Egress]}", "in:; out:"),
        ("{policyTypes: [Egress], ingress: [{}]}", "out:"),
        ("{policyTypes: [Ingress], egress: [{}]}", "in:"),
        ("{policyTypes: [Egress], egress: [{}]}", "out: allow to anybody"),
        // What it meant is not known: both.
        ("{policyTypes: [ingress]}", "in:; out:; !spec.policyTypes[0]"),
        ("{policyTypes: [Ingress, Exgress]}", "in:; out:; !spec.policyTypes[1]"),
        ("{egress: 5}", "in:; out:; !spec.egress"),
        ("{igress: [{}]}", "in:; !spec.igress"),
    ] {
        network(spec, expect);
    }
}

#[test]
fn the_subject_is_in_the_policys_namespace() {
    for (metadata, selector, expect) in [
        ("{name: p, namespace: shop}", "{}", "all pods of namespace shop; in:"),
        ("{name: p}", "{matchLabels: {b: x, app: web}}", "pods app=web,b=x of namespace default; in:"),
        (
            "{name: p}",
            "{matchExpressions: [{key: e, operator: Exists}, {key: d, operator: DoesNotExist}, {key: i, operator: In, values: [b, a, b]}, {key: n, operator: NotIn, values: [x]}], matchLabels: {m: ''}}",
            "pods !d,e,i in (a,b),m=,n!=x of namespace default; in:",
        ),
        (
            "{name: p}",
            "{matchExpressions: [{key: a, operator: In}]}",
            "!spec.podSelector.matchExpressions[0].values",
        ),
        (
            "{name: p}",
            "{matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
            "!spec.podSelector.matchExpressions[0].values",
        ),
        (
            "{name: p}",
            "{matchExpressions: [{key: a, operator: Equals, values: [b]}]}",
            "!spec.podSelector.matchExpressions[0].operator",
        ),
        (
            "{name: p}",
            "{matchExpressions: [{operator: Exists}]}",
            "!spec.podSelector.matchExpressions[0].key",
        ),
        (
            "{name: p}",
            "{matchExpressions: [{key: a, operator: In, values: [b, c/d]}]}",
            "!spec.podSelector.matchExpressions[0].values[1]",
        ),
        ("{name: p}", "{matchLabels: {a b: x}}", "!spec.podSelector.matchLabels[a b]"),
        ("{name: P}", "{}", "!metadata.name"),
        ("{}", "{}", "!metadata.name"),
    ] {
        let spec = format!("{{podSelector: {selector}}}");
        assert_eq!(words(noted("NetworkPolicy", metadata, &spec)), expect, "{metadata} {selector}");
    }
    assert_eq!(words(object("NetworkPolicy", "null")), "!spec");
}

#[test]
fn peers_of_network_policies() {
    for (peers, expect) in [
        ("null", "anybody"),
        ("[]", "anybody"),
        ("[{podSelector: {}}]", "all pods of namespace default"),
        ("[{podSelector: {matchLabels: {a: b}}}]", "pods a=b of namespace default"),
        ("[{namespaceSelector: {}}]", "all pods of all namespaces"),
        ("[{namespaceSelector: {matchLabels: {t: a}}}]", "all pods of namespaces t=a"),
        (
            "[{namespaceSelector: {matchLabels: {t: a}}, podSelector: {matchLabels: {a: b}}}, {podSelector: {}}]",
            "pods a=b of namespaces t=a or all pods of namespace default",
        ),
        ("[{ipBlock: {cidr: 10.1.2.3/8}}]", "10.0.0.0/8"),
        ("[{ipBlock: {cidr: 0.0.0.0/0, except: []}}]", "0.0.0.0/0"),
        (
            "[{ipBlock: {cidr: 'fd00::/8', except: ['fd02::/16', 'fd01::/16']}}]",
            "fd00::/8 except fd01::/16 and fd02::/16",
        ),
        // What is refused allows nothing, and the others stand.
        ("5", "nobody; !spec.ingress[0].from"),
        ("[{}]", "nobody; !spec.ingress[0].from[0]"),
        ("[null]", "nobody; !spec.ingress[0].from[0]"),
        ("[{podSelectr: {}}]", "nobody; !spec.ingress[0].from[0].podSelectr"),
        ("[{podSelector: {app: web}}]", "nobody; !spec.ingress[0].from[0].podSelector.app"),
        ("[{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]", "nobody; !spec.ingress[0].from[0].ipBlock"),
        ("[{ipBlock: {}}]", "nobody; !spec.ingress[0].from[0].ipBlock.cidr"),
        (
            "[{ipBlock: {cidr: 10.0.0.0/33}}, {podSelector: {}}]",
            "all pods of namespace default; !spec.ingress[0].from[0].ipBlock.cidr",
        ),
        ("[{ipBlock: {cidr: 10.0.0.1}}]", "nobody; !spec.ingress[0].from[0].ipBlock.cidr"),
        ("[{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]", "nobody; !spec.ingress[0].from[0].ipBlock.cidr"),
        (
            "[{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 11.0.0.0/16]}}]",
            "nobody; !spec.ingress[0].from[0].ipBlock.except[1]",
        ),
        (
            "[{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]",
            "nobody; !spec.ingress[0].from[0].ipBlock.except[0]",
        ),
        (
            "[{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/16']}}]",
            "nobody; !spec.ingress[0].from[0].ipBlock.except[0]",
        ),
    ] {
        network(&format!("{{ingress: [{{from: {peers}}}]}}"), &format!("in: allow from {expect}"));
    }
    network(
        "{policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}",
        "out: allow to all pods of namespace default",
    );
    // Peers under the wrong name would be none, and none are all.
    network("{ingress: [{to: [{podSelector: {}}]}]}", "in: allow from nobody; !spec.ingress[0].to");
    network(
        "{ingress: [{form: []}, {}]}",
        "in: allow from nobody; allow from anybody; !spec.ingress[0].form",
    );
    network("{ingress: [5, {}]}", "in: allow from anybody; !spec.ingress[0]");
    network("{ingress: {from: []}}", "in:; !spec.ingress");
}

#[test]
fn ports_of_network_policies() {
    for (ports, expect) in [
        ("null", ""),
        ("[]", ""),
        ("[{}]", " at TCP"),
        ("[{port: 80}]", " at 80/TCP"),
        ("[{protocol: UDP}]", " at UDP"),
        ("[{protocol: SCTP, port: 7}, {port: 80}]", " at 7/SCTP, 80/TCP"),
        ("[{port: http, protocol: UDP}]", " at http/UDP"),
        ("[{port: 80, endPort: 90}]", " at 80-90/TCP"),
        ("[{port: 80, endPort: 80}]", " at 80/TCP"),
        ("[{port: 1, endPort: 65535}]", " at 1-65535/TCP"),
        ("[{port: 0}]", " at no port; !spec.ingress[0].ports[0].port"),
        ("[{port: 65536}, {port: 80}]", " at 80/TCP; !spec.ingress[0].ports[0].port"),
        ("[{port: 80, endPort: 79}]", " at no port; !spec.ingress[0].ports[0].endPort"),
        ("[{port: 80, endPort: 65536}]", " at no port; !spec.ingress[0].ports[0].endPort"),
        ("[{port: http, endPort: 90}]", " at no port; !spec.ingress[0].ports[0].endPort"),
        ("[{endPort: 90}]", " at no port; !spec.ingress[0].ports[0].endPort"),
        ("[{port: HTTP}]", " at no port; !spec.ingress[0].ports[0].port"),
        ("[{port: '80'}]", " at no port; !spec.ingress[0].ports[0].port"),
        ("[{port: a--b}]", " at no port; !spec.ingress[0].ports[0].port"),
        ("[{port: [80]}]", " at no port; !spec.ingress[0].ports[0].port"),
        ("[{protocol: ICMP}]", " at no port; !spec.ingress[0].ports[0].protocol"),
        ("[{protocol: tcp}]", " at no port; !spec.ingress[0].ports[0].protocol"),
        ("[{prot: TCP}]", " at no port; !spec.ingress[0].ports[0].prot"),
        ("{port: 80}", " at no port; !spec.ingress[0].ports"),
    ] {
        network(&format!("{{ingress: [{{ports: {ports}}}]}}"), &format!("in: allow from anybody{expect}"));
    }
}

#[test]
fn annotations_say_audit_and_reject() {
    for (notes, audit, reject, refused) in [
        ("{}", false, false, 0),
        ("{causeway.io/audit: 'true'}", true, false, 0),
        ("{causeway.io/audit: 'false', causeway.io/reject: 'true'}", false, true, 0),
        ("{causeway.io/audit: 'yes', causeway.io/reject: ''}", false, false, 2),
    ] {
        let metadata = format!("{{name: p, annotations: {notes}}}");
        let converted = noted("NetworkPolicy", &metadata, "{}");
        let policy = policy(&converted);
        assert_eq!(
            (policy.audit, policy.reject, converted.refusals.len()),
            (audit, reject, refused),
            "{notes}"
        );
    }
    let metadata = "{name: p, annotations: {causeway.io/reject: 'true', causeway.io/audit: 'true'}}";
    let peers = "from: [{namespaces: {}}]";
    let spec = format!(
        "{{priority: 0, subject: {{namespaces: {{}}}}, ingress: [{{action: Deny, {peers}}}, {{action: Allow, {peers}}}]}}"
    );
    let converted = noted("AdminNetworkPolicy", metadata, &spec);
    let all = "all pods of all namespaces";
    assert_eq!(words(converted.clone()), format!("{all}; in: reject from {all}; allow from {all}"));
    assert!(policy(&converted).audit);
}

#[test]
fn a_subject_selects_as_in_its_own_namespace_only() {
    let converted = noted("NetworkPolicy", "{name: p, namespace: shop}", "{}");
    assert_eq!(policy(&converted).subject.namespaces, Namespaces::Named("shop".into()));
    assert_eq!(policy(&converted).tier, Tier::Namespaced);
}

mod admin;
mod virtual_network;
