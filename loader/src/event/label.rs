//! What is a label? A key and a value that Kubernetes would take.

/// Longest name of a key, and longest value.
const LONGEST: usize = 63;
/// Longest prefix of a key.
const LONGEST_PREFIX: usize = 253;

/// # Errors
/// What is wrong with the key, and what to do.
pub fn key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').unwrap_or(("x", key));
    let prefixed = (1..=LONGEST_PREFIX).contains(&prefix.len()) && prefix.split('.').all(is_dns_label);
    if prefixed && !name.is_empty() && is_word(name) {
        return Ok(());
    }
    Err(format!("{} is no key of a label: write it like app or example.com/app", shortened(key)))
}

/// # Errors
/// What is wrong with the value, and what to do.
pub fn value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_word(value) {
        return Ok(());
    }
    let value = shortened(value);
    Err(format!("{value} is no value of a label: use up to {LONGEST} letters, digits and -_. between them"))
}

fn is_word(word: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = word.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.len() <= LONGEST && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(inner)
}

fn is_dns_label(label: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| plain(*byte));
    let bytes = label.as_bytes();
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|&byte| plain(byte) || byte == b'-')
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{:?} (and so on)", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_those_of_kubernetes() {
        for good in ["app", "app.kubernetes.io/name", "A_b-c.9", "x/y"] {
            assert_eq!(key(good), Ok(()), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "/", "a/", "/a", "a/b/c", "-a", "a-", "A.b/c", "a b", "ä", "a=b", &long] {
            assert!(key(bad).is_err(), "{bad}");
        }
        for good in ["", "a", "Web-1_x.y", &long[..63]] {
            assert_eq!(value(good), Ok(()), "{good}");
        }
        for bad in [".", "a/b", "-", "a b", "a\n", &long] {
            assert!(value(bad).is_err(), "{bad}");
        }
    }
}
