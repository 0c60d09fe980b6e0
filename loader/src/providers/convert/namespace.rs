//! Namespace -> its labels, by which policies select it.

use super::{Converted, Names, key, labels::labels, wire::Namespace};
use crate::event::{
    Kind, Object,
    policy::{NAMESPACE_NAME, NamespaceObject},
};

/// With the label that the API server gives every namespace, its name.
pub fn namespace(namespace: Namespace, names: &mut Names) -> Converted {
    let key = match key(Kind::Namespace, &namespace.metadata, names) {
        Ok(key) => key,
        Err(refusal) => return Converted::refused(vec![refusal]),
    };
    let mut refusals = Vec::new();
    let named = Some((NAMESPACE_NAME, &*key.name));
    let labels = labels(namespace.metadata.labels.as_ref(), named, names, &mut refusals);
    Converted { objects: vec![(key, Object::Namespace(NamespaceObject { labels }))], refusals }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `key=value` of each label, then the refused fields.
    #[track_caller]
    fn check(metadata: &str, expect: &str) {
        let yaml = format!("{{metadata: {metadata}}}");
        let converted = namespace(serde_saphyr::from_str(&yaml).unwrap(), &mut Names::default());
        let mut words = Vec::new();
        for (key, object) in converted.objects {
            let Object::Namespace(namespace) = object else { panic!("{object:?}") };
            assert_eq!(&*key.namespace, "");
            words.extend(namespace.labels.iter().map(|(key, value)| format!("{key}={value}")));
        }
        words.extend(converted.refusals.into_iter().map(|refusal| format!("!{}", refusal.field)));
        assert_eq!(words.join(" "), expect, "{metadata}");
    }

    #[test]
    fn a_namespace_has_its_labels_and_its_name() {
        let name = "kubernetes.io/metadata.name=shop";
        check("{name: shop}", name);
        check("{name: shop, labels: {team: a}}", &format!("{name} team=a"));
        check("{name: shop, labels: {kubernetes.io/metadata.name: other}}", name);
        check(
            "{name: shop, labels: {'a b': x, c: 'd/e', f: ''}}",
            &format!("f= {name} !metadata.labels[a b] !metadata.labels[c]"),
        );
        check("{name: a.b}", "!metadata.name");
        check("{}", "!metadata.name");
    }
}
