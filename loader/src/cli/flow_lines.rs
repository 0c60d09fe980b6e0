//! Which flows does a file give? One a line, as four words or as JSON.

use std::fmt;

use serde::Deserialize;

use crate::event::policy::Transport;

/// A flow as somebody names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Of the file, from 1.
    pub number: usize,
    /// An endpoint or a pod (`namespace/name`), or an address.
    pub from: String,
    /// Likewise; a service by its address.
    pub to: String,
    pub protocol: Transport,
    /// 0 for ICMP.
    pub port: u16,
}

/// What cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    pub line: usize,
    pub message: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    from: String,
    to: String,
    protocol: String,
    #[serde(default)]
    port: Option<u16>,
}

/// `FROM TO PROTOCOL PORT`, or an object with these fields in lower case; empty
/// lines and what follows a `#` say nothing. ICMP has no port.
pub fn parse(text: &str) -> (Vec<Line>, Vec<Bad>) {
    let (mut lines, mut bad) = (Vec::new(), Vec::new());
    for (index, text) in text.lines().enumerate() {
        let number = index + 1;
        let text = text.trim();
        let line = if text.starts_with('{') {
            object(number, text)
        } else {
            let words: Vec<&str> = text.split('#').next().unwrap_or("").split_whitespace().collect();
            match words[..] {
                [] => continue,
                [from, to, protocol] => whole(number, from, to, protocol, None),
                [from, to, protocol, port] => match port.parse() {
                    Ok(port) => whole(number, from, to, protocol, Some(port)),
                    Err(_) => Err(format!("{port} is no port: write a number from 1 to 65535")),
                },
                _ => Err("write FROM TO PROTOCOL PORT, or a JSON object".into()),
            }
        };
        match line {
            Ok(line) => lines.push(line),
            Err(message) => bad.push(Bad { line: number, message }),
        }
    }
    (lines, bad)
}

fn object(number: usize, text: &str) -> Result<Line, String> {
    let Object { from, to, protocol, port } =
        serde_json::from_str(text).map_err(|error| format!("no object that names a flow: {error}"))?;
    whole(number, &from, &to, &protocol, port)
}

fn whole(number: usize, from: &str, to: &str, protocol: &str, port: Option<u16>) -> Result<Line, String> {
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        "icmp" => Transport::Icmp,
        _ => return Err(format!("{protocol} is no protocol: write TCP, UDP, SCTP or ICMP")),
    };
    let port = match (protocol, port.unwrap_or(0)) {
        (Transport::Icmp, 0) => 0,
        (Transport::Icmp, _) => return Err("ICMP has no port: leave it out".into()),
        (_, 0) => return Err(format!("{protocol} needs a port from 1 to 65535")),
        (_, port) => port,
    };
    Ok(Line { number, from: from.into(), to: to.into(), protocol, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize, from: &str, to: &str, protocol: Transport, port: u16) -> Line {
        Line { number, from: from.into(), to: to.into(), protocol, port }
    }

    #[test]
    fn words_and_objects_say_the_same() {
        let text = "# all of them\n\nshop/cart shop/db tcp 5432 # the usual\n\
            {\"from\": \"shop/cart\", \"to\": \"10.96.0.53\", \"protocol\": \"UDP\", \"port\": 53}\n\
            \tfd00::1 web ICMP\r\n{\"from\": \"a\", \"to\": \"b\", \"protocol\": \"icmp\"}\n";
        let (lines, bad) = parse(text);
        let expected = [
            line(3, "shop/cart", "shop/db", Transport::Tcp, 5432),
            line(4, "shop/cart", "10.96.0.53", Transport::Udp, 53),
            line(5, "fd00::1", "web", Transport::Icmp, 0),
            line(6, "a", "b", Transport::Icmp, 0),
        ];
        assert_eq!((lines, bad), (expected.to_vec(), Vec::new()));
    }

    #[test]
    fn bad_lines_are_named_and_the_others_read() {
        let text = "a b tcp 80\na b\na b tcp\na b tcp 0\na b tcp 65536\na b esp 1\na b icmp 8\n\
            {\"from\": \"a\"}\n{\"from\": \"a\", \"to\": \"b\", \"protocol\": \"tcp\", \"prot\": 1}\na b tcp 80 c\n";
        let (lines, bad) = parse(text);
        assert_eq!(lines.len(), 1);
        let words = [
            "write FROM TO PROTOCOL PORT",
            "TCP needs a port",
            "TCP needs a port",
            "65536 is no port",
            "esp is no protocol",
            "ICMP has no port",
            "missing field `to`",
            "unknown field `prot`",
            "write FROM",
        ];
        for ((bad, word), number) in bad.iter().zip(words).zip(2..) {
            assert!(bad.line == number && bad.message.contains(word), "{word} in {bad}");
            assert!(bad.to_string().starts_with(&format!("line {number}: ")));
        }
        assert_eq!(bad.len(), words.len());
    }
}
