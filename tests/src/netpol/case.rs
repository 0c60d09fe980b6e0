//! What is in a case's file? YAML: first what must be reached, then the
//! manifests.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    Party, pods,
    probe::{PORTS, Port, Way},
};

#[derive(Clone, Debug)]
pub struct Case {
    /// The file's name without its ending.
    pub name: String,
    pub about: String,
    /// Labels beside those that all have, by namespace and by pod (`x/a`).
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub pods: BTreeMap<String, BTreeMap<String, String>>,
    /// Names of ports that a pod has in place of the usual ones.
    pub ports: BTreeMap<String, Vec<(String, Port)>>,
    /// In order: the last that fits a pair decides. What none fits is allowed.
    pub expect: Vec<Rule>,
    /// As YAML documents.
    pub manifests: String,
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub allow: bool,
    from: Vec<String>,
    to: Vec<String>,
    on: Vec<Port>,
}

impl Rule {
    fn fits(&self, way: &Way) -> bool {
        let fits =
            |patterns: &[String], party: &Party| patterns.iter().any(|pattern| matches(pattern, party));
        fits(&self.from, &way.from) && fits(&self.to, &way.to) && self.on.contains(&way.port)
    }
}

impl Case {
    /// # Errors
    /// Names the file and what cannot be read in it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::parse(name, &text).with_context(|| path.display().to_string())
    }

    /// All cases of a folder, by name.
    ///
    /// # Errors
    /// As [`Case::read`]; a folder without cases is an error too.
    pub fn read_all(folder: &Path) -> Result<Vec<Self>> {
        let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
        paths.sort();
        ensure!(!paths.is_empty(), "{}: no case (*.yaml) in there", folder.display());
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn parse(name: String, text: &str) -> Result<Self> {
        let (head, manifests) = text.split_once("\n---\n").unwrap_or((text, ""));
        let head: Value = serde_saphyr::from_str(head).context("the first document")?;
        let fields = head.as_object().context("the first document: a mapping of about, expect, …")?;
        for field in fields.keys() {
            ensure!(
                ["about", "namespaces", "pods", "ports", "expect"].contains(&field.as_str()),
                "{field}: no such field: use about, namespaces, pods, ports, expect"
            );
        }
        let expect = head["expect"].as_array().context("expect: a list of allow and deny")?;
        let expect = expect
            .iter()
            .enumerate()
            .map(|(index, rule)| parse_rule(rule).with_context(|| format!("expect[{index}]")));
        let labels = |field: &str| -> Result<BTreeMap<String, BTreeMap<String, String>>> {
            match &head[field] {
                Value::Null => Ok(BTreeMap::new()),
                labels => serde_json::from_value(labels.clone()).with_context(|| field.to_owned()),
            }
        };
        let ports: BTreeMap<String, BTreeMap<String, String>> = labels("ports")?;
        let ports = ports.into_iter().map(|(pod, named)| {
            let named = named.into_iter().map(|(name, port)| Ok((name, parse_port(&port)?)));
            Ok((pod, named.collect::<Result<_>>()?))
        });
        let case = Self {
            name,
            about: head["about"].as_str().unwrap_or_default().to_owned(),
            namespaces: labels("namespaces")?,
            pods: labels("pods")?,
            ports: ports.collect::<Result<_>>().context("ports")?,
            expect: expect.collect::<Result<_>>()?,
            manifests: manifests.to_owned(),
        };
        let known = |pod: &String| pods().any(|(namespace, name)| *pod == format!("{namespace}/{name}"));
        if let Some(pod) = case.pods.keys().chain(case.ports.keys()).find(|pod| !known(pod)) {
            bail!("pods: {pod} is none: use x/a to z/c");
        }
        Ok(case)
    }

    /// Whether a way must be open.
    pub fn allows(&self, way: &Way) -> bool {
        self.expect.iter().rfind(|rule| rule.fits(way)).is_none_or(|rule| rule.allow)
    }
}

fn parse_rule(rule: &Value) -> Result<Rule> {
    let (allow, what) = match (&rule["allow"], &rule["deny"]) {
        (what @ Value::Object(_), Value::Null) => (true, what),
        (Value::Null, what @ Value::Object(_)) => (false, what),
        _ => bail!("either allow or deny, with from, to and on"),
    };
    let patterns = |field: &str| -> Result<Vec<String>> {
        match &what[field] {
            Value::Null => Ok(vec!["*".into()]),
            Value::String(pattern) => Ok(vec![pattern.clone()]),
            Value::Array(patterns) => {
                let text = |pattern: &Value| pattern.as_str().map(str::to_owned).context("text");
                patterns.iter().map(text).collect()
            }
            _ => bail!("{field}: a pattern or a list of them, such as x/a, x/*, */a, outside, n1, *"),
        }
    };
    let on = match &what["on"] {
        Value::Null => PORTS.to_vec(),
        Value::String(port) => vec![parse_port(port)?],
        Value::Array(ports) => ports
            .iter()
            .map(|port| parse_port(port.as_str().context("on: text such as 80/TCP")?))
            .collect::<Result<_>>()?,
        _ => bail!("on: a port such as 80/TCP, or a list of them"),
    };
    Ok(Rule { allow, from: patterns("from")?, to: patterns("to")?, on })
}

fn parse_port(text: &str) -> Result<Port> {
    let port = PORTS.into_iter().find(|port| port.to_string() == text);
    port.with_context(|| format!("{text}: use one of 80/TCP, 81/TCP, 80/UDP, 81/UDP"))
}

/// `*` stands for everybody, `x/*` and `*/a` for pods.
fn matches(pattern: &str, party: &Party) -> bool {
    match (pattern.split_once('/'), party) {
        (None, _) => pattern == "*" || pattern == party.to_string(),
        (Some((namespace, name)), Party::Pod(of, called)) => {
            (namespace == "*" || namespace == of) && (name == "*" || name == called)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_fits_decides() {
        let text = "about: test\nexpect:\n- deny: {to: 'x/*'}\n- allow: {from: [y/a, outside], to: x/a, on: 80/TCP}\n---\nkind: A\n---\nkind: B\n";
        let case = Case::parse("test".into(), text).unwrap();
        assert_eq!(case.manifests, "kind: A\n---\nkind: B\n");
        let pod = |namespace: &str, name: &str| Party::Pod(namespace.into(), name.into());
        let way = |from, to, port| Way { from, to, port, v6: false };
        assert!(case.allows(&way(pod("y", "a"), pod("x", "a"), PORTS[0])));
        assert!(case.allows(&way(Party::Outside, pod("x", "a"), PORTS[0])));
        assert!(!case.allows(&way(Party::Outside, pod("x", "a"), PORTS[1])));
        assert!(!case.allows(&way(pod("y", "b"), pod("x", "a"), PORTS[0])));
        assert!(case.allows(&way(pod("x", "a"), pod("y", "a"), PORTS[0])));
        let wrong = Case::parse("test".into(), "expect: [{deny: {on: 82/TCP}}]").unwrap_err();
        assert!(format!("{wrong:#}").contains("expect[0]: 82/TCP"), "{wrong:#}");
    }
}
