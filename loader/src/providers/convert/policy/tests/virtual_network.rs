//! What a VirtualNetwork says, as policies say it.

use super::{noted, words};

#[track_caller]
fn check(spec: &str, expect: &str) {
    assert_eq!(words(noted("VirtualNetwork", "{name: blue}", spec)), expect, "{spec}");
}

#[test]
fn members_are_apart_from_all_but_peers() {
    let all = "pods causeway.io/network=blue of all namespaces";
    let apart = |action: &str, others: &str| {
        let rule = format!("another network: {action} %pods {others} of all namespaces");
        format!("in: {}; out: {}", rule.replace('%', "from "), rule.replace('%', "to "))
    };
    for (spec, others) in [
        ("{members: {namespaces: {}}}", "causeway.io/network!=blue"),
        ("{members: {namespaces: {}}, peers: []}", "causeway.io/network!=blue"),
        ("{members: {namespaces: {}}, peers: [red, blue]}", "causeway.io/network notin (blue,red)"),
        ("{members: {namespaces: {}}, peers: [default]}", "causeway.io/network!=blue,causeway.io/network"),
    ] {
        check(spec, &format!("{all}; {}", apart("deny", others)));
    }
    let some = "{members: {pods: {podSelector: {matchLabels: {app: web}}}}}";
    let subject = "pods app=web,causeway.io/network=blue of all namespaces";
    check(some, &format!("{subject}; {}", apart("deny", "causeway.io/network!=blue")));
    let told = "{name: blue, annotations: {causeway.io/reject: 'true'}}";
    let said = words(noted("VirtualNetwork", told, "{members: {namespaces: {}}}"));
    assert_eq!(said, format!("{all}; {}", apart("reject", "causeway.io/network!=blue")));
    check(
        "{members: {namespaces: {}}, peers: ['a b', red], open: true}",
        &format!(
            "{all}; {}; !spec.open; !spec.peers[0]",
            apart("deny", "causeway.io/network notin (blue,red)")
        ),
    );
}

#[test]
fn without_members_that_can_be_read_nobody_talks() {
    let closed = "pods causeway.io/network=blue of all namespaces; in: another network: deny from all pods of all namespaces; out: another network: deny to all pods of all namespaces";
    for (spec, field) in [
        ("{}", "spec.members"),
        ("{members: {}}", "spec.members"),
        ("{members: {namespaces: {matchLabels: {a: 'b c'}}}}", "spec.members.namespaces.matchLabels[a]"),
        ("{members: {pods: {namespaceSelector: {}}}, peers: [red]}", "spec.members.pods.podSelector"),
    ] {
        check(spec, &format!("{closed}; !{field}"));
    }
}

#[test]
fn without_a_name_of_its_own_it_is_none() {
    let of = |name: &str| {
        words(noted("VirtualNetwork", &format!("{{name: {name}}}"), "{members: {namespaces: {}}}"))
    };
    assert_eq!(of("default"), "!metadata.name");
    assert_eq!(of("a.b"), "!metadata.name");
}
