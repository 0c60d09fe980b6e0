//! What should a CNI plugin say? Cases as data: docs/cni.md has the format.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{Plugin, Said};
use crate::netns::Netns;

/// One behaviour: questions in their order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub case: String,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Over the file's.
    #[serde(default)]
    env: BTreeMap<String, Option<String>>,
    /// Over the file's; a text is sent as it is.
    #[serde(default)]
    stdin: Value,
    /// 0 where there is a result, 1 where there is an error, unless given.
    exit: Option<i32>,
    /// What the answer has among others; absent: nothing is printed.
    #[serde(default)]
    result: Value,
    error: Option<Refusal>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    code: u32,
    /// Parts of the message, in any order.
    #[serde(default)]
    says: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    env: BTreeMap<String, Option<String>>,
    #[serde(default)]
    stdin: Value,
    cases: Vec<Case>,
}

impl Case {
    /// Those of a folder's `*.yaml`, in the order of the files' names.
    ///
    /// # Errors
    /// Names the file that is no such.
    pub fn read_all(folder: &Path) -> Result<Vec<Self>> {
        let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|kind| kind == "yaml"));
        paths.sort();
        let mut cases = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path)?;
            let file: File = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
            for mut case in file.cases {
                for step in &mut case.steps {
                    let own = std::mem::replace(&mut step.env, file.env.clone());
                    step.env.extend(own);
                    step.stdin = merged(&file.stdin, &step.stdin);
                }
                cases.push(case);
            }
        }
        ensure!(!cases.is_empty(), "{}: no case in any *.yaml", folder.display());
        Ok(cases)
    }
}

/// Plays a case; where the plugin differs from it, in words. Whatever it has attached
/// is detached afterwards, which must succeed as well.
pub fn play(case: &Case, plugin: &Plugin) -> Vec<String> {
    let namespaces: Vec<Netns> = (0..3).map(|_| Netns::new()).collect();
    let (mut differences, mut last, mut added) = (Vec::new(), Value::Null, Vec::new());
    for (index, step) in case.steps.iter().enumerate() {
        let text = |text: &str| {
            let mut text = text.replace("$SOCKET", &plugin.socket.display().to_string());
            for (number, netns) in namespaces.iter().enumerate() {
                let variable = format!("$NETNS{}", number + 1);
                text = text.replace(&variable, &netns.path().display().to_string());
            }
            text
        };
        let environment: BTreeMap<String, String> =
            step.env.iter().filter_map(|(name, value)| Some((name.clone(), text(value.as_ref()?)))).collect();
        let config = match &step.stdin {
            Value::String(raw) => text(raw),
            value => {
                let mut value = filled(value, &text, &last);
                if let Some(fields) = value.as_object_mut() {
                    let own = plugin.config();
                    for key in ["socket", "stateDir"] {
                        fields.entry(key).or_insert_with(|| own[key].clone());
                    }
                }
                value.to_string()
            }
        };
        let said = plugin.call(&environment, &config);
        let at = |difference: String| format!("step {}: {difference}", index + 1);
        let expected = Step { result: filled(&step.result, &text, &last), ..step.clone() };
        differences.extend(expected.differences(&said).into_iter().map(at));
        if environment.get("CNI_COMMAND").is_some_and(|verb| verb == "ADD") && said.code == 0 {
            added.push((environment, config));
        }
        if said.code == 0 && !said.json.is_null() {
            last = said.json;
        }
    }
    for (mut environment, config) in added {
        environment.insert("CNI_COMMAND".into(), "DEL".into());
        let said = plugin.call(&environment, &config);
        if said.code != 0 {
            differences.push(format!("afterwards: DEL says {}", said.json));
        }
    }
    differences
}

impl Step {
    fn differences(&self, said: &Said) -> Vec<String> {
        let mut differences = Vec::new();
        let exit = self.exit.unwrap_or(i32::from(self.error.is_some()));
        if said.code != exit {
            differences.push(format!("exit code {}, not {exit}: {}", said.code, said.json));
        }
        match &self.error {
            None => differences.extend(compare("", &self.result, &said.json)),
            Some(Refusal { code, says }) => {
                if said.json["code"] != *code {
                    differences.push(format!("error code {}, not {code}: {}", said.json["code"], said.json));
                }
                let words = format!("{} {}", said.json["msg"], said.json["details"]);
                for part in says.iter().filter(|part| !words.contains(part.as_str())) {
                    differences.push(format!("the error does not say {part:?}: {words}"));
                }
            }
        }
        differences
    }
}

/// Fields over those of the file.
fn merged(under: &Value, over: &Value) -> Value {
    match (under, over) {
        (_, Value::Null) => under.clone(),
        (Value::Object(under), Value::Object(over)) => {
            let mut fields = under.clone();
            for (key, value) in over {
                // Null takes a field away.
                if value.is_null() {
                    drop(fields.remove(key))
                } else {
                    drop(fields.insert(key.clone(), value.clone()))
                }
            }
            Value::Object(fields)
        }
        _ => over.clone(),
    }
}

/// With variables put in; `$RESULT` is the last answer.
fn filled(value: &Value, text: &impl Fn(&str) -> String, last: &Value) -> Value {
    match value {
        Value::String(word) if word == "$RESULT" => last.clone(),
        Value::String(word) => Value::String(text(word)),
        Value::Array(items) => items.iter().map(|item| filled(item, text, last)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, item)| (key.clone(), filled(item, text, last))).collect()
        }
        other => other.clone(),
    }
}

/// Where `said` is not as expected: it may have further fields, lists must be as
/// long; `*` in a text stands for anything, `$none` for a field that is not there.
fn compare(at: &str, expected: &Value, said: &Value) -> Vec<String> {
    match (expected, said) {
        (Value::Object(fields), Value::Object(_)) => fields
            .iter()
            .flat_map(|(key, expected)| compare(&format!("{at}.{key}"), expected, &said[key.as_str()]))
            .collect(),
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => items
            .iter()
            .zip(others)
            .enumerate()
            .flat_map(|(index, (item, other))| compare(&format!("{at}[{index}]"), item, other))
            .collect(),
        (Value::String(word), Value::Null) if word == "$none" => Vec::new(),
        (Value::String(pattern), Value::String(text)) if fits(pattern, text) => Vec::new(),
        (Value::String(pattern), Value::Number(number)) if fits(pattern, &number.to_string()) => Vec::new(),
        (expected, said) if expected == said => Vec::new(),
        _ => vec![format!("{}: {said}, not {expected}", if at.is_empty() { "answer" } else { at })],
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text) in
            [("a*c", "abc"), ("*", ""), ("10.*/32", "10.0.0.1/32"), ("a", "a"), ("a*b*c", "aXbYc")]
        {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a*c", "abd"), ("a", "ab"), ("10.*/32", "10.0.0.1/24"), ("*x", "")] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn what_differs_is_named_by_its_place() {
        let said = json!({"ips": [{"address": "10.0.0.1/32", "interface": 1}], "more": true});
        assert_eq!(compare("", &json!({"ips": [{"address": "10.*"}]}), &said), Vec::<String>::new());
        let wrong = compare("", &json!({"ips": [{"interface": 2}], "dns": "$none", "more": "$none"}), &said);
        assert_eq!(wrong, [".ips[0].interface: 1, not 2", ".more: true, not \"$none\""]);
        assert_eq!(compare("", &json!({"ips": []}), &said).len(), 1, "a longer list is another");
    }

    #[test]
    fn fields_are_taken_away_by_null() {
        assert_eq!(merged(&json!({"a": 1, "b": 2}), &json!({"b": null, "c": 3})), json!({"a": 1, "c": 3}));
        assert_eq!(merged(&json!({"a": 1}), &Value::Null), json!({"a": 1}));
        assert_eq!(merged(&json!({"a": 1}), &json!("raw")), json!("raw"));
    }
}
