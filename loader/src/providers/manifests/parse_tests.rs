//! Text in, objects and problems by place and field out; and no panic.

use proptest::prelude::*;

use super::*;

fn run(file: &str, text: &str) -> Parsed {
    let mut parser = Parser::new("manifests".into());
    parser.parse(&[(file.into(), text.to_owned())]).remove(0)
}

fn service(name: &str, port: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: {port}}}]}}\n"
    )
}

/// `place|object|field|message` of each problem; a message need only start so.
fn check(file: &str, text: &str, objects: usize, problems: &[&str]) {
    let parsed = run(file, text);
    let said: Vec<String> = parsed
        .problems
        .iter()
        .map(|p| {
            let place = p.origin.as_ref().map(|origin| origin.place.to_string()).unwrap_or_default();
            format!("{place}|{}|{}|{}", p.object, p.field, p.message)
        })
        .collect();
    assert_eq!(parsed.entries.len(), objects, "{said:?}");
    assert_eq!(said.len(), problems.len(), "{said:?}");
    for (said, expect) in said.iter().zip(problems) {
        assert!(said.starts_with(expect), "{said}\n  is not {expect}");
    }
}

#[test]
fn a_bad_document_leaves_its_neighbours() {
    let text = format!("# head\n---\n{}--- # two\nkind: [\n---\n{}", service("a", 80), service("b", 80));
    check("f.yaml", &text, 2, &["f.yaml#2|||not YAML: "]);
    assert!(run("f.yaml", &text).incomplete);
}

#[test]
fn errors_count_lines_from_the_top_of_the_file() {
    let text = format!("{}---\na: 1\nb: [\n", service("a", 80));
    assert!(
        run("f.yaml", &text).problems[0].message.contains("line 7"),
        "{:?}",
        run("f.yaml", &text).problems
    );
    let text = "{\"a\":1}\n{\n\"b\":";
    assert!(run("f.json", text).problems[1].message.contains("line 3"), "{:?}", run("f.json", text).problems);
}

#[test]
fn a_list_is_its_items() {
    let item = |name: &str, port: u32| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},"spec":{{"clusterIP":"10.0.0.1","ports":[{{"port":{port}}}]}}}}"#
        )
    };
    let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{},{}]}}"#, item("a", 80), item("b", 0));
    let problem = "f.json#1[1]|Service b|spec.ports[0].port|0 is no port";
    check("f.json", &list, 1, &[problem]);
    check("f.yaml", &list, 1, &[&problem.replace("json", "yaml")]);
    let typed =
        list.replace("\"List\"", "\"ServiceList\"").replace(r#""apiVersion":"v1","kind":"Service","#, "");
    check("f.json", &typed, 1, &[problem]);
    check("f.yaml", "apiVersion: v1\nkind: ServiceList\n", 0, &["f.yaml#1|ServiceList|items|missing"]);
    check(
        "f.yaml",
        "{apiVersion: v1, kind: List, items: [{kind: List}]}",
        0,
        &["f.yaml#1[0]|List|kind|a list inside"],
    );
}

#[test]
fn a_wrong_type_names_its_field_in_either_format() {
    for (file, port) in [("f.yaml", "abc"), ("f.yaml", "'80'"), ("f.json", "\"80\"")] {
        let text = format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {{\"name\": \"a\"}}, \"spec\": {{\"ports\": [{{\"port\": {port}}}]}}}}"
        );
        check(file, &text, 0, &[&format!("{file}#1|Service a|spec.ports[0].port|invalid type: string")]);
    }
}

#[test]
fn foreign_objects_are_named_and_do_not_hold_up_the_file() {
    let named = "metadata: {name: x, namespace: y}";
    let foreign = format!("---\napiVersion: apps/v1\nkind: Deployment\n{named}\n");
    let policy = format!("---\napiVersion: kyverno.io/v1\nkind: Policy\n{named}\n");
    let text = service("a", 80) + &foreign + &policy;
    check(
        "f.yaml",
        &text,
        1,
        &[
            "f.yaml#2|Deployment y/x|kind|kind Deployment is not served",
            "f.yaml#3|Policy y/x|kind|kind Policy is not served",
        ],
    );
    assert!(!run("f.yaml", &text).incomplete);
    let old = format!("apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n{named}");
    check("f.yaml", &old, 0, &["f.yaml#1|EndpointSlice y/x|apiVersion|\"discovery.k8s.io/v1beta1\" of"]);
}

#[test]
fn every_kind_of_policy_is_read_in_either_format() {
    let subject = "\"subject\": {\"namespaces\": {}}";
    for (api, kind, spec) in [
        ("networking.k8s.io/v1", "NetworkPolicy", "{}".to_owned()),
        (
            "policy.networking.k8s.io/v1alpha1",
            "AdminNetworkPolicy",
            format!("{{\"priority\": 1, {subject}}}"),
        ),
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy", format!("{{{subject}}}")),
        (
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            format!("{{\"tier\": \"Admin\", \"priority\": 1, {subject}}}"),
        ),
        ("causeway.io/v1alpha1", "Policy", format!("{{\"tier\": \"Admin\", \"priority\": 1, {subject}}}")),
    ] {
        let text = format!(
            "{{\"apiVersion\": \"{api}\", \"kind\": \"{kind}\", \"metadata\": {{\"name\": \"default\"}}, \"spec\": {spec}}}"
        );
        for file in ["f.json", "f.yaml"] {
            let parsed = run(file, &text);
            assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
            assert_eq!(parsed.entries[0].key.kind.to_string(), kind);
        }
    }
    let rule = "{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\", \"metadata\": {\"name\": \"a\"}, \"spec\": {\"ingress\": [{\"ports\": [{\"port\": 70000}]}]}}";
    for file in ["f.json", "f.yaml"] {
        let problem = format!("{file}#1|NetworkPolicy a|spec.ingress[0].ports[0].port|70000 is no port");
        check(file, rule, 1, &[&problem]);
        assert!(!run(file, rule).incomplete);
    }
}

#[test]
fn what_is_cut_short_makes_the_file_incomplete() {
    for cut in ["kind: Serv", "apiVersion: v1\nkind: Service\nmetadata:\n  na", "", "apiVersion: v1\n"] {
        assert!(
            run("f.yaml", &format!("{}---\n{cut}", service("a", 80))).incomplete || cut.is_empty(),
            "{cut:?}"
        );
    }
    assert!(run("f.yaml", "").incomplete);
}

#[test]
fn the_first_of_two_objects_with_one_name_stays() {
    let text = service("a", 80) + "---\n" + &service("a", 81);
    check("f.yaml", &text, 1, &["f.yaml#2|Service default/a|metadata.name|document #1 has the same name"]);
}

#[test]
fn many_files_come_back_in_their_order_whatever_the_threads() {
    let files: Vec<Text> = (0..3000)
        .map(|n| {
            (
                format!("{n}.yaml").into(),
                service(&format!("s{n}"), 80) + "---\n" + &service(&format!("t{n}"), 81),
            )
        })
        .collect();
    let parsed = Parser::new("manifests".into()).parse(&files);
    assert_eq!(parsed.len(), files.len());
    for (n, parsed) in parsed.iter().enumerate() {
        let names: Vec<&str> = parsed.entries.iter().map(|entry| &*entry.key.name).collect();
        assert_eq!(names, [format!("s{n}"), format!("t{n}")]);
    }
}

const SEED: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  clusterIP: 10.0.0.1\n  ports:\n  - {port: 80, protocol: TCP, name: x}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints: [{addresses: [10.1.1.1]}]\n---\n{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"p\"},\"status\":{\"podIP\":\"10.1.1.1\"}}\n";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        run("f.yaml", &String::from_utf8_lossy(&bytes));
        run("f.json", &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_punctuation_makes_it_panic(text in "[-{}\\[\\]:,&*!|>'\"%@`#? \n\ta1.~]{0,120}") {
        run("f.yaml", &text);
    }

    #[test]
    fn no_mutation_of_manifests_makes_it_panic(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut text = SEED.as_bytes().to_vec();
        for (at, byte, how) in edits {
            let at = at.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => drop(text.remove(at)),
            }
        }
        text.truncate(cut.index(text.len()) * 2);
        run("f.yaml", &String::from_utf8_lossy(&text));
    }

    /// Nesting is bounded before the stack is.
    #[test]
    fn no_depth_makes_it_panic(depth in 1usize..20_000, open in prop_oneof![Just("["), Just("{a: "), Just("- "), Just("{\"a\":")]) {
        run("f.yaml", &open.repeat(depth));
        run("f.json", &open.repeat(depth));
    }
}
