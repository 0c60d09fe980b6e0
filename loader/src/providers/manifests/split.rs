//! Where does a document end? YAML documents are parted by `---`, JSON ones
//! may also follow one another, as `kubectl` and `jq` write them.

use serde_json::value::RawValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// From 1; blank documents are not counted.
    pub number: usize,
    pub text: &'a str,
}

impl Document<'_> {
    /// The line of `file` that the document starts in, from 1.
    pub fn line(&self, file: &str) -> usize {
        let before = (self.text.as_ptr() as usize).saturating_sub(file.as_ptr() as usize);
        1 + file.as_bytes().iter().take(before).filter(|&&byte| byte == b'\n').count()
    }
}

pub fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    for text in parts(text).filter(|text| !is_blank(text)) {
        let mut push = |text| documents.push(Document { number: documents.len() + 1, text });
        let values = json_values(text);
        if values.is_empty() {
            push(text);
        }
        values.into_iter().for_each(push);
    }
    documents
}

pub fn is_json(document: &str) -> bool {
    document.trim_ascii_start().starts_with('{')
}

/// JSON values one after the other, and as the last what is none; nothing if
/// there are not at least two.
fn json_values(text: &str) -> Vec<&str> {
    if !is_json(text) {
        return Vec::new();
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let mut values = Vec::new();
    let mut end = 0;
    while let Some(Ok(value)) = stream.next() {
        values.push(value.get());
        end = stream.byte_offset();
    }
    match text.get(end..) {
        _ if values.is_empty() => {}
        Some(rest) if !is_blank(rest) => values.push(rest),
        _ => {}
    }
    values
}

/// Splits at lines that start a YAML document. Such a line ends a document
/// wherever it stands, even inside a block scalar (YAML 1.2, section 9.1.2).
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut from = 0;
        while let Some(at) = text[from..].find("\n---").map(|at| from + at + 1) {
            if is_marker(&text[at..]) {
                rest = Some(&text[at..]);
                return Some(strip_marker(&text[..at]));
            }
            from = at;
        }
        rest = None;
        Some(strip_marker(text))
    })
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn strip_marker(document: &str) -> &str {
    if is_marker(document) { &document[3..] } else { document }
}

fn is_blank(document: &str) -> bool {
    document.lines().all(|line| {
        let line = line.trim();
        // A directive ahead of the first `---` is no document either.
        line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "..."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(usize, usize, &str)]) {
        let found: Vec<_> = documents(text)
            .into_iter()
            .map(|document| (document.number, document.line(text), document.text.trim()))
            .collect();
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn documents_are_split_numbered_and_found_again() {
        check("a: 1", &[(1, 1, "a: 1")]);
        check("# head\n---\na: 1\n--- # two\nb: 2\n", &[(1, 2, "a: 1"), (2, 4, "# two\nb: 2")]);
        check("a: 1\r\n---\r\nb: 2\r\n", &[(1, 1, "a: 1"), (2, 2, "b: 2")]);
        check("a: |\n  ---\n----\n", &[(1, 1, "a: |\n  ---\n----")]);
        check("%YAML 1.2\n---\na: 1\n...\n---\n---\n", &[(1, 2, "a: 1\n...")]);
        check("\u{feff}a: 1", &[(1, 1, "a: 1")]);
        check("", &[]);
        check("---\n---", &[]);
    }

    #[test]
    fn json_values_follow_one_another() {
        check("{\"a\":1}\n{\"b\":2}\n", &[(1, 1, "{\"a\":1}"), (2, 2, "{\"b\":2}")]);
        check("{\"a\":1}\n{\"b\":", &[(1, 1, "{\"a\":1}"), (2, 1, "{\"b\":")]);
        check("{\"a\":1}\n---\n{\"b\":2}", &[(1, 1, "{\"a\":1}"), (2, 3, "{\"b\":2}")]);
        check("{a: 1}", &[(1, 1, "{a: 1}")]);
    }
}
